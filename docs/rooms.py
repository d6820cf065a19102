"""Draw ``docs/rooms.svg``: the rooms of the package, floor by floor, and which room imports from which.

Usage: ``python docs/rooms.py``. With ``--check`` it writes nothing, and its exit code is 1 if the file is not
what today's imports give. The picture depends on the rooms and on the imports between them, on nothing else.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support import rooms

TARGET = Path(__file__).with_name("rooms.svg")
WIDTH, MARGIN, LABEL = 800, 20, 60
"""Pixels: the picture's width, its border, the column of the floors' numbers."""
BOX_WIDTH, BOX_HEIGHT, LANE_WIDTH, SPACE = 270, 60, 20, 40
"""Pixels: a room, a lane for an arrow that passes a floor, and what lies between two of them."""
FLOOR_HEIGHT = 104
CHARACTERS = 42
"""Of one line in a box."""
SWEEPS = 8
"""Passes over all floors, up and down, that put rooms near those that they import from."""

Imports = Mapping[str, set[str]]


@dataclasses.dataclass(frozen=True)
class Place:
    """A room on its floor or, with ``passing``, the lane in which that room's arrow passes a floor."""

    floor: int
    room: str
    passing: str = ""

    @property
    def width(self) -> int:
        """Pixels."""
        return LANE_WIDTH if self.passing else BOX_WIDTH


def below(room: str, imports: Imports) -> set[str]:
    """Return the rooms that a room imports from, directly or by way of others."""
    known: set[str] = set()
    todo = {room}
    while todo:
        todo = {other for each in todo for other in imports[each]} - known
        known |= todo
    return known


def arrows(imports: Imports) -> list[tuple[str, str]]:
    """Return the imports that are drawn: those that no chain of other imports implies."""
    return [
        (room, other)
        for room, others in sorted(imports.items())
        for other in sorted(others)
        if not any(other in below(way, imports) for way in others - {other})
    ]


def chain(arrow: tuple[str, str]) -> list[Place]:
    """Return the places of an arrow, from its upper end to its lower one."""
    room, other = arrow
    top, bottom = rooms.floor(room), rooms.floor(other)
    lanes = [Place(number, other, passing=room) for number in range(top - 1, bottom, -1)]
    return [Place(top, room), *lanes, Place(bottom, other)]


def linked(chains: list[list[Place]]) -> dict[Place, list[Place]]:
    """Return each place with those on the floors just above and below that a part of an arrow leads to."""
    links: dict[Place, list[Place]] = {}
    for places in chains:
        for upper, lower in itertools.pairwise(places):
            links.setdefault(upper, []).append(lower)
            links.setdefault(lower, []).append(upper)
    return links


def ordered(chains: list[list[Place]]) -> list[list[Place]]:
    """Return the places of each floor, from the ground up, in an order in which few arrows cross."""
    floors = [[Place(number, room) for room in names] for number, names in enumerate(rooms.ROOMS)]
    for places in chains:
        for place in places[1:-1]:
            floors[place.floor].append(place)
    links = linked(chains)
    upwards = list(itertools.pairwise(floors))
    downwards = [(upper, lower) for lower, upper in reversed(upwards)]
    for fixed, moved in (upwards + downwards) * SWEEPS:
        positions = {place: (number + 0.5) / len(fixed) for number, place in enumerate(fixed)}
        keys: dict[Place, float] = {}
        for number, place in enumerate(moved):
            near = [positions[other] for other in links.get(place, []) if other in positions]
            keys[place] = sum(near) / len(near) if near else (number + 0.5) / len(moved)
        moved.sort(key=keys.__getitem__)
    return floors


def top_of(floor: int) -> int:
    """Return the pixel row of a floor's upper side."""
    return MARGIN + (len(rooms.ROOMS) - 1 - floor) * FLOOR_HEIGHT


def columns(floors: list[list[Place]]) -> dict[Place, int]:
    """Return the pixel column of the middle of each place."""
    found: dict[Place, int] = {}
    for places in floors:
        total = sum(place.width for place in places) + SPACE * (len(places) - 1)
        left = (WIDTH + LABEL - total) // 2
        for place in places:
            found[place] = left + place.width // 2
            left += place.width + SPACE
    return found


def line(places: list[Place], column: Mapping[Place, int]) -> str:
    """Return an arrow: curves from floor to floor, straight where it passes one."""
    parts = [f"M {column[places[0]]} {top_of(places[0].floor) + BOX_HEIGHT}"]
    for upper, lower in itertools.pairwise(places):
        top = top_of(lower.floor)
        end = top if lower.passing else top - 2
        bend = end - (FLOOR_HEIGHT - BOX_HEIGHT) // 2
        parts.append(f"C {column[upper]} {bend} {column[lower]} {bend} {column[lower]} {end}")
        if lower.passing:
            parts.append(f"V {top + BOX_HEIGHT}")
    return f'<path d="{" ".join(parts)}"/>'


def box(place: Place, x: int, others: set[str]) -> Iterator[str]:
    """Yield a room's box around column ``x``: its name, and the rooms that it imports from."""
    y = top_of(place.floor)
    yield f'<rect x="{x - BOX_WIDTH // 2}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
    texts = textwrap.wrap(f"imports {', '.join(sorted(others)) or 'no other room'}", CHARACTERS)
    first = y + (20 if len(texts) > 1 else 26)
    yield f'<text class="room" x="{x}" y="{first}">{place.room}</text>'
    for number, text in enumerate(texts):
        yield f'<text x="{x}" y="{first + 17 + 15 * number}">{text}</text>'


HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">
<title>The rooms of pytest_dibctl, each with the rooms that it imports from</title>
<style>
text {{ font: 13px sans-serif; text-anchor: middle; fill: #444 }}
.room {{ font-weight: bold; font-size: 16px; fill: #111 }}
.floor {{ text-anchor: start; fill: #888 }}
rect {{ fill: #eef3fa; stroke: #4a6fa5 }}
.paper {{ fill: white; stroke: none }}
path {{ fill: none; stroke: #4a6fa5; stroke-width: 1.5; marker-end: url(#end) }}
</style>
<marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<polygon points="0,0 8,4 0,8" fill="#4a6fa5"/>
</marker>
<rect class="paper" width="{width}" height="{height}"/>"""


def picture() -> str:
    """Return the picture as SVG."""
    imports = rooms.imports_of_rooms()
    chains = [chain(arrow) for arrow in arrows(imports)]
    column = columns(ordered(chains))
    lines = [HEAD.format(width=WIDTH, height=top_of(0) + BOX_HEIGHT + MARGIN)]
    lines += [line(places, column) for places in chains]
    for place, x in column.items():
        if not place.passing:
            lines += box(place, x, imports[place.room])
    for number in range(len(rooms.ROOMS)):
        y = top_of(number) + BOX_HEIGHT // 2 + 4
        lines.append(f'<text class="floor" x="{MARGIN}" y="{y}">floor {number}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main(arguments: list[str]) -> int:
    """Write the picture, or check the one that is there; return the exit code."""
    drawn = picture()
    if "--check" not in arguments:
        TARGET.write_text(drawn)
        return 0
    if TARGET.exists() and TARGET.read_text() == drawn:
        return 0
    print("docs/rooms.svg does not show today's imports: run `python docs/rooms.py`")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
