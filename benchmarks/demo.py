"""The demo image that several benchmarks boot: ``images/debian.qcow2``, built by the README's line."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "images" / "debian.qcow2"


def image() -> Path:
    """Return the image; raises SystemExit when nobody has built it."""
    if not IMAGE.exists():
        raise SystemExit("images/debian.qcow2 is not there: `pytest --dib-image=debian` builds it")
    return IMAGE


def adopt(built: Path) -> None:
    """Take over the image that was built in the directory ``built``, where there is none yet."""
    if IMAGE.exists():
        return
    IMAGE.parent.mkdir(exist_ok=True)
    # The main file last: others look for it.
    for path in sorted(built.glob("debian.*"), key=lambda path: path.name == IMAGE.name):
        if path.is_file():
            shutil.copy2(path, IMAGE.parent)
