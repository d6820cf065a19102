"""Tables of results: their cells, and their forms for people and for programs.

``output.print_result`` prints them. Text in cells may come from services: text for people and line-based
programs passes ``system/text.py``, and CSV holds no formula that a spreadsheet would compute.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.system.text import visible_line

if TYPE_CHECKING:
    from rich.table import Table as Drawing

Tone = Literal["", "good", "fair", "bad"]
STYLES: Final = {"": "", "good": "green", "fair": "yellow", "bad": "bold red"}
"""How a terminal shows each tone."""
NONE: Final = "-"
"""The sign for an empty cell in a table and in the format ``value``."""
GAP: Final = 2
NARROW: Final = 16
"""Columns of the terminal that a text keeps at least where there is little room, if it has so many."""
LONGEST_ID: Final = 64
"""Characters of an id at most; a longer text is no id, and is cut as words are."""
FORMULA: Final = frozenset("=+-@")
MIB: Final = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """The content of a cell: ``shown`` to people, ``data`` to programs.

    A ``rigid`` text is neither cut nor broken into lines, one of ``whole_words`` is broken between words
    only, and one of ``one_line`` is cut instead of broken.
    """

    shown: str
    data: Any
    tone: Tone = ""
    rigid: bool = False
    whole_words: bool = False
    one_line: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: always there with ``spare`` 0, else in that order while there is room."""

    name: str
    spare: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A result that people read in rows.

    ``empty`` is said instead of a table without rows. In a terminal the first ``shared`` columns are left
    blank where they say the same as in the row above.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str | None]]
    empty: str = ""
    shared: int = 0

    def only(self, names: Sequence[str]) -> Table:
        """Return the table with only these columns, in this order."""
        places = [[column.name for column in self.columns].index(name) for name in names]
        columns = [dataclasses.replace(self.columns[place], spare=0) for place in places]
        return Table(columns=columns, rows=[[row[place] for place in places] for row in self.rows])

    def without_empty(self) -> Table:
        """Return the table without the columns that could be spared and say nothing in any row."""
        rows = self.cells()
        kept = [
            number
            for number, column in enumerate(self.columns)
            if not column.spare or any(row[number].shown != NONE for row in rows)
        ]
        return dataclasses.replace(
            self,
            columns=[self.columns[number] for number in kept],
            rows=[[row[number] for number in kept] for row in rows],
            shared=sum(number < self.shared for number in kept),
        )

    def cells(self) -> list[list[Cell]]:
        """Return the rows, with a cell for each text."""
        return [[cell if isinstance(cell, Cell) else text(cell) for cell in row] for row in self.rows]


# -- cells -----------------------------------------------------------------------------------------


def text(value: str | None) -> Cell:
    """Return a cell of words; None and an empty text are nothing."""
    return Cell(shown=value or NONE, data=value or None)


def ident(value: str | None) -> Cell:
    """Return a cell of an id, which people copy."""
    return Cell(shown=value or NONE, data=value or None, rigid=len(value or "") <= LONGEST_ID)


def idents(values: Iterable[str]) -> Cell:
    """Return a cell of several ids."""
    listed = list(values)
    return Cell(
        shown=" ".join(listed) or NONE,
        data=listed,
        whole_words=all(len(value) <= LONGEST_ID for value in listed),
    )


def state(value: str, tone: Tone) -> Cell:
    """Return a cell of a state."""
    return Cell(shown=value, data=value, tone=tone)


def note(value: str | DibctlError | None) -> Cell:
    """Return a cell of a remark or of an error, whose whole text is shown elsewhere."""
    message = value.message if isinstance(value, DibctlError) else value or ""
    lines = message.splitlines() or [NONE]
    return Cell(shown=lines[0], data=message or None, one_line=True)


def digest(value: str | None) -> Cell:
    """Return a cell of a digest, of which people see the beginning."""
    return Cell(shown=value[:12] if value else NONE, data=value, rigid=True)


def size(value: int | None) -> Cell:
    """Return a cell of a number of bytes."""
    return Cell(shown=mib(value), data=value, rigid=True)


def seconds(value: float | None, places: int = 0) -> Cell:
    """Return a cell of a duration."""
    if value is None:
        return Cell(shown=NONE, data=None)
    return Cell(shown=f"{value:.{places}f} s", data=round(value, places or None), rigid=True)


def moment(at: dt.datetime | None, now: dt.datetime) -> Cell:
    """Return a cell of a time, which people see as it is seen from ``now``."""
    # Lazily: it imports the configuration's models, for which every command would wait.
    from pytest_dibctl.clouds.regions import UNKNOWN

    if at is None or at == UNKNOWN:
        return Cell(shown=NONE, data=None)
    return Cell(shown=ago(now - at), data=at.isoformat(), rigid=True)


def mib(value: int | None) -> str:
    """Return a size in bytes as MiB, for people."""
    return NONE if value is None else f"{value / MIB:.1f} MiB"


