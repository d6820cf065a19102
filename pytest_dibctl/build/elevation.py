"""Builds of a user who is not root: the build alone runs as root, through sudo without a password.

disk-image-create needs root and calls sudo itself. Only the build goes through sudo: tests, guests and calls
of a cloud run as the user. The build gets its description through a pipe, so no list of processes and no log
of sudo shows it. ``elevated`` is the other end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import grp
import json
import os
import pwd
import re
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from pytest_dibctl import errors
from pytest_dibctl.build import dib, execution
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import BuildError, CommandError, DibctlError
from pytest_dibctl.system import checks, process
from pytest_dibctl.system.checks import Check

SUDO: Final = ("sudo", "-n", "--")
STOP_GRACE: Final = execution.STOP_GRACE + 10.0
"""Seconds that an interrupted build has to clean up."""
WITHOUT_ROOT: Final = "test an image file that is there with --dib-input=FILE"

_NEVER: Final = re.compile(
    r"LD_.*|PYTHON.*|PERL.*|RUBY.*|BASH_.*|BASHOPTS|SHELLOPTS|ENV|IFS|CDPATH|PS4|GCONV_PATH|LOCPATH|NLSPATH"
    r"|MALLOC_.*|GLIBC_TUNABLES|TMPDIR|SUDO_.*|XDG_.*"
    r"|APT_CONFIG|DPKG_.*|TAR_OPTIONS|RSYNC_.*|WGETRC|CURL_HOME|GNUPGHOME|HOSTALIASES|(SSH|GIT)_ASKPASS"
    r"|OPENSSL_(CONF|MODULES|ENGINES)|GIT_(EXEC_PATH|SSH.*|PROXY_COMMAND|TEMPLATE_DIR|CONFIG.*|DIR|WORK_TREE)"
)
"""Variables that sudo would not let through either, and those that name directories of the user's."""


def check() -> Check:
    """Check whether builds can have root: this process, or sudo without a password."""
    if os.geteuid() == 0:
        return checks.root()
    problem = _problem()
    if problem is None:
        return Check(name="root", ok=True, detail="builds run as root through sudo")
    fix = f"{checks.as_root()}, or allow sudo without a password (NOPASSWD); {WITHOUT_ROOT}"
    return Check(name="root", ok=False, detail=f"builds mount filesystems and need root; {problem}", fix=fix)


def _problem() -> str | None:
    """Return why sudo does not work without a password, None if it does."""
    try:
        # A password that sudo remembers for a terminal does not count: builds run without one.
        with process.spawn([*SUDO, "true"], stderr=subprocess.PIPE) as sudo:
            said = sudo.communicate(timeout=10)[1] or ""
    except (CommandError, subprocess.TimeoutExpired):
        return "sudo is not there or does not answer"
    if sudo.returncode == 0:
        return None
    return (said.strip().splitlines() or [f"sudo ended with {sudo.returncode}"])[-1]


def is_needed(recipe: dib.Recipe | None) -> bool:
    """Whether a build has to go through sudo: external commands alone run as the user who starts them."""
    return recipe is not None and os.geteuid() != 0


def variables() -> dict[str, str]:
    """Return the variables of this process that a build as root sees, without secrets of OpenStack.

    PATH is the user's, but for folders that depend on where the build runs: a program that lies there, as in
    a repository, would run as root in the place of the machine's.
    """
    passed = {name: value for name, value in process.environment().items() if not _NEVER.fullmatch(name)}
    places = passed["PATH"].split(os.pathsep)
    return {**passed, "PATH": os.pathsep.join(place for place in places if place.startswith("/"))}


def exposed(directory: Path) -> str | None:
    """Say which users could exchange files that root runs or writes in ``directory``; None if none could.

    A user who may rename entries of a folder, or of a folder above it, may exchange its files. Access lists
    count as far as the mode shows them. The owner of a folder is not looked at.
    """
    for place in (directory, *directory.resolve().parents):
        try:
            status = place.stat()
        except OSError:
            continue
        if status.st_mode & stat.S_ISVTX:
            continue
        if status.st_mode & stat.S_IWOTH:
            return f"every user can write in {place}"
        if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
            return f"group {_group_name(status.st_gid)} can write in {place}"
    return None


def _is_private(gid: int) -> bool:
    """Whether a group has no members but root or this user, as far as its name and list tell."""
    try:
        user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return gid in (0, os.getgid())
    return gid == 0 or (group.gr_name == user and set(group.gr_mem) <= {user})


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def build(
    image: Entry[Image], *, policy: str, target: Path, cwd: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Build ``image`` to the file ``target`` as root; return the fields of the outcome but its artifact.

    The files that the build makes belong to the user. Raises what a build raises.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    request = {
        "image": encoded(image),
        "policy": policy,
        "target": str(target),
        "cwd": str(cwd),
        "environment": variables(),
    }
    interpreter, *program = process.own_python("pytest_dibctl.build.elevated")
    # -B: root's compiled modules do not belong into an environment of the user's.
    argv = [*SUDO, interpreter, "-B", *program]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        process.spawn(
            argv, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, grace=STOP_GRACE
        ) as child,
    ):
        try:
            _send(child, request)
            for answer in _answers(child):
                if "outcome" in answer:
                    return dict(answer["outcome"])
                if "error" in answer:
                    raise _error(answer["error"])
                progress(str(answer.get("progress", "")))
        finally:
            # The child ends when this pipe closes; it belongs to root, so no signal of ours reaches it.
            with contextlib.suppress(BrokenPipeError):
                if child.stdin is not None:
                    child.stdin.close()
        child.wait()
        said.seek(0)
        last = "".join(f"\n  {line}" for line in said.read().strip().splitlines()[-5:])
        raise BuildError(f"{image.at()}: the build as root gave no result{last}")


def _send(child: subprocess.Popen[str], request: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the child has ended; its output says why
        if child.stdin is not None:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()


def _answers(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    lines: IO[str] | tuple[str, ...] = child.stdout or ()
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)


def _error(told: Mapping[str, Any]) -> DibctlError:
    kind = getattr(errors, str(told["kind"]), None)
    known = kind if isinstance(kind, type) and issubclass(kind, DibctlError) else BuildError
    return known(told["message"], hint=told["hint"], exit_code=told["exit_code"])


# -- what passes through the pipe ------------------------------------------------------------------


def encoded(image: Entry[Image]) -> dict[str, Any]:
    """Return an image's entry as plain data."""
    return {
        "label": image.label,
        "settings": image.settings.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "path": str(image.path),
        "display_name": image.display_name,
        "marks": {key: dataclasses.asdict(mark) for key, mark in image.marks.items()},
    }
