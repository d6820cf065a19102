"""The part of ``elevation`` that runs as root: one build, told through stdin; its files become the user's."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import signal
import stat
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.build import builder
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.yaml.marks import Mark
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.image import artifact

CLOCK_TICK: Final = 0.1
"""Seconds by which the times of files may lag behind the clock."""


def main() -> int:
    """Build by the request in the first line of stdin; the end of stdin interrupts the build."""
    user, group = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    started = time.time() - CLOCK_TICK
    request = json.loads(sys.stdin.readline())
    _become(request["environment"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    threading.Thread(target=_interrupt_at_end, daemon=True).start()
    target = Path(request["target"])
    # The folder as it is now: a folder that gets its name during the build is not given away.
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        answer = _answer(request, target)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        _give_made(folder, target, user, group, since=started)
    _say(answer)
    return 0


def _become(environment: Mapping[str, str]) -> None:
    """Take the user's variables; trees for later builds lie in root's own cache."""
    cache = Path(pwd.getpwuid(0).pw_dir, ".cache")
    # By these git, run as root, knows whose repositories it may read.
    invoker = {name: os.environ[name] for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER") if name in os.environ}
    os.environ.clear()
    os.environ.update({**environment, **invoker})
    os.environ["XDG_CACHE_HOME"] = str(cache)
    os.environ.setdefault("DIB_IMAGE_CACHE", str(cache / "image-create"))
    os.environ.setdefault("DIB_LOCKFILES", str(cache / "dib/lockfiles"))


def _answer(request: Mapping[str, Any], target: Path) -> dict[str, Any]:
    try:
        outcome = builder.build(
            _decoded(request["image"]),
            policy=request["policy"],
            output=target,
            cwd=Path(request["cwd"]),
            progress=lambda line: _say({"progress": line}),
        )
    except DibctlError as error:
        answer = {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
        return {"error": {"kind": type(error).__name__, **answer}}
    fields = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    del fields["artifact"], fields["log_file"]
    return {"outcome": {**fields, "phases": dict(outcome.phases), "scripts": dict(outcome.scripts)}}


def _decoded(image: Mapping[str, Any]) -> Entry[Image]:
    return Entry(
        label=image["label"],
        settings=Image.model_validate(image["settings"]),
        path=Path(image["path"]),
        display_name=image["display_name"],
        marks={key: Mark(**mark) for key, mark in image["marks"].items()},
    )


def _interrupt_at_end() -> None:
    while sys.stdin.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def _say(answer: Mapping[str, Any]) -> None:
    # The user's process may be gone; the build then ends by the end of stdin.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


# -- whose the files are ---------------------------------------------------------------------------


def _give_made(folder: int, target: Path, user: int, group: int, *, since: float) -> None:
    """Give what a build of ``target`` may have made in its open ``folder``, and its folder of manifests.

    No link is followed on the way, even if it is put there meanwhile.
    """
    stem = artifact.stem(target).name
    for name in os.listdir(folder):
        if name == f".{target.name}.lock" or name.startswith(f"{stem}."):
            _give(name, user, group, since=since, folder=folder)
    with contextlib.suppress(OSError):  # there is none
        for _, folders, files, inside in os.fwalk(f"{stem}.d", dir_fd=folder):
            for name in (*folders, *files):
                _give(name, user, group, since=since, folder=inside)


def _give(path: str | Path, user: int, group: int, *, since: float, folder: int | None = None) -> None:
    """Give a new file of root's to the user: no link, and no file that has another name elsewhere.

    ``path`` is below the open ``folder``; ``since`` is when the build began, in seconds since the epoch.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=folder)
    except OSError:
        return
    try:
        status = os.fstat(descriptor)
        single = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
        if status.st_uid == 0 and single and status.st_ctime >= since:
            os.fchown(descriptor, user, group)
    finally:
        os.close(descriptor)