def ago(age: dt.timedelta) -> str:
    """Return for people how long something is ago: in the largest unit, rounded down.

    A time that lies ahead, by a wrong clock, is shown as such.
    """
    count = abs(int(age.total_seconds()))
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if count >= length:
            number = count // length
            words = f"{number} {unit}{'' if number == 1 else 's'}"
            return f"{words} ago" if age >= dt.timedelta() else f"in {words}"
    return "just now"


# -- for programs ----------------------------------------------------------------------------------


def as_data(table: Table) -> list[dict[str, Any]]:
    """Return the rows for JSON."""
    return [
        {column.name: cell.data for column, cell in zip(table.columns, row, strict=True)}
        for row in table.cells()
    ]


def as_csv(table: Table) -> str:
    """Return the table as CSV with a line of headings; every text is quoted, None is an empty one.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow([column.name for column in table.columns])
    for row in table.cells():
        writer.writerow([_for_spreadsheet(cell.data) for cell in row])
    return written.getvalue()


def as_values(table: Table) -> str:
    """Return lines of values with a space between two of them, without headings."""
    return "".join(f"{' '.join(_plain(cell.data) or NONE for cell in row)}\n" for row in table.cells())


def _for_spreadsheet(data: object) -> str | float:
    if isinstance(data, (int, float)) and not isinstance(data, bool):
        return data
    plain = _plain(data)
    # Spreadsheets take full-width signs too, and pass over spaces before them.
    first = unicodedata.normalize("NFKC", plain).lstrip()[:1]
    return f"'{plain}" if first in FORMULA and first else plain


def _plain(data: object) -> str:
    if isinstance(data, (list, tuple)):
        return visible_line(" ".join(map(str, data)))
    return "" if data is None else visible_line(str(data))


# -- for people ------------------------------------------------------------------------------------


def lines(table: Table) -> Iterator[list[tuple[str, Tone]]]:
    """Yield the lines of a table for files and pipes, of any length: texts and their tones."""
    from rich.cells import cell_len

    headings = [Cell(shown=column.name, data=None) for column in table.columns]
    rows = [headings, *_visible(table)]
    widths = [max(cell_len(row[number].shown) for row in rows) for number in range(len(headings))]
    for row in rows:
        last = max((number for number, cell in enumerate(row) if cell.shown), default=-1)
        line: list[tuple[str, Tone]] = []
        for number, cell in enumerate(row[: last + 1]):
            padding = 0 if number == last else widths[number] - cell_len(cell.shown) + GAP
            line += [(cell.shown, cell.tone), (" " * padding, "")]
        yield line


def drawing(table: Table, room: int) -> tuple[Drawing, int, list[str]]:
    """Return a table for a terminal of ``room`` columns, the columns it takes, and those it leaves out."""
    import rich.box
    import rich.table
    from rich.text import Text

    rows = _blanked(_visible(table), table.shared)
    names = [column.name for column in table.columns]
    columns = [number for number, column in enumerate(table.columns) if not column.spare]
    widths = _widths(names, rows, columns, room)
    for number in sorted(range(len(names)), key=lambda number: table.columns[number].spare):
        more = sorted({*columns, number})
        if _taken(wider := _widths(names, rows, more, room)) <= room:
            columns, widths = more, wider
    drawn = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False
    )
    for number, width in zip(columns, widths, strict=True):
        drawn.add_column(table.columns[number].name, width=width, overflow="ellipsis")
    for row in rows:
        drawn.add_row(
            *(  # a name may look like markup
                Text(cell.shown, style=STYLES[cell.tone], no_wrap=cell.one_line or None)
                for cell in (row[number] for number in columns)
            )
        )
    left_out = [name for number, name in enumerate(names) if number not in columns]
    return drawn, _taken(widths), left_out


def _taken(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _visible(table: Table) -> list[list[Cell]]:
    return [
        [dataclasses.replace(cell, shown=visible_line(cell.shown)) for cell in row] for row in table.cells()
    ]


def _blanked(rows: list[list[Cell]], shared: int) -> list[list[Cell]]:
    blank = Cell(shown="", data=None)
    return [
        [*[blank] * shared, *row[shared:]] if number and row[:shared] == rows[number - 1][:shared] else row
        for number, row in enumerate(rows)
    ]


def _widths(
    names: Sequence[str], rows: Sequence[Sequence[Cell]], columns: Sequence[int], room: int
) -> list[int]:
    """Return the widths of columns: the longest gives way first, until they fit or can give no more."""
    from rich.cells import cell_len

    def longest_word(shown: str) -> int:
        return max(map(cell_len, shown.split()), default=0)

    def needs(cell: Cell) -> int:
        if cell.rigid:
            return cell_len(cell.shown)
        return longest_word(cell.shown) if cell.whole_words else min(NARROW, longest_word(cell.shown))

    widths, least = [], []
    for number in columns:
        name, cells = names[number], [row[number] for row in rows]
        widths.append(max(map(cell_len, (name, *(cell.shown for cell in cells)))))
        least.append(max([longest_word(name), *map(needs, cells)]))
    while _taken(widths) > room:
        number = max(range(len(widths)), key=lambda number: widths[number] - least[number])
        if widths[number] <= least[number]:
            break
        widths[number] -= 1
    return widths
