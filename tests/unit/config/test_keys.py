"""Each key of the three files is described once, and what the description says is true."""

from __future__ import annotations

import dataclasses
import pkgutil
from importlib import import_module
from typing import Annotated, Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pytest_dibctl.config import merge, models
from pytest_dibctl.config.catalog import load
from pytest_dibctl.config.kinds import KINDS, Kind
from pytest_dibctl.config.models.instance import NovaTimeouts
from pytest_dibctl.config.models.key import Key, key_of
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.schema import schema
from pytest_dibctl.errors import ConfigError
from tests.unit.config.support import Place

FIELDS = {
    f"{model.__name__}.{name}": field
    for module in pkgutil.iter_modules(models.__path__, f"{models.__name__}.")
    for model in vars(import_module(module.name)).values()
    if isinstance(model, type) and issubclass(model, Section) and model.__module__ == module.name
    for name, field in model.model_fields.items()
}


def described(field: FieldInfo) -> Key:
    key = key_of(field)
    assert key is not None
    return key


def test_every_key_has_a_description_of_whole_sentences() -> None:
    meanings = {name: described(field).meaning for name, field in FIELDS.items()}
    assert {name: meaning for name, meaning in meanings.items() if not is_a_sentence(meaning)} == {}


def is_a_sentence(meaning: str) -> bool:
    starts = meaning[0].isupper() or meaning.startswith(("diskimage-builder", "`"))
    return starts and meaning.endswith(".")


def test_no_description_repeats_the_default_of_the_model() -> None:
    # Editors show such a default by themselves.
    shown = {name for name, field in FIELDS.items() if isinstance(field.default, str | bool)}
    required = {name for name, field in FIELDS.items() if field.is_required()}
    assert required
    assert {name for name in shown | required if described(FIELDS[name]).default is not None} == set()


EXAMPLES = {name: field for name, field in FIELDS.items() if described(field).example}


def test_an_example_is_a_valid_value() -> None:
    assert len(EXAMPLES) > 100
    wrong = {name: str(error) for name, field in EXAMPLES.items() if (error := refused(field)) is not None}
    assert wrong == {}


def refused(field: FieldInfo) -> ValidationError | None:
    """Return what is wrong with the example of a key."""
    value = yaml.safe_load(described(field).example or "")
    annotation: Any = Annotated[(field.annotation, *field.metadata)]
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        return error
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_an_editor_shows_a_description_of_every_key(kind: Kind) -> None:
    missing = [
        f"{section}.{name}"
        for section, definition in schema(kind)["$defs"].items()
        for name, key in definition.get("properties", {}).items()
        if not key.get("description")
    ]
    assert missing == []


def test_the_defaults_of_deadlines_are_those_that_count() -> None:
    defaults = merge.Deadlines()
    for name, field in NovaTimeouts.model_fields.items():
        assert described(field).default == str(getattr(defaults, name.removesuffix("_timeout")))
    said = {
        described(model.model_fields["port_wait_timeout"]).default
        for kind, model in (
            ("images", KINDS["images"].model_fields["tests"].annotation),
            ("test", KINDS["test"].model_fields["tests"].annotation),
        )
        if model is not None and kind
    }
    local = merge.LOCAL_PORT_WAIT
    text = f"{defaults.port} in OpenStack, {local['qemu']:.0f} for local guests"
    assert said == {f"{text}, {local['nspawn']:.0f} for containers"}


@pytest.mark.parametrize(
    ("kind", "text", "hint"),
    [
        ("images", "a: {}\n", "filename: The image's file."),
        ("images", "a: {filname: x}\n", "filename: The image's file."),
        ("test", "a: {qemu: {memory: much}}\n", "memory: Memory of the guest. Unit: MiB."),
    ],
)
def test_an_error_says_what_the_key_means(place: Place, kind: str, text: str, hint: str) -> None:
    place.write("images.yaml", "b: {filename: y}\n")
    place.write(f"{kind}.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load(cwd=place.cwd, system=place.system)
    assert hint in str(caught.value.hint)


def test_many_errors_are_not_hidden_behind_descriptions(place: Place) -> None:
    place.write("images.yaml", "".join(f"a{n}: {{{key}: 1}}\n" for n, key in enumerate(("dib", "tests"))))
    place.write("test.yaml", "a: {qemu: {memory: x, disk: x, vcpus: x}}\n")
    with pytest.raises(ConfigError) as caught:
        load(cwd=place.cwd, system=place.system)
    assert caught.value.hint is None


def test_a_description_is_one_text() -> None:
    key = Key("What it is.", unit="MiB", default="1", merge="the larger counts")
    assert key.text == (
        "What it is. Unit: MiB. Default: 1. If the image and the environment both set it, the larger counts."
    )
    assert dataclasses.replace(key, unit=None, default=None, merge=None).text == "What it is."
