"""The cache of ready states: what is found, who makes and uses it, and what a full disk and kills leave."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.cli import main
from pytest_dibctl.clouds.qemu import ready_store, warm
from pytest_dibctl.clouds.qemu.ready_store import About, ReadyState, ReadyStore
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.errors import DibctlError, ExitCode
from pytest_dibctl.guest import renewal
from pytest_dibctl.image import artifact
from pytest_dibctl.system import files, process

ABOUT = About(
    label="debian.qcow2",
    uuid="0b57e2a1-0000-4000-8000-000000000001",
    name="dibctl-debian-1",
    mac="52:54:00:00:00:01",
    public_key="ssh-ed25519 AAAA x",
    made=1_800_000_000.0,
    seconds=40.0,
)
MIB = 1 << 20


def key(number: int) -> str:
    return f"{number:040x}"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadyStore:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ReadyStore()


def kept(store: ReadyStore, number: int = 1, *, size: int = 100, used: float | None = None) -> ReadyState:
    disk = store.directory.parent / "disk"
    disk.parent.mkdir(parents=True, exist_ok=True)
    disk.write_bytes(os.urandom(size))
    store.lock_file(key(number))
    store.take_in(disk, key(number), ABOUT)
    if used is not None:
        os.utime(store.directory / key(number) / "about.json", (used, used))
    state = store.find(key(number))
    assert state is not None
    return state


def claim(
    store: ReadyStore, number: int = 1, *, timeout: float = 0, told: list[str] | None = None
) -> warm.Claim:
    return warm.Claim.of(
        store,
        key(number),
        timeout=timeout,
        waiting=lambda: told.append("waits") if told is not None else None,
    )


# -- what is found ---------------------------------------------------------------------------------


def test_a_state_is_for_its_user_only(store: ReadyStore) -> None:
    state = kept(store)
    for path, mode in ((store.directory, 0o700), (state.path, 0o700), (state.disk, 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def cut(state: ReadyState) -> None:
    os.truncate(state.disk, 50)


def link(state: ReadyState) -> None:
    elsewhere = state.path.with_name("elsewhere")
    state.disk.rename(elsewhere)
    state.disk.symlink_to(elsewhere)


def garble(state: ReadyState) -> None:
    (state.path / "about.json").write_text("[]")


def age(state: ReadyState) -> None:
    about = json.loads((state.path / "about.json").read_text())
    (state.path / "about.json").write_text(json.dumps({**about, "from": "another version"}))


def give_away(state: ReadyState) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(state.disk, 12345, -1)


def rewrite(**changed: Any) -> Callable[[ReadyState], None]:
    def spoil(state: ReadyState) -> None:
        about = json.loads((state.path / "about.json").read_text())
        (state.path / "about.json").write_text(json.dumps({**about, **changed}))

    spoil.__name__ = f"rewrite_{'_'.join(changed)}"
    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        *(cut, link, garble, age, give_away),
        *(rewrite(made=None), rewrite(seconds="x"), rewrite(name=3), rewrite(mac="52:54:00:00:00:01,x=y")),
    ],
)
def test_what_is_damaged_or_another_s_is_not_found_and_is_swept(
    store: ReadyStore, spoil: Callable[[ReadyState], None]
) -> None:
    state = kept(store)
    spoil(state)
    assert store.find(state.key) is None
    assert store.things() == []
    store.sweep()
    assert not state.path.exists()


def test_changed_bytes_are_noticed(store: ReadyStore) -> None:
    state = kept(store)
    warm.verify(state, files.sha256(state.disk))
    with state.disk.open("r+b") as file:
        file.write(b"changed")
    found = store.find(state.key)
    assert found is not None
    with pytest.raises(DibctlError, match="is damaged"):
        warm.verify(found, files.sha256(found.disk))


def test_a_copy_is_the_file_and_private(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3 * MIB + 17))
    assert files.copy(source, target) == 3 * MIB + 17
    assert target.read_bytes() == source.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


# -- who makes it ----------------------------------------------------------------------------------


def test_the_first_makes_and_the_others_use(store: ReadyStore) -> None:
    maker, told = claim(store), list[str]()
    assert (maker.state, maker.makes) == (None, True)
    late = claim(store, told=told)
    assert (late.state, late.makes, told) == (None, False, ["waits"])
    late.release()
    kept(store)
    maker.release()
    users = [claim(store), claim(store)]
    assert all(user.state is not None and not user.makes for user in users)
    assert not store.remove(users[0].state or pytest.fail("no state"))
    for user in users:
        user.release()
    assert store.remove(kept(store))


def test_a_maker_that_gives_up_leaves_it_to_the_next(store: ReadyStore) -> None:
    claim(store).release()
    maker = claim(store)
    assert maker.makes
    maker.release()


def test_one_waits_while_another_makes(store: ReadyStore) -> None:
    store.lock_file(key(1))
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        maker = claim(store)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        kept(store)
        maker.release()
        os._exit(0)
    os.read(ready[0], 1)
    told: list[str] = []
    os.write(go[1], b"x")
    waiting = claim(store, timeout=30, told=told)
    assert waiting.state is not None
    waiting.release()
    os.waitpid(child, 0)
    for descriptor in (*ready, *go):
        os.close(descriptor)


# -- room ------------------------------------------------------------------------------------------


def test_what_was_unused_longest_goes_first(store: ReadyStore) -> None:
    now = time.time()
    for number, hours in ((1, 3), (2, 1), (3, 2)):
        kept(store, number, size=1000, used=now - hours * 3600)
    assert [state.key for state in store.surplus(2500, now)] == [key(1)]
    assert [state.key for state in store.surplus(10_000, now + ready_store.MAX_AGE - 5400)] == [
        key(3),
        key(1),
    ]


@pytest.mark.parametrize(
    ("value", "size"),
    [("", 5 << 30), ("0", 0), ("0.5", 1 << 29), ("-1", 0), ("much", 5 << 30), ("inf", 5 << 30)],
)
def test_the_limit_is_a_number_of_gib(value: str, size: int) -> None:
    assert ready_store.limit({"DIBCTL_WARM_SIZE": value}) == size


def test_a_state_larger_than_the_limit_is_not_kept(
    store: ReadyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIBCTL_WARM_SIZE", "0.001")
    disk = store.directory.parent / "disk"
    disk.parent.mkdir(parents=True)
    disk.write_bytes(bytes(2 * MIB))
    maker = claim(store)
    with pytest.raises(DibctlError, match="2 MiB, more than DIBCTL_WARM_SIZE allows"):
        warm.keep(maker, disk, ABOUT)
    assert store.things() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a small filesystem")
def test_a_full_disk_is_named_and_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    process.run(["mount", "-t", "tmpfs", "-o", "size=258m", "small", str(small)])
    try:
        store = ReadyStore(small / "ready")
        state = kept(store, size=MIB)
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(3 * MIB))
        maker = claim(store, 2)
        with pytest.raises(DibctlError, match="259 MiB are needed"):
            warm.keep(maker, disk, ABOUT)
        maker.release()
        assert [found.key for found in store.things()] == [state.key]
        assert not list(store.directory.glob(".*"))
    finally:
        process.run(["umount", str(small)])


# -- kills -----------------------------------------------------------------------------------------

CALLS = (
    (os, "open"),
    (os, "sendfile"),
    (os, "replace"),
    (os, "rename"),
    (os, "mkdir"),
    (os, "rmdir"),
    (os, "unlink"),
)


def _dies_at(number: int, work: Callable[[], object]) -> bool:
    """Do work in a process that is killed just before its call ``number``; return whether it got that far."""
    child = os.fork()
    if child == 0:
        calls = 0
        for module, name in CALLS:
            usual = getattr(module, name)

            def counted(*given: Any, _usual: Any = usual, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _usual(*given, **named)

            setattr(module, name, counted)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("older", [False, True], ids=["first", "replaced"])
def test_a_kill_at_any_moment_of_the_saving_leaves_a_cache_that_works(store: ReadyStore, older: bool) -> None:
    disk = store.directory.parent / "new"
    disk.parent.mkdir(parents=True, exist_ok=True)
    disk.write_bytes(b"new" * 1000)

    def save() -> None:
        maker = claim(store)
        store.take_in(disk, key(1), ABOUT)
        maker.release()

    for number in range(1, 60):
        shutil.rmtree(store.directory, ignore_errors=True)
        if older:
            kept(store, size=50)
        killed = _dies_at(number, save)
        found = store.find(key(1))
        if found is not None:
            warm.verify(found, files.sha256(found.disk))
        store.sweep()
        left = {path.name for path in store.directory.iterdir()} if store.directory.is_dir() else set()
        assert left <= {key(1), f"{key(1)}.lock"}, number
        after = claim(store)
        assert after.makes or after.state is not None
        after.release()
        if not killed:
            assert number > 6
            assert found is not None
            assert found.about.size == 3000
            return
    pytest.fail("the saving does not end")


# -- keys ------------------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path: Path) -> artifact.Artifact:
    image = tmp_path / "x.qcow2"
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"])
    for suffix in ("vmlinuz", "initrd"):
        (tmp_path / f"x.{suffix}").write_text(suffix)
    return artifact.inspect(image)


def key_with(built: artifact.Artifact, **changed: Any) -> str:
    settings = changed.pop("settings", {})
    usual: dict[str, Any] = {"disk": 5, "arch": "x86_64", "accelerator": "tcg", "user_data": "", "salt": "s"}
    return warm.key_of(built, Qemu.model_validate(settings), **{**usual, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"disk": 6},
        {"accelerator": "kvm"},
        {"user_data": "#cloud-config"},
        {"salt": "another user's"},
        {"settings": {"memory": 2048}},
        {"settings": {"vcpus": 1}},
        {"settings": {"seed": "configdrive"}},
        {"settings": {"kernel_cmdline": "root=/dev/vda quiet"}},
        {"settings": {"host_loopback": True}},
    ],
    ids=str,
)
def test_a_key_counts_what_a_first_boot_depends_on(built: artifact.Artifact, changed: dict[str, Any]) -> None:
    assert key_with(built, **changed) != key_with(built)


def test_a_key_counts_the_image_the_kernel_qemu_and_what_is_left_in_the_guest(
    built: artifact.Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = [key_with(built), key_with(dataclasses.replace(built, sha512="0" * 128))]
    (tmp_path / "x.initrd").write_text("another")
    keys.append(key_with(built))
    monkeypatch.setattr(renewal, "version", lambda: "another")
    keys.append(key_with(built))
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text("#!/bin/sh")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    keys.append(key_with(built))
    assert len(set(keys)) == len(keys)


def test_a_key_does_not_count_where_a_guest_is_reached_from(built: artifact.Artifact) -> None:
    assert key_with(built, settings={"forward_ports": [{"guest": 80}], "active_timeout": 9}) == key_with(
        built
    )


@pytest.mark.parametrize(
    ("settings", "arch", "why"),
    [
        ({}, "aarch64", "an aarch64 guest"),
        ({"ssh_host_key": "first-seen"}, "x86_64", "first-seen"),
        ({}, "x86_64", None),
    ],
)
def test_some_guests_have_no_ready_states(settings: dict[str, Any], arch: Any, why: str | None) -> None:
    reason = warm.obstacle(Qemu.model_validate(settings), arch)
    assert reason is None if why is None else why in str(reason)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_lists_and_prunes_them(store: ReadyStore, capsys: pytest.CaptureFixture[str]) -> None:
    state = kept(store, size=MIB)
    assert main.main(["cache"]) == ExitCode.OK
    assert "booted and ready" in capsys.readouterr().out
    user = claim(store)
    assert main.main(["cache", "prune", "--all"]) == ExitCode.UNSPECIFIED
    assert "stays: it is in use" in capsys.readouterr().out
    user.release()
    assert main.main(["cache", "prune", "--all", "--json"]) == ExitCode.OK
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["key"], told["outcome"]) == ("ready state", state.key, "removed")
    assert store.things() == []
