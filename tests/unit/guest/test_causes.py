"""Which cause is named: for the recorded consoles of broken images, for single lines, for hostile text."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pytest_dibctl.guest import causes
from pytest_dibctl.guest.boot_causes import CAUSES, SIGNS, STATUS_SIGNS
from pytest_dibctl.guest.causes import Evidence
from pytest_dibctl.guest.console import clean, excerpt
from pytest_dibctl.image.login_facts import LoginFacts
from tests.support import boot_corpus
from tests.support.broken_images import CASES, Case

MIB = 1 << 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_recorded_console_of_a_broken_image_names_its_cause(case: Case) -> None:
    record = boot_corpus.read(case.name)
    found = causes.named(record.evidence)
    assert found is not None
    assert found.id == record.cause == case.cause
    if found.line is not None:
        assert found.said in record.evidence.console.split("\n")[found.line - 1]


def test_the_corpus_is_as_large_as_it_claims_to_be() -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.cause for case in CASES}) >= 15


def test_every_sign_names_a_known_cause_and_needs_what_it_looks_for() -> None:
    assert {sign.cause for sign in (*SIGNS, *STATUS_SIGNS)} <= set(CAUSES)
    assert all(sign.needle and sign.pattern for sign in (*SIGNS, *STATUS_SIGNS))
    assert all(kind.text and kind.hint for kind in CAUSES.values())


LINES = {
    "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)": "root-not-found",
    "Kernel panic - not syncing: No working init found.  Try passing init= option": "no-init",
    "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100": "kernel-panic",
    "Kernel panic - not syncing: System is deadlocked on memory": "out-of-memory",
    "Kernel panic - not syncing: Fatal exception in interrupt": "kernel-panic",
    "Booting from Hard Disk...\nNo bootable device.\n": "no-bootable-device",
    "ALERT!  /dev/disk/by-label/x does not exist.  Dropping to a shell!": "root-not-found",
    "Gave up waiting for root file system device.  Common problems:": "root-not-found",
    "(initramfs) ": "initrd-emergency-shell",
    "[ 190.1] dracut-initqueue[380]: Warning: dracut-initqueue timeout - starting": "root-not-found",
    "error: unknown filesystem.\nEntering rescue mode...\ngrub rescue> ": "boot-loader-failed",
    "Use the ^ and v keys to select which entry is highlighted.": "boot-loader-menu",
    "You are in emergency mode. After logging in, type": "emergency-mode",
    "systemd[1]: Freezing execution.": "init-crashed",
    "Out of memory: Killed process 311 (sshd) total-vm:1kB": "out-of-memory",
    "[FAILED] Failed to start cloud-init-local.service - Initial job (pre-networking).": "cloud-init-broken",
    "*** Warning -- SELinux targeted policy relabel is required.": "selinux-relabel",
    "cp: error writing '/etc/x': No space left on device": "disk-full",
    "/dev/vda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.": "filesystem-damaged",
    "udhcpc: no lease, failing": "no-dhcp-lease",
    "dhclient[301]: No DHCPOFFERS received.": "no-dhcp-lease",
    "[ ***  ] A start job is running for Wait for Network to be Configured": "waiting-for-network",
    "[ ***  ] Job systemd-networkd-wait-online.se\u2026tart running (2s / no limit)": "waiting-for-network",
    "WARNING: Calling 'http://169.254.169.254/2009-04-04/' failed [0/120s]": "metadata-unreachable",
    "cloud-init[402]: Used fallback datasource": "cloud-init-no-datasource",
    "[FAILED] Failed to start ssh.service - OpenBSD Secure Shell server.": "sshd-not-started",
    "sshd: no hostkeys available -- exiting.": "sshd-not-started",
}  # fmt: skip
HARMLESS = [
    "Booting from Hard Disk...\nBoot failed: not a bootable disk\n\nBooting from ROM...\n",
    "[    0.1] Kernel command line: root=/dev/vda panic=5 emergency_ok",
    "[   10.1] Out of memory: Killed process 311 (stress) total-vm:1kB",
    "[  OK  ] Started cloud-init-local.service - Initial cloud-init job (pre-networking).",
    "[FAILED] Failed to start apt-daily.service - Daily apt download activities.",
    "         Starting emergency.service",
    "debian login: ",
]


@pytest.mark.parametrize(("said", "cause"), LINES.items(), ids=lambda text: str(text)[:40])
def test_words_name_a_cause(said: str, cause: str) -> None:
    found = causes.named(Evidence(console=f"before\n{said}\nafter", symptom="port-silent"))
    assert found is not None
    assert found.id == cause
    assert found.lead.startswith(f"{CAUSES[cause].text} [{cause}]\n  console line ")


@pytest.mark.parametrize("said", HARMLESS)
def test_harmless_words_name_none(said: str) -> None:
    assert causes.named_by_console(said) is None
    assert causes.fatal(said) is None


def test_words_on_the_network_count_only_where_nothing_answered() -> None:
    said = "udhcpc: no lease, failing"
    refused = Evidence(
        console=said, symptom="login-refused", username="root", files=LoginFacts(has_user=True)
    )
    found = causes.named(refused)
    assert found is not None
    assert found.id == "key-not-installed"


STATES = {
    "wrong-user": Evidence(symptom="login-refused", username="ubuntu", files=LoginFacts(has_user=False)),
    "key-not-installed": Evidence(symptom="login-refused", username="debian"),
    "sshd-refusing": Evidence(symptom="login-refused", files=LoginFacts(ssh_forbids="AllowUsers operator")),
    "cloud-init-no-datasource": Evidence(
        symptom="login-refused", engine="qemu", files=LoginFacts(datasources=("Ec2",))
    ),
    "security-group": Evidence(symptom="port-unreachable", engine="openstack", console="web login: "),
    "firewall": Evidence(symptom="port-silent", engine="qemu", console="web login: "),
    "sshd-not-started": Evidence(symptom="port-refused", files=LoginFacts(has_ssh_server=False)),
    "wrong-architecture": Evidence(
        symptom="port-silent", arch="x86_64", files=LoginFacts(architecture="AArch64")
    ),
    "selinux-relabel": Evidence(symptom="port-silent", files=LoginFacts(autorelabel=True)),
    "flavor-mismatch": Evidence(status="went to ERROR: Flavor's disk is too small for requested image."),
    "powered-off": Evidence(symptom="powered-off"),
}  # fmt: skip


@pytest.mark.parametrize(("cause", "evidence"), STATES.items(), ids=STATES)
def test_states_of_cloud_port_login_and_files_name_a_cause(cause: str, evidence: Evidence) -> None:
    found = causes.named(evidence)
    assert found is not None
    assert found.id == cause


def test_nothing_known_is_nothing_named() -> None:
    assert causes.named(Evidence(symptom="port-silent", console="[    1.0] booting")) is None


def test_told_users_are_named() -> None:
    said = 'Please login as the user "debian" rather than the user "root".'
    found = causes.named(Evidence(symptom="login-refused", username="root", output=said))
    assert found is not None
    assert found.id == "wrong-user"
    assert "its key is for debian" in found.text


HOSTILE: dict[str, Callable[[], bytes]] = {
    "100 MB of lines": lambda: b"all is well, this is line number something\n" * (100 * MIB // 43),
    "lines of 10 MB": lambda: (b"x" * (10 * MIB) + b"\n") * 3,
    "needles only": lambda: b"Kernel panic - not syncing " * (16 * MIB // 27),
    "needles of all signs in one line": lambda: "".join(sign.needle * 3 for sign in SIGNS).encode() * 2000,
    "escapes": lambda: b"\x1b]0;title \x1b[31m\x1b[" * (8 * MIB // 17),
    "no end of an escape": lambda: b"\x1b]" + b"a" * (16 * MIB),
    "NUL": lambda: b"\0" * (16 * MIB),
    "invalid UTF-8": lambda: b"\xff\xfe\xc0" * (4 * MIB),
    "carriage returns": lambda: b"\r" * (16 * MIB),
}
"""Made only by the test: together they take 200 MB."""


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_consoles_are_judged_in_bounded_time(make: Callable[[], bytes]) -> None:
    text = clean(make()[: 16 * MIB])  # more is not kept of any console
    started = time.monotonic()
    causes.named(Evidence(console=text, symptom="port-silent"))
    causes.fatal(text[-MIB:])
    excerpt(text)
    assert time.monotonic() - started < 5


def test_a_guilty_line_is_shown_without_harm() -> None:
    text = clean(
        b"\x1b[2J\x1b]0;owned\x07Kernel panic - not syncing: \xff\x00\x07\x9b31m " + b"A" * MIB + b"\n"
    )
    found = causes.named(Evidence(console=text))
    assert found is not None
    assert found.said.isprintable()
    assert len(found.said) < 1200
