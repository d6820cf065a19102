"""The picture of the rooms, their table and the files that documents name are those of today's code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import documents, rooms

ROOT = Path(__file__).parents[2]


def test_the_committed_picture_shows_todays_imports() -> None:
    documents.check_committed("rooms.py")


def test_the_table_names_every_room_with_its_floor() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \| (\d) \|", text, re.MULTILINE)
    assert {room: int(number) for room, number in rows} == {
        room: number for number, names in enumerate(rooms.ROOMS) for room in names
    }


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md"])
def test_files_that_a_document_names_exist(name: str) -> None:
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", (ROOT / name).read_text())
    real = [path for path in paths if "NAME" not in path]
    assert [path for path in real if not ((ROOT / path).exists() or (rooms.PACKAGE / path).exists())] == []
