"""The report of a run as one HTML file: a matrix of images and environments, then each target by itself.

It is made of the same target reports as the Markdown summary. pytest-html has a row for each test and hooks
to add to it; a matrix, a timeline and an image's console have no place there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest.boot_causes import CAUSES
from pytest_dibctl.image import manifest, published
from pytest_dibctl.image.published import Changes
from pytest_dibctl.plugin import html_console
from pytest_dibctl.plugin.live import duration
from pytest_dibctl.plugin.markdown import not_run, outcomes
from pytest_dibctl.plugin.target_report import Failure, Span, TargetReport, TestResult, outcome_words, verdict
from pytest_dibctl.system import files
from pytest_dibctl.system.html_page import Markup, el, page, text

LONGEST_TEXT = 20_000
"""Characters shown of one failure, its end."""
MOST_FAILURES = 50
"""Failures that are shown of a target."""
MOST_TESTS = 1000
"""Tests that a target's table shows."""
LONGEST_REASON = 500
"""Characters shown of why a test was skipped."""
COLOURED = ("build", "upload", "boot", "ready", "tests")
"""The steps whose bars have a colour of their own."""
LANES = {"ready": "login"}
"""The steps that lanes have other names for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """The words for the run as a whole; ``note`` is text that no target has, empty without one.

    ``told`` are lines on the configuration, like those on known failures.
    """

    title: str
    lines: Sequence[str]
    note: str = ""
    told: Sequence[str] = ()


def write(path: Path, content: str) -> None:
    """Write a report; raises DibctlError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content, mode=0o644)
    except OSError as error:
        raise DibctlError(f"--dib-report: {path}: cannot be written: {error.strerror}") from None


def report(target_reports: Mapping[str, TargetReport], header: Header, *, cwd: Path) -> str:
    """Return the file; logs that the reports name are read from ``cwd``."""
    names = {label: f"target-{number}" for number, label in enumerate(target_reports)}
    body = [
        el("header", el("h1", header.title), *(el("p", line) for line in header.lines)),
        *(el("p", line, class_="note") for line in (header.note, *header.told) if line),
        _matrix(target_reports, names),
        *(_target(label, target, names[label], cwd) for label, target in _worst_first(target_reports)),
        el("footer", "Written by pytest-dibctl. This file is whole: it loads nothing and runs no script."),
    ]
    return page(header.title, body)


def _worst_first(target_reports: Mapping[str, TargetReport]) -> list[tuple[str, TargetReport]]:
    order = ("failed", "not run", "passed")
    return sorted(target_reports.items(), key=lambda item: order.index(verdict(item[1])))


# -- the matrix ------------------------------------------------------------------------------------


def _matrix(target_reports: Mapping[str, TargetReport], names: Mapping[str, str]) -> Markup:
    reports = target_reports.values()
    images = list(dict.fromkeys(target.image for target in reports if target.image))
    environments = list(dict.fromkeys(target.environment for target in reports if target.environment))
    cells = {
        (target.image, target.environment): (names[label], target) for label, target in target_reports.items()
    }
    rows = [el("tr", el("th", "image"), *(el("th", environment) for environment in environments))]
    for image in images:
        row = [el("td", el("strong", image), class_="name")]
        for environment in environments:
            cell = cells.get((image, environment))
            row.append(el("td", _linked_badge(*cell) if cell else _soft("-")))
        rows.append(el("tr", *row))
    return el("section", el("div", el("table", *rows), class_="scroll"))


def _linked_badge(name: str, target: TargetReport) -> Markup:
    return el("a", outcome_words(target), href=f"#{name}", class_=f"badge {_kind(verdict(target))}")


def _badge(word: str, kind: str) -> Markup:
    return el("span", word, class_=f"badge {_kind(kind)}")


def _kind(word: str) -> str:
    return word.replace(" ", "-")


# -- one target ------------------------------------------------------------------------------------


