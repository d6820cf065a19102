"""The image fits its budget.

MAX_FILE_SIZE and MAX_DISK_SIZE, the size that an instance sees, are set in ``environment_variables`` of the
image or the environment, as ``400M`` or ``2.5G`` (powers of 1024). The disk has to fit ``glance.min_disk`` in
any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl import Artifact, Entry, Image

pytestmark = pytest.mark.usefixtures("image_tree")  # or it is skipped: what file it was is not known

MIB = 1024**2
UNITS = {"": 1, "K": 1024, "M": MIB, "G": 1024**3, "T": 1024**4}


@pytest.fixture
def budget(variable: Callable[..., str]) -> Callable[[str], float]:
    """Return how many bytes a variable allows; skip the test where it is not set."""

    def bytes_of(name: str) -> float:
        __tracebackhide__ = True
        text = variable(name).strip()
        if not text:
            pytest.skip(f"{name} is not among the environment_variables")
        known = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
        if known is None:
            pytest.fail(f"{name} is {text!r}; write a size, such as 400M or 2.5G", pytrace=False)
        return float(known[1]) * UNITS[known[2].upper()]

    return bytes_of


def test_file_is_within_its_budget(artifact: Artifact, budget: Callable[[str], float]) -> None:
    """The file is not larger than MAX_FILE_SIZE.

    If this fails, see what grew (``DIB_SHOW_IMAGE_USAGE=1`` lists the largest directories), or
    raise MAX_FILE_SIZE.
    """
    most = budget("MAX_FILE_SIZE")
    assert artifact.size <= most, (
        f"{artifact.path} has {artifact.size / MIB:.1f} MiB, allowed are {most / MIB:.1f}"
    )


def test_disk_is_within_its_budget(artifact: Artifact, budget: Callable[[str], float]) -> None:
    """The disk that an instance sees is not larger than MAX_DISK_SIZE.

    If this fails, see DIB_IMAGE_SIZE and ``--image-size``, or what makes the build's own estimate grow.
    """
    most = budget("MAX_DISK_SIZE")
    assert artifact.virtual_size <= most, (
        f"the disk has {artifact.virtual_size / MIB:.1f} MiB, allowed are {most / MIB:.1f}"
    )


def test_disk_fits_min_disk(artifact: Artifact, image: Entry[Image]) -> None:
    """Every flavor that ``glance.min_disk`` lets through has room for the disk.

    If this fails, raise ``glance.min_disk``: Nova would refuse smaller flavors only after a download.
    """
    gib = image.settings.glance.min_disk
    if not gib:
        pytest.skip("the image has no glance.min_disk")
    needed = artifact.virtual_size / UNITS["G"]
    assert needed <= gib, f"the disk has {needed:.2f} GiB, and min_disk promises that {gib} are enough"
