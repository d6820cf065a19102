"""The messages of a running build: its phase, the seconds of each phase and, after a failure, the cause."""

from __future__ import annotations

import collections
import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from pytest_dibctl.guards import kept_tree
from pytest_dibctl.guards.build_steps import STEP

HEARTBEAT = 10.0
"""Seconds of silence after which progress says that the build is still at it."""

KEPT: Final = 400
"""Lines of the running script's output that are remembered."""

SHOWN: Final = 12
"""Lines of these that an error message shows at most."""

OURS: Final = (kept_tree.KEPT, kept_tree.PASSED, kept_tree.UNUSABLE, kept_tree.NOT_KEPT)
START = "start"
IMAGE = "image"
CONVERT = "convert"

_TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \| ?")
_RUNNING = re.compile(r"^dib-run-parts Running \S*/([\w-]+\.d)/([^/\s]+)$")
_COMPLETED = re.compile(r"^dib-run-parts (\S+) completed$")
_TARGET = re.compile(r"^dib-run-parts Target: (\S+)$")
_TIMED = re.compile(r"^dib-run-parts (\S+)\s+(\d+\.\d+)$")
_PHASE_LINES = {
    "Calculating image size (this may take a minute)...": IMAGE,
    "INFO diskimage_builder.block_device.blockdevice [-] create() called": IMAGE,
    "Converting image using qemu-img convert": CONVERT,
}
_NOISE = re.compile(
    r"""
    \++[ ]                                      # what set -x prints
    | (DEBUG|INFO)[ ]diskimage_builder
    | dib-run-parts[ ]
    | Copying[ ]hooks | Running[ ]hooks[ ]from
    | (I|P):[ ]                                 # debootstrap
    | returncode:[ ]\d
    """,
    re.VERBOSE,
)
# The output of disk-image-create's exit trap; everything below it comes from the trap and not from the fault.
_CLEANUP = re.compile(r"^(Unmount /|\*\*\* \S+ is not a directory|Killing chroot process|.*:trap_cleanup:)")
_TELLING = re.compile(
    r"(?i)\berror\b|\bE: |fail|cannot|can't|could not|unable|not found|no such|no space|denied|refused"
    r"|invalid|too big|must be|unrecognized",
)
_LOGGER = re.compile(r"^(ERROR|WARNING|CRITICAL) diskimage_builder\.\S+ \[-\] ")
_ROLLBACK = re.compile(r"Rollback complete, exiting$")
_COMPLAINTS: Final = 4
_TRACEBACK_FRAME = re.compile(r'^(Traceback \(most recent|  File "|    )|^\s*\^+$')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """Where a build failed, and the lines that say why; ``where`` is empty when it did not come so far."""

    where: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)


