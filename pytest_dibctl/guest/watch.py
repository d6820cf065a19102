"""Trouble in a guest whose tests pass: crashes, warnings and kills in its console, journal and units."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from pytest_dibctl.guest import causes
from pytest_dibctl.guest.boot_causes import Sign
from pytest_dibctl.system.text import visible_line

MOST_KINDS: Final = 20
"""Troubles that are reported of one guest."""
LONGEST: Final = 240
"""Characters of a line that are reported."""


LARGEST_ANSWER: Final = 1 << 20
"""Characters of a guest's answer that are looked at."""
_STAMP: Final = re.compile(r"^\[[ \d.]+\] (?:kernel: )?")
"""The prefix of the kernel's words in the console and the journal."""


def _sign(kind: str, needle: str, pattern: str | None = None) -> Sign:
    return Sign(cause=kind, needle=needle, expression=pattern or re.escape(needle))


SIGNS: Final = (
    _sign("kernel oops", "Oops: "),
    _sign("kernel oops", "general protection fault"),
    _sign("kernel oops", "unable to handle", r"unable to handle (?:kernel|page fault)"),
    _sign("kernel BUG", "kernel BUG at"),
    _sign("kernel BUG", "BUG: ", r"BUG: (?!unable to handle|soft lockup|workqueue lockup)"),
    _sign("kernel WARNING", "WARNING: CPU", r"WARNING: CPU: \d+ PID: \d+ at "),
    _sign("lockup", "lockup", r"(?:soft|hard|workqueue) (?:lockup|LOCKUP)"),
    _sign("lockup", "LOCKUP"),
    _sign("lockup", "blocked for more than", r"blocked for more than \d+ seconds"),
    _sign("lockup", "detected stall", r"rcu: .*detected stall|self-detected stall"),
    _sign("segfault", "segfault at", r"segfault at [0-9a-f]+ ip "),
    _sign("segfault", "trap invalid opcode"),
    _sign("core dump", "dumped core"),
    _sign("core dump", "(core dumped)"),
    _sign("I/O error", "I/O error", r"I/O error,? (?:on )?dev"),
    _sign("I/O error", "EXT4-fs error", r"EXT4-fs error \(device \S+\)"),
    _sign("I/O error", "emounting filesystem read-only"),
    _sign("OOM kill", "Killed process", r"(?:Out of memory|cgroup out of memory): Killed process \d+"),
    _sign("failed unit", "Failed to start", r"\[FAILED\] Failed to start|systemd\[1\]: Failed to start"),
)
KERNEL_KINDS: Final = frozenset({"kernel oops", "kernel BUG", "kernel WARNING", "lockup"})

# One round trip. The journal is searched in the guest, so little of it travels; of units systemd tells.
WORDS: Final = "|".join(
    sign.needle.replace("(", "[(]").replace(")", "[)]") for sign in SIGNS if sign.cause != "failed unit"
)
COMMAND: Final = f"""export LC_ALL=C SYSTEMD_COLORS=0 SYSTEMD_PAGER=
root() {{ if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@" 2>/dev/null || "$@"; fi; }}
if command -v systemctl >/dev/null 2>&1; then
    echo "state $(systemctl is-system-running 2>/dev/null)"
    systemctl --failed --plain --no-legend 2>/dev/null | head -n 20 | sed 's/^/unit /'
fi
if command -v journalctl >/dev/null 2>&1; then
    root journalctl -b -q -o short-monotonic --no-hostname 2>/dev/null
else
    root dmesg 2>/dev/null
fi | grep -aE '{WORDS}' | tail -n 200 | cut -c 1-1000 | sed 's/^/line /'
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trouble:
    """Trouble in a guest: its kind, its source, its last line, and how often it was seen.

    ``allowed`` is the reason why the image's configuration takes it for none.
    """

    kind: str
    source: str
    said: str
    times: int = 1
    allowed: str | None = None

    def __str__(self) -> str:
        often = f" ({self.times} times)" if self.times > 1 else ""
        why = f" [allowed: {visible_line(self.allowed)}]" if self.allowed is not None else ""
        return f"{self.kind} in the {self.source}{often}: {self.said}{why}"


def of_text(text: str, source: str, *, kernel: bool = True) -> list[Trouble]:
    """Return the troubles that lines of a text tell; without ``kernel`` those of a kernel do not count."""
    counts: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], str] = {}
    for match in causes.matches(text, SIGNS, every=True):
        if match.sign.cause in KERNEL_KINDS and not kernel:
            continue
        key = (match.sign.cause, _shape(match.line))
        counts[key] += 1
        last.setdefault(key, visible_line(match.line.strip()[:LONGEST]))
    return [
        Trouble(kind=kind, source=source, said=last[kind, shape], times=times)
        for (kind, shape), times in counts.items()
    ][:MOST_KINDS]


def _shape(line: str) -> str:
    """Return the common shape of equal lines: their words without numbers and times."""
    return re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", "#", line)[:120]


def of_answer(output: str, *, kernel: bool = True) -> list[Trouble]:
    """Return the troubles that the output of ``COMMAND`` tells."""
    # Far more than COMMAND asks for: the guest may send any text.
    lines = output[:LARGEST_ANSWER].split("\n")
    troubles = [
        Trouble(kind="failed unit", source="units", said=visible_line(line[5:].split(" ")[0][:LONGEST]))
        for line in lines
        if line.startswith("unit ")
    ][:MOST_KINDS]
    if "state degraded" in lines and not troubles:
        troubles.append(Trouble(kind="degraded state", source="units", said="systemd says degraded"))
    journal = "\n".join(line[5:] for line in lines if line.startswith("line "))
    return troubles + of_text(journal, "journal", kernel=kernel)


def judged(troubles: Sequence[Trouble], allow: Sequence[tuple[str, str]]) -> list[Trouble]:
    """Return each trouble once, with the reason of the first pattern that allows it."""
    judged_troubles: dict[tuple[str, str], Trouble] = {}
    for trouble in troubles:
        reason = next((why for pattern, why in allow if re.search(pattern, trouble.said)), None)
        key = (trouble.kind, _shape(_STAMP.sub("", trouble.said)))
        judged_troubles.setdefault(key, dataclasses.replace(trouble, allowed=reason))
    return list(judged_troubles.values())[:MOST_KINDS]
