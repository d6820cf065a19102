"""Facts about the login from an image's files: read only after a login has failed, to name the cause."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterator
from typing import Final

from pytest_dibctl.image.tree import ImageTree

LONGEST: Final = 1 << 20
"""Bytes of a configuration file that are read."""
ELF_HEAD: Final = 20
"""Bytes of a program that tell its machine."""
_SERVERS: Final = ("usr/sbin/sshd", "usr/sbin/dropbear", "usr/bin/dropbear", "usr/lib/ssh/sshd")
_ENABLED: Final = (
    "etc/systemd/system/*.wants/ssh*",
    "etc/systemd/system/*.wants/dropbear*",
    "usr/lib/systemd/system/*.wants/ssh*",
    "etc/rc?.d/S*ssh*",
    "etc/rc?.d/S*dropbear*",
)
_MACHINES: Final = {
    0x3E: "x86-64",
    0xB7: "AArch64",
    0x03: "x86",
    0x28: "ARM",
    0xF3: "RISC-V",
    0x15: "PowerPC64",
}
"""Of ELF's e_machine."""
_DATASOURCES: Final = re.compile(r"^datasource_list:\s*\[([^\]]*)\]", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoginFacts:
    """Facts in the files, None if unknown. ``architecture`` is that of the image's programs."""

    has_ssh_server: bool | None = None
    ssh_enabled: bool | None = None
    has_user: bool | None = None
    ssh_forbids: str | None = None
    has_cloud_init: bool | None = None
    datasources: tuple[str, ...] | None = None
    architecture: str | None = None
    autorelabel: bool = False


def read(tree: ImageTree, username: str) -> LoginFacts:
    """Return the image's facts about a login as ``username``; raises OSError for an irregular file."""
    cloud_init = tree.exists("usr/bin/cloud-init")
    return LoginFacts(
        has_ssh_server=any(tree.exists(name) for name in _SERVERS),
        ssh_enabled=_is_enabled(tree),
        has_user=_has_user(tree, username),
        ssh_forbids=_forbids(tree, username),
        has_cloud_init=cloud_init,
        datasources=_datasources(tree) if cloud_init else None,
        architecture=_architecture(tree),
        autorelabel=tree.exists(".autorelabel"),
    )


def _is_enabled(tree: ImageTree) -> bool | None:
    if any(tree.glob(pattern) for pattern in _ENABLED):
        return True
    inittab = tree.read("etc/inittab", LONGEST)
    if inittab:
        return "sshd" in inittab or "dropbear" in inittab
    return False if tree.exists("etc/systemd/system") else None


def _has_user(tree: ImageTree, username: str) -> bool | None:
    passwd = tree.read("etc/passwd", LONGEST)
    return any(line.startswith(f"{username}:") for line in passwd.splitlines()) if passwd else None


def _forbids(tree: ImageTree, username: str) -> str | None:
    """Return the line of sshd's configuration that forbids a login with a key, None if there is none."""
    # sshd_config includes the others at its beginning, and a keyword's first value counts.
    names = [*sorted(tree.glob("etc/ssh/sshd_config.d/*.conf")), "etc/ssh/sshd_config"]
    settings: dict[str, tuple[list[str], str]] = {}
    for line in (line for name in names for line in _unconditional(tree.read(name, LONGEST))):
        keyword, *words = re.split(r"[\s=]+", line.strip())
        if keyword.lower() in {"allowusers", "denyusers"} and keyword.lower() in settings:
            settings[keyword.lower()][0].extend(words)  # these add up
        settings.setdefault(keyword.lower(), (words, line.strip()[:200]))
    forbidding: dict[str, Callable[[list[str]], bool]] = {
        "allowusers": lambda words: not _is_among(username, words),
        "denyusers": lambda words: _is_among(username, words),
        "pubkeyauthentication": lambda words: words[:1] == ["no"],
        "permitrootlogin": lambda words: username == "root" and words[:1] == ["no"],
    }
    return next(
        (line for key, (words, line) in settings.items() if key in forbidding and forbidding[key](words)),
        None,
    )


def _unconditional(text: str) -> Iterator[str]:
    """Yield the lines of a configuration that hold for all: those before its first ``Match``."""
    for line in text.splitlines():
        if re.match(r"\s*match\b", line, re.IGNORECASE):
            return
        yield line


def _is_among(username: str, patterns: list[str]) -> bool:
    # The host after an @ is the client's, which the image does not know.
    return any(fnmatch.fnmatchcase(username, pattern.partition("@")[0]) for pattern in patterns)


def _datasources(tree: ImageTree) -> tuple[str, ...] | None:
    """Return the last ``datasource_list`` in the order in which cloud-init reads its files."""
    datasources: tuple[str, ...] | None = None
    for name in ["etc/cloud/cloud.cfg", *tree.glob("etc/cloud/cloud.cfg.d/*.cfg")]:
        for match in _DATASOURCES.finditer(tree.read(name, LONGEST)):
            datasources = tuple(word.strip(" '\"") for word in match[1].split(",") if word.strip(" '\""))
    return datasources


def _architecture(tree: ImageTree) -> str | None:
    for name in ("sbin/init", "bin/sh", "bin/busybox"):
        try:
            head = tree.read_bytes(name, ELF_HEAD)
        except OSError:
            continue
        if head.startswith(b"\x7fELF") and len(head) == ELF_HEAD:
            number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
            return _MACHINES.get(number, f"machine {number}")
    return None
