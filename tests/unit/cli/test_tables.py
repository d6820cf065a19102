"""Tables: what people and programs get, at every width, of whatever services call their things."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.cells import cell_len

from pytest_dibctl.cli import main, output, tables
from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.cli.tables import Cell, Column, Table
from pytest_dibctl.clouds.regions import UNKNOWN
from pytest_dibctl.errors import DibctlError

ID = "4d5e0df8-1fd4-4d6c-a7a4-fa2d36f0a7fe"
NOW = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = [
    "a\x1b[2J\x1b]0;title\x07b",
    "two\nlines",
    "tab\tand\rreturn",
    "right\u202eleft",
    "漢字" * 100,
    "👩‍👩‍👧" * 40,
    "x" * 255,
    "[red]markup[/red] :smile:",
    "-",
    "",
]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(1)", " =1", "\t=1", "\uff1d1+1", "\n=1", "\u00a0@x"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def table(*names: str) -> Table:
    """A table as `dibctl list` has it."""
    columns = (
        Column(name="environment"),
        Column(name="name"),
        Column(name="image"),
        Column(name="state"),
        Column(name="size", spare=2),
        Column(name="age", spare=1),
        Column(name="notes", spare=3),
    )
    rows = [
        (
            "public",
            name,
            tables.ident(ID),
            tables.state("current", "good"),
            tables.size(456 << 20),
            tables.moment(NOW - dt.timedelta(days=3), NOW),
            tables.note(DibctlError("refused: " + "because of it " * 30 + "\nand more")),
        )
        for name in names
    ]
    return Table(columns=columns, rows=rows, shared=1)


def drawn(shown: Table, width: int) -> str:
    """Return what a terminal of that width gets, without its colours."""
    return ESCAPES.sub("", on_terminal(shown, width))


def on_terminal(shown: Table, width: int) -> str:
    terminal = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setenv("COLUMNS", str(width))
        patch.setattr(output, "say", lambda _line: None)
        output.print_table(shown)
    return terminal.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_table_fits_and_leaves_ids_and_times_whole(name: str, width: int) -> None:
    shown = drawn(table("Debian 12 generic", name), width)
    lines = shown.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert shown.count(ID) == 2
    assert shown.count("3 days ago") == (2 if "age" in shown.split() else 0)
    assert width == 80 or "age" in shown.split()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200d\u202e]", shown)
    assert len(lines) <= 2 + 4  # of a name that wraps; never a page of it


def test_words_are_not_broken() -> None:
    shown = drawn(table("a name of several words that is longer than its column"), 80)
    words = {word for word in shown.split() if word.isalpha()}
    assert {"several", "words", "longer", "column"} <= words


def test_what_there_is_no_room_for_is_said() -> None:
    _, taken, left_out = tables.drawing(table("x" * 100), 80)
    assert left_out == ["size", "age", "notes"]
    assert taken <= 80


@pytest.mark.parametrize("width", [40, 80, 200])
def test_several_ids_are_whole(width: int) -> None:
    ids = [ID, ID.replace("4", "5"), ID.replace("4", "6")]
    columns = [Column(name="environment"), Column(name="obsolete now")]
    shown = drawn(Table(columns=columns, rows=[("x" * 100, tables.idents(ids))]), width)
    assert all(one in shown for one in ids)


def test_an_id_of_a_page_is_cut_as_words_are() -> None:
    columns = [Column(name="image"), Column(name="name")]
    shown = drawn(Table(columns=columns, rows=[(tables.ident("x" * 9999), "y")]), 80)
    assert len(shown) < 80 * 4


def test_a_refusal_is_one_line() -> None:
    shown = drawn(table("x").only(["environment", "notes"]), 80)
    assert [line for line in shown.splitlines() if "refused" in line] == [shown.splitlines()[-1]]
    assert "…" in shown


def test_columns_that_are_chosen_are_all_there_in_their_order() -> None:
    chosen = table("x").only(["notes", "image", "size", "age"])
    shown = drawn(chosen, 60)
    assert shown.split()[:4] == ["notes", "image", "size", "age"]
    assert ID in shown
    assert "3 days ago" in shown


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
            patch.delenv(name, raising=False)
        patch.setenv("TERM", "xterm-256color")
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


GREEN = "\x1b[32m"


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"FORCE_COLOR": "1"}, True)],
)
def test_states_have_colours_in_a_terminal(variables: dict[str, str], coloured: bool) -> None:
    with environment(**variables):
        assert (GREEN in on_terminal(table("x"), 100)) is coloured


def test_states_have_no_colours_elsewhere_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with environment():
        output.print_table(table("x"))
        plain = capsys.readouterr().out
        assert "\x1b" not in plain
    with environment(FORCE_COLOR="1"):
        output.print_table(table("x" * 200))
        assert capsys.readouterr().out.count("\n") == 2
        output.print_table(table("x"))
        coloured = capsys.readouterr().out
    assert GREEN in coloured
    assert ESCAPES.sub("", coloured) == plain


def test_piped_tables_are_plain_whatever_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column(name="a"), Column(name="long heading")]
    output.print_table(Table(columns=columns, rows=[("x" * 200, "[red]"), ("y", Cell(shown="", data=None))]))
    assert capsys.readouterr().out.splitlines() == [
        f"{'a':<200}  long heading",
        f"{'x' * 200}  [red]",
        "y",
    ]


def test_a_shared_cell_is_said_once_in_a_terminal_and_in_each_row_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert drawn(table("x", "y"), 100).count("public") == 1
    output.print_table(table("x", "y"))
    assert capsys.readouterr().out.count("public") == 2


# -- for programs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*HOSTILE, *FORMULAS])
def test_csv_has_a_line_for_each_row_and_no_formula(name: str) -> None:
    written = tables.as_csv(table(name))
    assert written.count("\n") == 2
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", written)
    head, row = csv.reader(io.StringIO(written))
    found = dict(zip(head, row, strict=True))
    assert found["image"] == ID
    assert found["size"] == str(456 << 20)
    assert found["age"] == "2026-11-25T12:00:00+00:00"
    assert found["name"].lstrip(" \u00a0")[:1] not in {*"=+-@\uff1d"}
    if name in FORMULAS[:4]:
        assert found["name"] == f"'{name}"


@pytest.mark.parametrize("name", HOSTILE)
def test_values_are_one_line_for_each_row(name: str) -> None:
    assert tables.as_values(table(name).only(["image"])) == f"{ID}\n"
    assert tables.as_values(table(name)).count("\n") == 1


def test_values_keep_their_places() -> None:
    empty = Table(columns=[Column(name="a"), Column(name="b")], rows=[(None, tables.ident(""))])
    assert tables.as_values(empty) == "- -\n"


def test_json_of_chosen_columns_is_flat(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = Arguments(format="json", columns=["name", "age"])
    output.print_result(arguments, "the whole", table("a\x1bb"))
    assert capsys.readouterr().out == (
        '[\n  {\n    "name": "a\\u001bb",\n    "age": "2026-11-25T12:00:00+00:00"\n  }\n]\n'
    )
    output.print_result(Arguments(format="json", columns=None), "the whole", table("x"))
    assert capsys.readouterr().out == '"the whole"\n'


@pytest.mark.parametrize(
    ("form", "said"), [("table", "nothing\n"), ("csv", '"a"\n'), ("value", ""), ("json", "[]\n")]
)
def test_a_table_without_rows(form: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Table(columns=[Column(name="a")], rows=[], empty="nothing")
    output.print_result(Arguments(format=form, columns=None), [], empty)
    assert capsys.readouterr().out == said


# -- cells -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (dt.timedelta(0), "just now"),
        (dt.timedelta(seconds=1), "1 second ago"),
        (dt.timedelta(minutes=61), "1 hour ago"),
        (dt.timedelta(hours=71), "2 days ago"),
        (dt.timedelta(days=400), "400 days ago"),
        (dt.timedelta(hours=-2), "in 2 hours"),
        (dt.timedelta(seconds=-0.5), "just now"),
    ],
)
def test_ages_are_relative_and_those_of_wrong_clocks_lie_ahead(age: dt.timedelta, said: str) -> None:
    assert tables.ago(age) == said


def test_a_time_that_nobody_tells_is_none() -> None:
    for cell in (tables.moment(None, NOW), tables.moment(UNKNOWN, NOW)):
        assert (cell.shown, cell.data) == ("-", None)


@pytest.mark.parametrize(
    "at",
    [
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=14))),
        dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-12))),
    ],
)
def test_no_time_is_too_far_away(at: dt.datetime) -> None:
    assert re.fullmatch(r"\d+ days ago|in \d+ days", tables.moment(at, NOW).shown)


def test_columns_that_say_nothing_are_left_out() -> None:
    columns = [Column(name="a"), Column(name="b", spare=1), Column(name="c", spare=1)]
    rows = [("x", None, Cell(shown="y", data="y")), ("x", "", None)]
    shown = Table(columns=columns, rows=rows).without_empty()
    assert [column.name for column in shown.columns] == ["a", "c"]


# -- options ---------------------------------------------------------------------------------------


def test_columns_are_named_in_any_case() -> None:
    parse = main.build_parser().parse_args
    assert parse(["list", "-c", "IMAGE", "--column", "Seen By"]).columns == ["image", "seen by"]
    assert parse(["list", "--json"]).format == parse(["list", "-f", "json"]).format == "json"
    assert parse(["list"]).format == parse(["doctor"]).format == "table"


def test_an_unknown_column_is_refused_before_anything_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main.main(["rotate", "public", "-c", "nmae"])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "nmae" in said
    assert "did you mean 'name' or 'image'?" in said
    with pytest.raises(SystemExit):
        main.main(["rotate", "public", "-c", "x"])
    assert "obsolete since" in capsys.readouterr().err
