"""The generic ``image`` tests on what the images of other distributions have: xfs, btrfs, rpm's database."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_dibctl import process
from tests.qemu.test_end_to_end import Finished, Operator

pytestmark = pytest.mark.real

MAKERS = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q"), "btrfs": ("mkfs.btrfs", "-q")}
MIB = 1 << 20
SIZE = 512 * MIB
"""xfs takes nothing smaller than 300 MiB."""


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator with an empty directory."""
    return Operator(path=tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What every root filesystem has."""
    root = tmp_path / "tree"
    for name in ("etc", "dev", "proc", "tmp", "var/lib", "usr/bin", "usr/lib", "usr/lib64"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/os-release").write_text("ID=other\n")
    return root


@contextlib.contextmanager
def mounted(image: Path) -> Iterator[Path]:
    point = image.with_suffix(".mounted")
    point.mkdir()
    process.run(["mount", "-o", "loop", str(image), str(point)])
    try:
        yield point
    finally:
        process.run(["umount", str(point)])
        point.rmdir()


def pack(tree: Path, filesystem: str, image: Path, *, subvolume: str | None = None) -> None:
    """Make an image of a filesystem that holds the tree."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    process.run([*MAKERS[filesystem], str(image)])
    with mounted(image) as point:
        if subvolume is not None:
            process.run(["btrfs", "subvolume", "create", str(point / subvolume)])
        process.run(["cp", "-a", f"{tree}/.", str(point / (subvolume or ""))])


def check(operator: Operator, name: str, *arguments: str) -> Finished:
    """Run a generic test on ``image.raw``."""
    tests = {"ssh": {"username": "root"}, "tests_list": [{"image": f"generic:{name}"}]}
    document = {"micro": {"filename": "image.raw", "tests": tests}}
    operator.write("images.yaml", yaml.safe_dump(document))
    return operator.pytest("-rs", *arguments)


@pytest.mark.parametrize(
    ("filesystem", "subvolume"), [("xfs", None), ("btrfs", None), ("btrfs", "root"), ("btrfs", "@")]
)
def test_a_clean_filesystem_passes(
    operator: Operator, tree: Path, filesystem: str, subvolume: str | None
) -> None:
    pack(tree, filesystem, operator.path / "image.raw", subvolume=subvolume)
    finished = check(operator, "filesystem")
    assert finished.code == 0, finished.output
    assert "1 passed" in finished.output


def test_a_damaged_xfs_fails(operator: Operator, tree: Path) -> None:
    image = operator.path / "image.raw"
    pack(tree, "xfs", image)
    process.run(["xfs_db", "-x", "-c", "sb 0", "-c", "write fdblocks 5", str(image)])
    finished = check(operator, "filesystem")
    assert finished.code == 1, finished.output
    assert "xfs_repair -n exited with 1" in finished.output


# -- rpm -------------------------------------------------------------------------------------------

SPEC = """\
Name: {name}
Version: 1
Release: 1
Summary: A package of nothing
License: MIT
BuildArch: noarch
{requires}
%description
It has no files.
%files
"""


def install(tree: Path, package: str, *, requires: str = "") -> None:
    """Build a package and install it in the tree, whatever it requires."""
    work = tree.parent / "rpms"
    work.mkdir(exist_ok=True)
    spec = work / f"{package}.spec"
    spec.write_text(SPEC.format(name=package, requires=f"Requires: {requires}" if requires else ""))
    process.run(["rpmbuild", "-bb", "--define", f"_topdir {work}", str(spec)])
    process.run(
        [
            *("rpm", "--root", str(tree), "--define", "_dbpath /var/lib/rpm"),
            *("--install", "--nodeps", str(work / "RPMS/noarch" / f"{package}-1-1.noarch.rpm")),
        ]
    )


@pytest.fixture
def rpm_tree(tree: Path) -> Path:
    """A tree with rpm, all it needs to run, and a database of one package."""
    for program in ("/usr/bin/rpm", "/bin/sh", "/bin/cp", "/bin/mkdir", "/bin/rm"):
        _copy_program(Path(program), tree)
    shutil.copytree("/usr/lib/rpm", tree / "usr/lib/rpm", symlinks=True)
    (tree / "etc/rpm").mkdir()
    (tree / "etc/rpm/macros").write_text("%_dbpath /var/lib/rpm\n")
    (tree / "var/lib/rpm").mkdir()
    install(tree, "whole")
    # SQLite's own files, which packing an image leaves behind or not.
    for name in ("rpmdb.sqlite-shm", "rpmdb.sqlite-wal"):
        (tree / "var/lib/rpm" / name).unlink(missing_ok=True)
    return tree


def _copy_program(program: Path, tree: Path) -> None:
    shutil.copy(program, tree / "usr/bin" / program.name)
    linked = process.run(["ldd", str(program)]).output.split()
    for library in {Path(word) for word in linked if word.startswith("/")}:
        target = tree / str(library).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def test_a_whole_rpm_database_passes(operator: Operator, rpm_tree: Path) -> None:
    pack(rpm_tree, "ext4", operator.path / "image.raw")
    finished = check(operator, "packagedb")
    assert finished.code == 0, finished.output
    assert "2 passed, 1 skipped" in finished.output


def test_a_package_that_misses_another_fails(operator: Operator, rpm_tree: Path) -> None:
    install(rpm_tree, "lacking", requires="something-else")
    pack(rpm_tree, "ext4", operator.path / "image.raw")
    finished = check(operator, "packagedb")
    assert finished.code == 1, finished.output
    assert "something-else is needed by" in finished.output
    assert "1 failed, 1 passed, 1 skipped" in finished.output


def test_a_damaged_rpm_database_fails(operator: Operator, rpm_tree: Path) -> None:
    database = rpm_tree / "var/lib/rpm/rpmdb.sqlite"
    content = bytearray(database.read_bytes())
    content[4096:16384] = bytes(12288)
    database.write_bytes(bytes(content))
    pack(rpm_tree, "ext4", operator.path / "image.raw")
    finished = check(operator, "packagedb")
    assert finished.code == 1, finished.output
    assert "rpm" in finished.output.partition("FAILURES")[2]
