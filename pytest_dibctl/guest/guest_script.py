"""Running a script in a guest that may have no more than a POSIX shell.

Two commands go over the run's shared connection. The first copies the script from its stdin. The second
reads from its stdin the shell code that runs the script, so that no argument list shows a variable's value.
That code ends the script at its deadline from inside the guest, even if the connection is gone, and removes
the copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import shlex
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from pytest_dibctl.errors import CommandError
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.system import process

COPYING_MAY_TAKE = 300.0
"""Seconds that copying may take; emulated guests receive a few megabytes per second."""

GRACE = 5
"""Seconds between SIGTERM and SIGKILL in the guest."""

LATE = 30.0
"""Seconds, beyond deadline and grace, that the guest has to report the end of a script."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A name that a shell accepts for a variable."""

COPY = """
umask 077
for base in "${TMPDIR:-/tmp}" /var/tmp "$HOME"; do
    copy=$(mktemp -d "$base/dibctl.XXXXXX" 2>/dev/null) || continue
    printf '#!/bin/sh\\n' >"$copy/probe" && chmod 700 "$copy/probe" && "$copy/probe" 2>/dev/null && break
    rm -rf "$copy"
    copy=
done
[ -n "$copy" ] || { echo "no directory to copy to: tried ${TMPDIR:-/tmp}, /var/tmp, $HOME" >&2; exit 1; }
rm -f "$copy/probe"
if RECEIVE; then echo "COPY=$copy"; else rm -rf "$copy"; exit 1; fi
"""
"""Makes a private directory on a filesystem that is not mounted noexec, and fills it from stdin."""

AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec sh -s; else exec sudo -n sh -s; fi'

PROGRAM = """
exec 2>/dev/null
copy={copy}
limit={limit}
stop() {{
    root=
    [ "$(id -u)" = 0 ] || ! sudo -n true || root='sudo -n'
    for found in $($root grep -ls DIBCTL_SCRIPT={token} /proc/[0-9]*/environ); do
        number=${{found#/proc/}}
        number=${{number%/environ}}
        $root kill -s "$1" -- "-$number" || $root kill -s "$1" "$number"
    done
}}
watch() {{
    trap 'kill "$sleeper"; exit' TERM
    sleep "$limit" &
    sleeper=$!
    wait "$sleeper"
    trap : TERM
    : >"$copy/late"
    stop TERM
    for second in {seconds}; do
        sleep 1
        [ -d "$copy" ] || exit
    done
    stop KILL
    sleep 1
    rm -rf "$copy"
}}
trap : HUP PIPE
watcher=
if [ "$limit" -gt 0 ]; then
    watch </dev/null >/dev/null &
    watcher=$!
fi
{exports}
export DIBCTL_SCRIPT={token}
if command -v setsid >/dev/null; then
    setsid {argv} </dev/null 2>&1
else
    {argv} </dev/null 2>&1
fi
code=$?
unset DIBCTL_SCRIPT
late=
if [ -e "$copy/late" ]; then
    late=late
    stop KILL
fi
rm -rf "$copy"
[ -z "$watcher" ] || kill "$watcher"
printf '\\n%s\\n' "{end} $code $late"
"""
"""Runs the script in the foreground, with a watcher beside it that ends it at its deadline.

The watcher finds the script's processes by a variable in their environment. Process groups would not do:
guests may lack setsid, and a shell without a terminal makes no groups.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """How a script ended: its exit code, None if it was stopped at its deadline, and the seconds it took."""

    code: int | None
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuestScript:
    """A script on this machine that is to run in a guest.

    ``interpreter`` is the command that runs a script without ``#!``. ``folder`` contains ``path`` and is
    copied as a whole, for a script that needs the files beside it. ``sudo`` runs it as root.
    """

    path: Path
    interpreter: tuple[str, ...] = ()
    folder: Path | None = None
    sudo: bool = False


def run(
    access: SshAccess,
    script: GuestScript,
    *,
    variables: Mapping[str, str],
    limit: float | None,
    on_line: Callable[[str], None],
) -> Ended:
    """Copy a script into the guest, run it there with ``variables``, and remove the copy.

    After ``limit`` seconds the guest stops it; None means no limit. ``on_line`` gets each line that the
    script writes. Variables whose names no shell accepts are left out.

    Raises CommandError when the script cannot be copied or started, when the connection breaks, and when the
    guest does not report the end of the script.
    """
    copy = _copy(access, script)
    token = f"dibctl-{uuid.uuid4().hex}"
    # Not the token: the script can read that in its environment, and print it.
    end = f"dibctl-end-{uuid.uuid4().hex}"
    report = _Report(end=end, on_line=on_line)
    allowed = None if limit is None else math.ceil(limit) + GRACE + LATE
    started = time.monotonic()
    command = f"sh -c {shlex.quote(AS_ROOT)}" if script.sudo else "sh -s"
    result = process.run(
        [*access.command_line(), command],
        stdin=_program(copy, script, variables=variables, limit=limit, token=token, end=end),
        timeout=allowed,
        check=False,
        on_line=report,
    )
    seconds = time.monotonic() - started
    if report.code is None:
        raise CommandError(_no_report(script, result))
    return Ended(code=None if report.late else report.code, seconds=seconds)


def _no_report(script: GuestScript, result: process.Result) -> str:
    if result.returncode == 255:  # noqa: PLR2004 -- ssh's own
        return f"the connection to the guest broke while {script.path.name} ran"
    ended = process.describe_exit(result.returncode)
    return f"{script.path.name} could not be run in the guest: its shell {ended}"


@dataclasses.dataclass(kw_only=True)
class _Report:
    """Reads the output of the guest: passes on the script's lines, and keeps how the script ended."""

    end: str
    on_line: Callable[[str], None]
    code: int | None = None
    late: bool = False
    _blank: bool = False

    def __call__(self, line: str) -> None:
        ended = re.fullmatch(rf"{re.escape(self.end)} (\d+) (late)?\r?", line)
        if ended and self.code is None:
            # The blank line before it is not the script's: it ends a last line that had no end.
            self._blank = False
            self.code, self.late = int(ended[1]), ended[2] is not None
            return
        if self._blank:
            self.on_line("")
        self._blank = not line
        if line:
            self.on_line(line)


