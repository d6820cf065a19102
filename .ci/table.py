"""The table at the end of ``.ci/run``: stages, tests, seconds, and the ten slowest tests of all.

``python3 .ci/table.py REPORTS SECONDS``: REPORTS holds ``stages.tsv``, a log for each stage, and the files
that test runs write (``tests/support/reporting.py``). It runs outside of any environment, so it needs the
standard library only.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ENVIRONMENT = re.compile(r"^\s+(\w+): (OK|FAIL)\S* .*?\(?([\d.]+)=setup\[([\d.]+)\]", re.MULTILINE)
"""How tox sums up an environment."""
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
SLOWEST = 10


def environments(log: Path) -> list[tuple[str, float]]:
    """Return the tox environments of a stage with their seconds."""
    text = ESCAPES.sub("", log.read_text(errors="replace"))
    return [(name, float(seconds)) for name, _, seconds, _ in ENVIRONMENT.findall(text)]


def tests(reports: Path, environment: str) -> dict[str, object]:
    """Return what the test runs of an environment wrote; empty if there were none."""
    file = reports / f"{environment}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def main(folder: str, total: str) -> None:
    """Print the table."""
    reports = Path(folder)
    rows: list[tuple[str, str, str, str]] = []
    for line in (reports / "stages.tsv").read_text().splitlines():
        stage, seconds, status, busy = line.split("\t")
        inner = environments(reports / f"{stage}.log")
        ended = "" if status == "0" else f"failed ({status})"
        rows.append((stage, "", seconds, f"{busy:>3} % {ended}"))
        for name, taken in inner:
            found = tests(reports, name)
            counts = ", ".join(f"{count} {outcome}" for outcome, count in found.get("outcomes", {}).items())
            rows.append((f"  {name}", counts, f"{taken:.0f}", ""))
        if stage == "readme-main-job":
            summary = re.findall(r"(\d+ passed[^=\n]*) in [\d.]+s", (reports / f"{stage}.log").read_text())
            rows[-1] = (stage, summary[-1] if summary else "", seconds, rows[-1][3])
    rows.append(("all", "", total, ""))
    head = ("stage", "tests", "seconds", "processors")
    widths = [max(len(row[number]) for row in [head, *rows]) for number in range(3)]
    print()
    for stage, counts, seconds, note in [head, *rows]:
        print(f"{stage:<{widths[0]}}  {counts:<{widths[1]}}  {seconds:>{widths[2]}}  {note}".rstrip())
    slowest = sorted(
        (
            (seconds, name, file.stem)
            for file in reports.glob("*.json")
            for name, seconds in tests(reports, file.stem)["slowest"]
        ),
        reverse=True,
    )
    reruns = [
        (file.stem, name, reason)
        for file in sorted(reports.glob("*.json"))
        for name, reason in tests(reports, file.stem)["reruns"].items()
    ]
    if reruns:
        print("\nFAILED ONCE, passed when run again or failed twice; who stands here often hides a defect")
        for environment, name, reason in reruns:
            print(f"  {environment}  {name}\n      {reason}")
    print("\nslowest tests")
    for seconds, name, environment in slowest[:SLOWEST]:
        print(f"{seconds:>7.1f} s  {environment}  {name}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
