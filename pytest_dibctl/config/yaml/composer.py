"""The parser's events -> nodes, within limits on nesting and on what aliases expand to.

PyYAML's own composers do not serve, since neither limits nesting and ``PyYAML>=6.0`` brings no limit:

- The one in C recurses. PyYAML 6.0 to 6.0.3 carry libyaml 0.2.5, where 100,000 open brackets overflow the
  stack and kill the interpreter. The limit of 1,000 levels is libyaml 0.2.6's, in PyYAML 6.0.4's wheels; a
  PyYAML built from source has the libyaml of its machine.
- The one in Python, used where PyYAML was built without libyaml, raises RecursionError below 900 levels,
  sooner the deeper the caller's own stack is.

Besides, both give an alias the place of its anchor, refuse an anchor that is defined again, which YAML
allows, and leave uncounted what aliases expand to. ``Composer`` keeps the open collections in a list, so
that nesting takes no stack, and counts every node as if its aliases were written out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Final

import yaml

from pytest_dibctl.config.yaml.marks import Mark, dotted
from pytest_dibctl.config.yaml.problems import Problem, refuse
from pytest_dibctl.config.yaml.scalars import as_text, scalar

MAX_VALUES = 200_000
"""Values in one file with all aliases expanded: far above any real file, far below an alias bomb."""
MAX_DEPTH = 40
"""Levels of nesting; the deepest that a model knows is 6."""
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"
MERGE: Final = object()
"""The value of a plain ``<<`` key."""

_TAG = "tag:yaml.org,2002:"
_SCALAR_KINDS = frozenset({"str", "int", "float", "bool", "null", "merge", "timestamp", "value"})
_resolver = yaml.resolver.Resolver()


@dataclasses.dataclass(slots=True)
class MappingValue:
    """The value of a mapping node: per name the nodes of key and value, those merged by ``<<`` last."""

    items: dict[str, tuple[Node, Node]]


@dataclasses.dataclass(slots=True)
class Node:
    """A composed value: a scalar, MERGE, a list of nodes or a MappingValue.

    ``size`` and ``depth`` count the values and levels of the node itself and of all inside, aliases expanded.
    """

    mark: Mark
    value: Any
    size: int = 1
    depth: int = 1

    def children(self) -> list[Node]:
        """Return the nodes of a collection's values."""
        if isinstance(self.value, MappingValue):
            return [value for _, value in self.value.items.values()]
        return list(self.value)


@dataclasses.dataclass(slots=True)
class _OpenCollection:
    """A collection whose end has not come yet. The children of a mapping are its keys and values in turn."""

    mark: Mark
    anchor: str | None
    is_mapping: bool
    children: list[Node]


