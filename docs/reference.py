"""Write the pages of ``docs/reference/`` that the code itself tells: keys, options, commands, fixtures.

Usage: ``python docs/reference.py``. With ``--check`` it writes nothing, and its exit code is 1 if a page is
not what today's code gives.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))

from pytest_dibctl import plugin
from pytest_dibctl.cli import main as cli
from pytest_dibctl.cli.results import schema as results
from pytest_dibctl.config.kinds import KINDS, Kind
from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.config.models.glance import Glance
from pytest_dibctl.config.models.key import Key, key_of
from pytest_dibctl.config.models.keystone import KEYSTONE_ALIASES, Keystone
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.schema import schema
from pytest_dibctl.plugin import facts, fixtures, host

FOLDER: Final = Path(__file__).with_name("reference")
MARK: Final = "<!-- Written by docs/reference.py; change the code that it reads. -->"
SHARED: Final[Mapping[type[Section], str]] = {
    Glance: "glance",
    Keystone: "keystone",
    Preprocessing: "preprocessing",
}
"""Sections that stand in several files, and have a page of their own."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, and an empty one."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]


# -- keys of the configuration files ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A section of a file: the path of keys that leads to it."""

    path: str
    model: type[Section]


def sections(model: type[Section], path: str = "") -> Iterator[Place]:
    """Yield a section and those below it; a shared one is left to its own page."""
    yield Place(path=path, model=model)
    for name, field in model.model_fields.items():
        for child, is_list in models_in(field.annotation):
            if child not in SHARED:
                yield from sections(child, f"{path}.{name}".lstrip(".") + ("[]" if is_list else ""))


def models_in(annotation: Any, *, is_list: bool = False) -> Iterator[tuple[type[Section], bool]]:
    """Yield the sections that an annotation names, and whether they are items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, is_list
    for part in get_args(annotation):
        yield from models_in(part, is_list=is_list or getattr(annotation, "__origin__", None) is tuple)


def type_of(value: Mapping[str, Any]) -> str:
    """Return what a JSON Schema says of a value, in words."""
    if "anyOf" in value:
        return " or ".join(
            dict.fromkeys(type_of(part) for part in value["anyOf"] if part != {"type": "null"})
        )
    if "enum" in value or "const" in value:
        return ", ".join(f"`{item}`" for item in value.get("enum", [value.get("const")]))
    if "$ref" in value:
        return "section"
    if value.get("type") == "array":
        return f"list of {plural(type_of(value['items']))}"
    return scalar(value)


def scalar(value: Mapping[str, Any]) -> str:
    """Return the same of a value that is no list and no section."""
    kind = value.get("type")
    words = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true` or `false`",
        "object": "map of texts",
    }
    word = words.get(kind, "text") if isinstance(kind, str) else "text"
    limits = [value.get("minimum"), value.get("maximum")]
    if limits[1] is not None:
        return f"{word}, {limits[0]} to {limits[1]}"
    return f"{word}, at least {limits[0]}" if limits[0] else word


def plural(word: str) -> str:
    """Return the word for several; values that are spelled out stay."""
    return word if word.startswith("`") else f"{word}s"


def default_of(field: Any, key: Key, value: Mapping[str, Any]) -> str:
    """Return what counts where the key is left out."""
    if field.is_required():
        return "**required**"
    if key.default is not None:
        return key.default
    default = value.get("default")
    return f"`{json.dumps(default).strip(chr(34))}`" if default not in (None, [], {}) else ""


def key_rows(model: type[Section], definitions: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each key of a section."""
    for name, field in model.model_fields.items():
        value, key = definitions[model.__name__]["properties"][name], key_of(field)
        if key is None:
            raise ValueError(f"{model.__name__}.{name} has no description")
        meaning = [key.meaning]
        if key.merge:
            meaning.append(f"If the image and the environment both set it, {key.merge}.")
        if model is Keystone and KEYSTONE_ALIASES[name]:
            meaning.append(f"Also {', '.join(f'`{alias}`' for alias in KEYSTONE_ALIASES[name])}.")
        if key.example is not None:
            meaning.append(f"Example: `{key.example}`")
        shared = next((SHARED[child] for child, _ in models_in(field.annotation) if child in SHARED), None)
        kind = f"[section](shared-sections.md#{shared})" if shared else type_of(value)
        yield (
            f"`{name}`",
            f"{kind}; {key.unit}" if key.unit else kind,
            " ".join(meaning),
            default_of(field, key, value),
        )


KEY_HEAD: Final = ("Key", "Value", "Meaning", "Default")


def file_page(kind: Kind, intro: str) -> list[str]:
    """Return the page of one configuration file."""
    lines = [f"# {kind}.yaml", "", intro, ""]
    definitions = schema(kind)["$defs"]
    for place in sections(KINDS[kind]):
        lines += [f"## {f'`{place.path}`' if place.path else 'Each label'}", "", summary(place.model), ""]
        lines += table(KEY_HEAD, key_rows(place.model, definitions))
    return lines


