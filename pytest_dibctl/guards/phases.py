"""The phases of disk-image-create, the order of their scripts, and where between them trees are kept."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Final

PHASES: Final = (
    *("root.d", "extra-data.d", "pre-install.d", "install.d", "post-install.d", "post-root.d"),
    *("block-device.d", "pre-finalise.d", "finalise.d", "cleanup.d"),
)
"""In their order."""

ELEMENT: Final = "dibctl-layers"
"""Of this package: its scripts stand at each boundary, and are the first of root.d."""

FIRST: Final = f"-99-{ELEMENT}"
"""The name of a script that runs before all others of its phase: dib-run-parts sorts by number."""

_NAME: Final = re.compile(r"[0-9A-Za-z_-]+")
_NUMBER: Final = re.compile(r"-?\d+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boundary:
    """A place in the order of scripts; ``name`` is the last phase that is over there, or a part of one.

    ``phase`` and ``script`` say where the script is that stands there, ``element`` whose it is.
    """

    name: str
    phase: str
    script: str = FIRST
    element: str = ELEMENT

    def is_later(self, phase: str, script: str) -> bool:
        """Whether a script of a phase runs after this place."""
        here, there = PHASES.index(self.phase), PHASES.index(phase)
        return there > here or (there == here and run_order(script) > run_order(self.script))


BOUNDARIES: Final = (
    Boundary(name="root.d", phase="extra-data.d"),
    Boundary(name="packages", phase="install.d", script=f"01-zz-{ELEMENT}", element=f"{ELEMENT}-install"),
    Boundary(name="install.d", phase="post-install.d", element=f"{ELEMENT}-post-install"),
    Boundary(name="post-install.d", phase="post-root.d"),
)
"""In their order. ``packages``: after the packages that elements list for install.d, before later scripts."""


def run_order(name: str) -> tuple[int, bytes]:
    """Return what dib-run-parts sorts scripts by (``sort -n``): the number they begin with, then the name."""
    number = _NUMBER.match(name)
    return (int(number[0]) if number else 0, os.fsencode(name))


def is_script(path: Path) -> bool:
    """Whether dib-run-parts runs a file of a phase's directory."""
    return bool(_NAME.fullmatch(path.name)) and path.is_file() and os.access(path, os.X_OK)
