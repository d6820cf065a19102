"""One measured figure: what ours took in each round, what its peer took, and what we aim at."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from benchmarks import paired
from benchmarks.aims import AIMS, Aim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A figure: ``ours`` and ``theirs`` have one value for each round, in ``unit``.

    ``peer`` says what theirs is. Without ``theirs`` the figure is compared with its aim alone; with neither,
    ``missing`` says why it was not measured.
    """

    figure: str
    ours: tuple[float, ...] = ()
    peer: str = ""
    theirs: tuple[float, ...] = ()
    unit: str = "s"
    missing: str = ""

    @property
    def aim(self) -> Aim | None:
        """What we aim at; None for a figure that is only shown."""
        return AIMS.get(self.figure)

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios, ours to theirs; None without a peer."""
        return statistics.median(self._ratios) if self._ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none, or nothing was measured."""
        if self.aim is None or not self.ours:
            return None
        if self.aim.seconds is not None:
            return statistics.median(self.ours) <= self.aim.seconds
        return None if self.ratio is None or self.aim.ratio is None else self.ratio <= self.aim.ratio

    @property
    def spread(self) -> float | None:
        """The distance of the extreme rounds as a share of the median; None for a single round."""
        values = self._ratios or self.ours
        return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else None

    @property
    def _ratios(self) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(self.ours, self.theirs, strict=False))

    @classmethod
    def of_pair(cls, figure: str, pair: paired.Pair, *, peer: str) -> Self:
        """Return the row of rounds that were measured in turn."""
        return cls(figure=figure, ours=pair.ours, peer=peer, theirs=pair.theirs)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Self:
        """Return the row that ``as_data`` wrote."""
        return cls(**{**data, "ours": tuple(data["ours"]), "theirs": tuple(data["theirs"])})

    def as_data(self) -> dict[str, Any]:
        """Return plain data."""
        data = dataclasses.asdict(self)
        return data | {name: [round(value, 4) for value in data[name]] for name in ("ours", "theirs")}


def seconds(work: Callable[[], object]) -> float:
    """Return what a call took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


HEAD = ("figure", "ours", "peer or limit", "ratio", "aim", "rounds", "spread")


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row, in the order of ``HEAD``."""
    aim = row.aim
    goal = "" if aim is None else f"{aim.ratio:g}" if aim.seconds is None else f"{aim.seconds:g} s"
    mark = {None: "", True: "", False: " missed"}[row.met]
    if not row.ours:
        return (row.figure, "-", row.missing or row.peer, "", goal, "0", "")
    peer = f"{_value(row.theirs, row.unit)} {row.peer}" if row.theirs else row.peer
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    spread = "" if row.spread is None else f"{row.spread:.0%}"
    return (row.figure, _value(row.ours, row.unit), peer, ratio, goal + mark, str(len(row.ours)), spread)


def _value(values: Sequence[float], unit: str) -> str:
    value = statistics.median(values)
    if unit == "s" and value < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:,.1f} {unit}" if value < 1000 else f"{value:,.0f} {unit}"  # noqa: PLR2004 -- as read


def table(rows: Sequence[Row]) -> str:
    """Return the one table of all rows."""
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
