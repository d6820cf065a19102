"""Builds that start at the tree of an earlier build: the same image, whatever was killed, full or damaged."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import builder, layers
from pytest_dibctl.build.builder import BuildOutcome
from pytest_dibctl.build.layer_store import Store
from pytest_dibctl.system import process
from tests.support import building, waiting

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="disk-image-create needs root"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 120.0

SHELL = """
put() {
    for program; do
        program=$(readlink -f "$(command -v "$program")")
        for file in "$program" $(ldd "$program" 2>/dev/null | grep -oE '/[^ ]+\\.so[^ ]*'); do
            sudo install -D -m 755 "$file" "$TARGET_ROOT$file"
        done
    done
}
sudo mkdir -p "$TARGET_ROOT"/usr/bin "$TARGET_ROOT"/usr/sbin
put bash /usr/bin/env chroot find sort grep basename date mktemp rm cat sed awk touch mkdir chmod
sudo ln -sf "$(readlink -f "$(command -v awk)")" "$TARGET_ROOT/usr/bin/awk"
for directory in bin sbin; do
    for program in "$TARGET_ROOT"/usr/$directory/*; do
        sudo ln -sf "/usr/$directory/${program##*/}" "$TARGET_ROOT/bin/" 2>/dev/null || true
    done
done
sudo ln -sf bash "$TARGET_ROOT/bin/sh"
"""
"""What dib-run-parts needs in an image, from this machine."""

ODD = """
cd "$TARGET_ROOT/etc"
sudo sh -c 'echo x > a; ln a hard; ln -s a soft; chown 12:34 a; chmod 4751 a; mkfifo pipe; mknod node c 1 3
    truncate -s 3M holes; echo end >> holes; printf "two\\n" > "a b"; chown -h 5:6 soft'
