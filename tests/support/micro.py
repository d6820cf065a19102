"""The micro image: building it, keeping it from one test session to the next, making a whole disk of it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from filelock import FileLock

from pytest_dibctl.build import builder
from pytest_dibctl.config import catalog
from pytest_dibctl.system import process

log = logging.getLogger(__name__)

ELEMENTS = Path(__file__).resolve().parent.parent / "elements"
"""For ELEMENTS_PATH."""

USERNAMES = ("root", "debian")
"""Who can log in to a micro guest."""

VARIANTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "plain": {},
        "panic": {"MICRO_PANIC": "1"},
        "no-sshd": {"MICRO_NO_SSHD": "1"},
        "mark": {"MICRO_MARK": "a mark of the test-suite"},
    }
)
"""What the element's environment variables are for each named kind of micro image."""

FAST = "root=/dev/vda rw console=ttyS0 quiet mitigations=off tsc=reliable random.trust_cpu=on"
"""A kernel command line that saves a guest without KVM a part of its boot time."""

MIB = 1024 * 1024
UNUSED_DAYS = 14


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeDisk:
    """The same disk, with a boot loader and partitions, in both formats."""

    raw: Path
    qcow2: Path


def images_yaml(
    *,
    filename: str,
    label: str = "micro",
    variables: Mapping[str, str] | None = None,
    tests: Sequence[Mapping[str, Any]] = (),
    username: str = "root",
    **sections: object,
) -> str:
    """Return the text of an images.yaml with one image, built from the micro element.

    ``variables`` go to the build, ``tests`` are the entries of its tests_list, ``sections`` are added to
    the image or replace what it has.
    """
    image = {
        "filename": filename,
        "dib": {
            "environment_variables": {"ELEMENTS_PATH": str(ELEMENTS), **(variables or {})},
            "cli_options": ["-n"],
            "elements": ["micro"],
        },
        "tests": {
            "ssh": {"username": username},
            "wait_for_port": 22,
            "tests_list": [dict(test) for test in tests],
        },
        **sections,
    }
    return yaml.safe_dump({label: image}, sort_keys=False)


def cache_directory() -> Path:
    """Return where built images and the kernel package are kept between test sessions."""
    named = os.environ.get("DIBCTL_TEST_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "pytest-dibctl-tests"


def build(
    directory: Path,
    variables: Mapping[str, str] | None = None,
    *,
    cache: Path | None = None,
    check: bool = True,
) -> process.Result:
    """Build micro.qcow2, micro.vmlinuz and micro.initrd in ``directory`` by a plain disk-image-create.

    ``cache`` keeps the kernel's package. Raises CommandError, with ``check``, when it fails.
    """
    kernels = (cache or cache_directory()) / "dib"
    namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return process.run(
        [*namespace, "disk-image-create", "-n", "-o", "micro", "-t", "qcow2", "micro"],
        cwd=directory,
        env={"ELEMENTS_PATH": str(ELEMENTS), "DIB_IMAGE_CACHE": str(kernels), **(variables or {})},
        timeout=300,
        check=check,
        join_stderr=True,
    )


def cached(variant: str = "plain") -> Path:
    """Return a directory with micro.qcow2, micro.vmlinuz and micro.initrd, built at most once per machine.

    A change of the element, of diskimage-builder or of the packages it copies from makes a new one.
    Callers must not write there.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    variables = VARIANTS[variant]
    entry = cache / f"micro-{variant}-{_digest(variables)}"
    with FileLock(cache / f"micro-{variant}.lock"):
        if not entry.exists():
            _remove_unused(cache)
            work = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
            # A failed build's directory stays for a while: its log is there.
            _build_in(work, {"DIB_IMAGE_CACHE": str(cache / "dib"), **variables})
            (work / "image").rename(entry)
            shutil.rmtree(work)
        os.utime(entry)
    return entry


def _build_in(directory: Path, variables: Mapping[str, str]) -> None:
    """Build in the project's own way, which cleans up after a build that is interrupted."""
    configuration = directory / "images.yaml"
    configuration.write_text(images_yaml(filename="built/micro.qcow2", variables=variables))
    image = catalog.load(cwd=directory, images=configuration, system=directory / "none").image("micro")
    (directory / "built").mkdir()
    builder.build(image, policy="always", cwd=directory, progress=log.info)
    (directory / "image").mkdir()
    for suffix in ("qcow2", "vmlinuz", "initrd"):
        (directory / "built" / f"micro.{suffix}").rename(directory / "image" / f"micro.{suffix}")


def _digest(variables: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(variables.items())).encode())
    for path in sorted(ELEMENTS.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(ELEMENTS)} {path.stat().st_mode & 0o111}\n".encode())
            digest.update(path.read_bytes())
    packages = ["busybox-static", "dropbear-bin", "e2fsprogs"]
    digest.update(process.run(["dpkg-query", "-W", *packages]).output.encode())
    digest.update(importlib.metadata.version("diskimage-builder").encode())
    return digest.hexdigest()[:16]


