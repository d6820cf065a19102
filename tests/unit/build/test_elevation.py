"""Builds of a user who is not root; sudo is a script here that runs the same command."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from pytest_dibctl.build import builder, elevated, elevation
from pytest_dibctl.errors import BuildError
from pytest_dibctl.guards import build_steps
from pytest_dibctl.system import locks, process, processes
from tests.support import building
from tests.unit.conftest import programs

CREATE = "qemu-img create -q -f qcow2 %(output_filename)s 4M"
USER = 12345


@pytest.fixture(autouse=True)
def sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a script in the place of sudo, and every build go through it; return the script."""
    (tmp_path / "sudo-bin").mkdir()
    script = Path(programs(tmp_path / "sudo-bin", "sudo")) / "sudo"
    script.write_text(
        f'#!/bin/sh\n[ "$1 $2" = \'-n --\' ] || exit 9\nshift 2\nSUDO_UID={USER} SUDO_GID={USER} exec "$@"\n'
    )
    known = process.tool_path()
    monkeypatch.setattr(process, "tool_path", lambda: f"{script.parent}:{known}")
    monkeypatch.setattr(elevation, "is_needed", lambda _recipe: os.environ.get("SUDO_UID") is None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return script


def silent(_line: str) -> None:
    """Take progress for nobody."""


def test_a_build_goes_through_sudo_and_its_files_are_the_users(tmp_path: Path) -> None:
    told: list[str] = []
    image = building.entry(tmp_path, external_build=[{"cmdline": CREATE}])
    outcome = builder.build(image, cwd=tmp_path, progress=told.append)
    assert (outcome.built, outcome.reason) == (True, "no image yet")
    assert told == ["building tiny.qcow2 as root, through sudo: no image yet", "external_build 1"]
    made = {path.name: path.stat().st_uid for path in tmp_path.iterdir() if path.is_file()}
    assert made == dict.fromkeys(
        ("tiny.qcow2", "tiny.qcow2.build.log", "tiny.qcow2.dibctl.json", ".tiny.qcow2.lock"), USER
    )
    assert not builder.build(image, cwd=tmp_path, progress=silent).built


def test_an_error_comes_back_as_it_was(tmp_path: Path) -> None:
    image = building.entry(tmp_path, external_build=[{"cmdline": "sh -c 'echo it broke; exit 7'"}])
    with pytest.raises(BuildError, match="it broke") as caught:
        builder.build(image, cwd=tmp_path, progress=silent)
    assert caught.value.exit_code == 7
    assert (tmp_path / "tiny.qcow2.build.failed.log").stat().st_uid == USER


def test_an_interrupted_build_ends_and_leaves_nothing(tmp_path: Path) -> None:
    """Nobody can send a signal to root's processes: the closed pipe ends them."""
    pid = tmp_path / "pid"
    sleeping = f"sh -c 'echo $$ > {pid}; exec sleep 600'"
    image = building.entry(tmp_path, external_build=[{"cmdline": sleeping}])

    def progress(line: str) -> None:
        if line == "external_build 1":
            while not (pid.exists() and pid.read_text()):
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder.build(image, cwd=tmp_path, progress=progress)
    assert processes.start_tick(int(pid.read_text())) is None
    assert not (tmp_path / "tiny.qcow2").exists()
    assert not (tmp_path / ".tiny.qcow2.building").exists()


def test_a_sudo_that_refuses_is_told_in_its_own_words(sudo: Path, tmp_path: Path) -> None:
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    image = building.entry(tmp_path, external_build=[{"cmdline": CREATE}])
    with pytest.raises(BuildError, match=r"gave no result\n  sudo: a password is required"):
        builder.build(image, cwd=tmp_path, progress=silent)


def test_root_or_sudo_is_checked_for(sudo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert elevation.check().ok
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    check = elevation.check()
    assert not check.ok
    assert check.detail.endswith("need root; sudo: a password is required")
    assert "--dib-input" in check.fix


def test_variables_that_steer_a_program_do_not_reach_root(monkeypatch: pytest.MonkeyPatch) -> None:
    steering = ("LD_PRELOAD", "PYTHONPATH", "BASH_ENV", "IFS", "PERL5LIB", "XDG_CACHE_HOME", "OS_PASSWORD")
    bad = (*steering, "APT_CONFIG", "TAR_OPTIONS", "GIT_SSH_COMMAND", "GIT_CONFIG_COUNT", "OPENSSL_CONF")
    for name in (*bad, "DIB_RELEASE", "http_proxy"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("PATH", ".:bin::/usr/bin")
    passed = elevation.variables()
    assert not passed.keys() & set(bad)
    assert all(place.startswith("/") for place in passed["PATH"].split(":"))
    assert passed.keys() >= {"DIB_RELEASE", "http_proxy", "HOME", "PATH"}


def test_an_image_passes_the_pipe_unchanged(tmp_path: Path) -> None:
    image = building.entry(tmp_path, dib=building.dib(tmp_path), external_build=[{"cmdline": CREATE}])
    assert elevated._decoded(elevation.encoded(image)) == image


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of root's")
def test_only_new_files_of_roots_become_the_users(tmp_path: Path) -> None:
    new, old, twice, link = (tmp_path / name for name in ("new", "old", "twice", "link"))
    for path in (new, old, twice):
        path.write_text("")
    (tmp_path / "other-name").hardlink_to(twice)
    link.symlink_to(old)
    for path in (new, twice, link):
        elevated._give(path, USER, USER, since=0.0)
    elevated._give(old, USER, USER, since=time.time() + 60)
    assert [path.stat().st_uid for path in (new, old, twice)] == [USER, 0, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of root's")
def test_no_link_leads_to_a_file_that_is_given_away(tmp_path: Path) -> None:
    """A repository may hold links by the names of what a build makes; others may put them there meanwhile."""
    (tmp_path / "etc").mkdir()
    passwords = tmp_path / "etc" / "shadow"
    passwords.write_text("")
    target = tmp_path / "images" / "x.qcow2"
    (tmp_path / "images").mkdir()
    (tmp_path / "images/x.d").symlink_to(tmp_path / "etc")
    target.write_text("")
    folder = os.open(target.parent, os.O_RDONLY)
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "images").symlink_to(tmp_path / "etc")
    (tmp_path / "etc/x.initrd").write_text("")
    elevated._give_made(folder, target, USER, USER, since=0.0)
    (tmp_path / "moved/x.d").unlink()
    (tmp_path / "moved/x.d/deb").mkdir(parents=True)
    (tmp_path / "moved/x.d/deb/list").write_text("")
    (tmp_path / "moved/x.d/link").symlink_to(tmp_path / "etc")
    elevated._give_made(folder, target, USER, USER, since=0.0)
    os.close(folder)
    assert [path.stat().st_uid for path in (passwords, tmp_path / "etc", tmp_path / "etc/x.initrd")] == [
        0,
        0,
        0,
    ]
    given = ("x.qcow2", "x.d", "x.d/deb", "x.d/deb/list")
    assert [(tmp_path / "moved" / name).stat().st_uid for name in given] == [USER] * len(given)


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o755, None), (0o1777, None), (0o777, "every user can write in {}"), (0o775, "group ")],
)
def test_a_folder_that_others_can_write_to_is_told(tmp_path: Path, mode: int, said: str | None) -> None:
    """Who can rename the build's private directory has root run programs of theirs."""
    above = tmp_path / "above"
    (above / "images").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(above, 0, USER)
    above.chmod(mode)
    told = elevation.exposed(above / "images" / "new")
    if said is None:
        assert told is None or str(above) not in told
    elif os.geteuid() == 0 or mode == 0o777:
        assert told is not None
        assert told.startswith(said.format(above))


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of another user's")
def test_the_list_of_loop_devices_of_another_user_is_not_believed(tmp_path: Path) -> None:
    loop = build_steps.Loop(name="loop0", file="f", device=1, inode=2)
    (tmp_path / build_steps.LOOPS).write_text(json.dumps([dataclasses.asdict(loop)]))
    assert build_steps._recorded(tmp_path) == [loop]
    os.chown(tmp_path, USER, USER)
    assert build_steps._recorded(tmp_path) == []


def test_a_private_directory_that_another_user_made_meanwhile_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = building.entry(tmp_path, external_build=[{"cmdline": CREATE}])
    monkeypatch.setattr(elevation, "is_needed", lambda _recipe: False)
    monkeypatch.setattr(build_steps, "remove", lambda path: path.mkdir(exist_ok=True))
    with pytest.raises(BuildError, match="cannot write in"):
        builder.build(image, cwd=tmp_path, progress=silent)


def test_a_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "nologin")
    with pytest.raises(OSError, match="symbolic links"), locks.exclusive(tmp_path / "lock"):
        pass
    assert not (tmp_path / "nologin").exists()
