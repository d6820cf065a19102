"""Options that messages name exist where the reader types them: in pytest, or in a command of dibctl."""

from __future__ import annotations

import argparse
import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_dibctl
from pytest_dibctl.cli import main
from pytest_dibctl.cli.command import Command

PACKAGE = Path(pytest_dibctl.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
QUOTED = re.compile(r"`dibctl ([a-z-]+)([^`]*)`")
DIBCTL_ONLY = {"cli", "publish", "cleanup", "repository"}
"""Rooms whose messages `dibctl` alone shows, or that name its commands."""


@functools.cache
def texts() -> tuple[tuple[str, str], ...]:
    """Return each text of the package that is no docstring, with its place; values filled in are `{}`."""
    return tuple(_texts())


def _texts() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        skipped |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if id(node) in skipped or not isinstance(node, (ast.Constant, ast.JoinedStr)):
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            values = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
            yield f"{path.relative_to(PACKAGE)}:{node.lineno}", "".join(map(str, values))


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = [
        action for action in main.build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(action.choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def of_pytest(config: pytest.Config) -> set[str]:
    return {name for option in config._parser._anonymous.options for name in option.names()} | {
        name for group in config._parser._groups for option in group.options for name in option.names()
    }


def test_every_dib_option_exists_in_pytest(pytestconfig: pytest.Config) -> None:
    known = of_pytest(pytestconfig)
    assert "--dib-image" in known
    named = {
        (place, name) for place, text in texts() for name in OPTION.findall(text) if name.startswith("--dib-")
    }
    assert len(named) > 20
    # A text may hold the beginning that several have.
    assert [found for found in named if not any(name.startswith(found[1]) for name in known)] == []


def test_messages_of_pytest_name_no_option_of_dibctl(pytestconfig: pytest.Config) -> None:
    alien = set().union(*map(options, commands().values())) - of_pytest(pytestconfig)
    assert {"--output", "--input"} <= alien
    wrong = [
        (place, text)
        for place, text in texts()
        if place.split("/")[0] not in DIBCTL_ONLY and " " in text
        for found in OPTION.finditer(text)
        if found[0] in alien and "dibctl" not in text[: found.start()]
    ]
    assert wrong == []


def test_commands_in_messages_exist_with_their_options() -> None:
    known = commands()
    found = [(place, match) for place, text in texts() for match in QUOTED.finditer(text)]
    assert len(found) > 10
    for place, (name, rest) in ((place, match.groups()) for place, match in found):
        assert name in known, place
        assert set(OPTION.findall(rest)) <= options(known[name]), place


@pytest.mark.parametrize("command", main.COMMANDS, ids=lambda command: str(command.name))
def test_help_has_an_example_that_is_one(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.examples
    for example in command.examples:
        argv = shlex.split(example.partition(" > ")[0])
        parsed = main.build_parser().parse_args(argv[1:])
        assert (argv[0], parsed.command) == ("dibctl", command.name)
    with pytest.raises(SystemExit):
        main.main([command.name, "--help"])
    shown = capsys.readouterr().out
    assert all(example in shown for example in command.examples)
    own, common, examples = shown.partition("options of every command:")
    assert common
    assert "--images-config" in examples
    assert "--debug  " not in own
