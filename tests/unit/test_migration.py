"""docs/migration.md: every row is compared with the program, and nothing that dibctl knew is left out."""

from __future__ import annotations

import argparse
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from pydantic import BaseModel

from pytest_dibctl.cli import main
from pytest_dibctl.clouds.protocols import Instance
from pytest_dibctl.config import catalog
from pytest_dibctl.config.kinds import KINDS, Kind
from pytest_dibctl.config.models.glance import Glance
from pytest_dibctl.config.models.keystone import Keystone
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.plugin import facts, fixtures, host
from pytest_dibctl.run import variables
from tests.support import memory

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/migration.md").read_text()
EXAMPLES = ROOT / "tests/data/dibctl-examples"
"""Files with every key that dibctl read."""
OPEN = {"properties", "environment_variables", "neutron"}
"""Sections whose keys are the user's."""


def rows(heading: str) -> dict[str, tuple[str, str]]:
    """Return a table: what dibctl has, with ours and the note."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ")[0]
    found = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| ?(.*?) ?\|$", section, re.MULTILINE)
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(found) == len(lines) - 2, f"a row of {heading} cannot be read"
    assert len({theirs for theirs, _, _ in found}) == len(found)
    return {theirs: (ours, note) for theirs, ours, note in found}


def cells(*headings: str) -> list[Any]:
    return [
        pytest.param(heading, theirs, ours, id=f"{heading}: {theirs}")
        for heading in headings
        for theirs, (ours, _) in rows(heading).items()
    ]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a field's type consists of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def has(model: type[BaseModel], dotted: str) -> bool:
    """Return whether a section has a key, in a section below it where there is a dot."""
    first, _, rest = dotted.partition(".")
    field = model.model_fields.get(first)
    if field is None or not rest:
        return field is not None
    return any(has(below, rest) for below in models_in(field.annotation))


def keys(data: Any, above: str = "") -> Iterator[str]:
    """Yield the dotted keys of an entry; items of lists count as their list."""
    if isinstance(data, list):
        for item in data:
            yield from keys(item, above)
    elif isinstance(data, Mapping):
        for key, value in data.items():
            name = f"{above}.{key}" if above else str(key)
            yield name
            if key not in OPEN:
                yield from keys(value, name)


KINDS_OF_FILE: tuple[Kind, ...] = tuple(KINDS)


@pytest.mark.parametrize(("heading", "theirs", "ours"), cells("images.yaml", "test.yaml", "upload.yaml"))
def test_the_key_is_read(heading: str, theirs: str, ours: str) -> None:
    kind = next(kind for kind in KINDS_OF_FILE if heading == f"{kind}.yaml")
    assert has(KINDS[kind], ours)
    assert has(KINDS[kind], theirs), "the old name must load unchanged"


@pytest.mark.parametrize(("heading", "theirs", "ours"), cells("glance"))
def test_the_key_of_glance_is_read(heading: str, theirs: str, ours: str) -> None:
    assert heading
    assert has(Glance, theirs)
    assert has(Glance, ours)


@pytest.mark.parametrize(("heading", "theirs", "ours"), cells("keystone"))
def test_the_name_in_keystone_means_ours(heading: str, theirs: str, ours: str) -> None:
    assert heading
    value: str | int = 3 if theirs == "api_version" else "https://example.com/"
    for name in (theirs, theirs.upper()):
        found = getattr(Keystone.model_validate({name: value}), ours)
        assert value in (found, getattr(found, "get_secret_value", lambda: None)())


@pytest.mark.parametrize("kind", KINDS_OF_FILE)
def test_no_key_of_dibctl_s_examples_is_left_out(kind: Kind) -> None:
    entries = yaml.safe_load((EXAMPLES / f"{kind}.yaml").read_text()).values()
    used = {key for entry in entries for key in keys(entry)}
    documented = set(rows(f"{kind}.yaml"))
    documented |= {f"glance.{key}" for key in rows("glance")}
    spellings = {f"keystone.{key}" for key in rows("keystone")}
    parts = [key.split(".") for key in documented]
    above = {".".join(names[:number]) for names in parts for number in range(1, len(names))}
    assert {key for key in used if key.lower() not in documented | spellings | above} == set()


DEPRECATED: dict[str, dict[str, Any]] = {
    "neutron": {"neutron": {}},
    "glance.api_version": {"glance": {"api_version": 1}},
    "keystone.api_version": {"keystone": {"auth_url": "https://a/v3", "api_version": 2}},
    "keystone.auth_url": {"keystone": {"auth_url": "https://a/v2.0"}},
}
"""An environment of test.yaml for each setting that warns, but for what each needs."""


@pytest.mark.parametrize("key", DEPRECATED)
def test_what_warns_does(key: str, tmp_path: Path) -> None:
    needed = {"keystone": {"auth_url": "https://a/v3"}, "nova": {"flavor": "a"}}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"env": {**needed, **DEPRECATED[key]}}))
    [warning] = catalog.load(cwd=tmp_path, need=(), system=tmp_path / "none").warnings
    assert key in warning


def test_the_page_names_all_that_warns() -> None:
    marked = {
        f"{heading}.{theirs}" if heading != "test.yaml" else theirs
        for heading in ("images.yaml", "test.yaml", "upload.yaml", "glance", "keystone")
        for theirs, (_, note) in rows(heading).items()
        if "**warns**" in note
    }
    assert marked == set(DEPRECATED)


def test_scripts_get_dibctl_s_variables(tmp_path: Path) -> None:
    key = SshKey(private_key_file=tmp_path / "key", public_key="", fingerprint="")
    access = SshAccess(ip="192.0.2.1", port=22, username="debian", key=key, directory=tmp_path)
    instance = memory.MemoryInstance(id="1", name="a")
    given = variables.for_tests(cast("Instance", instance), access, {"NAME": "value"})
    table = rows("Variables of shell tests")
    patterns = [re.sub(r"_KEY$", r"_\\w+", ours) for ours, _ in table.values()]
    assert [name for name in patterns if not any(re.fullmatch(name, known) for known in given)] == []
    assert [name for name, (ours, _) in table.items() if name != ours] == []
    numbered = [re.sub("1", r"\\d", pattern) for pattern in patterns]
    assert [name for name in given if not any(re.fullmatch(known, name) for known in numbered)] == []


def test_fixtures_are_there() -> None:
    known = {name for module in (facts, fixtures, host) for name in vars(module)}
    assert [ours for ours, _ in rows("Fixtures").values() if ours not in known] == []


def commands() -> Mapping[str, argparse.ArgumentParser]:
    parser = main.build_parser()
    [action] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {"": parser, **action.choices}


def test_commands_and_options_are_there() -> None:
    parsers = commands()
    for theirs, (ours, _) in rows("Commands and options").items():
        for line in (theirs, ours):
            words = line.split()[1:]
            name = words.pop(0) if words and not words[0].startswith("-") else ""
            known = {option for action in parsers[name]._actions for option in action.option_strings}
            assert set(words) <= known, line


def test_exit_codes_are_dibctl_s() -> None:
    assert {int(theirs): ours for theirs, (ours, _) in rows("Exit codes").items()} == {
        int(code): code.name for code in ExitCode
    }
