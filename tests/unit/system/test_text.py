"""The gate for text from outside."""

from __future__ import annotations

import logging
import unicodedata

import pytest

from pytest_dibctl.system import text

HOSTILE = {
    "colour": ("a\x1b[31mb", "a\\x1b[31mb"),
    "title": ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    "8-bit csi": ("\x9b2J", "\\x9b2J"),
    "carriage return": ("real\rfake", "real\\rfake"),
    "backspace": ("a\b", "a\\x08"),
    "delete": ("a\x7f", "a\\x7f"),
    "nul": ("a\0", "a\\x00"),
    "vertical tab": ("a\x0bb\x0c", "a\\x0bb\\x0c"),
    "override": ("\u202egnp.exe", "\\u202egnp.exe"),
    "isolate": ("\u2066a\u2069", "\\u2066a\\u2069"),
    "marks": ("\u200e\u200f\u061c", "\\u200e\\u200f\\u061c"),
    "zero width": ("a\u200b\u200c\u200d\u2060\ufeffb", "a\\u200b\\u200c\\u200d\\u2060\\ufeffb"),
    "soft hyphen": ("a\xadb", "a\\xadb"),
    "line separator": ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
    "tags": ("a\U000e0041", "a\\U000e0041"),
    "filler": ("a\u3164\u115f", "a\\u3164\\u115f"),
    "surrogate": ("a\udc80", "a\\udc80"),
}


@pytest.mark.parametrize(("raw", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_what_a_terminal_obeys_or_hides_is_shown_as_an_escape(raw: str, shown: str) -> None:
    assert text.visible(raw) == shown
    assert not text.is_visible(raw)
    assert text.visible(shown) == shown


def test_no_character_of_a_hidden_category_passes() -> None:
    for number in range(0x110000):
        character = chr(number)
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in "\t\n":
            assert text.visible(character) != character, hex(number)


@pytest.mark.parametrize("name", ["debian-12", "größe", "名前", "имя", "a b", "🎉"])
def test_other_text_stays(name: str) -> None:
    assert text.visible(name) == name
    assert text.is_visible(name)


def test_lines_stay_unless_one_line_is_wanted() -> None:
    assert text.visible("a\n\tb") == "a\n\tb"
    assert text.visible_line("a\n\tb") == "a\\n\\tb"


@pytest.mark.parametrize(
    "name",
    [
        "-oProxyCommand=touch x",
        "x/../../../escaped",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a" * 300,
        "-",
        "\0",
        "a\nb",
        "~",
    ],
)
def test_a_name_from_outside_becomes_one_component_of_a_path(name: str) -> None:
    safe = text.file_name(name)
    assert safe == text.file_name(name)
    assert "/" not in safe
    assert safe[0] not in "-."
    assert 0 < len(safe) <= text.LONGEST_FILE_NAME
    assert safe.isprintable()


def test_two_names_never_become_one() -> None:
    names = ["a/b", "a_b", "a:b", "a b", "-a", "a", ".a", "_-a", "a" * 200, "a" * 201]
    assert len({text.file_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["debian-12", "dibctl-micro-0", "a_b.c"])
def test_a_good_name_stays(name: str) -> None:
    assert text.file_name(name) == name


def test_log_lines_are_visible_and_records_unchanged() -> None:
    record = logging.LogRecord("n", logging.WARNING, "f", 1, "image %s", ("\x1b[2J",), None)
    shown = text.VisibleFormatter(logging.Formatter("%(levelname)s %(message)s")).format(record)
    assert shown == "WARNING image \\x1b[2J"
    assert record.getMessage() == "image \x1b[2J"
