"""Secrets of this process, and texts without them.

Code that reads a password, a token or an application credential's secret enters it here. Texts lose it where
they leave, in ``system/text.py``: a report shows values of variables, and nothing there tells a secret.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
SHORTEST: Final = 4
"""Characters: a shorter value is no secret, and would be found in every text."""
LONG: Final = 8
"""Characters from which on a secret is replaced within words too."""
SHORTEST_PIECE: Final = 6
"""Characters of a secret's begin or end that are replaced where a text was cut (``...``)."""
MOST: Final = 500
"""Secrets that are kept: a run of days gets new tokens all the time. The oldest is dropped."""

_known: dict[str, None] = {}
_lock = threading.RLock()
_pattern: re.Pattern[str] | None = None
"""The pattern of the known secrets; None after each change, since far more tokens come in than texts go out.
"""


def remember(secret: str | bytes | None) -> None:
    """Have ``redacted`` replace a secret from now on, in this process; None and empty ones are ignored."""
    global _pattern  # noqa: PLW0603 -- one set of secrets for the process
    if isinstance(secret, bytes):
        secret = secret.decode("latin-1")
    if secret is None or len(secret) < SHORTEST or secret in _known:
        return
    with _lock:
        _known[secret] = None
        while len(_known) > MOST:
            del _known[next(iter(_known))]
        _pattern = None


def redacted(text: str) -> str:
    """Return text with secrets, as they are or as Python, JSON and URLs write them, replaced by ``***``.

    So are pieces of one where Python's or pytest's representation of a long value was cut.
    """
    if not _known:
        return text
    text = _compiled().sub(MASK, text)
    return _without_pieces(text) if "..." in text else text


def _compiled() -> re.Pattern[str]:
    global _pattern  # noqa: PLW0603 -- compiled once for each change
    with _lock:
        if _pattern is None:
            forms = {form for known in _known for form in _forms(known)}
            # The longest first: one secret may be the begin of another.
            _pattern = re.compile("|".join(map(_expression, sorted(forms, key=len, reverse=True))))
        return _pattern


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    encoded = secret.encode(errors="surrogatepass")
    yield repr(encoded)[2:-1]
    yield repr(secret.encode("unicode_escape"))[2:-1]


def _expression(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= LONG else rf"(?<!\w){escaped}(?!\w)"


def _without_pieces(text: str) -> str:
    """Return text without a begin of a secret just before ``...`` and without an end of one just after."""
    first, *others = text.split("...")
    parts = [first]
    secrets = [secret for secret in tuple(_known) if len(secret) > SHORTEST_PIECE]
    for part in others:
        before = parts[-1]
        if cut := max((_overlap(before, secret) for secret in secrets), default=0):
            parts[-1] = before[:-cut] + MASK
        if cut := max((_overlap(secret, part) for secret in secrets), default=0):
            part = MASK + part[cut:]  # noqa: PLW2901
        parts.append(part)
    return "...".join(parts)


def _overlap(left: str, right: str) -> int:
    """Return how many characters at the end of ``left`` begin ``right``; 0 for fewer than a piece has."""
    for size in range(min(len(left), len(right)), SHORTEST_PIECE - 1, -1):
        if left.endswith(right[:size]):
            return size
    return 0
