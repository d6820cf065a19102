"""One YAML file -> plain data, the place of every key, and everything that is wrong with it as YAML.

The nodes are composed here, from the parser's events, rather than by PyYAML: its composer recurses (a deeply
nested file kills the interpreter), expands aliases without a limit, and lets the last of two equal keys win.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pytest_dibctl.config.yaml.scalars import Flag, Float, Integer, as_text
from pytest_dibctl.errors import ConfigError

MAX_BYTES = 4 * 1024 * 1024
"""A larger file is not a configuration; reading stops there, so that /dev/zero ends too."""
MAX_VALUES = 200_000
"""Values in one file with all aliases expanded: far above any real file, far below an alias bomb."""
MAX_DEPTH = 40
"""Levels of nesting; the deepest that a model knows is 6."""

PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it (ten times faster), else pure Python."""

_TAG = "tag:yaml.org,2002:"
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE
_SECRET_LINE = re.compile(r"(?i)^(.*(?:pass|secret|token)\w*[\"']?\s*:)\s*\S.*$")
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_HEX_OR_OCTAL = re.compile(r"[-+]?0(x[0-9a-fA-F]+|o?[0-7]+|b[01]+)")
_BOOLEANS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_resolver = yaml.resolver.Resolver()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A place in a file; both numbers start at 1, as editors count."""

    line: int
    column: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, at one place."""

    shown: str
    mark: Mark | None
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.shown}:{self.mark.line}:{self.mark.column}" if self.mark else self.shown
        return ": ".join(part for part in (place, self.key, self.message) if part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """What a file says. ``data`` maps labels to plain data, ``marks`` dotted keys to their places."""

    path: Path
    shown: str
    data: Mapping[str, Any]
    marks: Mapping[str, Mark]
    problems: tuple[Problem, ...] = ()


def config_error(problems: Sequence[Problem], *, hint: str | None = None) -> ConfigError:
    """Return one error that lists all ``problems``."""
    if len(problems) == 1:
        return ConfigError(str(problems[0]), hint=hint)
    listed = "\n".join(str(problem) for problem in problems)
    return ConfigError(f"the configuration has {len(problems)} errors:\n{listed}", hint=hint)


def dotted(path: Iterable[str | int]) -> str:
    """Return ``tests.tests_list[0].shell`` for ("tests", "tests_list", 0, "shell")."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(marks: Mapping[str, Mark], key: str) -> Mark | None:
    """Return the place of ``key`` or of the closest thing around it that the file has."""
    while key and key not in marks:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return marks.get(key)


def read(path: Path, shown: str | None = None) -> Document:
    """Read a file; whatever is wrong with it is in the result's ``problems``. Never raises.

    ``shown`` is how messages name the file.
    """
    shown = shown or str(path)
    try:
        text = _text(path, shown)
    except _StopError as stop:
        return Document(path=path, shown=shown, data={}, marks={}, problems=(stop.problem,))
    return parse(text, path=path, shown=shown)


def parse(text: str, *, path: Path, shown: str) -> Document:
    """Like ``read``, for text that is already in memory."""
    composer = _Composer(shown)
    try:
        with _syntax_errors(text, shown):
            root = composer.compose(yaml.parse(text, Loader=PARSER))
        data, marks = _labelled(root, composer)
    except _StopError as stop:
        problems = (*_sorted(composer.problems), stop.problem)
        return Document(path=path, shown=shown, data={}, marks={}, problems=problems)
    return Document(path=path, shown=shown, data=data, marks=marks, problems=_sorted(composer.problems))


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return ``problems`` in the order of the file."""
    return tuple(
        sorted(problems, key=lambda found: (found.mark.line, found.mark.column) if found.mark else (0, 0))
    )


class _StopError(Exception):
    """The file cannot be read any further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _stop(shown: str, message: str, mark: Mark | None = None) -> NoReturn:
    raise _StopError(Problem(shown=shown, mark=mark, key="", message=message)) from None


def _text(path: Path, shown: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        _stop(shown, "there is no such file")
    except IsADirectoryError:
        _stop(shown, "is a directory, a YAML file is needed")
    except OSError as error:
        _stop(shown, f"cannot be read: {error.strerror}")
    except ValueError:  # a NUL in the name
        _stop(shown, "is not a file name")
    if len(raw) > MAX_BYTES:
        _stop(shown, f"is larger than {MAX_BYTES // 1024 // 1024} MiB, which no configuration is")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        _stop(shown, "is not UTF-8 text; save the file as UTF-8", _mark_at_end(before))
    if found := _UNPRINTABLE.search(text):
        message = f"holds the control character U+{ord(found.group()):04X}, which YAML forbids"
        _stop(shown, message, _mark_at_end(text[: found.start()]))
    return text


def _mark_at_end(before: str) -> Mark:
    lines = _LINE_BREAK.split(before)
    return Mark(line=len(lines), column=len(lines[-1]) + 1)


@contextlib.contextmanager
def _syntax_errors(text: str, shown: str) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark, said = _diagnosis(error, text)
        if "nesting depth" in said:  # newer libyaml counts too, and says so before our own count is reached
            _stop(shown, f"is nested more than {MAX_DEPTH} levels deep", mark)
        _stop(shown, f"not valid YAML: {said}{_excerpt(text, mark)}", mark)
    except yaml.YAMLError as error:
        _stop(shown, f"not valid YAML: {error}")


def _diagnosis(error: yaml.MarkedYAMLError, text: str) -> tuple[Mark | None, str]:
    """Return the place to show and the parser's words for what is wrong there."""
    said = error.problem or error.context or "it cannot be read"
    place, start = error.problem_mark, error.context_mark
    if place and start and start.line < place.line:
        said += f" ({error.context} that starts in line {start.line + 1})"
    lines = _LINE_BREAK.split(text)
    if place is None or not "".join(lines[place.line :]).strip():
        # At the end of the file there is nothing to see; what was left open is the place to look at.
        said = f"{said}, the file ends too early" if place else said
        if start is None or not "".join(lines[start.line :]).strip():
            return _mark_at_end(text.rstrip()), said
        place = start
    return Mark(line=place.line + 1, column=place.column + 1), said


def _excerpt(text: str, mark: Mark | None) -> str:
    """Return the offending line with a caret below it; what follows a password's colon is not shown."""
    lines = _LINE_BREAK.split(text)
    if mark is None or mark.line > len(lines):
        return ""
    line = _SECRET_LINE.sub(r"\1 ***", lines[mark.line - 1])
    indent = line[: len(line) - len(line.lstrip())]
    advice = "\n    YAML is indented with spaces, never with tabs" if "\t" in indent else ""
    caret = " " * min(mark.column - 1, len(line)) + "^"
    return f"\n    {line.replace(chr(9), ' ')}\n    {caret}{advice}"


@dataclasses.dataclass(slots=True)
class _Node:
    """A composed value. ``size`` and ``depth`` count what lies inside, every alias expanded."""

    mark: Mark
    value: Any
    size: int = 1
    depth: int = 1


@dataclasses.dataclass(slots=True)
class _Mapping:
    """The value of a mapping node: its own keys, then those merged in by ``<<``."""

    items: dict[str, tuple[_Node, _Node]]


@dataclasses.dataclass(slots=True)
class _Open:
    """A collection whose end has not been seen yet."""

    mark: Mark
    anchor: str | None
    mapping: bool
    children: list[_Node]


_MERGE = object()
"""The value of a plain ``<<`` key."""


class _Composer:
    """Builds nodes from events with a stack of its own."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.problems: list[Problem] = []
        self._anchors: dict[str, _Node | None] = {}
        self._open: list[_Open] = []
        self._root: _Node | None = None
        self._documents = 0
        self._merged = 0

    def compose(self, events: Iterable[Any]) -> _Node | None:
        """Return the root of the only document, None for an empty file."""
        for event in events:
            match event:
                case yaml.DocumentStartEvent():
                    self._document(event)
                case yaml.ScalarEvent():
                    self._add(_Node(_mark(event), self._scalar(event)), event.anchor)
                case yaml.AliasEvent():
                    self._add(self._alias(event), None)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._start(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._end()
        return self._root

    def problem(self, mark: Mark | None, key: str | None, message: str) -> None:
        """Note what is wrong with ``key`` of the collection at hand, or with its next value (None)."""
        inside = [*self._path(), *([key] if key is not None else [])]
        self.problems.append(Problem(shown=self.shown, mark=mark, key=dotted(inside), message=message))

    def _path(self) -> Iterator[str | int]:
        """Yield the keys and indexes that lead to the value being composed."""
        for frame in self._open:
            if not frame.mapping:
                yield len(frame.children)
            elif len(frame.children) % 2 and frame.children[-1].value is not _MERGE:
                yield str(as_text(frame.children[-1].value))

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            _stop(
                self.shown, "holds a second YAML document; only one is read, remove the `---`", _mark(event)
            )

    def _start(self, event: Any) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}{'map' if mapping else 'seq'}"):
            self.problem(_mark(event), None, f"the tag {_tag(event.tag)} is not supported")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if len(self._open) >= MAX_DEPTH:
            _stop(self.shown, f"is nested more than {MAX_DEPTH} levels deep", _mark(event))
        self._open.append(_Open(_mark(event), event.anchor, mapping, []))

    def _end(self) -> None:
        done = self._open.pop()
        node = _Node(done.mark, self._mapping(done.children) if done.mapping else done.children)
        inside = _inside(node)
        node.size += sum(child.size for child in inside)
        node.depth += max((child.depth for child in inside), default=0)
        if node.size > MAX_VALUES or node.depth > MAX_DEPTH:
            _stop(self.shown, "its aliases (*name) expand to more than any configuration holds", done.mark)
        self._add(node, done.anchor)

    def _add(self, node: _Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if self._open:
            self._open[-1].children.append(node)
        else:
            self._root = node

    def _alias(self, event: Any) -> _Node:
        if event.anchor not in self._anchors:
            _stop(self.shown, f"the alias *{event.anchor} names an anchor that does not exist", _mark(event))
        found = self._anchors[event.anchor]
        if found is None:
            _stop(self.shown, f"the alias *{event.anchor} stands inside what it names", _mark(event))
        # The alias is where the user looks for what is wrong with the use of it.
        return _Node(_mark(event), found.value, found.size, found.depth)

    def _mapping(self, children: list[_Node]) -> _Mapping:
        items: dict[str, tuple[_Node, _Node]] = {}
        merged: list[_Node] = []
        for key, value in zip(children[::2], children[1::2], strict=True):
            if key.value is _MERGE:
                merged.append(value)
            elif (name := self._name(key)) is None:
                continue
            elif name in items:
                first = items[name][0].mark.line
                self.problem(key.mark, name, f"is written twice; the first is in line {first}")
            else:
                items[name] = (key, value)
        for value in merged:
            for source in self._sources(value):
                self._merged += len(source.items)
                if self._merged > MAX_VALUES:
                    _stop(
                        self.shown,
                        "its merge keys (<<) expand to more than any configuration holds",
                        value.mark,
                    )
                for name, pair in source.items.items():
                    items.setdefault(name, pair)
        return _Mapping(items)

    def _name(self, key: _Node) -> str | None:
        if isinstance(key.value, _Mapping | list):
            self.problem(key.mark, None, "a key must be a word, not a list or a mapping")
            return None
        return "null" if key.value is None else str(as_text(key.value))

    def _sources(self, value: _Node) -> list[_Mapping]:
        nodes = value.value if isinstance(value.value, list) else [value]
        sources = [node.value for node in nodes if isinstance(node.value, _Mapping)]
        if len(sources) != len(nodes):
            self.problem(value.mark, "<<", "only mappings can be merged: `<<: *name` or `<<: [*one, *two]`")
        return sources

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        mark = _mark(event)
        if "\0" in text:
            self.problem(mark, None, "holds a NUL character, which nothing here can use")
        if any("\ud800" <= character <= "\udfff" for character in text):
            _stop(self.shown, "holds half of a surrogate pair, which is no character", mark)
        tag = event.tag
        if tag in (None, "!"):
            tag = _resolver.resolve(yaml.ScalarNode, text, event.implicit)  # type: ignore[no-untyped-call]
        kind = tag.removeprefix(_TAG)
        if kind not in {"str", "int", "float", "bool", "null", "merge", "timestamp", "value"}:
            self.problem(mark, None, f"the tag {_tag(tag)} is not supported")
        return _value(kind, text)


def _value(kind: str, text: str) -> Any:
    """Return a scalar of the YAML type ``kind``; what does not look like it is text.

    Dates stay text, and so do numbers in base 60 (``22:30``): nothing here wants either.
    """
    if kind == "null":
        return None
    if kind == "merge":
        return _MERGE
    if kind == "bool" and text.lower() in _BOOLEANS:
        return Flag(text, value=_BOOLEANS[text.lower()])
    return _number(kind, text.replace("_", ""), text) if kind in {"int", "float"} else text


def _number(kind: str, digits: str, text: str) -> Integer | Float | str:
    with contextlib.suppress(ValueError):  # also: more digits than Python converts
        if kind == "int" and _HEX_OR_OCTAL.fullmatch(digits):
            return Integer(int(_modern(digits), 0), text)
        if kind == "int" and _DECIMAL.fullmatch(digits):
            return Integer(int(digits), text)
        if kind == "float" and ":" not in digits:
            return Float(float(digits.lower().replace(".inf", "inf").replace(".nan", "nan")), text)
    return text


def _modern(digits: str) -> str:
    """Return ``0o17`` for YAML 1.1's ``017``."""
    return re.sub(r"^([-+]?)0o?(?=[0-7])", r"\g<1>0o", digits)


def _mark(event: Any) -> Mark:
    return Mark(line=event.start_mark.line + 1, column=event.start_mark.column + 1)


def _tag(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _inside(node: _Node) -> list[_Node]:
    if isinstance(node.value, _Mapping):
        return [value for _, value in node.value.items.values()]
    return list(node.value)


def _labelled(root: _Node | None, composer: _Composer) -> tuple[dict[str, Any], dict[str, Mark]]:
    """Return the data and marks of the root, which must map labels to entries."""
    if root is None or root.value is None:
        return {}, {}
    if not isinstance(root.value, _Mapping):
        what = "a list" if isinstance(root.value, list) else "a single value"
        _stop(
            composer.shown,
            f"must map labels to entries (`label:` and its keys below it), not be {what}",
            root.mark,
        )
    for label, (key, _) in root.value.items.items():
        if not isinstance(key.value, str):
            composer.problem(
                key.mark, label, f'YAML does not read this label as text; put it in quotes: "{label}":'
            )
        elif not label.strip():
            composer.problem(key.mark, None, "a label must not be empty")
    marks: dict[str, Mark] = {}
    data: dict[str, Any] = _plain(root, "", marks)
    return data, marks


def _plain(node: _Node, key: str, marks: dict[str, Mark]) -> Any:
    if isinstance(node.value, _Mapping):
        result = {}
        for name, (name_node, value) in node.value.items.items():
            inner = f"{key}.{name}" if key else name
            marks[inner] = name_node.mark
            result[name] = _plain(value, inner, marks)
        return result
    if isinstance(node.value, list):
        for number, item in enumerate(node.value):
            marks[f"{key}[{number}]"] = item.mark
        return [_plain(item, f"{key}[{number}]", marks) for number, item in enumerate(node.value)]
    return "<<" if node.value is _MERGE else node.value
