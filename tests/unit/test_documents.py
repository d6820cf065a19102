"""Every example in every document is checked: files are read as what they are, command lines are parsed."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_dibctl.cli import main
from pytest_dibctl.config.report import validate
from tests.support import documents
from tests.support.documents import ROOT, Block

PYTEST = {"pytest", ".venv/bin/pytest"}
DIBCTL = {"dibctl", ".venv/bin/dibctl"}
OTHERS = {
    *("apt-get", "cd", "chmod", "cp", "eval", "export", "git", "mkdir", "openstack", "python3", "source"),
    *(".venv/bin/pip", ".venv/bin/pre-commit", ".venv/bin/uv", "tox", ".venv/bin/tox", "pip", "pre-commit"),
}
"""Programs whose command lines are not ours to check."""
IDS = {"ids": str}


def of(language: str) -> list[Block]:
    return [block for block in documents.EVERY_BLOCK if block.language == language]


def test_each_block_is_of_a_language_that_is_checked() -> None:
    known = {"console", "yaml", "python", "sh", "json", "text", "{include}", "{toctree}"}
    unknown = {str(block): block.language for block in documents.EVERY_BLOCK if block.language not in known}
    # CONTRIBUTING shows a header of pytest's without a language.
    assert set(unknown.values()) <= {""}


@pytest.mark.parametrize("block", of("yaml"), **IDS)  # type: ignore[arg-type]
def test_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    assert block.name, "begin the block with a comment that names the file"
    assert yaml.safe_load(block.text)
    if block.name not in {"images.yaml", "test.yaml", "upload.yaml"}:
        return
    if block.name != "images.yaml":
        (tmp_path / "images.yaml").write_text("image: {filename: image.qcow2}\n")
    (tmp_path / block.name).write_text(block.text)
    report = validate(cwd=tmp_path, system=tmp_path / "none")
    # Files of tests stand in other blocks, or are the reader's.
    assert [error for error in report.errors if "there is no" not in error] == []


@pytest.mark.parametrize("block", of("python"), **IDS)  # type: ignore[arg-type]
def test_python_asks_for_fixtures_that_exist(block: Block, request: pytest.FixtureRequest) -> None:
    assert block.name, "begin the block with a comment that names the file"
    tree = ast.parse(block.text)
    asked = {
        argument.arg
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
        for argument in function.args.args
    }
    reference = (ROOT / "docs/reference/fixtures.md").read_text()
    assert asked <= set(re.findall(r"^\| `(\w+)` \|", reference, re.MULTILINE))
    del request


@pytest.mark.parametrize("block", of("sh"), **IDS)  # type: ignore[arg-type]
def test_scripts_are_parsed_by_their_shell(block: Block) -> None:
    assert block.name, "a script's second line is a comment that names the file"
    shell = block.text.splitlines()[0].removeprefix("#!")
    subprocess.run([shell, "-n"], input=block.text, text=True, check=True)


@pytest.mark.parametrize("block", of("json"), **IDS)  # type: ignore[arg-type]
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize(
    ("document", "line"), documents.EVERY_COMMAND, ids=lambda value: str(value).rpartition("/")[2]
)
def test_a_command_line_is_understood(document: Path, line: str, pytestconfig: pytest.Config) -> None:
    for command in simple_commands(line):
        check_command(document, command, pytestconfig)


def simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the commands of a line of shell, each with its arguments and without redirections."""
    lexer = shlex.shlex(os.path.expandvars(line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    is_target = False
    for word in [*lexer, ";"]:
        if word in {"&&", "||", "|", ";"}:
            if command:
                yield command
            command = []
        elif word in {">", ">>", "<"}:
            is_target = True
        elif is_target:
            is_target = False
        else:
            command.append(word)


def check_command(document: Path, command: list[str], pytestconfig: pytest.Config) -> None:
    program, *arguments = command
    if program in PYTEST:
        _, unknown = pytestconfig._parser.parse_known_and_unknown_args(arguments)
        assert unknown == [], document
    elif program in DIBCTL:
        assert callable(main.build_parser().parse_args(arguments).run), document
    else:
        assert program in OTHERS, document
    if program.endswith("tox") and "-e" in arguments:
        names = arguments[arguments.index("-e") + 1].split(",")
        sections = (ROOT / "tox.ini").read_text()
        assert [name for name in names if f"[testenv:{name}]" not in sections] == []


def test_the_readme_shows_what_the_tutorial_explains() -> None:
    tutorial = documents.files(documents.TUTORIAL)
    shown = documents.files(ROOT / "README.md")
    assert shown
    assert {name: tutorial.get(name) for name in shown} == shown


LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
SOURCE = "https://github.com/pytest-dibctl/pytest-dibctl/blob/main/"
PICTURES = "https://raw.githubusercontent.com/pytest-dibctl/pytest-dibctl/main/"


@pytest.mark.parametrize("document", documents.DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = LINK.findall(re.sub(r"`[^`]*`", "", document.read_text()))
    for target in (inline or reference for inline, reference in links):
        path, _, anchor = target.partition("#")
        if path.startswith((SOURCE, PICTURES)):
            found = ROOT / path.removeprefix(SOURCE).removeprefix(PICTURES)
        elif "://" in path:
            continue
        else:
            assert document.name != "README.md", f"{target}: the package page has no relative links"
            found = document.parent / path if path else document
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_troubleshooting_quotes_messages_that_exist() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    package = (ROOT / "pytest_dibctl").rglob("*.py")
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in package))
    source = source.replace("{kind}.yaml", "images.yaml")
    for heading in re.findall(r"^### `(.+?)`(?: of|$)", text, re.MULTILINE):
        pieces = [piece.strip() for piece in heading.split("...") if piece.strip()]
        assert [piece for piece in pieces if piece not in source] == []
