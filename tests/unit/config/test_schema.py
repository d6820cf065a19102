"""The JSON Schemas: as checked in, true to dibctl's files, and as strict as the models where they can be."""

from __future__ import annotations

import functools
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from pytest_dibctl.config.kinds import KINDS, Kind
from pytest_dibctl.config.schema import path, render, schema

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "tests" / "data" / "dibctl-examples"


@functools.cache
def validator(kind: Kind) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(kind))


def valid(kind: Kind, text: str) -> bool:
    return bool(validator(kind).is_valid(yaml.safe_load(text)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_checked_in_file_is_what_the_models_say(kind: Kind) -> None:
    shipped = path(kind).relative_to(ROOT)
    assert path(kind).read_text() == render(kind), f"run: dibctl schema {kind} > {shipped}"


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_schema(kind: Kind) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_dibctl_are_valid(kind: Kind) -> None:
    jsonschema.validate(yaml.safe_load((EXAMPLES / f"{kind}.yaml").read_text()), schema(kind))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("images", ""),
        ("images", "a: {filename: 12.10, dib: {elements: [x], environment_variables: {A: 1, B: yes}}}"),
        ("images", "a: {filename: x, tests: {tests_list: [{shell: b, needs: [kernel, clock]}]}}"),
        ("test", "a: {qemu: {}}"),
        ("test", "a: {qemu: {}, vouches: false}"),
        ("test", "a: {keystone: {OS_USERNAME: x, Pass: 1}, nova: {flavor: 1}}"),
        (
            "test",
            "a: {keystone: {}, nova: {flavor: 1}, preprocessing: {cmdline: x, output_filename: y}}",
        ),
        ("upload", "a: {external_upload: [{cmdline: x}]}"),
    ],
)
def test_what_is_valid(kind: Kind, text: str) -> None:
    assert valid(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("images", "a: {}"),
        ("test", "a: {qemu: {}, preprocessing: {cmdline: x, output_filename: y}}"),
        ("images", "a: {filename: x, filenam: y}"),
        ("images", "a: {filename: ''}"),
        ("images", "a: {filename: x, dib: {elements: []}}"),
        ("images", "a: {filename: x, dib: {elements: [b, b]}}"),
        ("images", "a: {filename: x, dib: {elements: [b], min_version: new}}"),
        ("images", "a: {filename: x, tests: {tests_list: [{shell: b, pytest: c}]}}"),
        ("images", "a: {filename: x, tests: {tests_list: [{timeout: 1}]}}"),
        ("images", "a: {filename: x, tests: {tests_list: [{shell: b, needs: [gpu]}]}}"),
        ("images", "a: {filename: x, tests: {tests_list: [{image: b, needs: [disk]}]}}"),
        ("images", "a: {filename: x, tests: {wait_for_port: 70000}}"),
        ("test", "a: {}"),
        ("test", "a: {keystone: {}}"),
        ("test", "a: {keystone: {}, nova: {flavor: b}, qemu: {}}"),
        ("test", "a: {qemu: {}, nova: {flavor: b}}"),
        ("test", "a: {keystone: {}, nova: {}}"),
        ("test", "a: {keystone: {}, nova: {flavor: b, flavor_id: c}}"),
        ("test", "a: {keystone: {pasword: x}, nova: {flavor: b}}"),
        ("test", "a: {qemu: {userdata: a, userdata_file: b}}"),
        ("upload", "a: {}"),
        ("upload", "a: {keystone: {}, preprocessing: {cmdline: x}}"),
    ],
)
def test_what_is_not_valid(kind: Kind, text: str) -> None:
    assert not valid(kind, text)
