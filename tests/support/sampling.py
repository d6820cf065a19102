"""Matrices of cases of which a usual run takes some, by chance; ``DIBCTL_TEST_FULL=1`` takes all of them.

The seed is in the report's header; ``$DIBCTL_TEST_SEED`` sets it: the same seed takes the same cases.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SEED = "DIBCTL_TEST_SEED"
FULL = "DIBCTL_TEST_FULL"


def is_full() -> bool:
    """Whether all cases are run."""
    return os.environ.get(FULL) == "1"


def choose_seed() -> None:
    """Set the seed for this process and those that it starts, unless it is set."""
    os.environ.setdefault(SEED, str(random.SystemRandom().randrange(1_000_000)))


def header() -> str:
    """Return what a report says of the cases that were taken."""
    if is_full():
        return f"matrices of cases: whole ({FULL}=1)"
    return f"matrices of cases: sampled, {SEED}={os.environ[SEED]} ({FULL}=1 runs all)"


def sampled(cases: Sequence[T], count: int) -> list[T]:
    """Return ``count`` of the cases, in their order: all processes of a run take the same ones."""
    if is_full() or count >= len(cases):
        return list(cases)
    # Not of the seed alone: matrices of the same size shall not always lose the same places.
    numbers = random.Random(f"{os.environ[SEED]} {cases!r}").sample(range(len(cases)), count)
    return [cases[number] for number in sorted(numbers)]