class Watcher:
    """Reads the log of a build line by line; ``progress`` is told of every new phase and kept awake.

    ``told`` gets the lines in which the build speaks of trees that it keeps. ``expected`` are the seconds
    of the phases of an earlier build, in their order: from them progress says how long it may still take.
    """

    def __init__(
        self,
        progress: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        told: Callable[[str], None] = lambda _line: None,
        expected: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.scripts: dict[str, float] = {}
        self._progress = progress
        self._told = told
        self._expected = dict(expected)
        self._clock = clock
        self._said = collections.deque[str](maxlen=KEPT)
        self._cleaning = False
        self._phase = START
        self._script = ""
        self._table = ""
        self._elapsed: dict[str, float] = {}
        self._phase_began = self._script_began = self._last_word = clock()

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase that is over, as seen from here, in the order of the phases."""
        return {name: seconds for name, seconds in self._elapsed.items() if name != START}

    def expensive(self, count: int = 5) -> dict[str, float]:
        """Return the scripts that took longest, with their seconds, the longest first."""
        order = sorted(self.scripts.items(), key=lambda item: -item[1])
        return dict(order[:count])

    def feed(self, line: str) -> None:
        """Take in one line."""
        line = _TIMESTAMP.sub("", line.rstrip("\n"))
        if line.startswith(OURS):
            self._told(line)
        elif line.startswith(STEP):
            self._enter(line.removeprefix(STEP))
        elif line in _PHASE_LINES:
            self._enter(_PHASE_LINES[line])
        elif match := _RUNNING.match(line):
            self._run(match.group(1), match.group(2))
        elif match := _COMPLETED.match(line):
            if match.group(1) == self._script:
                self._script = ""
        elif match := _TARGET.match(line):
            self._table = match.group(1)
        elif match := _TIMED.match(line):
            name = f"{self._table}/{match.group(1)}"
            self.scripts[name] = self.scripts.get(name, 0.0) + float(match.group(2))
        else:
            self._listen(line)

    def tick(self) -> None:
        """Say that the build goes on when nothing was said for a while."""
        now = self._clock()
        if now - self._last_word >= HEARTBEAT:
            since = now - (self._script_began if self._script else self._phase_began)
            self._say(", ".join([f"{self._where()}, {since:.0f} s so far", *self._left()]))

    def interrupted(self) -> None:
        """Say that the build is being ended; what it has mounted is taken down, which takes some seconds."""
        self._say(f"interrupted in {self._where()}: the build is being ended and cleaned up")

    def finish(self) -> None:
        """Charge the time of the last phase."""
        self._charge()

    def failure(self) -> Failure:
        """Return the description of a build that has just failed."""
        where = "" if self._phase == START else self._where()
        said = _without_traceback(line for line in self._said if not _NOISE.match(line))
        lines = _with_last_telling(said) if self._script else _from_first_telling(said)
        return Failure(where=where, lines=tuple(lines))

    def _where(self) -> str:
        return f"{self._phase}/{self._script}" if self._script else self._phase

    def _run(self, phase: str, script: str) -> None:
        self._enter(phase)
        self._script = script
        self._script_began = self._clock()
        self._said.clear()
        self._cleaning = False

    def _enter(self, phase: str) -> None:
        if phase == self._phase:
            return
        before, seconds = self._phase, self._charge()
        self._phase, self._script = phase, ""
        self._said.clear()
        self._cleaning = False
        notes = [*([] if before == START else [f"{before} took {seconds:.0f} s"]), *self._left()]
        self._say(f"{phase} ({', '.join(notes)})" if notes else phase)

    def _left(self) -> list[str]:
        """Say how long the rest took last time; nothing where that is not known, or it is over by now."""
        names = list(self._expected)
        if self._phase not in names:
            return []
        rest = sum(self._expected[name] for name in names[names.index(self._phase) :])
        left = rest - (self._clock() - self._phase_began)
        return [f"about {left:.0f} s left"] if left >= 1 else []

    def _charge(self) -> float:
        now = self._clock()
        seconds = now - self._phase_began
        self._elapsed[self._phase] = self._elapsed.get(self._phase, 0.0) + seconds
        self._phase_began = now
        return seconds

    def _listen(self, line: str) -> None:
        # Every phase ends with unmounting too; within a script it can only be the exit trap's.
        trapped = ":trap_cleanup:" in line or (self._script and _CLEANUP.match(line))
        self._cleaning = self._cleaning or bool(trapped)
        if not self._cleaning and line.strip():
            self._said.append(line)

    def _say(self, text: str) -> None:
        self._last_word = self._clock()
        self._progress(text)


def _without_traceback(lines: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if not _TRACEBACK_FRAME.match(line) and not _CLEANUP.match(line) and not _ROLLBACK.search(line):
            short = _LOGGER.sub("", line).rstrip()
            if short and short not in kept:
                kept.append(short)
    return kept


def _with_last_telling(lines: list[str]) -> list[str]:
    """Return the last lines, and the last complaints when they lie further back."""
    tail = lines[-SHOWN:]
    if any(_TELLING.search(line) for line in tail):
        return tail
    complaints = [line for line in lines[:-SHOWN] if _TELLING.search(line)][-_COMPLAINTS:]
    return [*complaints, "[...]", *tail[_COMPLAINTS + 1 :]] if complaints else tail


def _from_first_telling(lines: list[str]) -> list[str]:
    """Return the text from the first complaint on; earlier text is about other things."""
    for number, line in enumerate(lines):
        if _TELLING.search(line):
            return lines[number : number + SHOWN]
    return lines[-SHOWN:]