def _remove_unused(cache: Path) -> None:
    for path in cache.iterdir():
        if path.is_dir() and path.name != "dib" and time.time() - path.stat().st_mtime > UNUSED_DAYS * 86400:
            shutil.rmtree(path, ignore_errors=True)


def whole_disk(directory: Path, *, vmlinuz: Path, initrd: Path, root: Path) -> WholeDisk:
    """Make a disk that SeaBIOS boots: an MBR, a FAT partition with syslinux, an ext4 partition.

    ``root`` is a filesystem image of any format; its copy becomes the second partition. Nothing here
    needs root, a loop device or the device-mapper.
    """
    disk = directory / "whole.raw"
    filesystem = directory / "root.raw"
    process.run(["qemu-img", "convert", "-O", "raw", str(root), str(filesystem)])
    boot_size = (vmlinuz.stat().st_size + initrd.stat().st_size) // MIB + 4
    root_size = filesystem.stat().st_size // MIB + 1
    with disk.open("wb") as file:
        file.truncate((boot_size + root_size + 2) * MIB)
    _partition(disk, boot_size, root_size)
    _install_boot_loader(disk, directory, vmlinuz, initrd, boot_size)
    _copy_into(disk, filesystem, (boot_size + 1) * MIB)
    filesystem.unlink()
    qcow2 = directory / "whole.qcow2"
    process.run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(qcow2)])
    return WholeDisk(raw=disk, qcow2=qcow2)


def _partition(disk: Path, boot_size: int, root_size: int) -> None:
    table = f"label: dos\nstart=1MiB, size={boot_size}MiB, type=6, bootable\nsize={root_size}MiB, type=83\n"
    process.run(["sfdisk", "--quiet", str(disk)], stdin=table)


def _install_boot_loader(disk: Path, directory: Path, vmlinuz: Path, initrd: Path, boot_size: int) -> None:
    partition = f"{disk}@@{MIB}"
    configuration = directory / "syslinux.cfg"
    append = FAST.replace("/dev/vda", "/dev/vda2")
    configuration.write_text(
        "SERIAL 0 115200\nDEFAULT micro\nPROMPT 0\n"
        f"LABEL micro\nLINUX vmlinuz\nINITRD initrd\nAPPEND {append}\n"
    )
    # The count of hidden sectors tells syslinux where its partition starts.
    geometry = ["-T", str(boot_size * 2048), "-h", "64", "-s", "32", "-H", "2048"]
    process.run(["mformat", "-i", partition, *geometry, "::"])
    for source, name in ((vmlinuz, "vmlinuz"), (initrd, "initrd"), (configuration, "syslinux.cfg")):
        process.run(["mcopy", "-i", partition, str(source), f"::{name}"])
    process.run(["syslinux", "--install", "--offset", str(MIB), str(disk)])
    _copy_into(disk, Path("/usr/lib/syslinux/mbr/mbr.bin"), 0)
    configuration.unlink()


def _copy_into(disk: Path, source: Path, offset: int) -> None:
    with disk.open("r+b") as target, source.open("rb") as data:
        target.seek(offset)
        while chunk := data.read(MIB):
            # Leaving zeros out keeps the file sparse.
            if chunk.strip(b"\0"):
                target.write(chunk)
            else:
                target.seek(len(chunk), os.SEEK_CUR)