def _program(
    copy: str,
    script: GuestScript,
    *,
    variables: Mapping[str, str],
    limit: float | None,
    token: str,
    end: str,
) -> str:
    exported = {name: value for name, value in variables.items() if _NAME.fullmatch(name)}
    path = script.path.relative_to(script.folder) if script.folder else script.path.name
    return PROGRAM.format(
        copy=shlex.quote(copy),
        limit=0 if limit is None else max(1, math.ceil(limit)),
        seconds=" ".join(map(str, range(GRACE))),
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in exported.items()),
        token=token,
        end=end,
        argv=process.command_line([*script.interpreter, f"{copy}/{path}"]),
    )


def _copy(access: SshAccess, script: GuestScript) -> str:
    """Copy the script, or its folder, into the guest; return the new directory in the guest."""
    name = shlex.quote(script.path.name)
    with _content(script) as content:
        if script.folder is None:
            receive = f'cat >"$copy"/{name} && chmod 700 "$copy"/{name}'
        else:
            receive = 'tar -x -f - -C "$copy"'
        argv = [*access.command_line(), f"sh -c {shlex.quote(COPY.replace('RECEIVE', receive))}"]
        result = process.run(argv, stdin=content, timeout=COPYING_MAY_TAKE, check=False)
    copied = re.search(r"^COPY=(.+)$", result.output, re.MULTILINE)
    if result.returncode != 0 or copied is None:
        reason = (result.errors or result.output).strip() or process.describe_exit(result.returncode)
        raise CommandError(f"{script.path.name} could not be copied into the guest: {reason}")
    return copied.group(1)


@contextlib.contextmanager
def _content(script: GuestScript) -> Iterator[IO[bytes]]:
    """Open the content to send: the script, or an archive of its folder."""
    if script.folder is None:
        with script.path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.add(script.folder, arcname=".", filter=_anonymous)
        file.seek(0)
        yield file


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Give the files to root: the users of this machine do not exist in the guest."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
