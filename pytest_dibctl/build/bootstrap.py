"""What the programs that bootstrap Debian and Ubuntu are told besides the settings of their element."""

from __future__ import annotations

import itertools
import re
from typing import Final

from pytest_dibctl.build.dib import Recipe
from pytest_dibctl.build.host_programs import setting

DEBOOTSTRAP: Final = "DIB_DEBOOTSTRAP_EXTRA_ARGS"
MMDEBSTRAP: Final = "DIB_MMDEBSTRAP_EXTRA_ARGS"
_OPTION: Final = "--keyring"
_WORD: Final = re.compile(
    r"""
    (?: \\. | "(?:[^"\\]|\\.)*" | '[^']*' | `[^`]*` | \$\([^()]*\)
      | [^\s"'`\\();&|<>]
    )+
    """,
    re.VERBOSE | re.DOTALL,
)
"""A word of a shell's command, with its quotes."""
_QUOTES: Final = re.compile(r"[\"'\\]")


def environment(recipe: Recipe) -> dict[str, str]:
    """Return the variable that gives mmdebstrap the keyring that debootstrap would get; else nothing.

    The element debootstrap runs mmdebstrap where that is installed, and of debootstrap's arguments passes it
    none but ``--no-check-gpg``. The value stays as it is written, for a shell reads it.
    """
    told, own = setting(recipe, DEBOOTSTRAP) or "", setting(recipe, MMDEBSTRAP) or ""
    keyring = _keyring(told)
    if not keyring or _keyring(own):
        return {}
    return {MMDEBSTRAP: f"{own} {keyring}".strip()}


def _keyring(arguments: str) -> str:
    """Return the last option of a keyring as it is written; an empty text where no shell would read one."""
    if _WORD.sub("", arguments).strip():
        return ""
    words = [*_WORD.findall(arguments), ""]
    found = ""
    for word, following in itertools.pairwise(words):
        name = _QUOTES.sub("", word)
        if name.startswith(f"{_OPTION}="):
            found = word
        elif name == _OPTION and following:
            found = f"{word}={following}"
    return found
