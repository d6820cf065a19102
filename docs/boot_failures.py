"""Write the tables of ``docs/boot-failures.md``: the causes that are named, and the images that show it.

Usage: ``python docs/boot_failures.py``. With ``--check`` it writes nothing, and its exit code is 1 if the
file is not what the causes and the recorded boots give.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pytest_dibctl.guest.boot_causes import CAUSES
from tests.support import boot_corpus
from tests.support.broken_images import CASES

TARGET = Path(__file__).with_name("boot-failures.md")
ENGINES = {"qemu": "QEMU", "nspawn": "container"}


def causes_table() -> str:
    """Return the causes, each with what it means and what to do."""
    rows = [f"| `{name}` | {kind.text} | {kind.hint} |" for name, kind in CAUSES.items()]
    return "\n".join(["| Cause | What it says | What to do |", "|---|---|---|", *rows])


def corpus_table() -> str:
    """Return the broken images, each with the cause that was given, and after how many seconds."""
    rows, right = [], 0
    for case in CASES:
        record = boot_corpus.read(case.name)
        right += record.cause == case.cause
        given = f"`{record.cause}`" if record.cause == case.cause else f"**{record.cause}**, not {case.cause}"
        image = f"{case.base} on {ENGINES[case.engine]}"
        rows.append(f"| `{case.name}` | {image} | {case.broken} | {given} | {record.seconds:g} |")
    head = ["| Case | Image | What was broken | Cause given | Seconds |", "|---|---|---|---|---|"]
    return "\n".join([f"{right} of {len(CASES)} are named rightly.", "", *head, *rows])


def written(text: str) -> str:
    """Return the document with today's tables."""
    for name, table in {"causes": causes_table(), "corpus": corpus_table()}.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{TARGET} has no place for the table of {name}")
        text = f"{before}{begin}{table}{end}{after}"
    return text


def main(arguments: list[str]) -> int:
    """Write the tables, or check those that are there; return the exit code."""
    text = TARGET.read_text()
    if "--check" not in arguments:
        TARGET.write_text(written(text))
        return 0
    if written(text) == text:
        return 0
    print("docs/boot-failures.md is not up to date: run `python docs/boot_failures.py`")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
