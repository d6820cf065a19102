"""The cause of a failed boot or login, from the console, the port, the login and the image's files.

Console text is the guest's: it names a cause, and nothing is done because of it alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from pytest_dibctl.guest import console
from pytest_dibctl.guest.boot_causes import CAUSES, SIGNS, STATUS_SIGNS, Sign
from pytest_dibctl.image.login_facts import LoginFacts
from pytest_dibctl.system.text import visible_line

LONGEST_LINE: Final = 500
"""Characters of a line, on either side of a sign's needle, that are looked at and kept."""
MOST_LOOKS: Final = 50
"""Lines that are looked at for a sign, from the end: a console may have millions of its needles."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """A named cause: its stable id out of ``CAUSES``, a sentence, a hint, and the line that shows it.

    ``line`` counts from 1 in the console without escape sequences; None where no line gives it away.
    """

    id: str
    text: str
    hint: str
    line: int | None = None
    said: str = ""

    @property
    def lead(self) -> str:
        """The beginning of a report."""
        where = f"\n  console line {self.line}: {self.said}" if self.line is not None else ""
        return f"{self.text} [{self.id}]{where}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """Evidence of an instance that accepts no login.

    ``symptom`` is that of the error (see ``errors.DibctlError``), ``output`` the words of ssh, ``status`` the
    words of the cloud, ``arch`` the machine's architecture where it is known.
    """

    console: str = ""
    symptom: str | None = None
    output: str = ""
    status: str = ""
    username: str = ""
    engine: str = ""
    arch: str | None = None
    files: LoginFacts | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """A line of the console that has a sign, and its offset."""

    sign: Sign
    start: int
    line: str


def made(cause: str, *, text: str = "", line: int | None = None, said: str = "") -> Cause:
    """Return the cause of that id; ``text`` are details beyond its sentence."""
    kind = CAUSES[cause]
    return Cause(
        id=cause, text=f"{kind.text}{f': {text}' if text else ''}", hint=kind.hint, line=line, said=said
    )


def matches(text: str, signs: Sequence[Sign] = SIGNS, *, every: bool = False) -> Iterator[Match]:
    """Yield the last line of each sign that the text has, in the order of the signs.

    With ``every`` not the last one only, but all of the last ``MOST_LOOKS``.
    """
    for sign in signs:
        end = len(text)
        for _ in range(1 if sign.last else MOST_LOOKS):
            at = text.rfind(sign.needle, 0, end)
            if at < 0:
                break
            start, line = _line_at(text, at, at + len(sign.needle))
            if sign.pattern.search(line):
                yield Match(sign=sign, start=start, line=line)
                if not every:
                    break
            end = start  # the rest of this line was looked at


def _line_at(text: str, at: int, end: int) -> tuple[int, str]:
    """Return the offset and the text of the line around a needle, cut if it is long."""
    low, high = max(0, at - LONGEST_LINE), min(len(text), end + LONGEST_LINE)
    start = text.rfind("\n", low, at) + 1 or low
    stop = text.find("\n", end, high)
    return start, text[start : high if stop < 0 else stop]


def fatal(text: str) -> Match | None:
    """Return the line that says that the guest will never be ready, if it is true; ``Proof`` says what is."""
    found = list(matches(text, [sign for sign in SIGNS if sign.proof]))
    return max(found, key=lambda match: match.start) if found else None


def named_by_console(text: str, *, network: bool = True) -> Cause | None:
    """Return the cause that the words on a console name; without ``network`` signs if something answered."""
    for match in matches(text):
        if network or not match.sign.network:
            return from_match(match, text)
    return None


def from_match(match: Match, text: str) -> Cause:
    """Return the cause that a line names."""
    line = text.count("\n", 0, match.start) + 1
    return made(match.sign.cause, line=line, said=visible_line(match.line.strip()[:LONGEST_LINE]))


def named(evidence: Evidence) -> Cause | None:
    """Return the cause of a failed boot, wait or login; None where nothing names one."""
    for match in matches(evidence.status, STATUS_SIGNS):
        return made(match.sign.cause)
    said = said_by_console(evidence) or _reset_loop(evidence.console)
    return said or _by_files(evidence) or _by_symptom(evidence)


def said_by_console(evidence: Evidence) -> Cause | None:
    """Return the cause that the console names: none of the network's where a login had an answer."""
    answered = (evidence.symptom or "").startswith(("login", "foreign"))
    return named_by_console(evidence.console, network=not answered)


