"""The HTML report: what is in it, and that nothing of a guest's becomes part of the page."""

from __future__ import annotations

import html.parser
from pathlib import Path

import pytest

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.plugin import html_report
from pytest_dibctl.plugin.ending import report_header
from pytest_dibctl.plugin.html_report import Header, headline
from pytest_dibctl.plugin.target_report import Failure, Span, TargetReport, TestResult
from pytest_dibctl.run.removal import Removal, Resource, State
from pytest_dibctl.system.html_page import el, join
from tests.support import example_report

HOSTILE = (
    "</pre></title><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    '\x1b[2J\x00" onload="x'
)


class Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(report: TargetReport, cwd: Path, title: str = "t", note: str = "") -> str:
    return html_report.report({"web": report}, Header(title=title, lines=[title], note=note), cwd=cwd)


def test_the_report_of_a_matrix_has_all_that_there_is_to_know(tmp_path: Path) -> None:
    page = example_report.page(tmp_path)
    elements = Elements(page)
    for words in (
        *(
            "2 images in 2 environments: 2 failed, 1 not run, 1 passed",
            "failed 1 of 7",
            "passed 6",
            "not run 4",
        ),
        *(
            "Timeline: 3 min 34 s",
            "install.d 59 s",
            "AssertionError: assert False",
            "package-7",
            "1.7-1",
            "0.9-1",
        ),
        "3 packages changed since ",
        "when it was published in production",
        *(
            "known failure until 2027-03-01",
            "ssh -F /tmp/dibctl-0/",
            "dibctl cleanup --run 20261128-101500-4f2a",
        ),
        *("3 tests were not run: the boot of db in local failed", "hint: the kernel's root= names no device"),
    ):
        assert words in elements.text, words
    marks = page.split("<mark>")[1:]
    assert len(marks) == 2, "in the excerpt, and in the whole console"
    assert all(example_report.PANIC in mark.partition("</mark>")[0] for mark in marks)
    sources = [str(given["src"]) for tag, given in elements.found if tag == "img"]
    assert sorted(source.partition(";")[0] for source in sources) == [
        "data:image/png",
        *["data:image/svg+xml"] * 2,
    ]
    # The worst comes first, and the matrix leads to each.
    order = [given["id"] for tag, given in elements.found if tag == "section" and "id" in given]
    assert order == ["target-0", "target-3", "target-1", "target-2"]
    links = {given["href"] for tag, given in elements.found if tag == "a"}
    assert links == {f"#{name}" for name in order}


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(tmp_path: Path) -> None:
    elements = Elements(example_report.page(tmp_path))
    names = {tag for tag, _ in elements.found}
    assert not names & {"script", "link", "iframe", "object", "svg", "embed", "form"}
    policies = [given["content"] for tag, given in elements.found if given.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_hostile_text_stays_text_wherever_it_comes_from(tmp_path: Path) -> None:
    console = tmp_path / "x.console.log"
    console.write_bytes(b"\xff\x00" + HOSTILE.encode() + b"\nKernel panic - not syncing: " + HOSTILE.encode())
    (tmp_path / "x.boot.svg").write_text(f"<svg onload='alert(1)'>{HOSTILE}</svg>")
    kept = Removal(
        resource=Resource(kind="instance", name=HOSTILE),
        state=State.KEPT,
        reason=HOSTILE,
        login=HOSTILE,
        command=HOSTILE,
    )
    left = Removal(resource=Resource(kind="image", name=HOSTILE), state=State.LEFT, reason=HOSTILE)
    report = TargetReport(
        image=HOSTILE,
        environment=HOSTILE,
        reused=HOSTILE,
        logs=[str(console)],
        instances=[HOSTILE],
        build_phases={HOSTILE: 1.0},
        boot_stages={HOSTILE: 1.0},
        spans=[Span(name="build", start=1.0, end=9.0), Span(name=HOSTILE, start=2.0, end=3.0, title=HOSTILE)],
        failures=[Failure(nodeid=HOSTILE, when=HOSTILE, text=f"E  {HOSTILE}", logs=(HOSTILE,))],
        known_failures=[HOSTILE],
        removals=[kept, left],
        tests=[TestResult(nodeid=HOSTILE, outcome=HOSTILE, seconds=1.0, reason=HOSTILE)],
        facts={"dib_cause": HOSTILE, "dib_other": HOSTILE, f"dib_{HOSTILE}": "x"},
    )
    report.dependents[HOSTILE] = 2
    report.outcomes["failed"] = 1
    page = page_of(report, tmp_path, title=HOSTILE, note=HOSTILE)
    assert "\x1b" not in page
    assert "\x00" not in page
    elements = Elements(page)
    assert "script" not in {tag for tag, _ in elements.found}
    for tag, given in elements.found:
        assert not [name for name in given if name.startswith("on")], (tag, given)
        assert tag != "img" or str(given["src"]).startswith("data:image/svg+xml;base64,")
    assert elements.text.count("document.title='owned'") > 15


def test_a_long_failure_and_a_long_console_are_cut(tmp_path: Path) -> None:
    console = tmp_path / "x.console.log"
    console.write_text("".join(f"line {number}\n" for number in range(200_000)) + "x" * 100)
    failure = Failure(nodeid="t", when="call", text="y" * 1_000_000 + "the end")
    report = TargetReport(image="web", environment="local", logs=[str(console)], failures=[failure])
    page = page_of(report, tmp_path)
    assert len(page) < 200_000
    assert "the end" in page
    assert "lines before]" in page


PANIC = "Kernel panic - not syncing: VFS: Unable to mount root fs"


def marked(page: str) -> list[str]:
    """Return what the page marks."""
    return [part.partition("</mark>")[0] for part in page.split("<mark>")[1:]]


def failed(*consoles: str, line: int) -> TargetReport:
    """Return the report of a target whose first console has the line that tells the cause."""
    report = TargetReport(image="web", environment="local", logs=list(consoles))
    report.failures.append(Failure(nodeid="t", when="setup", text="no login"))
    facts = {"dib_cause": "kernel-panic", "dib_console_line": str(line), "dib_console_log": consoles[0]}
    report.facts = facts
    return report


def test_the_line_of_one_guest_is_marked_in_no_other(tmp_path: Path) -> None:
    for name in "ab":
        lines = "".join(f"{name} line {number}\n" for number in range(1, 41))
        (tmp_path / f"{name}.console.log").write_text(lines)
    page = page_of(failed("a.console.log", "b.console.log", line=30), tmp_path)
    assert marked(page) == ["a line 30"] * 2


def test_a_line_is_counted_as_the_cause_counts_it(tmp_path: Path) -> None:
    (tmp_path / "a.console.log").write_text("one\u2028still one\x85\x0c\r\ntwo\r\nthree\n", newline="")
    page = page_of(failed("a.console.log", line=2), tmp_path)
    assert marked(page) == ["two"] * 2
    assert "Console of a, line 2<" in page
    assert ", 3 lines<" in page


def test_a_number_of_a_console_that_is_read_from_its_middle_marks_nothing(tmp_path: Path) -> None:
    console = tmp_path / "a.console.log"
    console.write_text("".join(f"line {number}\n" for number in range(500_000)))
    page = page_of(failed("a.console.log", line=7), tmp_path)
    assert marked(page) == []
    assert ", its last 4 MiB<" in page
    console.write_text(console.read_text() + f"[ 9.1] {PANIC}\nmore\n")
    page = page_of(failed("a.console.log", line=500_001), tmp_path)
    assert marked(page) == [f"[ 9.1] {PANIC}"] * 2
    assert "Console of a<" in page, "the number of the line is not known"
    assert "[more lines before]" in page


def test_lines_without_end_and_failures_without_number_are_cut(tmp_path: Path) -> None:
    (tmp_path / "a.console.log").write_text("one\n" + "&" * (3 << 20))
    report = failed("a.console.log", line=2)
    report.failures = [Failure(nodeid="t", when="call", text="&" * 100_000)] * 200
    report.tests.append(TestResult(nodeid="t", outcome="skipped", seconds=0.0, reason="&" * (1 << 20)))
    page = page_of(report, tmp_path)
    assert len(page) < html_report.MOST_FAILURES * html_report.LONGEST_TEXT * len("&amp;") + 100_000
    assert page.count("<details open") == 3
    assert "150 more are not shown." in page


def test_a_target_that_passed_shows_no_cause(tmp_path: Path) -> None:
    report = TargetReport(image="web", environment="local", facts={"dib_cause": "kernel-panic"})
    report.outcomes["passed"] = 1
    assert 'class="cause"' not in page_of(report, tmp_path)
    report.failures.append(Failure(nodeid="t", when="setup", text="x"))
    assert 'class="cause"' in page_of(report, tmp_path)


def test_the_header_counts_targets_only(tmp_path: Path) -> None:
    left = Removal(resource=Resource(kind="image", name="x"), state=State.LEFT, reason="why")
    reports = {
        "web": TargetReport(image="web", environment="local"),
        "run": TargetReport(removals=[left]),
    }
    header = report_header(reports, status=1, note="", told=["images.yaml:3: it can go"])
    assert header.title == "1 image: 1 not run"
    page = html_report.report(reports, header, cwd=tmp_path)
    assert "Not removed: image x: why" in page
    assert "images.yaml:3: it can go" in page


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    report = TargetReport(image="web", environment="local", logs=["gone.console.log", "gone.build.log"])
    page = page_of(report, tmp_path)
    assert "Console" not in page
    assert "gone.build.log" in page


def test_the_line_that_says_most_heads_a_failure() -> None:
    text = "def test():\n>  assert 0\nE   AssertionError: why\nE    assert 0\n\nx.py:1"
    assert headline(Failure(nodeid="t", when="call", text=text)) == "AssertionError: why"
    assert headline(Failure(nodeid="t", when="setup", text="\nno valid host\nhint: x")) == "no valid host"
    assert headline(Failure(nodeid="t", when="call", text="")) == "failed"


def test_elements_escape_all_but_elements() -> None:
    assert el("p", "<b>", el("br"), title='"&') == '<p title="&quot;&amp;">&lt;b&gt;<br></p>'
    assert join(["<", el("i", "x")]) == "&lt;<i>x</i>"


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    html_report.write(tmp_path / "deep" / "r.html", "x")
    with pytest.raises(DibctlError, match="--dib-report"):
        html_report.write(tmp_path, "x")
