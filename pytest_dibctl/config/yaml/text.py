"""The bytes of a file -> text that YAML allows."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from pytest_dibctl.config.yaml.marks import Mark
from pytest_dibctl.config.yaml.problems import refuse

MAX_BYTES = 4 * 1024 * 1024
"""A larger file is not a configuration; reading stops there, so that /dev/zero ends too."""

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE


def read_text(path: Path, display_name: str) -> str:
    """Return the text of a file, without a byte order mark.

    Raises UnreadableError if the file cannot be read, is larger than MAX_BYTES, is not UTF-8, or holds a
    character that YAML forbids. ``display_name`` is the file's name in that message.
    """
    content = _read_bytes(path, display_name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        refuse(display_name, "is not UTF-8 text; save the file as UTF-8", mark_at_end(before))
    if match := _UNPRINTABLE.search(text):
        message = f"holds the control character U+{ord(match.group()):04X}, which YAML forbids"
        refuse(display_name, message, mark_at_end(text[: match.start()]))
    return text


def _read_bytes(path: Path, display_name: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        refuse(display_name, "there is no such file")
    except IsADirectoryError:
        refuse(display_name, "is a directory, a YAML file is needed")
    except OSError as error:
        refuse(display_name, f"cannot be read: {error.strerror}")
    except ValueError:  # a NUL in the name
        refuse(display_name, "is not a file name")
    if len(content) > MAX_BYTES:
        refuse(display_name, f"is larger than {MAX_BYTES // 1024 // 1024} MiB, which no configuration is")
    return content


def lines_of(text: str) -> list[str]:
    """Return the lines of ``text``, split where YAML sees a line break."""
    return _LINE_BREAK.split(text)


def mark_at_end(text: str) -> Mark:
    """Return the place that follows ``text``."""
    lines = lines_of(text)
    return Mark(line=len(lines), column=len(lines[-1]) + 1)
