"""Where the time of a boot went: systemd's own account, or the kernel's stamps on the console."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Final

SLOWEST: Final = 5
"""Units that are named where a boot takes too long."""
MOST_UNITS: Final = 200
LARGEST_ANSWER: Final = 1 << 20
LONGEST_LINE: Final = 400
"""Characters of a guest's answer, and of a line of it, that are looked at."""
_UNITS: Final = {"min": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(min|ms|us|s|h)\b")
_STAGE: Final = re.compile(r"((?:\d[\d.]*(?:min|ms|us|s|h) ?)+)\((firmware|loader|kernel|initrd|userspace)\)")
_BLAME: Final = re.compile(r"^\s*((?:\d[\d.]*(?:min|ms|us|s|h) ?)+)\s*(\S+)$")
_STAMP: Final = r"^\[ *(\d+\.\d+)\] .*"
_INIT: Final = re.compile(_STAMP + r"Run \S+ as init process", re.MULTILINE)
_ROOT: Final = re.compile(
    _STAMP + r"(?:EXT4-fs \(\S+\): mounted filesystem|XFS \(\S+\): Ending clean mount)", re.MULTILINE
)

COMMAND: Final = """export LC_ALL=C SYSTEMD_COLORS=0 SYSTEMD_PAGER=
command -v systemd-analyze >/dev/null 2>&1 || exit 0
systemd-analyze time 2>&1 | sed 's/^/time /'
"""
UNITS: Final = """export LC_ALL=C SYSTEMD_COLORS=0 SYSTEMD_PAGER=
systemd-analyze blame 2>/dev/null | head -n 200 | sed 's/^/blame /'
"""
"""The times of the units: this takes a guest without KVM 2 to 7 seconds, and ``COMMAND`` 0.3."""
MORE: Final = """export LC_ALL=C SYSTEMD_COLORS=0 SYSTEMD_PAGER=
systemd-analyze critical-chain 2>/dev/null | head -c 100000
echo '<!-- plot -->'
systemd-analyze plot 2>/dev/null | head -c 4000000
"""
"""The critical chain and the plot: for files only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootProfile:
    """The seconds of a boot: in all, by stage, and by unit where systemd tells, the slowest first."""

    total: float
    stages: Mapping[str, float]
    units: tuple[tuple[str, float], ...] = ()

    @property
    def text(self) -> str:
        """The stages in one line."""
        parts = [f"{name} {seconds:.1f} s" for name, seconds in self.stages.items()]
        return f"{self.total:.1f} s" + (f" ({' + '.join(parts)})" if parts else "")

    @property
    def slowest(self) -> str:
        """The slowest units in one line."""
        return ", ".join(f"{unit} {seconds:.1f} s" for unit, seconds in self.units[:SLOWEST])


def seconds_of(text: str) -> float:
    """Return the seconds that systemd writes as ``1min 2.345s``."""
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def of_answer(output: str) -> BootProfile | None:
    """Return the profile that the output of ``COMMAND``, and of ``UNITS`` after it, tells.

    It is None without systemd, or before it is done.
    """
    # The guest may send any text; for a hostile line the patterns would take hours.
    lines = [line[:LONGEST_LINE] for line in output[:LARGEST_ANSWER].split("\n")]
    told = next((line[5:] for line in lines if line.startswith("time Startup finished in")), None)
    if told is None:
        return None
    stages = {match[2]: seconds_of(match[1]) for match in _STAGE.finditer(told)}
    total = seconds_of(told.rpartition("=")[2]) if "=" in told else seconds_of(told)
    blamed = [line[6:] for line in lines if line.startswith("blame ")][:MOST_UNITS]
    found = [match for match in map(_BLAME.match, blamed) if match]
    units = tuple((match[2], seconds_of(match[1])) for match in found)
    return BootProfile(total=total, stages=stages, units=units)


def of_console(text: str, total: float) -> BootProfile:
    """Return the profile of a boot of ``total`` seconds, as far as the kernel's stamps divide it."""
    stages: dict[str, float] = {}
    start = text.rfind("Linux version ")
    boot = text[max(0, start - 64) : start + (1 << 20)] if start >= 0 else ""
    init, root = _INIT.search(boot), _ROOT.search(boot)
    if init:
        stages["kernel"] = float(init[1])
        if root and float(root[1]) > float(init[1]):
            stages["initrd"] = float(root[1]) - float(init[1])
        stages["userspace"] = max(0.0, total - sum(stages.values()))
    return BootProfile(total=total, stages=stages)