sudo python3 -c 'import os; os.setxattr("a", "user.note", b"kept"); os.setxattr("a", "security.capability", \
bytes.fromhex("0100000200040000000000000000000000000000"))'
"""
"""Files of every kind: links, owners, modes, holes, devices, attributes, capabilities."""


def mark(phase: str, where: str = "") -> str:
    """Return a script that shows by a new number in the image when it has run."""
    name = phase.removesuffix(".d")  # a script that speaks of phases would be taken to read others
    return f"#!/bin/bash\nset -eu\ncat /proc/sys/kernel/random/uuid > {where}/etc/ran-{name}\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("DIB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(layers, "MINIMUM", 0.0)
    monkeypatch.setattr(layers, "WORTH", 0.0)


@pytest.fixture
def elements(tmp_path: Path) -> Path:
    """A stack of two elements: an operating system, and a late one."""
    directory = tmp_path / "elements"
    base = building.element(directory, root=SHELL + ODD)
    building.hook(base, "root.d", "50-ran", mark("root.d", "$TARGET_ROOT"))
    building.hook(base, "install.d", "01-listed", mark("packages"))
    building.hook(directory / "late", "install.d", "50-late", mark("install.d"))
    building.hook(directory / "late", "post-install.d", "50-late", mark("post-install.d"))
    building.hook(directory / "late", "finalise.d", "50-late", mark("finalise.d"))
    return directory


def build(elements: Path, name: str = "tiny", *, told: list[str] | None = None, **given: Any) -> BuildOutcome:
    out = elements.parent / "out"
    out.mkdir(exist_ok=True)
    image = building.entry(out, filename=f"{name}.qcow2", dib=section(elements))
    heard = told if told is not None else []
    return builder.build(image, cwd=out, progress=heard.append, **given)


def section(elements: Path, *names: str) -> dict[str, Any]:
    listed = names or ("tiny", "late")
    return building.dib(elements, *listed, environment_variables={"DIB_IMAGE_SIZE": "0.1"})


LISTING = """
import hashlib, json, os, stat, sys
root, found, links = sys.argv[1], {}, {}
for folder, folders, files in os.walk(root):
    folders.sort()
    for name in sorted([*folders, *files]):
        path = os.path.join(folder, name)
        info = os.lstat(path)
        said = [oct(info.st_mode), info.st_uid, info.st_gid, info.st_rdev, info.st_nlink]
        if stat.S_ISREG(info.st_mode):
            said += [info.st_size, hashlib.sha256(open(path, "rb").read()).hexdigest()]
            said += [sorted(links.setdefault(info.st_ino, []))]
            links[info.st_ino].append(os.path.relpath(path, root))
            said += [info.st_blocks < info.st_size // 512]
        if stat.S_ISLNK(info.st_mode):
            said += [os.readlink(path)]
        said += [(key, os.getxattr(path, key, follow_symlinks=False).hex())
                 for key in sorted(os.listxattr(path, follow_symlinks=False))]
        found[os.path.relpath(path, root)] = said
print(json.dumps(found))
"""


def tree(image: Path) -> dict[str, Any]:
    """Return all that a filesystem image holds of each file but its times."""
    raw = image.with_suffix(".raw")
    process.run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)])
    inside = 'mount -o loop,ro,noload "$0" "$1" && "$2" -c "$3" "$1"'
    argv = ["unshare", "-m", "sh", "-c", inside, str(raw), "/mnt", sys.executable, LISTING]
    # Not by the gate for commands, which keeps only so much of what they say.
    output = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    raw.unlink()
    found: dict[str, Any] = json.loads(output)
    return found


def ran(files: Mapping[str, Any]) -> dict[str, str]:
    """Return what shows when each phase has run."""
    return {name.removeprefix("etc/ran-"): str(said) for name, said in files.items() if "etc/ran-" in name}


def rerun(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


PHASES = ["root", "packages", "install", "post-install", "finalise"]


def test_a_late_change_runs_only_what_follows_and_the_image_is_that_of_a_clean_build(elements: Path) -> None:
    first = build(elements)
    assert first.started_after is None
    files = tree(first.artifact.path)
    assert sorted(ran(files)) == sorted(PHASES)
    assert {layer.about.boundary for layer in Store().things()} == {
        *("root.d", "packages", "install.d", "post-install.d")
    }
    for phase, started, again in (
        ("finalise.d", "post-install.d", PHASES[4:]),
        ("post-install.d", "install.d", PHASES[3:]),
        ("install.d", "packages", PHASES[2:]),
    ):
        building.hook(elements / "late", phase, "50-late", f"{mark(phase)}# edited\n")
        told: list[str] = []
        outcome = build(elements, told=told)
        assert outcome.started_after == started, told
        now = tree(outcome.artifact.path)
        assert sorted(rerun(ran(files), ran(now))) == sorted(again)
        files = now
    assert "element late changed" in "\n".join(told)
    clean = build(elements, policy="always")
    assert clean.started_after is None
    wanted = tree(clean.artifact.path)
    assert sorted(rerun(ran(files), ran(wanted))) == sorted(PHASES)

    def same(listing: Mapping[str, Any]) -> dict[str, Any]:
        return {name: said for name, said in listing.items() if "etc/ran-" not in name}

    assert same(files) == same(wanted)
    assert build(elements).built is False


@pytest.mark.parametrize(("phase", "shared"), [("pre-install.d", "root.d"), ("install.d", "packages")])
def test_images_that_begin_alike_share_the_beginning(elements: Path, phase: str, shared: str) -> None:
    building.hook(elements / "other", phase, "60-other", mark("other"))
    first = tree(build(elements).artifact.path)
    out = elements.parent / "out"
    image = building.entry(out, "other", filename="other.qcow2", dib=section(elements, "tiny", "other"))
    outcome = builder.build(image, cwd=out, progress=lambda _line: None)
    assert outcome.started_after == shared
    assert ran(tree(outcome.artifact.path))["root"] == ran(first)["root"]


def test_a_script_that_is_a_link_is_taken_away_and_its_file_stays_as_it_is(elements: Path) -> None:
    shared = elements.parent / "shared"
    shared.write_text("#!/bin/bash\n:\n")
    shared.chmod(0o755)
    (elements / "tiny" / "extra-data.d").mkdir()
    (elements / "tiny" / "extra-data.d" / "40-linked").symlink_to(shared)
    build(elements)
    building.hook(elements / "late", "finalise.d", "50-late", f"{mark('finalise.d')}# edited\n")
    outcome = build(elements)
    assert outcome.started_after == "post-install.d"
    assert outcome.log_file is not None
    assert "Running" in outcome.log_file.read_text()
    assert "40-linked" not in "".join(
        line for line in outcome.log_file.read_text().splitlines() if "Running" in line
    )
    assert os.access(shared, os.X_OK)


def test_a_damaged_tree_is_removed_and_the_build_starts_from_nothing(elements: Path) -> None:
    build(elements)
    building.hook(elements / "late", "finalise.d", "50-late", f"{mark('finalise.d')}# edited\n")
    [last] = [layer for layer in Store().things() if layer.about.boundary == "post-install.d"]
    archive = last.path / "tree.tar.zst"
    archive.write_bytes(os.urandom(archive.stat().st_size))
    told: list[str] = []
    outcome = build(elements, told=told)
    assert outcome.started_after is None
    assert "the kept tree cannot be used and is removed; the build starts from nothing" in told
    assert sorted(ran(tree(outcome.artifact.path))) == sorted(PHASES)
    building.hook(elements / "late", "finalise.d", "50-late", f"{mark('finalise.d')}# again\n")
    assert build(elements).started_after == "post-install.d"


BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
from pytest_dibctl.build import layers
layers.MINIMUM = layers.WORTH = 0.0
from tests.qemu import test_layers_real as tests
outcome = tests.build(Path(sys.argv[1]), sys.argv[2], told=type("", (list,), {"append": print})())
print("started after", outcome.started_after)
"""


@contextlib.contextmanager
def building_process(elements: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    log = elements.parent / f"{name}.log"
    argv = [sys.executable, "-u", "-c", BUILD, str(REPOSITORY), str(elements), name]
    with log.open("w") as sink:
        child = subprocess.Popen(argv, stdout=sink, stderr=subprocess.STDOUT, text=True)
    try:
        yield child, log
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("moment", ["root.d (", "extra-data.d (", "install.d (", "post-root.d ("])
def test_a_build_killed_at_any_moment_leaves_a_cache_that_can_be_used(elements: Path, moment: str) -> None:
    with building_process(elements, "tiny") as (child, log):
        waiting.until(lambda: moment in log.read_text(), seconds=PATIENCE)
        child.send_signal(signal.SIGKILL)
        child.wait()
    told: list[str] = []
    outcome = build(elements, told=told)
    assert sorted(ran(tree(outcome.artifact.path))) == sorted(PHASES)
    assert not [line for line in told if "cannot be used" in line]
    if moment == "post-root.d (":
        assert outcome.started_after in ("install.d", "post-install.d")


def test_two_builds_at_once_do_the_same_work_once(elements: Path) -> None:
    with (
        building_process(elements, "one") as (first, _),
        building_process(elements, "two") as (second, _),
    ):
        assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (0, 0)
    out = elements.parent / "out"
    marks = [ran(tree(out / f"{name}.qcow2")) for name in ("one", "two")]
    assert rerun(*marks) in ([], ["finalise"])
    said = [(elements.parent / f"{name}.log").read_text() for name in ("one", "two")]
    assert any("waiting for another build" in text for text in said)


@contextlib.contextmanager
def small(directory: Path, size: str) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    process.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)])
    try:
        yield
    finally:
        process.run(["umount", str(directory)])


def test_a_full_cache_costs_a_warning(elements: Path) -> None:
    told: list[str] = []
    with small(elements.parent / "cache" / "dibctl", "512k"):
        outcome = build(elements, told=told)
        assert Store().things() == []
    assert outcome.built
    assert [line for line in told if "No space left" in line and line.startswith("warning")]


def test_what_the_build_needs_of_the_disk_is_not_taken_for_a_tree(elements: Path) -> None:
    told: list[str] = []
    with small(elements.parent / "out", "104m"):
        outcome = build(elements, told=told)
        assert outcome.built
    assert [line for line in told if "no room" in line]
    assert Store().things() == []


def test_a_cache_that_is_switched_off_leaves_nothing(elements: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIBCTL_CACHE_SIZE", "0")
    assert build(elements).built
    assert not Store().directory.exists()
    monkeypatch.delenv("DIBCTL_CACHE_SIZE")
    monkeypatch.setenv("DIBCTL_CLEAN_BUILDS", "1")
    told: list[str] = []
    building.hook(elements / "late", "finalise.d", "50-late", f"{mark('finalise.d')}# edited\n")
    build(elements, told=told)
    assert "starts from nothing, as asked" in told