def shared_page() -> list[str]:
    """Return the page of the sections that stand in several files."""
    lines = ["# Sections of several files", "", "These sections may stand in more than one of the files.", ""]
    definitions = schema("upload")["$defs"]
    for model, name in SHARED.items():
        lines += [f"## {name}", "", summary(model), "", *table(KEY_HEAD, key_rows(model, definitions))]
    return lines


def summary(thing: Any) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((thing.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")


def whole(thing: Any) -> str:
    """Return a docstring on one line."""
    return " ".join((thing.__doc__ or "").split()).replace("``", "`")


# -- options, commands, fixtures --------------------------------------------------------------------


class Recorder:
    """Stands for pytest's parser and configuration: keeps what the plugin declares."""

    def __init__(self) -> None:
        self.options: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        self.settings: list[tuple[str, str, dict[str, Any]]] = []
        self.marks: list[str] = []
        self.option = SimpleNamespace(help=True)

    def getgroup(self, *_names: str) -> Recorder:
        """Return the group of options: this."""
        return self

    def addoption(self, *names: str, **settings: Any) -> None:
        """Keep an option."""
        self.options.append((names, settings))

    def addini(self, name: str, text: str, **settings: Any) -> None:
        """Keep an ini setting."""
        self.settings.append((name, text, settings))

    def addinivalue_line(self, _name: str, line: str) -> None:
        """Keep the declaration of a mark."""
        self.marks.append(line)


def pytest_page() -> list[str]:
    """Return the page of the plugin's options, settings and marks."""
    recorder: Any = Recorder()
    plugin.pytest_addoption(recorder)
    plugin.pytest_configure(recorder)
    lines = ["# Options of pytest", "", "`pytest --help` prints the same, in the group `machine images`.", ""]
    lines += ["## Command line", "", *table(("Option", "Meaning"), map(option_row, recorder.options))]
    lines += [
        "## Settings",
        "",
        "In pytest.ini, `[tool.pytest.ini_options]` of pyproject.toml, or the like:",
        "",
    ]
    rows = [
        (f"`{name}`", sentence(text), f"`{json.dumps(settings.get('default')).strip(chr(34)) or 'none'}`")
        for name, text, settings in recorder.settings
    ]
    lines += table(("Setting", "Meaning", "Default"), rows)
    marks = [line.partition(": ") for line in recorder.marks]
    lines += ["## Marks", ""]
    return lines + table(("Mark", "Meaning"), [(f"`{name}`", sentence(text)) for name, _, text in marks])


def option_row(option: tuple[tuple[str, ...], Mapping[str, Any]]) -> tuple[str, str]:
    """Return the row of an option: its names with its value, and its meaning."""
    names, settings = option
    choices = settings.get("choices")
    value = settings.get("metavar") or ("{" + ",".join(choices) + "}" if choices else "")
    separator = "=" if names[-1].startswith("--") else " "
    shown = ", ".join(names) + (f"{separator}{value}" if value else "")
    return f"`{shown}`", sentence(settings.get("help") or "")


def sentence(text: str) -> str:
    """Return a help text with a capital and a full stop."""
    text = text.replace("%%", "%").strip()
    text = text if text.startswith(("`", "$", "ssh ")) else text[:1].upper() + text[1:]
    return text if text.endswith((".", ")")) else f"{text}."


def commands_page() -> list[str]:
    """Return the page of dibctl's commands."""
    parser = cli.build_parser()
    [commands] = (item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    lines = ["# Commands of dibctl", "", "Every command takes these:", ""]
    common = {name for action in parser._actions for name in action.option_strings}
    lines += table(
        ("Option", "Meaning"), [action_row(item) for item in parser._actions if item.option_strings]
    )
    for name, command in commands.choices.items():
        own = [item for item in command._actions if not common.intersection(item.option_strings)]
        lines += [f"## dibctl {name}", "", command.description or "", ""]
        if own:
            lines += table(("Argument", "Meaning"), [action_row(item) for item in own])
        if command.epilog:
            lines += ["```console", *example_lines(command.epilog), "```", ""]
    return lines


def example_lines(epilog: str) -> list[str]:
    """Return the command lines that the end of a help page shows."""
    return [line.strip() for line in epilog.splitlines() if line.strip().startswith(("dibctl ", "pytest "))]


def action_row(action: argparse.Action) -> tuple[str, str]:
    """Return the row of an argument of a command."""
    if not action.option_strings:
        name = str(action.metavar or (action.dest if not action.choices else "|".join(action.choices)))
        return f"`{name}`", sentence(action.help or "")
    settings = {"metavar": action.metavar, "choices": action.choices, "help": action.help}
    if action.nargs != 0 and not (action.metavar or action.choices):
        settings["metavar"] = action.dest.upper()
    names = tuple(action.option_strings)
    shown, meaning = option_row((names, settings))
    return shown.replace("=", " ", 1), meaning


JSON_INTRO: Final = (
    "With `--json`, or `-f json`, these commands print one JSON document on the standard output. Messages go "
    "to the standard error. `dibctl schema --result COMMAND` prints the JSON Schema of a document. New keys "
    "may be added; keys that are listed here stay. Sizes are bytes, durations are seconds. With `-c` the "
    "document is a list of objects with the chosen columns."
)


def json_page() -> list[str]:
    """Return the page of what commands print with ``--json``."""
    lines = ["# JSON outputs", "", JSON_INTRO, ""]
    seen: dict[str, str] = {}
    for command, document in results.DOCUMENTS.items():
        lines += [f"## dibctl {command}", ""]
        if (same := seen.setdefault(repr(document), command)) != command:
            lines += [f"That of `dibctl {same}`.", ""]
            continue
        made = results.schema(command)
        is_list = made.get("type") == "array"
        content = made["items"] if is_list else made
        before = "A list of objects" if is_list else "An object"
        for kind in content.get("anyOf", [content]):
            lines += json_object(kind, made.get("$defs", {}), before)
            before = "or"
    return lines


def json_object(value: Mapping[str, Any], definitions: Mapping[str, Any], before: str) -> list[str]:
    """Return the table of an object's keys, and those of the objects that it holds."""
    value = definitions[value["$ref"].rpartition("/")[2]] if "$ref" in value else value
    keys = value["properties"]
    optional = {name: " (may be left out)" for name in keys if name not in value["required"]}
    rows = [
        (f"`{name}`{optional.get(name, '')}", json_type(part), sentence(part["description"]))
        for name, part in keys.items()
    ]
    about: str = value["description"]
    lines = [f"{before}: {about[0].lower()}{about[1:]}", "", *table(("Key", "Value", "Meaning"), rows)]
    for name, part in keys.items():
        inner = part.get("items", part)
        if "$ref" in inner:
            kind = "A list of objects" if "items" in part else "An object"
            lines += [f"### `{name}`", "", *json_object(inner, definitions, kind)]
    return lines


def json_type(value: Mapping[str, Any]) -> str:
    """Return what the schema of a result says of a value, in words."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(json_type(part) for part in value["anyOf"]))
    if value.get("type") == "null":
        return "null"
    if "$ref" in value:
        return "object"
    if value.get("type") == "array":
        return f"list of {plural(json_type(value['items']))}"
    if value.get("type") == "object":
        inner = json_type(value["additionalProperties"])
        return f"map of {inner.replace('list', 'lists', 1) if 'list of' in inner else plural(inner)}"
    return type_of(value)


def fixtures_page() -> list[str]:
    """Return the page of the fixtures."""
    rows = []
    for module in (fixtures, facts, host):
        for name, value in vars(module).items():
            if type(value).__name__ != "FixtureFunctionDefinition" or name.startswith("_"):
                continue
            function = value._get_wrapped_function()
            if function.__module__ == module.__name__:
                scope = "test" if value._fixture_function_marker.scope == "function" else "image"
                rows.append((f"`{value.name or name}`", scope, whole(function)))
    lines = [
        "# Fixtures",
        "",
        "`pytest --fixtures` prints the same. A conftest.py can override each of them.",
        "",
    ]
    lines += [
        "A fixture of scope `image` is made once for an image in an environment, and is shared by its tests.",
        "",
    ]
    return lines + table(("Fixture", "Scope", "Value"), rows)


INTROS: Final[Mapping[Kind, str]] = {
    "images": "How each image is built, published and tested. Its label is the key at the top.",
    "test": "Where test instances run. An entry has `qemu`, `nspawn`, or `keystone` and `nova`. The labels "
    "`local` (`qemu` with its defaults) and `container` (`nspawn` with its defaults) are built in.",
    "upload": "Where tested images are published. An entry has `keystone`, or `external_upload`.",
}


def pages() -> dict[str, str]:
    """Return each page's text by the name of its file."""
    found = {f"{kind}-yaml.md": file_page(kind, intro) for kind, intro in INTROS.items()}
    found |= {
        "shared-sections.md": shared_page(),
        "pytest.md": pytest_page(),
        "commands.md": commands_page(),
        "fixtures.md": fixtures_page(),
        "json.md": json_page(),
    }
    return {name: "\n".join([MARK, "", *lines]).rstrip() + "\n" for name, lines in found.items()}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or compare those that are there; return the exit code."""
    FOLDER.mkdir(exist_ok=True)
    old = {name: (FOLDER / name).read_text() if (FOLDER / name).exists() else "" for name in pages()}
    stale = [name for name, text in pages().items() if old[name] != text]
    if "--check" in arguments:
        for name in stale:
            print(f"docs/reference/{name} is not up to date: run `python docs/reference.py`")
        return int(bool(stale))
    for name in stale:
        (FOLDER / name).write_text(pages()[name])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
