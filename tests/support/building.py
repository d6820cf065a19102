"""Images to build in tests: entries without a file, and the smallest element that makes a real image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pytest_dibctl.build.dib import Options, Recipe
from pytest_dibctl.build.elements import Element
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image

ROOT = """#!/bin/bash
set -eu
sudo mkdir -p $TARGET_ROOT/{bin,boot,dev,etc,proc,root,sys,tmp,var/log}
sudo cp "$(command -v busybox)" $TARGET_ROOT/bin/busybox
"""
"""A root.d script; what a test adds to it runs at the end of that phase."""

VARIABLES = {"DIB_IMAGE_SIZE": "0.03", "DIB_JOURNAL_SIZE": "4"}
"""A filesystem of 31 MiB."""


def entry(directory: Path, label: str = "tiny", **settings: Any) -> Entry[Image]:
    """Return an entry as from ``directory``/images.yaml, whose image is ``directory``/tiny.qcow2."""
    described = {"filename": str(directory / "tiny.qcow2"), **settings}
    return Entry(
        label=label,
        settings=Image.model_validate(described),
        path=directory / "images.yaml",
        display_name="images.yaml",
    )


def dib(elements: Path, *names: str, **settings: Any) -> dict[str, Any]:
    """Return a ``dib`` section for elements in the directory ``elements``."""
    variables = {"ELEMENTS_PATH": str(elements), **VARIABLES, **settings.pop("environment_variables", {})}
    return {
        "elements": list(names or ("tiny",)),
        "cli_options": ["-n"],
        "environment_variables": variables,
        **settings,
    }


def element(
    elements: Path, name: str = "tiny", *, root: str = "", provides: str = "operating-system"
) -> Path:
    """Write an element whose root.d makes a root filesystem and then runs the lines ``root``."""
    directory = elements / name
    shutil.rmtree(directory, ignore_errors=True)
    hook(directory, "root.d", f"10-{name}", ROOT + root)
    (directory / "element-provides").write_text(f"{provides}\n")
    return directory


def hook(element: Path, phase: str, name: str, text: str) -> Path:
    """Add a script to a phase of an element."""
    script = element / phase / name
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text)
    script.chmod(0o755)
    return script


def recipe(*names: str, **options: Any) -> Recipe:
    """Return a recipe of elements that need not exist; ``options`` are disk-image-create's."""
    return Recipe(
        argv_options=(),
        options=Options(**options),
        named=names,
        elements=tuple(Element(name=name, path=Path("/e") / name) for name in names),
        environment={},
        arch="amd64",
        version="3.43.0",
    )
