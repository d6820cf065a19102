"""Live lines below what pytest writes, on a terminal that is emulated."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from pathlib import Path

import pyte
import pytest

from pytest_dibctl.guest import boot_stage
from pytest_dibctl.plugin.live import Board, Screen, column_after, duration, fitting_lines
from pytest_dibctl.plugin.progress_feed import Feed, Word


@pytest.fixture(autouse=True)
def _forty_columns_and_six_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "6")


class Terminal:
    """A screen of 40 columns and 6 lines, and what writes to it."""

    def __init__(self) -> None:
        self.emulated = pyte.Screen(40, 6)
        self._stream = pyte.Stream(self.emulated)
        self._reading, writing = os.pipe()
        self._file = os.fdopen(os.dup(writing), "w")
        self.screen = Screen(self._file, writing)

    def shown(self) -> list[str]:
        """Return the lines that the screen shows by now."""
        self._stream.feed(os.read(self._reading, 65536).decode().replace("\n", "\r\n").replace("\r\r", "\r"))
        return [line.rstrip() for line in self.emulated.display]

    def close(self) -> None:
        """Close all."""
        self.screen.close()
        self._file.close()
        os.close(self._reading)


def test_lines_stand_below_and_are_gone_when_pytest_writes_on() -> None:
    terminal = Terminal()
    terminal.screen.write("test_it.py ..")
    terminal.screen.show(["  alpha: booting", "  beta: building " + "x" * 100])
    before = terminal.shown()
    assert before[:2] == ["test_it.py ..", "  alpha: booting"]
    assert len(before[2]) == 39, "cut to the width"
    assert (terminal.emulated.cursor.x, terminal.emulated.cursor.y) == (13, 0)
    terminal.screen.write(".")
    assert terminal.shown() == ["test_it.py ...", "", "", "", "", ""]
    terminal.close()


def test_lines_at_the_bottom_scroll_what_is_above() -> None:
    terminal = Terminal()
    terminal.screen.write("".join(f"line {number}\n" for number in range(6)) + "now ")
    terminal.screen.show(["live"] * 2)
    assert terminal.shown() == ["line 3", "line 4", "line 5", "now", "live", "live"]
    terminal.screen.write("on\n")
    assert terminal.shown() == ["line 3", "line 4", "line 5", "now on", "", ""]
    terminal.close()


def test_wide_characters_take_one_row_as_others_do() -> None:
    terminal = Terminal()
    terminal.screen.write("now ")
    terminal.screen.show(["  web: Welcome to " + "\u5168" * 30, "  db: e\u0301"])
    shown = terminal.shown()
    assert shown[0] == "now"
    assert shown[1].startswith("  web: Welcome to \u5168")
    assert shown[2].startswith("  db: "), "the row below"
    assert (terminal.emulated.cursor.x, terminal.emulated.cursor.y) == (4, 0)
    terminal.close()


def test_more_lines_than_rows_are_counted() -> None:
    terminal = Terminal()
    terminal.screen.write("now ")
    terminal.screen.show([f"live {number}" for number in range(9)])
    assert terminal.shown() == ["now", "live 0", "live 1", "live 2", "live 3", "  and 5 more"]
    terminal.screen.write("on\n")
    assert terminal.shown() == ["now on", "", "", "", "", ""]
    terminal.close()
    assert fitting_lines(["x"], 0) == []


def test_a_line_of_pytests_may_be_wider_than_the_terminal() -> None:
    terminal = Terminal()
    terminal.screen.write("y" * 45)
    terminal.screen.show(["live"])
    assert terminal.shown()[:3] == ["y" * 40, "y" * 5, "live"]
    assert (terminal.emulated.cursor.x, terminal.emulated.cursor.y) == (5, 1)
    terminal.screen.write(" PASSED")
    assert terminal.shown()[:3] == ["y" * 40, "yyyyy PASSED", ""]
    terminal.close()


def test_behind_a_full_row_nothing_is_shown() -> None:
    terminal = Terminal()
    terminal.screen.write("y" * 40)
    terminal.screen.show(["live"])
    terminal.screen.write("z")
    assert terminal.shown()[:3] == ["y" * 40, "z", ""]
    terminal.close()


def test_the_size_is_the_terminals_also_while_tests_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    monkeypatch.delenv("LINES")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 20, 0, 0))
    with os.fdopen(os.dup(theirs), "w") as file:
        screen = Screen(file, theirs)
        screen.show(["x" * 100])
        assert os.read(ours, 4096).count(b"x") == 19
        screen.close()
    os.close(ours)


def test_nothing_is_shown_while_another_program_has_the_terminal() -> None:
    terminal = Terminal()
    terminal.screen.write("$ ")
    with terminal.screen.paused():
        terminal.screen.show(["live"])
    terminal.screen.show([])
    assert terminal.shown()[:2] == ["$", ""]
    terminal.close()


def test_the_column_is_counted_in_cells() -> None:
    assert column_after(3, "ab") == 5
    assert column_after(3, "\x1b[32m.\x1b[0m") == 4
    assert column_after(3, "x\nyz") == 2
    assert column_after(9, "\rcollecting") == 10
    assert column_after(0, "日本") == 4
    assert column_after(3, "a\tb") == 9


def test_the_board_shows_steps_that_are_on_only() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0])
    board.line("alpha", "", "before any step")
    assert board.lines() == []
    board.step("alpha", "gw0", "booting")
    board.step("alpha", "gw1", "building")
    now[0] = 75.0
    board.line("alpha", "gw0", "QEMU runs")
    assert board.lines() == ["  alpha: QEMU runs (1 min 15 s)", "  alpha: building (1 min 15 s)"]
    board.step("alpha", "gw0", "")
    assert board.lines() == ["  alpha: building (1 min 15 s)"]
    board.forget("gw1")
    assert board.lines() == []
    assert duration(59.4) == "59 s"


def test_the_board_has_one_line_of_a_message() -> None:
    board = Board(clock=lambda: 0.0)
    board.step("alpha", "", "booting")
    board.line("alpha", "", "no\tsnapshot: why\nlast lines of the console:\n[ 1.0] x")
    assert board.lines() == ["  alpha: no\\tsnapshot: why (0 s)"]


def test_words_of_several_processes_are_read_once_and_whole(tmp_path: Path) -> None:
    feed, other = Feed(tmp_path), Feed(tmp_path)
    assert list(feed.new()) == []
    first, second = Word(target="a", line="x\ny"), Word(target="b", worker="gw1", step="booting")
    other.say(first)
    other.say(second)
    assert list(feed.new()) == [first, second]
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"target": "half')
    assert list(feed.new()) == []


def test_a_word_that_a_full_disk_has_cut_costs_no_other(tmp_path: Path) -> None:
    feed, file = Feed(tmp_path), tmp_path / "progress.jsonl"
    first, second, third = (Word(target="a", line=line) for line in "xyz")
    feed.say(first)
    file.write_bytes(file.read_bytes() + b'{"target": "a", "li')
    feed.say(second)
    file.write_bytes(file.read_bytes() + b'{"unknown": 1}\n7\n\xff\n')
    feed.say(third)
    assert list(feed.new()) == [first, second, third]


def test_the_stage_of_a_boot_is_the_last_telling_line() -> None:
    assert boot_stage.stage("") is None
    assert boot_stage.stage("SeaBIOS (version 1.16)\n") == "firmware"
    assert boot_stage.stage("[    4.12] usb 1-1: new device\n") == "kernel, 4 s after its start"
    console = "[    9.1] x\n[  OK  ] Started ssh.service - OpenBSD Secure Shell server.\nsome more\n"
    assert boot_stage.stage(console) == "services: ssh.service - OpenBSD Secure Shell server"
    assert boot_stage.stage(console + "Debian 12 web ttyS0\n\nweb login: ") == "login prompt"
    assert boot_stage.of(lambda: str(1 / 0)) is None
