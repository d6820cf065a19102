"""The benchmarks' one table, and the page that is made of their rows."""

from __future__ import annotations

import json

import pytest

from benchmarks import page
from benchmarks.rows import Row, table

MET = Row(figure="clean build", ours=(40.0, 60.0), peer="bare", theirs=(100.0, 100.0))
MISSED = Row(figure="nothing changed", ours=(0.4,))
NOT_MEASURED = Row(figure="late element changed", missing="not measured: no room")
SHOWN = Row(figure="a figure without an aim", ours=(2000.0,), peer="listing", theirs=(4000.0,), unit="calls")


def test_a_row_knows_its_ratio_its_spread_and_whether_the_aim_is_met() -> None:
    assert (MET.ratio, MET.met) == (0.5, True)
    assert MET.spread == pytest.approx(0.4)
    assert (MISSED.ratio, MISSED.spread, MISSED.met) == (None, None, False)
    assert (NOT_MEASURED.ratio, NOT_MEASURED.met, SHOWN.met) == (None, None, None)


def test_the_table_has_a_line_for_each_row() -> None:
    lines = [line.split() for line in table([MET, MISSED, NOT_MEASURED, SHOWN]).splitlines()]
    assert " ".join(lines[0]) == "figure ours peer or limit ratio aim rounds spread"
    assert " ".join(lines[1]) == "clean build 50.0 s 100.0 s bare 0.500 0.6 2 40%"
    assert " ".join(lines[2]) == "nothing changed 400.0 ms 0.3 s missed 1"
    assert "not measured: no room" in " ".join(lines[3])
    assert "2,000 calls 4,000 calls listing 0.500" in " ".join(lines[4])


def test_data_of_a_row_can_be_read_again() -> None:
    assert Row.from_data(json.loads(json.dumps(MET.as_data()))) == MET


@pytest.mark.parametrize("suffix", ["md", "svg"])
def test_the_committed_page_is_made_of_the_committed_rows(suffix: str) -> None:
    document = json.loads((page.DOCS / "benchmarks.json").read_text())
    made = page.texts(document)[suffix]
    assert made == (page.DOCS / f"benchmarks.{suffix}").read_text(), "python -m benchmarks --docs writes it"
