"""What became of a resource: equal by what it is about, the same in every process, in words for people."""

from __future__ import annotations

from pathlib import Path

import execnet
import pytest

from pytest_dibctl.plugin.target_report import TargetReport
from pytest_dibctl.run import ledger
from pytest_dibctl.run.removal import Removal, Resource, State


def test_resources_are_told_apart_by_kind_and_name_only() -> None:
    known = Resource(kind="image", name="dibctl-1", id="6f70")
    assert known == Resource(kind="image", name="dibctl-1")
    assert (
        len({known, Resource(kind="image", name="dibctl-1"), Resource(kind="keypair", name="dibctl-1")}) == 2
    )
    assert str(known) == "image dibctl-1 (6f70)"


@pytest.mark.parametrize("state", State)
def test_a_removal_survives_the_way_to_another_process(state: State) -> None:
    resource = Resource(kind="instance", name="a: b", id="7")
    removal = Removal(resource=resource, state=state, reason="x: y", seconds=1.5, image="i", login="ssh")
    assert Removal.from_data(execnet.loads(execnet.dumps(removal.as_data()))) == removal


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (State.REMOVED, "", "removed"),
        (State.REMOVED, "older than 24 h", "removed (older than 24 h)"),
        (State.LEFT, "no answer", "could not be removed: no answer"),
        (State.KEPT, "exit 42", "kept (exit 42); `rm it` removes it"),
        (State.PLANNED, "", "would be removed"),
        (State.MAY_APPEAR, "", "may still appear"),
    ],
)
def test_outcome_in_words(state: State, reason: str, words: str) -> None:
    resource = Resource(kind="image", name="x")
    removal = Removal(resource=resource, state=state, reason=reason, command="rm it")
    assert removal.outcome == words
    assert removal.failed is (state is State.LEFT)


@pytest.mark.parametrize("kind", ["tree", "instance", "image", "keypair", "key"])
def test_a_leftover_is_known_by_its_record_whatever_its_kind(kind: str, tmp_path: Path) -> None:
    """Names with colons, and trees, were once listed twice, or forgotten while they were still there."""
    with ledger.opened("0123abcd", base=tmp_path) as run:
        record = run.record(kind, "debian: 12")
        report = TargetReport(removals=[Removal(resource=record.resource, state=State.LEFT, reason="busy")])
        report.add_removal(Removal(resource=run.records()[0].resource, state=State.LEFT, reason="still busy"))
        assert [removal.reason for removal in report.leftovers] == ["busy"]
        report.forget_removed({found.resource for found in run.records()})
        assert [removal.reason for removal in report.leftovers] == ["busy"]
        record.done()
        report.forget_removed({found.resource for found in run.records()})
        assert report.leftovers == []
