"""The cases of tests/data/image_leaks: what the generic ``image`` tests have to find, and what not."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_tests.tree import findings, test_datasources
from pytest_dibctl.guards import image_mount
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.image.tree import ImageTree

FOLDER = Path(__file__).parents[1] / "data/image_leaks"

SECRET = "hunter2"
"""What no message may show."""

BASE: Mapping[str, Mapping[str, str]] = {
    "datasources": {"/etc/cloud/cloud.cfg": "datasource_list: [NoCloud, None]\n"}
}
"""What all trees for a module have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leak:
    """One file that ``test`` of the generic ``module`` refuses with what it ``leaks``, or as a ``link``.

    ``clean`` are contents that it accepts, ``also`` other files that matter to it, ``shown`` the name in
    the message if that is not the file's.
    """

    module: str
    test: str
    file: str
    says: str
    leaks: str = ""
    link: str = ""
    clean: tuple[str, ...] = ()
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)
    shown: str = ""

    @property
    def files(self) -> dict[str, str]:
        """Other files of its trees."""
        return {**BASE.get(self.module, {}), **self.also}


def load() -> list[Leak]:
    """Return all of them."""
    return [
        Leak(module=path.stem, **{**case, "clean": tuple(case.get("clean", ()))})
        for path in sorted(FOLDER.glob("*.yaml"))
        for case in yaml.safe_load(path.read_text())
    ]


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write files, as names in an image to texts; their bytes are these of Latin-1."""
    for name, content in files.items():
        path = root / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("latin-1"))


def place(leak: Leak, root: Path) -> None:
    """Write what leaks."""
    write(root, {leak.file: leak.leaks})
    if leak.link:
        (root / leak.file[1:]).unlink()
        (root / leak.file[1:]).symlink_to(leak.link)


def plain_tree(directory: Path) -> ImageTree:
    """Return a plain directory, which is made, as a tree: the same code reads it, without a mount."""
    (directory / image_mount.ROOT).mkdir(parents=True)
    return ImageTree(
        artifact=Artifact(path=directory / "none", disk_format="raw", virtual_size=0, sha512="", size=0),
        directory=directory,
        pid=os.getpid(),
        device=Path("/dev/null"),
        filesystem="ext4",
        partition=0,
    )


def refused(test: Callable[..., None], tree: ImageTree) -> str:
    """Run a generic test on a tree, and return what its failure says; empty if it passes."""
    offers: dict[str, Any] = {
        "image_tree": tree,
        "refuse": _refuse,
        "variable": lambda name, default="": "NoCloud" if name == "DATASOURCES" else default,
        "dib_run": None,
    }
    asked = test.__code__.co_varnames[: test.__code__.co_argcount]
    if "configured" in asked:
        offers["configured"] = test_datasources.datasource_list(tree)
    try:
        test(**{name: offers[name] for name in asked})
    except (AssertionError, pytest.fail.Exception) as failure:
        return str(failure)
    return ""


def _refuse(what: str, found: Any, allowed: str) -> None:
    if said := findings.refusal(what, found, allowed, ()):
        pytest.fail(said, pytrace=False)
