"""What is told of a boot beside the last one."""

from __future__ import annotations

import pytest

from pytest_dibctl.run import aftermath


@pytest.mark.parametrize(
    ("total", "before", "said"),
    [
        (0.03, 0.01, ""),
        (0.01, 0.03, ""),
        (0.2, 0.01, ", 0.2 s more than last time (0.0 s)"),
        (61.0, 60.98, ", as last time (61.0 s)"),
        (30.0, 61.0, ", 31.0 s less than last time (61.0 s)"),
    ],
)
def test_a_difference_that_shows_as_zero_is_none(total: float, before: float, said: str) -> None:
    assert aftermath._compared(total, before) == said
