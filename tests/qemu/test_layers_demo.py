"""An image of kept trees is that of a clean build, file by file: minutes, so in ``tox -e full``."""

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
    pytest.mark.skipif(not sampling.is_full(), reason="three builds of a whole system: tox -e full"),
]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
UBUNTU = """
ubuntu:
  filename: images/ubuntu.qcow2
  dib:
    environment_variables:
      ELEMENTS_PATH: elements
      DIB_RELEASE: noble
      DIB_UBUNTU_KERNEL: linux-image-virtual
    keep_host_mirror: true
    cli_options: [-a, amd64, -n]
    elements: [ubuntu-minimal, openssh-server, cloud-init, baremetal, late]
"""


def build(configs: Path, label: str, policy: builder.Policy = "auto") -> builder.BuildOutcome:
    image = catalog.load(cwd=configs, system=configs / "none").image(label)
    return builder.build(image, policy=policy, cwd=configs, progress=lambda _line: None)


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's own images, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(CONFIGS, tmp_path / "configs"))


def check_kept_trees(configs: Path, label: str, late: Path) -> None:
    """Compare after a change to ``late``, a script of post-install.d.

    What differs between two clean builds, such as an archive with times in it, may differ here too.
    """
    first = tree(build(configs, label).artifact.path)
    second = tree(build(configs, label, "always").artifact.path)
    with late.open("a") as script:
        script.write("# changed\n")
    outcome = build(configs, label)
    assert outcome.started_after in ("packages", "install.d")
    kept = tree(outcome.artifact.path)
    by_chance = differing(first, second)
    assert len(by_chance) < len(first) / 20
    assert differing(second, kept) - by_chance == set()


def test_the_demo_image_of_kept_trees_is_that_of_a_clean_build(configs: Path) -> None:
    late = configs / "elements" / "debian-guest" / "post-install.d" / "60-debian-guest"
    check_kept_trees(configs, "debian", late)


@pytest.mark.skipif(not KEYRING.exists(), reason="the keys of Ubuntu's archive are missing")
def test_an_ubuntu_of_kept_trees_is_that_of_a_clean_build(configs: Path) -> None:
    (configs / "images.yaml").write_text(UBUNTU)
    late = configs / "elements" / "late" / "post-install.d" / "50-late"
    late.parent.mkdir(parents=True)
    late.write_text("#!/bin/sh\nset -eu\necho late > /etc/late\n")
    late.chmod(0o755)
    check_kept_trees(configs, "ubuntu", late)
