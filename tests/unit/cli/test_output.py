"""What the command line shows of text that services wrote."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest

import pytest_dibctl
from pytest_dibctl.cli import output
from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.cli.tables import Column, Table
from pytest_dibctl.errors import DibctlError

HOSTILE = "a\x1b[2J\x9b1m\u202eb\u200b\rc\x7f"
HIDDEN = "\x1b\x9b\u202e\u200b\r\x7f"
TABLE = Table(columns=[Column(name="name")], rows=[[HOSTILE], [f"{HOSTILE}\nforged  row"]])
PACKAGE = Path(pytest_dibctl.__file__).parent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def hidden(text: str) -> list[str]:
    return [character for character in HIDDEN if character in text]


def show_everything() -> None:
    output.say(f"image {HOSTILE}")
    error = DibctlError(HOSTILE, hint=HOSTILE)
    error.add_note(HOSTILE)
    output.say_error(HOSTILE, error)
    output.show(HOSTILE)
    output.print_table(TABLE)
    output.print_result(Arguments(format="table"), [], [HOSTILE])
    with output.Meter() as meter:
        meter.say(HOSTILE, HOSTILE)


def test_lines_and_tables_for_programs_hold_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    show_everything()
    shown = capsys.readouterr()
    assert hidden(shown.out + shown.err) == []
    assert "\\x1b[2J" in shown.out
    assert "\nforged" not in shown.out


def test_lines_and_tables_in_a_terminal_hold_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    show_everything()
    for text in (out.getvalue(), err.getvalue()):
        assert "\\x1b[2J" in text.replace("\n", "")
        # rich's own sequences may be there; none of these is.
        assert not [sign for sign in ("\x1b[2J", "\x9b", "\u202e", "\u200b", "\x7f") if sign in text]


@pytest.mark.parametrize("value", [HOSTILE, [HOSTILE], {HOSTILE: HOSTILE}])
def test_json_is_lossless_and_escaped(capsys: pytest.CaptureFixture[str], value: object) -> None:
    output.print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert text.isascii()
    assert hidden(text) == []


def test_nothing_is_printed_past_the_gate() -> None:
    """`print` and the terminal's own methods stand where the gate is, and nowhere else."""
    allowed = {
        "cli/output.py",
        "cli/completion.py",
        "plugin/progress.py",
        "plugin/modules.py",
        "plugin/terminal.py",
        "plugin/without_image.py",
    }
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0]
        in {"cli", "plugin", "run", "publish", "config", "build", "clouds"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "print")
            or (isinstance(node.func, ast.Attribute) and node.func.attr in {"write_line", "write_sep"})
        )
    }
    assert found <= allowed
