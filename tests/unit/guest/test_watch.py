"""What is found in the console and journal of a guest whose tests pass, and what is allowed."""

from __future__ import annotations

import subprocess
import time

import pytest

from pytest_dibctl.guest import watch
from pytest_dibctl.guest.watch import Trouble

LINES = {
    "[   12.1] Oops: 0002 [#1] PREEMPT SMP NOPTI": "kernel oops",
    "[   12.0] BUG: unable to handle page fault for address: ffff": "kernel oops",
    "[   12.1] general protection fault, probably for non-canonical address 0x1: 0000 [#1]": "kernel oops",
    "[    3.3] kernel BUG at mm/slub.c:321!": "kernel BUG",
    "[    3.3] BUG: scheduling while atomic: swapper/0/0/0x00000002": "kernel BUG",
    "[    1.0] WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 bar+0x1/0x2": "kernel WARNING",
    "[   42.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:1:34]": "lockup",
    "[  242.0] INFO: task jbd2/vda1-8:201 blocked for more than 120 seconds.": "lockup",
    "[   61.0] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:": "lockup",
    "[    9.0] app[311]: segfault at 0 ip 000055d0 sp 00007ffd error 6 in app[55d0+1000]": "segfault",
    "[   10.1] systemd-coredump[400]: Process 399 (app) of user 0 dumped core.": "core dump",
    "[    7.0] blk_update_request: I/O error, dev vda, sector 2048 op 0x0:(READ)": "I/O error",
    "[    7.0] Buffer I/O error on dev vda1, logical block 0, async page read": "I/O error",
    "[    7.1] EXT4-fs (vda1): Remounting filesystem read-only": "I/O error",
    "[   10.1] Out of memory: Killed process 311 (app) total-vm:1kB": "OOM kill",
    "[FAILED] Failed to start nginx.service - A high performance web server.": "failed unit",
}
HARMLESS = [
    "[    0.0] Linux version 6.1.0 (gcc) #1 SMP PREEMPT_DYNAMIC",
    "[    0.4] NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
    "[  OK  ] Started nginx.service - A high performance web server.",
    "[    1.0] WARNING: this is a text of an application",
    "[    2.0] systemd[1]: Starting systemd-coredump.socket - Process Core Dump Socket...",
]


@pytest.mark.parametrize(("line", "kind"), LINES.items(), ids=lambda text: str(text)[:40])
def test_trouble_has_its_kind(line: str, kind: str) -> None:
    (found,) = watch.of_text(f"before\n{line}\nafter\n", "console")
    assert (found.kind, found.said, found.times) == (kind, line, 1)


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_lines_are_no_trouble(line: str) -> None:
    assert watch.of_text(line, "console") == []


@pytest.mark.parametrize("line", LINES)
def test_the_guest_sends_every_line_that_would_be_found(line: str) -> None:
    if line.startswith("[FAILED]"):
        return  # of units systemd itself tells
    grep = subprocess.run(
        ["grep", "-aE", watch.WORDS], input=line, capture_output=True, text=True, check=False
    )
    assert grep.stdout == f"{line}\n"


def test_equal_lines_are_told_once() -> None:
    text = "".join(f"[   {n}.0] app[{n}]: segfault at {n} ip 000055d0 sp 1\n" for n in range(10, 30))
    (found,) = watch.of_text(text, "console")
    assert found.times == 20
    assert str(found).startswith("segfault in the console (20 times): [   29.0]")


def test_a_container_does_not_answer_for_the_kernel() -> None:
    text = "[    1.0] WARNING: CPU: 0 PID: 1 at kernel/foo.c:12\n[   9.0] a[3]: segfault at 0 ip 00 sp 0\n"
    assert [trouble.kind for trouble in watch.of_text(text, "console", kernel=False)] == ["segfault"]


ANSWER = """state degraded
unit nginx.service loaded failed failed A high performance web server
line [   10.1] app[311]: segfault at 0 ip 000055d0 sp 00007ffd error 6 in app
"""


def test_units_and_journal_of_the_guest_are_read() -> None:
    assert [(trouble.kind, trouble.source) for trouble in watch.of_answer(ANSWER)] == [
        ("failed unit", "units"),
        ("segfault", "journal"),
    ]
    assert watch.of_answer("state running\n") == []
    assert [trouble.kind for trouble in watch.of_answer("state degraded\n")] == ["degraded state"]


def test_the_same_line_on_console_and_in_the_journal_is_one_trouble() -> None:
    line = "app[311]: segfault at 0 ip 000055d0 sp 00007ffd error 6 in app"
    both = [*watch.of_text(f"[   10.1] {line}", "console"), *watch.of_answer(f"line [   10.123] {line}")]
    assert len(both) == 2
    assert len(watch.judged(both, [])) == 1


def test_allowed_trouble_has_its_reason() -> None:
    found = watch.of_answer(ANSWER)
    judged = watch.judged(found, [(r"nginx\.service", "it has no certificate here"), ("nothing", "never")])
    assert [trouble.allowed for trouble in judged] == ["it has no certificate here", None]
    assert str(judged[0]).endswith("nginx.service [allowed: it has no certificate here]")


def test_hostile_text_is_bounded_and_visible() -> None:
    text = "segfault at 0 ip \x1b[2J\x00" * 1_000_000 + "\n" + "BUG: \u202e\n" * 1_000_000
    started = time.monotonic()
    found = watch.of_text(text, "console")
    assert time.monotonic() - started < 5
    assert len(found) <= watch.MOST_KINDS
    assert all(trouble.said.isprintable() and len(trouble.said) < 2000 for trouble in found)
    assert Trouble(kind="x", source="y", said="z", allowed="a\nb").__str__().count("\n") == 0


def test_the_journal_s_stamp_makes_no_other_trouble() -> None:
    line = "WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 bar+0x1/0x2"
    console = watch.of_text(f"[    5.100000] {line}", "console")
    journal = watch.of_answer(f"line [    5.100321] kernel: {line}")
    assert len(watch.judged([*console, *journal], [])) == 1


def test_a_guest_that_lists_units_without_end_is_heard_for_a_moment() -> None:
    answer = "".join(
        f"unit {chr(97 + number % 26) * (number % 97 + 1)}.service\n" for number in range(100_000)
    )
    assert len(watch.judged(watch.of_answer(answer), [])) <= watch.MOST_KINDS
