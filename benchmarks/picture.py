"""The rows as a picture: a bar for each ratio on a scale of powers of ten, with a tick at its aim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from benchmarks.rows import Row

LEFT, WIDTH, RIGHT, LINE, TOP = 290, 420, 330, 26, 40
LOW, HIGH = 0.01, 10.0
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">
<title>Ratios of our figures to those of their peers, with the aims</title>
<style>
text {{ font: 13px sans-serif; fill: #333 }}
.name {{ text-anchor: end }}
.scale {{ text-anchor: middle; fill: #777 }}
.grid {{ stroke: #ddd }}
.one {{ stroke: #777 }}
.aim {{ stroke: #111; stroke-width: 2.5 }}
</style>
<rect width="{width}" height="{height}" fill="white"/>"""
COLOURS = {True: "#3a8f5c", False: "#c0504d", None: "#8aa4c8"}


def of(rows: Sequence[Row]) -> str:
    """Return the picture of rows that have a ratio, as SVG."""
    bottom = TOP + LINE * len(rows)
    lines = [HEAD.format(width=LEFT + WIDTH + RIGHT, height=bottom + 20)]
    for value in (0.01, 0.1, 1.0, 10.0):
        kind = "one" if value == 1 else "grid"
        lines.append(f'<line class="{kind}" x1="{_x(value)}" y1="{TOP - 8}" x2="{_x(value)}" y2="{bottom}"/>')
        lines.append(f'<text class="scale" x="{_x(value)}" y="{TOP - 14}">{value:g}</text>')
    for number, row in enumerate(rows):
        lines += _bar(row, TOP + LINE * number)
    return "\n".join([*lines, "</svg>", ""])


def _bar(row: Row, y: int) -> Iterator[str]:
    assert row.ratio is not None
    end = _x(row.ratio)
    yield f'<text class="name" x="{LEFT - 8}" y="{y + 16}">{escape(row.figure)}</text>'
    bar = f'x="{LEFT}" y="{y + 4}" width="{max(1, end - LEFT)}" height="{LINE - 9}"'
    yield f'<rect {bar} fill="{COLOURS[row.met]}"/>'
    tick = LEFT
    if row.aim is not None and row.aim.ratio is not None:
        tick = _x(row.aim.ratio)
        yield f'<line class="aim" x1="{tick}" y1="{y + 1}" x2="{tick}" y2="{y + LINE - 3}"/>'
    said = f"{row.ratio:.2f} of {row.peer}"
    yield f'<text x="{max(end, tick) + 8}" y="{y + 16}">{escape(said)}</text>'


def _x(ratio: float) -> int:
    """Return the column of a ratio; what is off the scale is at its end."""
    share = math.log(min(max(ratio, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + round(WIDTH * share)
