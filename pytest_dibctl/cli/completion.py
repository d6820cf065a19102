"""``dibctl completion``, and the answer when a shell asks: commands, options, labels of the configuration."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_dibctl.cli.command import Arguments, Command
from pytest_dibctl.errors import ExitCode

VARIABLE = "_ARGCOMPLETE"
"""The environment variable by which the shell's function asks for completions."""
SHELLS = ("bash", "zsh", "fish")
LABELS = {
    "LABEL": "environments",
    "ENV": "uploads",
    "SOURCE": "uploads",
    "DESTINATION": "uploads",
    "IMAGE": "images",
}
"""The kind of labels, by the metavar of an argument; an argument called ``image`` takes an image's label."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def _run(arguments: Arguments) -> int:
    print(shell_code(arguments.shell))
    return ExitCode.OK


def shell_code(shell: str) -> str:
    """Return the code that makes a shell complete ``dibctl``."""
    from argcomplete.shell_integration import shellcode

    return str(shellcode(["dibctl"], shell=shell))


def is_asked() -> bool:
    """Whether a shell asks for completions."""
    return VARIABLE in os.environ


def answer(parser: argparse.ArgumentParser) -> None:
    """Print completions and exit if a shell asks for them; else return at once."""
    if not is_asked():
        return
    import argcomplete

    for action in _actions(parser):
        kind = "images" if action.dest == "image" else LABELS.get(str(action.metavar))
        if kind is not None:
            action.completer = _labels(kind)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 -- argparse has no other way to its commands
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for child in action.choices.values():
                yield from _actions(child)


def _labels(kind: str) -> Callable[..., Iterable[str]]:
    def complete(parsed_args: argparse.Namespace, **_others: Any) -> Iterable[str]:
        from pytest_dibctl.config import catalog
        from pytest_dibctl.config.kinds import KINDS

        config_files = {name: getattr(parsed_args, f"{name}_config", None) for name in KINDS}
        # Errors in the files are not shown: they would stand in the line that is being typed.
        loaded, _ = catalog.read(cwd=Path.cwd(), explicit=config_files)
        return sorted(getattr(loaded, kind))

    return complete


COMMAND = Command(
    name="completion",
    help="Print the code that makes a shell complete dibctl's command line.",
    add_options=_add_options,
    run=_run,
    examples=("dibctl completion bash > /etc/bash_completion.d/dibctl",),
)
