"""docs/benchmarks.md, .svg and .json: the rows of a run, as ``python -m benchmarks --docs`` leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import picture
from benchmarks.rows import HEAD, Row, cells

DOCS = Path(__file__).parents[1] / "docs"
TARGET = "benchmarks"

TEXT = """\
# Benchmarks

`tox -e bench` measures these, each beside a peer or a limit in the same run, round by round in turn, and
prints the table; `python -m benchmarks --docs` writes this page. A ratio is the median of the rounds' ratios,
ours to the peer's: less is better. The spread is the distance of the extreme rounds as a share of that. Aims
are in `benchmarks/aims.py`.

Measured {date} on {system}, {cores} cores, Python {python}; the load average was {load}, of which 1 to 2 is
the measurement's own.

![The ratio of each figure to its peer, with its aim](benchmarks.svg)

{table}
{missed}"""


def write(document: Mapping[str, Any]) -> None:
    """Write page, picture and data, keeping rows of figures that ``document`` has not measured."""
    data = DOCS / f"{TARGET}.json"
    if data.exists():
        new = {row["figure"] for row in document["rows"] if row["ours"]}
        kept = [row for row in json.loads(data.read_text())["rows"] if row["figure"] not in new]
        names = {row["figure"] for row in kept}
        rows = [*(row for row in document["rows"] if row["figure"] not in names), *kept]
        document = {**document, "rows": rows}
    data.write_text(json.dumps(document, indent=1) + "\n")
    for suffix, text in texts(document).items():
        (DOCS / f"{TARGET}.{suffix}").write_text(text)


def texts(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the page and the picture of a document."""
    rows = [Row.from_data(row) for row in document["rows"]]
    return {
        "md": TEXT.format(table=_table(rows), missed=_missed(rows), **document["machine"]),
        "svg": picture.of([row for row in rows if row.ratio is not None]),
    }


def _table(rows: Sequence[Row]) -> str:
    lines = [HEAD, tuple("---" for _ in HEAD), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _missed(rows: Sequence[Row]) -> str:
    told = [row for row in rows if row.met is False and row.aim is not None]
    lines = [f"- **{row.figure}**: {row.aim.note or 'not explained yet'}\n" for row in told if row.aim]
    return "\n## Aims that are missed\n\n" + "".join(lines) if lines else ""
