"""diskimage-builder's manifest is in the image: what it was made of can be told years later."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from pytest_dibctl import dib_setting

if TYPE_CHECKING:
    from pytest_dibctl import Entry, Image, ImageTree

pytestmark = pytest.mark.usefixtures("image_tree")

FOLDER = "/etc/dib-manifests"
"""Where the element ``manifests`` writes; DIB_MANIFEST_IMAGE_DIR names another place."""


@pytest.fixture
def folder(image: Entry[Image], image_tree: ImageTree) -> str:
    """Where the manifests are; the test is skipped for an image that diskimage-builder did not make."""
    dib = image.settings.dib
    if dib is None:
        pytest.skip("the image is not built by diskimage-builder")
    named = dib_setting(dib, "DIB_MANIFEST_IMAGE_DIR") or FOLDER
    assert image_tree.path(named).is_dir(), (
        f"{named} is not in the image; add the element `manifests` to `dib.elements`"
    )
    return named


def test_arguments_are_written_down(folder: str, image_tree: ImageTree) -> None:
    """The elements and options of the build are in the image.

    If this fails, add the element ``manifests``; if its directory is there, see why it was emptied.
    """
    names = ("dib_arguments", "dib_environment")
    missing = [name for name in names if not image_tree.read(f"{folder}/{name}").strip()]
    assert not missing, f"{folder} has no {' and no '.join(missing)}"


def test_packages_are_written_down(folder: str, image_tree: ImageTree) -> None:
    """The versions of all packages are in the image, where the distribution's element lists them.

    If this fails, the list is missing or empty: DIB's element ``dpkg`` writes it in finalise.d. For rpm's
    packages DIB has nothing that does.
    """
    # What source-repositories writes has the name of a list, and is one of git repositories.
    of_git = set(image_tree.glob(f"{folder}/dib-manifest-git-*"))
    lists = [name for name in image_tree.glob(f"{folder}/dib-manifest-*") if name not in of_git]
    if not lists and not image_tree.exists("/var/lib/dpkg/status"):
        pytest.skip("the image has no packages that diskimage-builder lists")
    full = [name for name in lists if image_tree.read(name).strip()]
    assert full, f"{folder} has no list of packages" + "".join(f", and {name} is empty" for name in lists)


def test_manifests_are_for_root(folder: str, image_tree: ImageTree) -> None:
    """Only root may read them: variables of the build may tell where it is, and worse.

    If this fails, ``chmod 0600`` the files named here.
    """
    # A link's own permissions mean nothing, and a directory tells names only.
    files = [item for item in image_tree.walk(folder) if stat.S_ISREG(item.mode)]
    open_to_others = [item.name for item in files if item.mode & stat.S_IROTH]
    assert not open_to_others, f"everybody may read {', '.join(open_to_others)}"
