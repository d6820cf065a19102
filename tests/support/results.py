"""What commands print with ``--json`` in tests is compared with its schema."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from pytest_dibctl.cli import main, output
from pytest_dibctl.cli.command import Arguments, Command


@functools.cache
def validator(command: str) -> Any:
    """Return what a command's document is compared with."""
    from pytest_dibctl.cli.results import schema  # lazily: most tests print none

    return jsonschema.Draft202012Validator(schema.schema(command))


def check(command: str, text: str) -> Any:
    """Return the document that a command printed, once it is known to be what its schema says."""
    document = json.loads(text)
    validator(command).validate(document)
    return document


_running: contextvars.ContextVar[tuple[str, Arguments] | None] = contextvars.ContextVar(
    "running", default=None
)
"""The command of this thread: some tests run several at a time."""
_print_json = output.print_json


def print_json(data: object) -> None:
    """Stand for ``output.print_json``; a list of chosen columns has no schema."""
    running = _running.get()
    if running is not None and not getattr(running[1], "columns", None):
        check(running[0], json.dumps(data))
    _print_json(data)


def _checked(command: Command) -> Command:
    def run(arguments: Arguments) -> int:
        token = _running.set((command.name, arguments))
        try:
            return command.run(arguments)
        finally:
            _running.reset(token)

    return dataclasses.replace(command, run=run)


COMMANDS = tuple(map(_checked, main.COMMANDS))
"""Those of ``dibctl``, which fail in a test that has them print a document of another shape."""
