"""YAML text -> data, places, problems."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_dibctl.config.yaml import source
from pytest_dibctl.config.yaml.marks import Mark, nearest
from pytest_dibctl.config.yaml.scalars import Flag, as_text
from pytest_dibctl.config.yaml.source import Document
from pytest_dibctl.config.yaml.text import MAX_BYTES

FILE = Path("f.yaml")


def parse(text: str) -> Document:
    return source.parse(text, path=FILE, display_name="f.yaml")


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse(text).problems]


@pytest.fixture(params=["libyaml", "pure Python"])
def _both_parsers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = yaml.CSafeLoader if request.param == "libyaml" else yaml.SafeLoader
    monkeypatch.setattr(source, "PARSER", parser)


both_parsers = pytest.mark.usefixtures("_both_parsers")


@both_parsers
@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "~\n", "\ufeff"])
def test_an_empty_file_has_no_entries(text: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(text, encoding="utf-8")
    document = source.read(path)
    assert document.data == {}
    assert document.problems == ()


@both_parsers
def test_every_key_and_list_item_has_its_place() -> None:
    document = parse("one:\n  a: 1\n  list:\n    - x\n    - {b: 2}\ntwo: {c: 3}\n")
    assert document.marks["one"] == Mark(line=1, column=1)
    assert document.marks["one.a"] == Mark(line=2, column=3)
    assert document.marks["one.list[0]"] == Mark(line=4, column=7)
    assert document.marks["one.list[1].b"] == Mark(line=5, column=8)
    assert document.marks["two.c"] == Mark(line=6, column=7)


def test_the_nearest_place_is_that_of_the_closest_known_key() -> None:
    marks = parse("one:\n  list:\n    - {b: 2}\n").marks
    assert nearest(marks, "one.list[0].missing.deeper") == Mark(line=3, column=7)
    assert nearest(marks, "one.list[7]") == Mark(line=2, column=3)
    assert nearest(marks, "one.other") == Mark(line=1, column=1)
    assert nearest(marks, "none") is None


@both_parsers
def test_numbers_and_flags_keep_their_spelling() -> None:
    data = parse("a: {v: 12.10, o: 010, h: 0x1F, t: 22:30, d: 2024-01-02, y: yes, n: 1_000}").data["a"]
    assert data["v"] == pytest.approx(12.1)
    assert data["o"] == 8
    assert data["h"] == 31
    assert data["n"] == 1000
    assert data["y"] == Flag("yes", value=True)
    assert [as_text(value) for value in data.values()] == [
        *("12.10", "010", "0x1F", "22:30", "2024-01-02", "yes", "1_000"),
    ]


@both_parsers
def test_half_a_surrogate_pair_is_refused() -> None:
    # libyaml takes it for a syntax error; the pure Python parser would hand it on.
    (problem,) = problems('a: "\\ud800"\n')
    assert problem.startswith("f.yaml:1:")


def test_a_number_too_long_for_python_is_text() -> None:
    digits = "9" * 10_000
    assert parse(f"a: {digits}").data["a"] == digits


@both_parsers
def test_duplicate_keys_are_all_reported_at_their_second_place() -> None:
    text = "a:\n  x: 1\n  y: {z: 1, z: 2}\n  x: 2\na: {}\n"
    assert problems(text) == [
        "f.yaml:3:13: a.y.z: is written twice; the first is in line 3",
        "f.yaml:4:3: a.x: is written twice; the first is in line 2",
        "f.yaml:5:1: a: is written twice; the first is in line 1",
    ]


@both_parsers
def test_a_number_and_its_quoted_spelling_are_the_same_key() -> None:
    assert problems("a: {1: x, '1': y}") == ["f.yaml:1:11: a.1: is written twice; the first is in line 1"]


@both_parsers
def test_merge_keys_fill_in_what_is_not_written() -> None:
    document = parse("base: &base {x: 1, y: 2}\nmore: &more {y: 3, z: 4}\nc:\n  y: 9\n  <<: [*base, *more]\n")
    assert document.problems == ()
    assert document.data["c"] == {"x": 1, "y": 9, "z": 4}
    assert document.marks["c.y"].line == 4
    assert document.marks["c.z"].line == 2


@both_parsers
def test_merging_something_else_than_a_mapping_is_an_error() -> None:
    assert problems("a: &a [1]\nb:\n  <<: *a\n") == [
        "f.yaml:3:7: b.<<: only mappings can be merged: `<<: *name` or `<<: [*one, *two]`",
    ]


@both_parsers
@pytest.mark.parametrize("label", ["10", "1.5", "yes", "null", "~", "0x10"])
def test_a_label_that_is_not_text_must_be_quoted(label: str) -> None:
    (problem,) = problems(f"fine: {{}}\n{label}: {{}}\n")
    assert problem.startswith("f.yaml:2:1: ")
    assert "put it in quotes" in problem
    assert problems(f"'{label}': {{}}\n") == []


@both_parsers
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "- a\n- b\n",
            "f.yaml:1:1: must map labels to entries (`label:` and its keys below it), not be a list",
        ),
        (
            "word\n",
            "f.yaml:1:1: must map labels to entries (`label:` and its keys below it), not be a single value",
        ),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: holds a second YAML document; only one is read, remove the `---`"),
        ("a: *gone\n", "f.yaml:1:4: the alias *gone names an anchor that does not exist"),
        ("a: &a [*a]\n", "f.yaml:1:8: the alias *a stands inside what it names"),
        ("'': {}\n", "f.yaml:1:1: a label must not be empty"),
        (
            '"a\\e[2J": {}\n',
            "f.yaml:1:1: the label 'a\\x1b[2J' has characters that control a terminal or cannot be seen",
        ),
        (
            '"a\\u202e": {}\n',
            "f.yaml:1:1: the label 'a\\u202e' has characters that control a terminal or cannot be seen",
        ),
        (
            '"a\\nb": {}\n',
            "f.yaml:1:1: the label 'a\\nb' has characters that control a terminal or cannot be seen",
        ),
        ("? [a, b]\n: 1\n", "f.yaml:1:3: a key must be a word, not a list or a mapping"),
        ("a: !!python/name:os.system x\n", "f.yaml:1:4: a: the tag !!python/name:os.system is not supported"),
        ("a: {b: !!set {x}}\n", "f.yaml:1:8: a.b: the tag !!set is not supported"),
        ('a: ["\\0"]\n', "f.yaml:1:5: a[0]: holds a NUL character, which nothing here can use"),
    ],
)
def test_what_yaml_allows_and_we_do_not(text: str, said: str) -> None:
    assert problems(text) == [said]


@both_parsers
def test_a_syntax_error_shows_the_line_with_a_caret() -> None:
    (problem,) = problems("a:\n  b: c: d\n")
    first, line, caret = problem.splitlines()
    assert first.startswith("f.yaml:2:7: not valid YAML: ")
    assert line == "      b: c: d"
    assert caret.index("^") == line.index(": d")


@both_parsers
def test_a_tab_is_explained() -> None:
    (problem,) = problems("a:\n\tb: 1\n")
    assert problem.startswith("f.yaml:2:1: ")
    assert "spaces, never with tabs" in problem


@both_parsers
@pytest.mark.parametrize("text", ["a: [1, 2\n\n", "a: 'open\n  end\n", "a: {x: 1,\n"])
def test_what_is_left_open_is_shown_where_it_starts(text: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith("f.yaml:1:")
    assert "^" in problem


@both_parsers
@pytest.mark.parametrize("line", ["password: 'hunter2", "  OS_PASSWORD: [hunter2", "api-token: {hunter2: ]"])
def test_a_syntax_error_in_a_password_does_not_show_it(line: str) -> None:
    (problem,) = problems(f"a:\n{line}\n")
    assert "***" in problem
    assert "hunter2" not in problem


@both_parsers
def test_an_alias_bomb_ends_at_once() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30)]
    started = time.monotonic()
    (problem,) = problems("\n".join(lines))
    assert time.monotonic() - started < 20
    assert "expand to more than any configuration holds" in problem


@both_parsers
def test_a_merge_bomb_ends_at_once() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(1000))
    text = f"base: &base {{{keys}}}\n" + "".join(f"m{n}:\n  <<: *base\n" for n in range(3000))
    started = time.monotonic()
    (problem,) = problems(text)
    assert time.monotonic() - started < 20
    assert "expand to more than any configuration holds" in problem


@both_parsers
@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{b: " * 50_000, "- " * 20_000])
def test_deep_nesting_is_an_error_and_no_crash(text: str) -> None:
    (problem,) = problems(text)
    assert "levels deep" in problem


def test_a_deep_chain_of_aliases_is_an_error() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200))]
    (problem,) = problems("\n".join(lines))
    assert "expand" in problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: {b: 'caf\xe9'}\n", "f.yaml:1:12: is not UTF-8 text; save the file as UTF-8"),
        ("a: 1\n".encode("utf-16"), "f.yaml:1:1: is not UTF-8 text; save the file as UTF-8"),
        (b"a:\n  b: x\x07y\n", "f.yaml:2:7: holds the control character U+0007, which YAML forbids"),
        (b"#" * (MAX_BYTES + 1), "f.yaml: is larger than 4 MiB, which no configuration is"),
    ],
)
def test_bytes_that_are_no_yaml(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    assert [str(problem) for problem in source.read(path, "f.yaml").problems] == [said]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    said = {
        "missing": source.read(tmp_path / "missing.yaml", "f.yaml").problems[0].message,
        "directory": source.read(tmp_path, "f.yaml").problems[0].message,
        "loop": source.read(loop, "f.yaml").problems[0].message,
        "device": source.read(Path("/dev/zero"), "f.yaml").problems[0].message,
    }
    assert said == {
        "missing": "there is no such file",
        "directory": "is a directory, a YAML file is needed",
        "loop": f"cannot be read: {os.strerror(40)}",
        "device": "is larger than 4 MiB, which no configuration is",
    }


def test_a_file_without_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root reads everything, so the refusal has to come from open() itself.
    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert source.read(tmp_path / "f.yaml").problems[0].message == "cannot be read: Permission denied"


yaml_like = st.text(
    alphabet=st.sampled_from(list("ab01:-?[]{},&*#|>'\"%@`!~ \n\t<=.yesno\\\x85\u2028é")), max_size=60
)
plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(min_size=1, max_size=5), children, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(yaml_like)
def test_any_text_gives_data_or_problems(text: str) -> None:
    document = parse(text)
    assert isinstance(document.data, dict)
    for problem in document.problems:
        assert str(problem).startswith("f.yaml")


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_give_data_or_problems(content: bytes) -> None:
    # Written to one file over and over: a fixture's directory would be shared by all examples anyway.
    path = Path(f"/dev/shm/dibctl-test-{os.getpid()}.yaml")
    try:
        path.write_bytes(content)
        source.read(path, "f.yaml")
    finally:
        path.unlink(missing_ok=True)


def read_back(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): read_back(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [read_back(inner) for inner in value]
    return value.value if isinstance(value, Flag) else value


@settings(max_examples=60)
@given(st.dictionaries(st.from_regex(r"[a-z]{3,6}x", fullmatch=True), plain_data, max_size=4))
def test_what_is_read_is_what_pyyaml_reads(data: dict[str, object]) -> None:
    text = yaml.safe_dump(data)
    document = parse(text)
    if not document.problems:  # NUL characters and the like are refused
        assert read_back(dict(document.data)) == read_back(yaml.safe_load(text))


@pytest.mark.parametrize("label", ["a" * 100, "ä" * 50, "debian 12", "名前"])
def test_labels_within_the_limit_are_accepted(label: str) -> None:
    assert problems(f"'{label}': {{}}\n") == []


@pytest.mark.parametrize(("label", "size"), [("a" * 101, 101), ("ä" * 51, 102), ("b" * 1000, 1000)])
def test_a_long_label_is_refused_where_it_is_read(label: str, size: int) -> None:
    (problem,) = problems(f"fine: {{}}\n{label}: {{}}\n")
    assert problem.startswith(f"f.yaml:2:1: the label {label[:20]!r}... has {size} bytes; the limit is 100")
