"""Time two things in turn, A B A B, so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Seconds of each round, in order."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, ours to theirs."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def difference(self) -> float:
        """The median of the rounds' differences, ours less theirs, in seconds."""
        return statistics.median(a - b for a, b in zip(self.ours, self.theirs, strict=True))


def measure(
    ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int, warm_up: bool = True
) -> Pair:
    """Run both once to warm up, then ``rounds`` times in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(0 if warm_up else 1, rounds + 1):
        for which, work in enumerate((ours, theirs)):
            started = time.perf_counter()
            work()
            if number:
                seconds[which].append(time.perf_counter() - started)
    return Pair(ours=tuple(seconds[0]), theirs=tuple(seconds[1]))
