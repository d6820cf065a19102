"""The cause of a failed build by its log, and a hint."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Final

from pytest_dibctl.build import causes, steps
from pytest_dibctl.build.log import Watcher
from pytest_dibctl.build.plan import Plan
from pytest_dibctl.config.search import display_path
from pytest_dibctl.errors import BuildError
from pytest_dibctl.system import process

_NOT_STARTED: Final = (126, 127)
"""The exit codes of a shell that cannot start a program."""
_BY_SIGNAL: Final = range(129, 129 + 64)
"""The exit codes of a shell whose program a signal ended; 255 is an exit code like others."""
_SCRIPT: Final = re.compile(r"[A-Za-z0-9_-]+\.d/[A-Za-z0-9_-]+")
_COPY: Final = re.compile(rf"(?<![^\s:'\"])[^\s:'\"]*/(?:hooks|in_target\.d)/({_SCRIPT.pattern})")
"""A script by its own name: that of the copy that diskimage-builder makes of all elements' scripts.

Only whole words: from each character of a long one, the search would take minutes.
"""


def failed(plan: Plan, code: int, watcher: Watcher, seconds: float) -> BuildError:
    """Return the error of a build that ended with ``code`` after ``seconds``; the error has that code too."""
    failure = watcher.failure()
    hint = causes.hint(failure.text, directory=plan.target.parent, recipe=plan.recipe)
    if code in _NOT_STARTED and (missing := _not_started(plan, failure.where)):
        message, what_next = missing
        return BuildError(f"{message}\nlog: {plan.unfinished_log}", hint=hint or what_next, exit_code=code)
    ended = process.describe_exit(128 - code if code in _BY_SIGNAL else code)
    where = f" in {failure.where}" if failure.where else ""
    if own := _own_file(plan, failure.where):
        where += f" ({own})"
    lines = [_COPY.sub(lambda copy: _own_file(plan, copy[1]) or copy[0], line) for line in failure.lines]
    if causes.cut_off(failure.text, plan.target.parent):
        lines.append(f"{causes.NO_SPACE}; the log is cut off, too")
    if not lines and hint is None and failure.where and code not in _BY_SIGNAL:
        hint = "it wrote nothing; with `set -x` at its beginning the log shows its commands"
    last_lines = "".join(f"\n  {line}" for line in lines)
    return BuildError(
        f"{plan.image.at()}: the build {ended}{where} after {seconds:.0f} s{last_lines}\n"
        f"log: {plan.unfinished_log}",
        hint=hint,
        exit_code=code,
    )


def _own_file(plan: Plan, script: str) -> str | None:
    """Return the file of an element that ``script``, such as root.d/10-web, is a copy of, if one is known.

    The log says the name, and anything can write into the log.
    """
    if plan.recipe is None or not _SCRIPT.fullmatch(script):
        return None
    files: list[Path] = []
    for element in plan.recipe.elements:
        with contextlib.suppress(OSError):  # no file has a name of any length
            if (file := element.path / script).is_file():
                files.append(file)
    return display_path(files[0], plan.cwd.absolute()) if len(files) == 1 else None


def _not_started(plan: Plan, where: str) -> tuple[str, str] | None:
    """Say that the program of the step ``where`` cannot be started, and what to do; None when it can."""
    for number, step in enumerate(steps.external_steps(plan.image, plan.recipe, plan.target)):
        if step.name != where:
            continue
        program, place = step.argv[0], plan.image.at(steps.command_key(number))
        if "/" not in program:
            if shutil.which(program, path=plan.environment.get("PATH", process.tool_path())):
                return None
            return f"{place}: {program}: not found", "install it, or write its full path"
        file = plan.cwd / program
        if not file.exists():
            return f"{place}: {program}: not found", f"commands run in {plan.cwd.absolute()}"
        if file.is_dir() or not os.access(file, os.X_OK):
            return f"{place}: {program}: is not executable", f"chmod +x {shlex.quote(str(file))}"
    return None
