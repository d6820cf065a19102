"""The schemas of what commands print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from pytest_dibctl.cli import main
from pytest_dibctl.cli.parser import options
from pytest_dibctl.cli.results import schema
from pytest_dibctl.errors import ExitCode
from tests.support import results


def objects(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of a schema that list the keys of an object."""
    if isinstance(part, dict):
        if "properties" in part:
            yield part
        for value in part.values():
            yield from objects(value)
    elif isinstance(part, list):
        for value in part:
            yield from objects(value)


@pytest.mark.parametrize("command", schema.DOCUMENTS)
def test_every_key_is_described_and_no_other_is_allowed(command: str) -> None:
    made = schema.schema(command)
    jsonschema.Draft202012Validator.check_schema(made)
    found = list(objects(made))
    assert found
    for each in found:
        assert each["additionalProperties"] is False
        assert each["description"]
        assert [name for name, value in each["properties"].items() if not value.get("description")] == []


def test_every_command_that_prints_json_has_a_schema() -> None:
    parser = main.build_parser()
    [commands] = (item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    printing = {name for name, child in commands.choices.items() if "--json" in [*options(child)]}
    assert printing | {"matrix"} == set(schema.DOCUMENTS)


def test_a_key_that_no_schema_has_fails() -> None:
    document = [{"run_id": "1", "what": "x", "outcome": "removed", "failed": False}]
    assert results.check("cleanup", json.dumps(document)) == document
    with pytest.raises(jsonschema.ValidationError, match="'colour' was unexpected"):
        results.check("cleanup", json.dumps([{**document[0], "colour": "blue"}]))
    with pytest.raises(jsonschema.ValidationError, match="'failed' is a required property"):
        results.check("cleanup", json.dumps([{"run_id": "1", "what": "x", "outcome": "removed"}]))


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["schema", "--result", "list"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == schema.schema("list")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "`dibctl schema images`"),
        (("images", "--result", "list"), "`dibctl schema images`"),
        (("--result", "list", "--path"), "--path is for the schema of a file"),
        (("--result", "staus"), "there is no JSON of `dibctl staus`\nhint: did you mean 'status'?"),
        (("--result", "x"), "hint: there is of init, build, status, "),
    ],
)
def test_other_wishes_are_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["schema", *arguments]) == ExitCode.UNSPECIFIED
    assert said in capsys.readouterr().err
