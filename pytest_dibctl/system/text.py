"""The gate for text from outside, from a service, a guest or an image, on its way to a person or a file.

Names and messages of clouds and guests may hold escape sequences that rewrite a terminal, marks that turn the
direction of text, and invisible characters. They are shown as escapes, as Python writes them. Secrets of this
process are replaced.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import re
import unicodedata
from typing import Final

from pytest_dibctl.system.redaction import redacted

_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_HIDDEN: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that show nothing, although Unicode counts them as letters, marks or symbols."""
_SUSPECT: Final = re.compile(r"[^\t\n -~]")
LONGEST_FILE_NAME: Final = 100
"""Bytes of a name from outside in a file's name: additions to it have to fit into 255."""


def visible(text: str) -> str:
    """Return text with all that a terminal would obey, or show as nothing, as escapes; lines stay lines.

    Secrets that ``system/redaction.py`` knows are replaced.
    """
    return _SUSPECT.sub(_escape, redacted(text))


def visible_line(text: str) -> str:
    """Return text as ``visible`` does, in one line: ends of lines and tabs are escapes too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def is_visible(text: str) -> bool:
    """Whether all of the text can be seen, in one line."""
    return not ("\n" in text or "\t" in text) and _SUSPECT.sub(_escape, text) == text


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character not in _HIDDEN and unicodedata.category(character) not in _HIDDEN_CATEGORIES:
        return character
    number = ord(character)
    if number <= 0xFF:  # noqa: PLR2004 -- the most that two digits can say
        return {"\r": "\\r"}.get(character, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 -- four digits


def file_name(text: str) -> str:
    """Return a name from outside as one component of a path, which is no option either.

    A name that has to be changed gets a digest, so that two names never become one. Equal names give equal
    results.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", text)
    if safe == text and re.match(r"[A-Za-z0-9_]", safe) and len(safe) <= LONGEST_FILE_NAME:
        return safe
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe.lstrip('.-')[: LONGEST_FILE_NAME - 9] or '_'}-{digest}"


class VisibleFormatter(logging.Formatter):
    """Formats records as ``inner`` does, with messages and tracebacks made visible."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, which other handlers get unchanged."""
        shown = copy.copy(record)
        shown.msg, shown.args = visible(record.getMessage()), None
        if record.exc_info:
            shown.exc_text = visible(self._inner.formatException(record.exc_info))
        return self._inner.format(shown)
