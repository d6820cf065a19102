"""The stage of a booting guest, by the last decisive line of its console."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

LOOKED_AT = 8192
"""Characters of a console's end that are looked at."""

_SIGNS = (
    (re.compile(r"login: ?$"), "login prompt"),
    (re.compile(r"Cloud-init v\. \S+ (?:running '([\w:-]+)'|finished)"), "cloud-init {0}"),
    (
        re.compile(r"(?:Start(?:ing|ed)|Reached target|Mounting|Finished)\S* (.{3,60}?)\.*\s*$"),
        "services: {0}",
    ),
    (re.compile(r"Welcome to (.{3,60}?)!"), "init of {0}"),
    (re.compile(r"^\[ *(\d+)\.\d+\]"), "kernel, {0} s after its start"),
    (re.compile(r"GRUB|SYSLINUX|Booting `"), "boot loader"),
    (re.compile(r"SeaBIOS|UEFI|BdsDxe|iPXE"), "firmware"),
)


def of(console: Callable[[], str]) -> str | None:
    """Return the stage of the guest whose console ``console`` returns; None where it cannot be read."""
    with contextlib.suppress(Exception):  # the guest may be ending: a stage is shown without a reason
        return stage(console())
    return None


def stage(text: str) -> str | None:
    """Return the stage that a console's end tells of, in a few words; None where it tells nothing."""
    for line in reversed(text[-LOOKED_AT:].splitlines()):
        for sign, words in _SIGNS:
            if match := sign.search(line):
                return words.format(*(group or "" for group in match.groups())).strip()
    return None
