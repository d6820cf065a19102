"""One YAML file -> plain data, the place of every key, and everything that is wrong with it as YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pytest_dibctl.config.yaml.composer import MERGE, Composer, MappingValue, Node
from pytest_dibctl.config.yaml.marks import Mark
from pytest_dibctl.config.yaml.problems import Problem, UnreadableError, in_file_order, refuse
from pytest_dibctl.config.yaml.syntax import refuse_syntax
from pytest_dibctl.config.yaml.text import read_text
from pytest_dibctl.system.text import is_visible, visible_line

PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it (ten times faster), else pure Python."""

LONGEST_LABEL = 100
"""Bytes of a label: with what names add to it, they fit into the 255 of files, images and instances."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """The content of a file. ``data`` maps labels to plain data, ``marks`` dotted keys to their places.

    ``display_name`` is the file's name in messages. A file that cannot be read to its end has no data.
    """

    path: Path
    display_name: str
    data: Mapping[str, Any]
    marks: Mapping[str, Mark]
    problems: tuple[Problem, ...] = ()


def read(path: Path, display_name: str | None = None) -> Document:
    """Read a file; what is wrong with it is in the result's ``problems``. Raises nothing.

    ``display_name`` is the file's name in messages (its path).
    """
    display_name = display_name or str(path)
    try:
        text = read_text(path, display_name)
    except UnreadableError as error:
        return Document(path=path, display_name=display_name, data={}, marks={}, problems=(error.problem,))
    return parse(text, path=path, display_name=display_name)


def parse(text: str, *, path: Path, display_name: str) -> Document:
    """Like ``read``, for text that is already in memory."""
    composer = Composer(display_name)
    try:
        root = _compose(composer, text)
        labels = _labels(root, composer)
    except UnreadableError as error:
        problems = (*in_file_order(composer.problems), error.problem)
        return Document(path=path, display_name=display_name, data={}, marks={}, problems=problems)
    marks: dict[str, Mark] = {}
    data = _plain_mapping(labels, "", marks)
    return Document(
        path=path,
        display_name=display_name,
        data=data,
        marks=marks,
        problems=in_file_order(composer.problems),
    )


def _compose(composer: Composer, text: str) -> Node | None:
    try:
        return composer.compose(yaml.parse(text, Loader=PARSER))
    except yaml.YAMLError as error:
        refuse_syntax(error, text, composer.display_name)


def _labels(root: Node | None, composer: Composer) -> MappingValue:
    """Return the root's mapping of labels to entries, and note the labels that are wrong.

    Raises UnreadableError if the root is anything else than a mapping or nothing.
    """
    if root is None or root.value is None:
        return MappingValue({})
    if not isinstance(root.value, MappingValue):
        kind = "a list" if isinstance(root.value, list) else "a single value"
        refuse(
            composer.display_name,
            f"must map labels to entries (`label:` and its keys below it), not be {kind}",
            root.mark,
        )
    for label, (key, _) in root.value.items.items():
        if not isinstance(key.value, str):
            composer.problem(
                key.mark, label, f'YAML does not read this label as text; put it in quotes: "{label}":'
            )
        elif not label.strip():
            composer.problem(key.mark, None, "a label must not be empty")
        elif not is_visible(label):
            composer.problem(
                key.mark,
                None,
                f"the label '{visible_line(label)}' has characters that control a terminal or cannot be seen",
            )
        elif len(label.encode()) > LONGEST_LABEL:
            composer.problem(
                key.mark,
                None,
                f"the label {label[:20]!r}... has {len(label.encode())} bytes; the limit is {LONGEST_LABEL}, "
                "since names of files, images and instances are made of it",
            )
    return root.value


def _plain(node: Node, key: str, marks: dict[str, Mark]) -> Any:
    """Return the plain data of ``node``, which stands at the dotted ``key``; add the places to ``marks``.

    It recurses: the composer has refused what is nested deeper than its limit.
    """
    if isinstance(node.value, MappingValue):
        return _plain_mapping(node.value, key, marks)
    if isinstance(node.value, list):
        marks.update({f"{key}[{index}]": item.mark for index, item in enumerate(node.value)})
        return [_plain(item, f"{key}[{index}]", marks) for index, item in enumerate(node.value)]
    return "<<" if node.value is MERGE else node.value


def _plain_mapping(mapping: MappingValue, key: str, marks: dict[str, Mark]) -> dict[str, Any]:
    data = {}
    for name, (name_node, value) in mapping.items.items():
        inner_key = f"{key}.{name}" if key else name
        marks[inner_key] = name_node.mark
        data[name] = _plain(value, inner_key, marks)
    return data