def _target(label: str, target: TargetReport, name: str, cwd: Path) -> Markup:
    word = verdict(target)
    parts: list[str] = [
        el("div", el("h2", label), _badge(word, word), _soft(outcomes(target)), class_="headline"),
        *_cause(target),
        *(
            el("p", line, class_="note")
            for line in (*not_run(label, target), *target.known_failures, *target.seen)
        ),
        *_timeline(target),
        *_failures(target),
        *html_console.logs(target, cwd),
        *_left(target),
        *_tests(target),
        *_packages(target),
        *_facts(target),
    ]
    return el("section", *parts, id=name, class_=_kind(word))


def _soft(words: str) -> Markup:
    return el("span", words, class_="soft")


def _cause(target: TargetReport) -> Iterator[Markup]:
    """Yield what the run knows of why the guest did not work, in one line, unless it worked in the end."""
    cause = target.facts.get("dib_cause")
    if cause and verdict(target) != "passed":
        yield el("p", CAUSES[cause].text if cause in CAUSES else cause, class_="cause")


def _failures(target: TargetReport) -> Iterator[Markup]:
    if not target.failures:
        return
    yield el("h3", "Failures")
    for number, failure in enumerate(target.failures[:MOST_FAILURES]):
        shown = failure.text.strip()
        if len(shown) > LONGEST_TEXT:
            shown = f"...\n{shown[-LONGEST_TEXT:]}"
        when = "" if failure.when == "call" else f" ({failure.when})"
        yield el(
            "details",
            el("summary", el("strong", headline(failure)), el("br"), el("code", f"{failure.nodeid}{when}")),
            el("pre", shown),
            open="open" if number < 3 else "",  # noqa: PLR2004 -- the first few tell most
        )
    yield from _more(len(target.failures) - MOST_FAILURES)


def _more(number: int) -> Iterator[Markup]:
    if number > 0:
        yield el("p", f"{number} more are not shown.", class_="soft")


