"""What operators do with an image and its guest, in containers; see tests/qemu/test_end_to_end.py."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.qemu.test_end_to_end import (
    CONTAINER,
    SLEEPING_TEST,
    Operator,
    environment,
    interrupted,
    killed_with_a_guardian,
)
from tests.support import micro, overlay
from tests.support.terminals import PATIENCE, at_terminal, read_until

pytestmark = pytest.mark.real


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator with an empty directory."""
    return Operator(path=tmp_path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadGuest:
    """A guest that nobody can log in to: its image, and what a run says."""

    words: str
    patience: int
    variant: str = "plain"
    port: int = 22
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


BAD_GUESTS: Mapping[str, BadGuest] = {
    "no sshd": BadGuest(variant="no-sshd", words="[sshd-not-started]", patience=10),
    "wrong user": BadGuest(
        words="[wrong-user]",
        patience=15,
        settings={"username": "nobody-there"},
        # Without a cloud-init a container is refused whose login user is not in the image.
        files={"/usr/bin/cloud-init": ""},
    ),
    "closed port": BadGuest(words="port 8123", patience=15, port=8123),
}
"""With the seconds for a login: each is waited for to the end, since the guest may still come to it."""


@pytest.mark.parametrize("guest", BAD_GUESTS)
def test_a_bad_guest_is_named_and_removed(
    operator: Operator,
    micro_variant: Callable[[str], Path],
    guest: str,
) -> None:
    bad = BAD_GUESTS[guest]
    operator.has(micro_variant(bad.variant), **bad.settings)
    if bad.files:
        for suffix in ("qcow2", "vmlinuz", "initrd"):
            (operator.path / f"micro.{suffix}").rename(operator.path / f"base.{suffix}")
        overlay.make(operator.path / "base.qcow2", operator.path / "micro.qcow2", files=bad.files)
    text = (operator.path / "images.yaml").read_text()
    operator.write("images.yaml", text.replace("wait_for_port: 22", f"wait_for_port: {bad.port}"))
    operator.write("test.yaml", environment(bad.patience, "nspawn"))
    finished = operator.dibctl("test", "micro", "--environment=quick", "--build=never")
    assert finished.code == 71, finished.output
    assert bad.words in finished.output
    assert "console" in finished.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_interrupted_in_a_test_leaves_nothing(
    operator: Operator, micro_files: Path, number: signal.Signals
) -> None:
    operator.write("test_it.py", SLEEPING_TEST)
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    interrupted(operator, "the test sleeps", number, "--dib-build=never", CONTAINER)


def test_a_guardian_removes_what_a_killed_run_with_a_worker_left(
    operator: Operator, micro_files: Path
) -> None:
    killed_with_a_guardian(operator, micro_files, "guards.container", CONTAINER, "-n1")


def test_two_images_with_a_worker_each(operator: Operator, micro_variant: Callable[[str], Path]) -> None:
    for label, variant in {"one": "plain", "two": "mark"}.items():
        folder = operator.path / label
        folder.mkdir()
        for path in micro_variant(variant).glob("micro.*"):
            shutil.copy(path, folder / path.name)
    tests = [{"pytest": "generic:login"}, {"pytest": "generic:hostname"}]
    operator.write(
        "images.yaml",
        micro.images_yaml(label="one", filename="one/micro.qcow2", tests=tests)
        + micro.images_yaml(label="two", filename="two/micro.qcow2", tests=tests),
    )
    argv = ("pytest", "--dib-image=all", "--dib-build=never", CONTAINER, "-n2", "--basetemp=base")
    finished = operator.run(*argv)
    assert finished.code == 0, finished.output
    assert re.search(r"^one +", finished.output, re.MULTILINE)
    assert re.search(r"^two +", finished.output, re.MULTILINE)


@contextlib.contextmanager
def terminal(operator: Operator, *argv: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run a command at a terminal of its own; gives the other end of it."""
    with at_terminal(
        lambda end: operator.start(argv, stdin=end, stdout=end, stderr=end, start_new_session=True)
    ) as both:
        yield both


def test_dibctl_shell_and_exit_42(operator: Operator, micro_files: Path) -> None:
    operator.has(micro_files)
    argv = ("pytest_dibctl.cli.main", "shell", "micro", "--build=never", "--environment=container")
    with terminal(operator, *argv) as (screen, child):
        read_until(screen, "is ready", then="#")
        os.write(screen, b"hostname; exit 42\n")
        shown = read_until(screen, None)
        assert child.wait(timeout=PATIENCE) == 0, shown
    assert "kept instance dibctl-micro-" in shown
    removal = re.search(r"remove: +dibctl (.*?)\r?\n", shown)
    assert removal, shown
    assert operator.dibctl(*removal.group(1).split()).code == 0


def test_dib_shell_opens_once_after_a_failure_and_the_instance_goes(
    operator: Operator, micro_files: Path
) -> None:
    operator.write("test_it.py", "def test_it(ssh_access): assert 0\ndef test_too(ssh_access): assert 0\n")
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    argv = ("pytest", "--dib-image=micro", "--dib-build=never", CONTAINER, "--dib-shell")
    with terminal(operator, *argv) as (screen, child):
        read_until(screen, "a shell in its instance", then="#")
        os.write(screen, b"echo I-was-in-$((40 + 2)); exit\n")
        shown = read_until(screen, None)
        assert child.wait(timeout=PATIENCE) == 1, shown
    assert "I-was-in-42" in shown
    assert "a shell in its instance" not in shown
    assert "2 failed" in shown
    assert "kept" not in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_shell_and_the_run(
    operator: Operator, micro_files: Path, number: signal.Signals
) -> None:
    """In a shell after a failure the run is within a finalizer, where signals are put off otherwise."""
    operator.write("test_it.py", "def test_it(ssh_access): assert 0\n")
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    argv = ("pytest", "--dib-image=micro", "--dib-build=never", CONTAINER, "--dib-shell")
    with terminal(operator, *argv) as (screen, child):
        read_until(screen, "a shell in its instance", then="#")
        child.send_signal(number)
        shown = read_until(screen, None)
        assert child.wait(timeout=PATIENCE) == 2, shown
    assert f"{number.name} received" in shown
    assert "kept" not in shown
