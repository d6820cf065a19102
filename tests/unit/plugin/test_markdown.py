"""The Markdown summary, and the accounts it is made of."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.plugin import markdown
from pytest_dibctl.plugin.target_report import Failure, TargetReport, TestResult, outcome_words, verdict
from pytest_dibctl.run.removal import Removal, Resource, State


def target_report(**more: object) -> TargetReport:
    """The report of an image that passed."""
    return TargetReport(
        **{
            "image": "debian",
            "environment": "local",
            "phases": {"build": 12.34, "boot": 5.0, "tests": 1.0},
            "digest": "abcdef0123456789",
            "outcomes": collections.Counter(passed=3, skipped=1),
            **more,
        }  # type: ignore[arg-type]
    )


def rows(text: str) -> list[list[str]]:
    """Return the cells of the first table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_a_row_for_each_target() -> None:
    text = markdown.markdown({"debian": target_report(), "other": target_report(image="other")})
    head, rule, first, second = rows(text)
    assert len({len(row) for row in (head, rule, first, second)}) == 1
    found = dict(zip(head, first, strict=True))
    assert found["image"] == "debian"
    assert found["outcome"] == "3 passed, 1 skipped"
    assert (found["build (s)"], found["boot (s)"], found["tests (s)"]) == ("12.3", "5.0", "1.0")
    assert "upload (s)" not in head, "no target was uploaded"
    assert found["digest"] == "`abcdef012345`"
    assert first[0] == "✅"
    assert second[1] == "other"


def test_a_failure_is_shown_with_its_text_and_logs() -> None:
    failure = Failure(nodeid="t.py::test_it[a]", when="setup", text="```\nit <broke>", logs=("x.log",))
    text = markdown.markdown({"debian": target_report(failures=[failure])})
    assert "<code>t.py::test_it[a]</code> (setup)" in text
    assert "````\n```\nit <broke>\n````" in text
    assert "- x.log" in text
    assert rows(text)[2][0] == "❌"


def test_long_texts_and_many_failures_are_cut() -> None:
    failure = Failure(nodeid="t", when="call", text="x" * 100_000 + "the end")
    text = markdown.markdown({"debian": target_report(failures=[failure] * 200)})
    assert len(text) < 1 << 20
    assert text.count("the end") == markdown.MOST_FAILURES
    assert f"{200 - markdown.MOST_FAILURES} more are not shown" in text


def test_what_is_still_there_is_told() -> None:
    kept = Removal(
        resource=Resource(kind="instance", name="x"),
        state=State.KEPT,
        reason="exit 42",
        command="dibctl cleanup --run 1",
    )
    left = Removal(resource=Resource(kind="image", name="y"), state=State.LEFT, reason="no answer")
    text = markdown.markdown({"debian": target_report(removals=[kept, left])})
    assert "kept instance x (exit 42); `dibctl cleanup --run 1` removes it" in text
    assert "**not removed**: image y: no answer" in text


def test_odd_labels_break_no_table() -> None:
    text = markdown.markdown({"a|b": target_report(image="a|b*`<c>")})
    assert r"a\|b\*\`&lt;c&gt;" in text


def test_a_file_is_written_anew_or_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "summary.md"
    for append in (False, False, True):
        markdown.write(file, "x\n", append=append)
    assert file.read_text() == "x\nx\n"
    with pytest.raises(DibctlError, match="--dib-summary"):
        markdown.write(tmp_path, "x", append=False)


def test_accounts_of_several_workers_add_up() -> None:
    total = TargetReport()
    for data in (target_report().as_data(), target_report(instances=["i-2"]).as_data()):
        total.add(TargetReport.from_data(data))
    assert total.phases == {"build": 24.68, "boot": 10.0, "tests": 2.0}
    assert (total.image, total.environment, total.instances) == ("debian", "local", ["i-2"])


@pytest.mark.parametrize(
    ("more", "word", "sign"),
    [
        ({}, "passed", "✅"),
        ({"outcomes": collections.Counter(skipped=2)}, "not run", "⚪"),
        ({"dependents": collections.Counter(x=1)}, "not run", "⚪"),
        ({"failures": [Failure(nodeid="t", when="call", text="x")]}, "failed", "❌"),
    ],
)
def test_the_sign_says_what_the_other_outputs_say(more: dict[str, object], word: str, sign: str) -> None:
    report = target_report(**more)
    assert verdict(report) == word
    assert rows(markdown.markdown({"debian": report}))[2][0] == sign


def test_what_was_seen_and_what_is_told_of_known_failures_is_there() -> None:
    report = target_report(seen=["kernel: oops | 1", "booted in 5 s"])
    text = markdown.markdown({"debian": report}, told=["images.yaml:3: it can go"])
    assert "### Seen in guests\n\n- debian: kernel: oops \\| 1\n- debian: booted in 5 s\n" in text
    assert "### Known failures\n\n- images.yaml:3: it can go\n" in text


def test_a_test_whose_teardown_fails_too_is_one_test() -> None:
    report = TargetReport(failures=[Failure(nodeid="c", when="teardown", text="x")])
    for nodeid, outcome in (("a", "passed"), ("b", "skipped"), ("c", "passed"), ("c", "errors")):
        report.outcomes[outcome] += 1
        report.add_test(TestResult(nodeid=nodeid, outcome=outcome, seconds=0.0), started=1.0)
    assert outcome_words(report) == "failed 1 of 3"
    report.failures.clear()
    report.tests = [TestResult(nodeid="c", outcome="reruns", seconds=0.0), *report.tests[:3]]
    assert outcome_words(report) == "passed 2 of 3"


def test_the_span_of_a_test_is_as_long_as_the_test() -> None:
    report = TargetReport()
    report.add_test(TestResult(nodeid="a", outcome="passed", seconds=2.0), started=100.0)
    report.add_test(TestResult(nodeid="b", outcome="errors", seconds=0.0), started=100.0)
    report.add_test(TestResult(nodeid="c", outcome="errors", seconds=2.0), started=0.0)
    assert [(span.title, span.start, span.end) for span in report.spans] == [("a", 100.0, 102.0)]


def left(kind: str, name: str, reason: str, **more: object) -> Removal:
    resource = Resource(kind=kind, name=name)
    return Removal(resource=resource, state=State.LEFT, reason=reason, **more)  # type: ignore[arg-type]


def test_findings_are_told_once_and_forgotten_when_removed_after_all() -> None:
    total = target_report(removals=[left("instance", "x", "no answer")])
    total.add_removal(left("instance", "x", "still no answer"))
    total.add_removal(left("key", "y", "denied", seconds=2.0))
    image = Resource(kind="image", name="z")
    total.add_removal(Removal(resource=image, state=State.KEPT, reason="failed", command="rm"))
    assert [(str(removal.resource), removal.reason) for removal in total.leftovers] == [
        ("instance x", "no answer"),
        ("key y", "denied"),
    ]
    assert total.phases["cleanup"] == 2.0
    assert str(total.kept[0].resource) == "image z"
    total.forget_removed({Resource(kind="key", name="y")})
    assert [str(removal.resource) for removal in total.leftovers] == ["key y"]
    assert [str(removal.resource) for removal in total.kept] == ["image z"]
