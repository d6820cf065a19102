"""The documents of this repository, and the examples in them, to be run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```([^\s`]*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"\A(?:#!.*\n)?# (\S*[./]\S*)\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code in a document; ``line`` is that of its first line of text."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str | None:
        """The path in the block's first comment; None if it has none."""
        found = _NAME.match(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """Return the blocks of a document, in order."""
    text = document.read_text()
    return [
        Block(
            document=document,
            line=text.count("\n", 0, match.start(2)) + 1,
            language=match[1],
            text=match[2],
        )
        for match in _BLOCK.finditer(text)
    ]


def files(document: Path) -> dict[str, str]:
    """Return the files that a document shows, by their names; those of plain text without the first line."""
    return {
        block.name: block.text.partition("\n")[2] if block.language == "text" else block.text
        for block in blocks(document)
        if block.name
    }


def write(shown: Mapping[str, str], folder: Path) -> None:
    """Write files that a document shows; scripts become executable."""
    for name, text in shown.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)


def commands(document: Path) -> list[str]:
    """Return the command lines that a document shows, without those of the README's set-up."""
    shown = [block for block in blocks(document) if block.language == "console"]
    if document.name == "README.md":
        shown = shown[1:]
    return [line for block in shown for line in block.text.splitlines() if line]


TUTORIAL = ROOT / "docs" / "tutorial.md"
EVERY_BLOCK = [block for document in DOCUMENTS for block in blocks(document)]
EVERY_COMMAND = [(document, line) for document in DOCUMENTS for line in commands(document)]


def check_committed(script: str) -> None:
    """Fail if what ``docs/SCRIPT`` generates differs from what is committed."""
    checked = subprocess.run(
        [sys.executable, f"docs/{script}", "--check"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
