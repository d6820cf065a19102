"""The demo image of kept trees is that of a clean build, file by file: minutes, so in ``tox -e full``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import builder
from pytest_dibctl.config import catalog
from tests.qemu.test_layers_real import tree
from tests.support import sampling

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="disk-image-create needs root"),
    pytest.mark.skipif(not sampling.is_full(), reason="three builds of Debian: tox -e full"),
]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LATE = ("elements", "debian-guest", "post-install.d", "60-debian-guest")


def build(configs: Path, policy: builder.Policy = "auto") -> builder.BuildOutcome:
    image = catalog.load(cwd=configs, system=configs / "none").image("debian")
    return builder.build(image, policy=policy, cwd=configs, progress=lambda _line: None)


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


def test_the_demo_image_of_kept_trees_is_that_of_a_clean_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs between two clean builds, such as an archive with times in it, may differ here too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    configs = tmp_path / "configs"
    shutil.copytree(CONFIGS, configs)
    first = tree(build(configs).artifact.path)
    second = tree(build(configs, "always").artifact.path)
    with (configs / Path(*LATE)).open("a") as script:
        script.write("# changed\n")
    outcome = build(configs)
    assert outcome.started_after in ("packages", "install.d")
    kept = tree(outcome.artifact.path)
    by_chance = differing(first, second)
    assert len(by_chance) < len(first) / 20
    assert differing(second, kept) - by_chance == set()
