"""The text of a serial console: its cleaning, its limits, and cloud-init's messages in it."""

from __future__ import annotations

import re

EXCERPT_LINES = 20
"""Lines of the console that an error message quotes."""
LAST_LINES = "\nlast lines of the console:"
"""The words in an error's message before lines of the console."""
LONGEST_LINE = 1000
"""Characters of a line that are quoted."""

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles and the like
    r"|\x1b[ -/]*[0-~]"  # two-character escapes: reset
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
)


LIMIT = 16 << 20
"""Bytes of a console that are looked at; a boot writes less than one part in a hundred of that."""


def limited(text: str) -> str:
    """Return the end of a console that a service gives whole, with a line that says so where it is cut."""
    if len(text) <= LIMIT:
        return text
    return f"[dibctl: the console has {len(text)} characters; this is its end]\n{text[-LIMIT:]}"


def clean(raw: bytes) -> str:
    """Return console bytes as text without escape sequences; lines end with a line feed alone."""
    text = _ESCAPES.sub("", raw.decode(errors="replace"))
    return re.sub(r"\r+\n?", lambda match: "\n" if match[0].endswith("\n") else "", text)


def excerpt(text: str, lines: int = EXCERPT_LINES, *, around: int | None = None) -> str:
    """Return the last ``lines`` lines that are not blank.

    They end at most five lines after ``around``, the number of the line that names the cause.
    """
    shown = text.splitlines() if around is None else text.splitlines()[: around + 5]
    return "\n".join([line.rstrip()[:LONGEST_LINE] for line in shown if line.strip()][-lines:])


_KEY_BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----\n(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
_KEY = re.compile(r"((?:ssh-|ecdsa-sha2-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2})(?:\s|$)")


def host_keys(text: str) -> tuple[str, ...]:
    """Return the ssh host keys that cloud-init printed last, as lines of public keys.

    A rebuilt guest makes new keys and prints them further down.
    """
    blocks = _KEY_BLOCK.findall(text)
    return tuple(dict.fromkeys(_KEY.findall(blocks[-1]))) if blocks else ()


_STAGE = re.compile(r"Cloud-init v\. \S+ (?:running '|(?P<finished>finished) at)")
MOST_USERS = 5
_KEYS_OF = re.compile(r"Authorized keys from \S+ for user ([^\s+]{1,32})")


def cloud_init_has_finished(text: str) -> bool | None:
    """Return whether the cloud-init of the last boot has come to its end; None if it is not heard of."""
    stages = list(_STAGE.finditer(text))
    return bool(stages[-1]["finished"]) if stages else None


def users_with_keys(text: str) -> tuple[str, ...]:
    """Return the users to whom cloud-init says that it gave an ssh key."""
    return tuple(dict.fromkeys(_KEYS_OF.findall(text)))[:MOST_USERS]


_OTHER_USER = re.compile(r'Please login as the user "([^"\s]{1,32})" rather than the user')
"""The words that cloud-init puts into root's key."""


def other_users(ssh_output: str, text: str) -> tuple[str, ...]:
    """Return the users that may log in, as far as ssh's output and the console tell."""
    named = _OTHER_USER.search(ssh_output)
    return (named[1],) if named else users_with_keys(text)


def names_other_user(ssh_output: str) -> bool:
    """Whether ssh was told to log in as another user."""
    return _OTHER_USER.search(ssh_output) is not None