class Composer:
    """Builds the nodes of one file and collects its ``problems``; ``display_name`` is the file there."""

    def __init__(self, display_name: str) -> None:
        self.display_name = display_name
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node | None] = {}
        """None while the collection that an anchor names is still open."""
        self._open: list[_OpenCollection] = []
        self._root: Node | None = None
        self._documents = 0
        self._merged_keys = 0

    def compose(self, events: Iterable[Any]) -> Node | None:
        """Return the root of the only document, None for an empty file.

        Raises UnreadableError at a second document, at a wrong alias, and beyond the limits; passes on the
        YAMLError that ``events`` raise.
        """
        for event in events:
            match event:
                case yaml.DocumentStartEvent():
                    self._start_document(event)
                case yaml.ScalarEvent():
                    self._add(Node(_mark(event), self._scalar(event)), event.anchor)
                case yaml.AliasEvent():
                    self._add(self._alias(event), None)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._start_collection(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._end_collection()
        return self._root

    def problem(self, mark: Mark | None, key: str | None, message: str) -> None:
        """Note what is wrong with ``key`` of the innermost open collection, or with its next value (None)."""
        path = [*self._path(), *([key] if key is not None else [])]
        self.problems.append(
            Problem(display_name=self.display_name, mark=mark, key=dotted(path), message=message)
        )

    def _path(self) -> Iterator[str | int]:
        """Yield the keys and indexes that lead to the value being composed."""
        for collection in self._open:
            if not collection.is_mapping:
                yield len(collection.children)
            elif len(collection.children) % 2 and collection.children[-1].value is not MERGE:
                yield str(as_text(collection.children[-1].value))

    def _start_document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            message = "holds a second YAML document; only one is read, remove the `---`"
            refuse(self.display_name, message, _mark(event))

    def _start_collection(self, event: Any) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}{'map' if is_mapping else 'seq'}"):
            self.problem(_mark(event), None, f"the tag {_short_tag(event.tag)} is not supported")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if len(self._open) >= MAX_DEPTH:
            refuse(self.display_name, TOO_DEEP, _mark(event))
        self._open.append(_OpenCollection(_mark(event), event.anchor, is_mapping, []))

    def _end_collection(self) -> None:
        closed = self._open.pop()
        node = Node(closed.mark, self._mapping(closed.children) if closed.is_mapping else closed.children)
        children = node.children()
        node.size += sum(child.size for child in children)
        node.depth += max((child.depth for child in children), default=0)
        if node.size > MAX_VALUES or node.depth > MAX_DEPTH:
            message = "its aliases (*name) expand to more than any configuration holds"
            refuse(self.display_name, message, closed.mark)
        self._add(node, closed.anchor)

    def _add(self, node: Node, anchor: str | None) -> None:
        """Put a finished node into the collection that it stands in, and under its anchor."""
        if anchor is not None:
            self._anchors[anchor] = node
        if self._open:
            self._open[-1].children.append(node)
        else:
            self._root = node

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            message = f"the alias *{event.anchor} names an anchor that does not exist"
            refuse(self.display_name, message, _mark(event))
        target = self._anchors[event.anchor]
        if target is None:
            refuse(self.display_name, f"the alias *{event.anchor} stands inside what it names", _mark(event))
        # An error in the use of an alias has to be corrected at the alias, not at its anchor.
        return Node(_mark(event), target.value, target.size, target.depth)

    def _mapping(self, children: list[Node]) -> MappingValue:
        items: dict[str, tuple[Node, Node]] = {}
        merges: list[Node] = []
        for key, value in zip(children[::2], children[1::2], strict=True):
            if key.value is MERGE:
                merges.append(value)
            elif (name := self._name(key)) is None:
                continue
            elif name in items:
                first = items[name][0].mark.line
                self.problem(key.mark, name, f"is written twice; the first is in line {first}")
            else:
                items[name] = (key, value)
        for value in merges:
            self._merge(value, items)
        return MappingValue(items)

    def _merge(self, value: Node, items: dict[str, tuple[Node, Node]]) -> None:
        """Add to ``items`` the keys of a ``<<``'s value that ``items`` lacks."""
        for source in self._merge_sources(value):
            self._merged_keys += len(source.items)
            if self._merged_keys > MAX_VALUES:
                message = "its merge keys (<<) expand to more than any configuration holds"
                refuse(self.display_name, message, value.mark)
            for name, pair in source.items.items():
                items.setdefault(name, pair)

    def _merge_sources(self, value: Node) -> list[MappingValue]:
        nodes = value.value if isinstance(value.value, list) else [value]
        sources = [node.value for node in nodes if isinstance(node.value, MappingValue)]
        if len(sources) != len(nodes):
            self.problem(value.mark, "<<", "only mappings can be merged: `<<: *name` or `<<: [*one, *two]`")
        return sources

    def _name(self, key: Node) -> str | None:
        """Return the text of a key; None for a collection, which is noted as a problem."""
        if isinstance(key.value, MappingValue | list):
            self.problem(key.mark, None, "a key must be a word, not a list or a mapping")
            return None
        return "null" if key.value is None else str(as_text(key.value))

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        mark = _mark(event)
        if "\0" in text:
            self.problem(mark, None, "holds a NUL character, which nothing here can use")
        if any("\ud800" <= character <= "\udfff" for character in text):
            refuse(self.display_name, "holds half of a surrogate pair, which is no character", mark)
        tag = event.tag
        if tag in (None, "!"):
            tag = _resolver.resolve(yaml.ScalarNode, text, event.implicit)  # type: ignore[no-untyped-call]
        kind = tag.removeprefix(_TAG)
        if kind not in _SCALAR_KINDS:
            self.problem(mark, None, f"the tag {_short_tag(tag)} is not supported")
        return MERGE if kind == "merge" else scalar(kind, text)


def _mark(event: Any) -> Mark:
    return Mark(line=event.start_mark.line + 1, column=event.start_mark.column + 1)


def _short_tag(tag: str) -> str:
    return tag.replace(_TAG, "!!")