def headline(failure: Failure) -> str:
    """Return the line of a failure that says most: pytest's first ``E`` line, else the first of all."""
    lines = [line for line in failure.text.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E  ")]
    first = errors[0] if errors else (lines[0] if lines else "failed")
    return first if len(first) <= 200 else f"{first[:200]}..."  # noqa: PLR2004 -- some lines of a phone


# -- the timeline ----------------------------------------------------------------------------------


def _timeline(target: TargetReport) -> Iterator[Markup]:
    spans = [span for span in target.spans if span.end > span.start]
    if not spans:
        return
    whole = Span(name="", start=min(span.start for span in spans), end=max(span.end for span in spans))
    yield el("h3", f"Timeline: {duration(whole.end - whole.start)}")
    # A guest boots from its start, a moment before the wait for it begins, to the login.
    divided = {"build": target.build_phases, "ready": target.boot_stages}
    for name in dict.fromkeys(span.name for span in sorted(spans, key=lambda span: span.start)):
        own = [span for span in spans if span.name == name]
        parts = divided.get(name, {})
        bars = [bar for span in own for bar in _bars(span, parts, whole)]
        took = duration(sum(span.end - span.start for span in own))
        yield el(
            "div",
            el("span", LANES.get(name, name)),
            el("span", *bars, class_="track"),
            el("span", took, class_="took"),
            class_="lane",
        )
        if parts:
            told = (el("span", f"{phase} {duration(seconds)}") for phase, seconds in parts.items())
            yield el("div", *told, class_="phases")


def _bars(span: Span, parts: Mapping[str, float], whole: Span) -> Iterator[Markup]:
    colour = "bad" if span.failed else span.name if span.name in COLOURED else "other"
    yield _bar(dataclasses.replace(span, title=span.title or span.name), whole, colour)
    at = span.start
    # The phases of a build add up to less than the step: some work comes before and after them.
    for phase, seconds in parts.items():
        if at + seconds <= span.end:
            part = Span(name=span.name, start=at, end=at + seconds, title=phase)
            yield _bar(part, whole, f"{colour} part")
        at += seconds


def _bar(span: Span, whole: Span, kind: str) -> Markup:
    length = whole.end - whole.start
    left, width = 100 * (span.start - whole.start) / length, 100 * (span.end - span.start) / length
    title = f"{span.title}: {duration(span.end - span.start)}"
    return el("span", class_=f"bar {kind}", title=title, style=f"left:{left:.2f}%;width:{width:.2f}%")


# -- the rest --------------------------------------------------------------------------------------


def _left(target: TargetReport) -> Iterator[Markup]:
    if not (target.kept or target.leftovers):
        return
    yield el("h3", "Still there")
    for removal in target.kept:
        reach = [el("dt", "log in"), el("dd", el("code", removal.login))] if removal.login else []
        yield el(
            "dl",
            *(el("dt", "kept"), el("dd", f"{removal.resource} ({removal.reason})")),
            *reach,
            *(el("dt", "remove"), el("dd", el("code", removal.command))),
        )
    for removal in target.leftovers:
        words = f"Not removed: {removal.resource}: {removal.reason}. `dibctl cleanup` tries again."
        yield el("p", words, class_="note")


def _tests(target: TargetReport) -> Iterator[Markup]:
    if not target.tests:
        return
    rows = [_test_row(test) for test in target.tests[:MOST_TESTS]]
    yield el(
        "details",
        el("summary", el("strong", "Tests"), f" ({len(target.outcomes_by_test)})"),
        el("div", el("table", *rows), class_="scroll"),
        *_more(len(target.tests) - MOST_TESTS),
    )


def _test_row(test: TestResult) -> Markup:
    reason = [el("br"), text(test.reason[:LONGEST_REASON])] if test.reason else []
    return el(
        "tr",
        el("td", _badge(test.outcome, test.outcome)),
        el("td", el("code", test.nodeid), *reason, class_="name"),
        el("td", f"{test.seconds:.1f} s", class_="number"),
    )


def _packages(target: TargetReport) -> Iterator[Markup]:
    try:
        packages = manifest.read(Path(target.file)) if target.file else None
    except DibctlError as error:
        yield el("p", error.message, class_="note")
        return
    if not packages:
        return
    for change in published.changes(Path(target.file or "")):
        yield _changes(change)
    rows = [el("tr", el("td", name, class_="name"), el("td", version)) for name, version in packages.items()]
    yield el(
        "details",
        el("summary", el("strong", "Packages"), f" ({len(packages)})"),
        el("div", el("table", *rows), class_="scroll"),
    )


def _changes(change: Changes) -> Markup:
    summary = el(
        "summary",
        el("strong", f"{len(change.differences)} packages changed"),
        f" since {change.day}, when it was published in {change.environment}",
    )
    rows = [
        el(
            "tr",
            el("td", difference.package, class_="name"),
            el("td", difference.kind),
            el("td", difference.before or "-"),
            el("td", difference.after or "-"),
        )
        for difference in change.differences
    ]
    return el("details", summary, *([el("div", el("table", *rows), class_="scroll")] if rows else []))


def _facts(target: TargetReport) -> Iterator[Markup]:
    rows = {
        "image": target.image,
        "environment": target.environment,
        "file": target.file or "",
        "sha512": target.digest or "",
        "build": target.reused or ("built" if target.build_phases else ""),
        "instances": ", ".join(target.instances),
        **{
            name.removeprefix("dib_"): value
            for name, value in target.facts.items()
            if not name.startswith("dib_seconds_") and name not in HIDDEN_FACTS
        },
    }
    pairs = [part for name, value in rows.items() if value for part in (el("dt", name), el("dd", value))]
    yield el("details", el("summary", el("strong", "Facts")), el("dl", *pairs))


HIDDEN_FACTS = frozenset(
    f"dib_{name}"
    for name in ("image", "environment", "digest", "instance", "kind", "cause", "console_line", "screen")
) | {"dib_console_log", "dib_build_log"}
"""Facts that the report shows elsewhere, or that are those of single tests."""
