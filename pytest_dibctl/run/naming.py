"""The cause of a failed boot, wait or login, put first in its error."""

from __future__ import annotations

import contextlib
import platform
from typing import TypeVar

from pytest_dibctl.clouds.protocols import Instance
from pytest_dibctl.config import merge
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest import causes
from pytest_dibctl.guest.causes import Cause, Evidence
from pytest_dibctl.guest.console import LAST_LINES, excerpt
from pytest_dibctl.image import artifact, login_facts
from pytest_dibctl.image.login_facts import LoginFacts
from pytest_dibctl.run import content, logs
from pytest_dibctl.run.target_run import TargetRun

ErrorT = TypeVar("ErrorT", bound=DibctlError)
_BY_FILES = frozenset(
    {"login-refused", "foreign-key", "port-refused", "port-closed", "port-silent", "powered-off"}
)
"""Symptoms that the image's files may explain."""


def explained(target_run: TargetRun, error: ErrorT, instance: Instance | None) -> ErrorT:
    """Return the error with its cause first, the console's line that shows it, and a hint.

    One whose cause nothing tells is returned as it is, with the console's last lines. The cause is noted for
    reports.
    """
    text = _of_this_boot(logs.console_of(instance), target_run.guest.console_since)
    if instance is not None:
        logs.keep_screen(target_run, instance)
    if error.cause is None:
        cause = causes.named(evidence(target_run, error, text))
        error = _retold(target_run, error, cause, text)
    target_run.guest.cause, target_run.guest.console_line = error.cause, error.console_line
    return error


def boot_begins(target_run: TargetRun, instance: Instance) -> None:
    """Note that the present text of the console does not belong to the boot that begins.

    A cloud gives the end of a console only, so its length says nothing.
    """
    if target_run.environment.settings.is_local:
        target_run.guest.console_since = len(logs.console_of(instance))


def evidence(target_run: TargetRun, error: DibctlError, text: str) -> Evidence:
    """Return the evidence of an instance that failed with ``error`` and printed ``text``."""
    settings = target_run.environment.settings
    known = Evidence(
        console=text,
        symptom=error.symptom,
        output=error.message,
        status=error.message.partition(LAST_LINES)[0],
        username=merge.login(target_run.image)[0],
        engine=settings.engine,
        arch=_arch(target_run),
    )
    # Opening the files takes a moment, and is done only where the console alone does not tell.
    if error.symptom in _BY_FILES and causes.said_by_console(known) is None:
        return Evidence(**{**vars(known), "files": _facts(target_run, known.username)})
    return known


def _retold(target_run: TargetRun, error: ErrorT, cause: Cause | None, text: str) -> ErrorT:
    message, seen, shown = error.message.partition(LAST_LINES)
    message = message.removeprefix(f"{target_run.label}: ")
    around = cause.line if cause else None
    tail = excerpt(text, around=around) if not seen or around is not None else ""
    last_lines = f"{LAST_LINES}\n{tail}" if tail else seen + shown
    lead = f"{cause.lead}\n" if cause else ""
    told = type(error)(
        f"{target_run.label}: {lead}{message}{last_lines}",
        hint=cause.hint if cause else error.hint,
        symptom=error.symptom,
        exit_code=error.exit_code,
    )
    told.cause, told.console_line = (cause.id, cause.line) if cause else (None, None)
    told.origin, told.follows = error.origin, error.follows
    return told


def _of_this_boot(text: str, since: int) -> str:
    """Return a console without the text of earlier boots; lines keep their numbers.

    A console that is shorter than before has begun anew.
    """
    return "\n" * text.count("\n", 0, since) + text[since:] if since <= len(text) else text


def _arch(target_run: TargetRun) -> str | None:
    """Return the architecture that the machine has, where it is known."""
    if target_run.environment.settings.engine == "nspawn":
        return platform.machine()
    return target_run.guest.facts.get("arch")


def _facts(target_run: TargetRun, username: str) -> LoginFacts | None:
    """Return the facts of the image's files; None where they are not at hand or cannot be opened here."""
    file = target_run.built.file
    if file is None:
        return None
    with (
        contextlib.suppress(Exception),  # an error is being told, and an image may hold anything
        content.file_tree(target_run, artifact.inspect(file)) as tree,
    ):
        return login_facts.read(tree, username)
    return None
