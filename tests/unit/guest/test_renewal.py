"""What is sent to a guest that goes on from a saved state, and what its answers can do."""

from __future__ import annotations

import os
import platform
import pty
import subprocess
from pathlib import Path

import pytest

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest import renewal
from pytest_dibctl.guest.renewal import Renewal
from pytest_dibctl.system import process

CHANGE = Renewal(
    name="dibctl-" + "x" * 56,
    old_name="dibctl-old-12345678",
    key="ssh-rsa AAAA" + "b" * 720 + " it's a comment; $(reboot) `reboot`",
    old_key="ssh-ed25519 AAAAold comment",
    host_key="-----BEGIN OPENSSH PRIVATE KEY-----\n" + "c" * 400 + "\n-----END OPENSSH PRIVATE KEY-----\n",
    public_host_key="ssh-ed25519 AAAAhost x",
)


def test_what_is_sent_fits_into_the_buffer_of_a_terminal() -> None:
    assert len(CHANGE.values(now=1.8e9, nonce="f" * 32)) < 3000


def test_values_arrive_as_they_are() -> None:
    script = CHANGE.values(now=1_800_000_000.4, nonce="n") + 'printf "%s|" "$name" "$key" "$host_key" "$now"'
    shown = process.run(["sh", "-c", script]).output
    assert shown == f"{CHANGE.name}|{CHANGE.key}|{CHANGE.host_key}|1800000000|"


def test_no_two_guests_get_the_same() -> None:
    first, second = (dict(_lines(CHANGE.values(now=0, nonce="n"))) for _ in range(2))
    assert {name for name in first if first[name] != second[name]} == {"noise", "machine_id"}


def _lines(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (line.partition("=") for line in text.splitlines())]


def answering(answer: str) -> renewal.Ask:
    return lambda _text, _timeout: answer


def test_only_the_number_of_this_renewal_is_an_answer() -> None:
    def ask(text: str, _timeout: float) -> str:
        assert text.endswith("dibctl-end\n")
        return f"dibctl-renewed {dict(_lines(text))['nonce']}"

    renewal.renew(ask, CHANGE, now=0, timeout=1)
    for stale in ("dibctl-renewed", "dibctl-renewed 0", "", "dibctl-here"):
        with pytest.raises(DibctlError, match="could not renew"):
            renewal.renew(answering(stale), CHANGE, now=0, timeout=1)


def test_what_a_guest_answers_is_only_shown() -> None:
    with pytest.raises(DibctlError) as caught:
        renewal.renew(answering("dibctl-failed \x1b[31mthe clock\r" + "x" * 5000), CHANGE, now=0, timeout=1)
    assert str(caught.value).startswith("the guest could not renew \\x1b[31mthe clock\\r")
    assert len(str(caught.value)) < 300


def test_a_guest_says_why_its_state_cannot_be_kept() -> None:
    def run(_command: str, **_options: object) -> process.Result:
        return process.Result(argv=("ssh",), returncode=1, output="noise\nit has no \x1b[1mserial line\n")

    with pytest.raises(DibctlError, match=r"^it has no \\x1b\[1mserial line"):
        renewal.prepare(run, public_key="ssh-ed25519 AAAA x")


@pytest.mark.skipif(platform.machine() != "x86_64" or os.geteuid() != 0, reason="for root on x86-64")
def test_the_program_has_the_kernel_reseed(tmp_path: Path) -> None:
    program = tmp_path / "reseed"
    program.write_bytes(renewal.reseeding_program())
    program.chmod(0o700)
    assert len(program.read_bytes()) < 200
    with Path("/dev/urandom").open("rb") as random:
        assert subprocess.run([program], stdin=random, check=False).returncode == 0
    assert subprocess.run([program], stdin=subprocess.DEVNULL, check=False).returncode == 25  # ENOTTY


def test_the_waiting_shell_answers_and_does_nothing_when_its_line_ends() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["sh", "-c", renewal.WAITING], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
    ) as shell:
        os.close(theirs)
        os.write(ours, b"half a message\ndibctl-ping\n")
        told = b""
        while b"dibctl-here" not in told:
            told += os.read(ours, 100)
        os.write(ours, b"renewed=no\n")
        os.close(ours)
        assert shell.wait(30) is not None
        assert shell.stderr is not None
        assert b"date" not in shell.stderr.read()
