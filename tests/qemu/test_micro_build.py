"""The micro element builds, fails where it is told to, and needs the network once."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pytest_dibctl.errors import CommandError
from pytest_dibctl.system import process
from tests.support import micro

pytestmark = pytest.mark.real

OUTPUTS = ["micro.initrd", "micro.qcow2", "micro.vmlinuz"]


def no_apt(directory: Path) -> dict[str, str]:
    """An environment in which apt knows no package and can fetch nothing."""
    (directory / "lists" / "partial").mkdir(parents=True)
    configuration = directory / "apt.conf"
    configuration.write_text(f'Dir::State::lists "{directory}/lists";\nDir::Cache "{directory}";\n')
    return {"APT_CONFIG": str(configuration)}


def read(image: Path, path: str, scratch: Path) -> str:
    """A file of the ext4 filesystem in ``image``, without mounting it."""
    raw = scratch / "micro.raw"
    if not raw.exists():
        process.run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)])
    return process.run(["debugfs", "-R", f"cat {path}", str(raw)]).output


def test_build_gives_image_kernel_and_initramfs(micro_files: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in micro_files.iterdir()) == OUTPUTS
    described = process.run(["qemu-img", "info", "--output=json", str(micro_files / "micro.qcow2")]).output
    assert json.loads(described)["format"] == "qcow2"
    assert "ID=micro\n" in read(micro_files / "micro.qcow2", "/etc/os-release", tmp_path)
    assert "debian:x:1000" in read(micro_files / "micro.qcow2", "/etc/passwd", tmp_path)
    names = process.run(
        ["busybox", "cpio", "-t", "-F", str(micro_files / "micro.initrd")], join_stderr=True
    ).output.split()
    assert {"init", "bin/busybox"} < set(names)
    assert any(name.endswith("/virtio_blk.ko") for name in names)


def test_second_build_needs_no_network(micro_files: Path, tmp_path: Path) -> None:
    (tmp_path / "apt").mkdir()
    variables = {"MICRO_MARK": "hand-made 100%", "MICRO_SLEEP": "0.5", **no_apt(tmp_path / "apt")}
    built = micro.build(tmp_path, variables)
    assert (tmp_path / "micro.qcow2").stat().st_size > 10 * micro.MIB
    assert "micro: sleeping 0.5 s because MICRO_SLEEP asks for it" in built.output
    assert "Build completed successfully" in built.output
    assert read(tmp_path / "micro.qcow2", "/etc/micro-mark", tmp_path) == "hand-made 100%\n"


@pytest.mark.parametrize("phase", ["1", "root.d", "pre-finalise.d"])
def test_build_fails_where_it_is_told_to(phase: str, micro_files: Path, tmp_path: Path) -> None:
    built = micro.build(tmp_path, {"MICRO_FAIL": phase}, check=False)
    assert built.returncode == 3
    assert f"ERROR: micro: this build fails because MICRO_FAIL={phase} asks for it" in built.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("micro_files")
def test_build_says_which_package_apt_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "apt").mkdir()
    with pytest.raises(CommandError, match=r"apt knows no package linux-image-cloud-\w+; run apt-get update"):
        micro.build(tmp_path, no_apt(tmp_path / "apt"), cache=tmp_path / "empty")


def test_kernel_fetched_twice_at_once_is_kept_once(micro_files: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    arch = process.run(["dpkg", "--print-architecture"]).output.strip()
    script = str(micro.ELEMENTS / "micro" / "root.d" / "20-micro-kernel")
    builds = []
    for name in ("one", "two"):
        (tmp_path / name / "boot").mkdir(parents=True)
        variables = {"TARGET_ROOT": str(tmp_path / name), "DIB_IMAGE_CACHE": str(cache), "ARCH": arch}
        builds.append(subprocess.Popen([script], env={**os.environ, **variables}, stdout=subprocess.DEVNULL))
    assert [build.wait(120) for build in builds] == [0, 0]
    assert [path.name for path in cache.iterdir()] == [f"micro-kernel-{arch}"]
    kernels = [next((tmp_path / name / "boot").glob("vmlinuz-*")).read_bytes() for name in ("one", "two")]
    assert kernels[0] == kernels[1] == (micro_files / "micro.vmlinuz").read_bytes()
