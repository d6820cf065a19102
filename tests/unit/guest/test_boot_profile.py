"""How the time of a boot is divided, by systemd's account and by the kernel's stamps."""

from __future__ import annotations

import time

import pytest

from pytest_dibctl.guest import boot_profile

ANSWER = """time Startup finished in 2.511s (kernel) + 4.103s (initrd) + 1min 3.25s (userspace) = 1min 9.864s.
time graphical.target reached after 1min 3.1s in userspace.
blame 1min 1.002s cloud-init.service
blame      5.201s networking.service
blame       812ms ssh.service
"""
CONSOLE = """[    0.000000] Linux version 6.1.0-56-cloud-amd64
[    3.687028] Run /init as init process
[    4.869268] EXT4-fs (vda): mounted filesystem with ordered data mode. Quota mode: none.
web login:
"""


def test_systemd_s_account_is_read() -> None:
    profile = boot_profile.of_answer(ANSWER)
    assert profile is not None
    assert profile.total == pytest.approx(69.864)
    assert profile.stages == pytest.approx({"kernel": 2.511, "initrd": 4.103, "userspace": 63.25})
    assert dict(profile.units)["cloud-init.service"] == pytest.approx(61.002)
    assert profile.slowest == "cloud-init.service 61.0 s, networking.service 5.2 s, ssh.service 0.8 s"
    assert profile.text == "69.9 s (kernel 2.5 s + initrd 4.1 s + userspace 63.2 s)"


@pytest.mark.parametrize(
    "answer", ["", "time Bootup is not yet finished (org.freedesktop.systemd1.Manager...)\n", "time \n"]
)
def test_no_account_is_no_profile(answer: str) -> None:
    assert boot_profile.of_answer(answer) is None


def test_a_container_has_userspace_only() -> None:
    profile = boot_profile.of_answer("time Startup finished in 1.421s (userspace) \n")
    assert profile is not None
    assert (profile.total, dict(profile.stages)) == (1.421, {"userspace": 1.421})


def test_the_kernel_s_stamps_divide_a_boot_without_systemd() -> None:
    profile = boot_profile.of_console(CONSOLE, 10.0)
    assert profile.stages == pytest.approx({"kernel": 3.687028, "initrd": 1.18224, "userspace": 5.130732})
    assert sum(profile.stages.values()) == pytest.approx(10.0)


def test_the_last_boot_counts() -> None:
    earlier = CONSOLE.replace("3.687028", "9.000000").replace("4.869268", "9.500000")
    assert boot_profile.of_console(earlier + CONSOLE, 10.0).stages["kernel"] == pytest.approx(3.687028)


def test_a_quiet_console_divides_nothing() -> None:
    profile = boot_profile.of_console("web login:", 4.0)
    assert (profile.text, profile.stages) == ("4.0 s", {})


@pytest.mark.parametrize(
    ("text", "seconds"), [("345ms", 0.345), ("1min 2.5s", 62.5), ("1h 1s", 3601), ("12us", 0.000012), ("", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert boot_profile.seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "answer",
    [
        "time Startup finished in " + "1" * 1_000_000,
        "time Startup finished in " + "1s" * 1_000_000,
        "blame " + "1" * 1_000_000,
        "time Startup finished in 1s (kernel) = 1s\n" + "blame 1s x\n" * 1_000_000,
    ],
    ids=["digits", "times", "blame", "units"],
)
def test_no_answer_takes_long(answer: str) -> None:
    """Each pattern alone would take hours for such a line."""
    begin = time.process_time()
    profile = boot_profile.of_answer(answer)
    assert time.process_time() - begin < 5
    assert profile is None or len(profile.units) <= boot_profile.MOST_UNITS