_FIRMWARE: Final = "SeaBIOS (version"
_RESETS: Final = 3
_NOTHING: Final = 2000
"""Characters at most that firmware and boot loader print before a kernel does."""


def _reset_loop(text: str) -> Cause | None:
    """Return the cause of a console that shows the firmware's start again and again, and little else."""
    starts = text.rsplit(_FIRMWARE, _RESETS)[1:]
    looped = len(starts) == _RESETS and all(len(start) < _NOTHING for start in starts)
    return made("reset-loop") if looped else None


_ENGINE_ARCH: Final = {"x86_64": "x86-64", "aarch64": "AArch64"}


def _by_files(evidence: Evidence) -> Cause | None:
    files = evidence.files
    if files is None:
        return None
    machine_arch = _ENGINE_ARCH.get(evidence.arch or "")
    if files.architecture is not None and machine_arch is not None and files.architecture != machine_arch:
        return made(
            "wrong-architecture", text=f"they are for {files.architecture}, the machine is {machine_arch}"
        )
    if files.autorelabel:
        return made("selinux-relabel", text="the image has /.autorelabel")
    blind = files.datasources is not None and not _has_seed_source(files.datasources, evidence.engine)
    if blind and evidence.symptom in {"login-refused", "foreign-key"}:
        names = ", ".join(map(visible_line, files.datasources or ()))
        return made("cloud-init-no-datasource", text=f"its datasource_list is {names}")
    return None


_PLAIN: Final = {
    "foreign-key": "host-key-not-taken",
    "port-other": "wrong-port",
    "powered-off": "powered-off",
}
"""Symptoms that are causes, where nothing else names one."""


def _by_symptom(evidence: Evidence) -> Cause | None:
    symptom, files = evidence.symptom or "", evidence.files or LoginFacts()
    if symptom in _PLAIN:
        return made(_PLAIN[symptom])
    if symptom == "login-refused":
        return _refused(evidence, files)
    if symptom in {"port-refused", "port-closed"}:
        return made("sshd-not-started", text=_missing_server(files))
    if symptom in {"port-silent", "port-unreachable"} and _has_booted(evidence.console):
        return made("security-group" if evidence.engine == "openstack" else "firewall")
    return None


def _missing_server(files: LoginFacts) -> str:
    if files.has_ssh_server is False:
        return "the image has none"
    return "the image has one, and does not enable it" if files.ssh_enabled is False else ""


def _refused(evidence: Evidence, files: LoginFacts) -> Cause:
    """Return why a login was refused."""
    user = evidence.username
    others = console.other_users(evidence.output, evidence.console)
    if others and user not in others:
        return made("wrong-user", text=f"{user}; its key is for {' and '.join(map(visible_line, others))}")
    if files.has_user is False:
        return made("wrong-user", text=f"the image's /etc/passwd has no {user}")
    if files.ssh_forbids:
        return made("sshd-refusing", text=visible_line(files.ssh_forbids))
    lacking = "the image has no cloud-init" if files.has_cloud_init is False else ""
    return made("key-not-installed", text=lacking)


def _has_seed_source(names: Sequence[str], engine: str) -> bool:
    sources = {"configdrive", "openstack"} if engine == "openstack" else {"nocloud", "configdrive"}
    return bool(sources & {name.lower() for name in names})


def _has_booted(text: str) -> bool:
    """Whether the end of a console looks like that of a guest that is up."""
    end = text[-64 * 1024 :]
    return "login:" in end or bool(console.cloud_init_has_finished(end)) or " ready " in end
