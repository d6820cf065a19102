"""The summary of a run as Markdown, for the job pages of GitHub Actions and GitLab."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.plugin.target_report import Failure, TargetReport, columns, verdict
from pytest_dibctl.run.removal import Removal
from pytest_dibctl.system.text import visible

LONGEST_TEXT = 4000
"""Characters shown of one failure, its end; GitHub takes a mebibyte for a whole step."""
MOST_FAILURES = 50
SIGNS = MappingProxyType({"passed": "✅", "failed": "❌", "not run": "⚪"})
"""The signs for a target's verdict."""
ORDER = ("passed", "failed", "errors", "skipped", "xfailed", "xpassed", "reruns")


def write(path: Path, text: str, *, append: bool) -> None:
    """Write a summary; raises DibctlError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise DibctlError(f"--dib-summary: {path}: cannot be written: {error.strerror}") from None


def markdown(
    target_reports: Mapping[str, TargetReport],
    *,
    title: str = "Images",
    note: str = "",
    told: Sequence[str] = (),
) -> str:
    """Return a table of targets and their phases, then failures, then resources kept or left.

    ``told`` are lines on known failures that do not apply, or may go.
    """
    parts = [f"## {title}", *([f"**{_escaped(note)}**"] if note else []), _table(target_reports)]
    failures = [
        (label, failure)
        for label, target_report in target_reports.items()
        for failure in target_report.failures
    ]
    if failures:
        parts.append("### Failures")
        parts += [_failure(label, failure) for label, failure in failures[:MOST_FAILURES]]
        if len(failures) > MOST_FAILURES:
            parts.append(f"{len(failures) - MOST_FAILURES} more are not shown.")
    skipped = [
        f"- {_escaped(line)}" for label, report in target_reports.items() for line in not_run(label, report)
    ]
    if skipped:
        parts.append("### Not run\n\n" + "\n".join(skipped))
    known = [line for report in target_reports.values() for line in report.known_failures]
    if known or told:
        lines = (f"- {_escaped(line)}" for line in (*known, *told))
        parts.append("### Known failures\n\n" + "\n".join(lines))
    notes = [f"- {_escaped(f'{label}: {line}')}" for label, of in target_reports.items() for line in of.seen]
    if notes:
        parts.append("### Seen in guests\n\n" + "\n".join(notes))
    left = [line for label, target_report in target_reports.items() for line in _left(label, target_report)]
    if left:
        parts.append("### Still there\n\n" + "\n".join(left))
    return "\n\n".join(parts) + "\n"


def _table(target_reports: Mapping[str, TargetReport]) -> str:
    phases = columns(target_reports)
    head = ("", "image", "environment", "outcome", *(f"{name} (s)" for name in phases), "digest", "file")
    lines = [_row(head), _row(["--:" if "(s)" in name else "---" for name in head])]
    for target_report in target_reports.values():
        seconds = [
            f"{target_report.phases[name]:.1f}" if name in target_report.phases else "" for name in phases
        ]
        digest = f"`{target_report.digest[:12]}`" if target_report.digest else ""
        cells = [
            SIGNS[verdict(target_report)],
            _escaped(target_report.image),
            _escaped(target_report.environment),
            outcomes(target_report),
            *seconds,
            digest,
            _escaped(target_report.reused or ("built" if target_report.phases.get("build") else "")),
        ]
        lines.append(_row(cells))
    return "\n".join(lines)


def outcomes(target_report: TargetReport) -> str:
    """Return how many tests had which outcome, in words."""
    counts = target_report.outcomes
    words = ((counts[name], name.removesuffix("s") if counts[name] == 1 else name) for name in ORDER)
    return ", ".join(f"{count} {name}" for count, name in words if count)


def not_run(label: str, target_report: TargetReport) -> Iterator[str]:
    """Yield a line for each step whose failure kept tests from being run."""
    for reason, count in target_report.dependents.items():
        yield f"{label}: {count} test{'s were' if count > 1 else ' was'} not run: {reason}"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _failure(label: str, failure: Failure) -> str:
    text = failure.text.strip()
    if len(text) > LONGEST_TEXT:
        text = "...\n" + text[-LONGEST_TEXT:]
    text = visible(text)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text) or ("",)))
    when = "" if failure.when == "call" else f" ({failure.when})"
    lines = [
        f"<details><summary>{_escaped(label)}: <code>{_html(failure.nodeid)}</code>{_html(when)}</summary>",
        "",
        fence,
        text,
        fence,
        "",
        *(f"- {_escaped(log)}" for log in failure.logs),
        "</details>",
    ]
    return "\n".join(lines)


def _left(label: str, target_report: TargetReport) -> list[str]:
    kept = [
        f"- {_escaped(label)}: kept {_escaped(str(kept.resource))} ({_escaped(kept.reason)}); "
        f"`{kept.command}` removes it"
        for kept in target_report.kept
    ]
    lost = [
        f"- {_escaped(label)}: **not removed**: {_escaped(_first_line(leftover))}; "
        "`dibctl cleanup` tries again"
        for leftover in target_report.leftovers
    ]
    return kept + lost


def _first_line(leftover: Removal) -> str:
    return f"{leftover.resource}: {leftover.reason}".splitlines()[0]


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", _html(text)).replace("\n", " ")


def _html(text: str) -> str:
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
