"""Broken images in containers, booted for real: the cause that is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support import boot_corpus
from tests.support.broken_images import CASES, Case
from tests.support.sampling import is_full, sampled

pytestmark = pytest.mark.real

QUICK = 5.0
"""Seconds after which a case is left to a full run."""
IN_CONTAINERS = [case for case in CASES if case.engine == "nspawn"]
KNOWN = [case for case in IN_CONTAINERS if is_full() or boot_corpus.read(case.name).seconds < QUICK]


@pytest.mark.parametrize("broken", sampled(KNOWN, 1), ids=lambda broken: str(broken.name))
def test_cause_of_a_broken_image_is_named(broken: Case, tmp_path: Path, micro_files: Path) -> None:
    wait = broken.wait * 2 if is_full() else broken.wait
    record = boot_corpus.boot(dataclasses.replace(broken, wait=wait), tmp_path)
    assert record.cause == broken.cause
    assert f"[{broken.cause}]" in record.message.splitlines()[0]
