"""The HTML report of merged results: a matrix of targets, the failures, and the report of each part."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from pytest_dibctl.repository.junit import Case, Merged, Part
from pytest_dibctl.system.html_page import Markup, el, page

LONGEST_MESSAGE = 20_000
"""Characters shown of a failure, its end."""
MOST_FAILURES = 200
LARGEST_REPORT = 64 << 20
"""Bytes of a part's report; a larger one is named and not shown."""
_ORDER = ("failed", "errors", "passed", "skipped")


def report(merged: Merged, title: str) -> str:
    """Return the file. Reports of parts lie beside their results: ``x.html`` beside ``x.xml``.

    Each is shown in a frame that runs no script, opens no window and belongs to no origin: it was written
    elsewhere, and its content must not reach this page.
    """
    return page(title, [el("header", el("h1", title), el("p", _summary(merged))), *_body(merged)])


def _body(merged: Merged) -> Iterator[Markup]:
    for name, problem in merged.problems:
        yield el("p", f"{name}: {problem}", class_="note")
    yield _matrix(merged)
    failed = [(part, case) for part in merged.parts for case in part.cases if case.is_bad]
    if failed:
        failures = [_failure(part, case) for part, case in failed[:MOST_FAILURES]]
        more = len(failed) - len(failures)
        yield el(
            "section",
            el("h2", "Failures"),
            *failures,
            *([el("p", f"and {more} more")] if more else []),
            class_="failed",
        )
    for part in merged.parts:
        yield from _part(part)
    yield el("footer", "Written by pytest-dibctl. Reports of parts are shown in frames that run no script.")


def _summary(merged: Merged) -> str:
    count = len(merged.parts)
    tests = sum(1 for _ in merged.cases)
    outcome = f"{merged.failures} failed" if merged.failures else "all passed"
    return f"{tests} tests in {count} {'part' if count == 1 else 'parts'}: {outcome}"


def _matrix(merged: Merged) -> Markup:
    cells: dict[tuple[str, str], list[Case]] = {}
    for case in merged.cases:
        if case.image:
            cells.setdefault((case.image, case.environment), []).append(case)
    images = list(dict.fromkeys(image for image, _ in cells))
    environments = list(dict.fromkeys(environment for _, environment in cells))
    head = el("tr", el("th", "image"), *(el("th", environment) for environment in environments))
    rows = [
        el(
            "tr",
            el("td", el("strong", image), class_="name"),
            *(el("td", _cell(cells.get((image, environment), []))) for environment in environments),
        )
        for image in images
    ]
    return el("section", el("div", el("table", head, *rows), class_="scroll"))


def _cell(cases: list[Case]) -> Markup:
    if not cases:
        return el("span", "-", class_="soft")
    counts = {
        "failed": sum(case.outcome == "failed" for case in cases),
        "errors": sum(case.outcome == "error" for case in cases),
        "passed": sum(case.outcome == "passed" for case in cases),
        "skipped": sum(case.outcome == "skipped" for case in cases),
    }
    worst = next(word for word in _ORDER if counts[word])
    text = ", ".join(f"{counts[word]} {word}" for word in _ORDER if counts[word])
    return el("span", text, class_=f"badge {worst}")


def _failure(part: Part, case: Case) -> Markup:
    return el(
        "details",
        el("summary", f"{case.name} ({part.name})"),
        el("pre", case.message[-LONGEST_MESSAGE:] or "no message"),
    )


def _part(part: Part) -> Iterator[Markup]:
    path = part.path.with_suffix(".html")
    content = _content(path)
    if content is None:
        return
    # The only attribute whose value is a document: the browser parses it only inside the frame.
    frame = Markup(
        f'<iframe sandbox srcdoc="{html.escape(content)}" title="{html.escape(part.name)}" '
        'style="width: 100%; height: 85vh; border: 0" loading="lazy"></iframe>'
    )
    yield el("section", el("details", el("summary", f"Report of {part.name}"), frame))


def _content(path: Path) -> str | None:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_REPORT:
            return None
        return path.read_text(errors="replace")
    except OSError:
        return None
