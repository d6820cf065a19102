"""For fault tests: all cases or a slice of them, chosen by a printed seed, and a table of what was done."""

from __future__ import annotations

import collections
import dataclasses
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.patience import shorten

T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-seed", type=int, help="choose cases, and what goes wrong in them, by this")
    parser.addoption("--faults-slice", action="store_true", help="a tenth of the cases, for CI")


@dataclasses.dataclass(kw_only=True)
class Row:
    """One line of the table."""

    cases: int = 0
    succeeded: int = 0
    left: int = 0
    foreign: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(kw_only=True)
class Table:
    """What was done in this session."""

    seed: int
    sliced: bool
    rows: dict[str, Row] = dataclasses.field(default_factory=lambda: collections.defaultdict(Row))

    def chance(self, what: str) -> random.Random:
        """Return a source of chance of its own for a test."""
        return random.Random(f"{self.seed} {what}")

    def some(self, cases: Sequence[T], what: str, *, one_in: int = 10, least: int = 3) -> list[T]:
        """Return all cases, or of a slice a sample, in their order."""
        if not self.sliced:
            return list(cases)
        number = min(len(cases), max(least, len(cases) // one_in))
        chosen = self.chance(what).sample(range(len(cases)), number)
        return [cases[at] for at in sorted(chosen)]

    def add(
        self, name: str, *, started: float, succeeded: bool = True, left: int = 0, foreign: int = 0
    ) -> None:
        """Enter a case: whether it came to what was asked for, and what it left or removed wrongly."""
        row = self.rows[name]
        row.cases += 1
        row.succeeded += succeeded
        row.left += left
        row.foreign += foreign
        row.seconds += time.monotonic() - started


TABLE: pytest.StashKey[Table] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    # Workers choose the same cases as their controller.
    seed = getattr(config, "workerinput", {}).get("faults_seed", config.getoption("--faults-seed"))
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    config.addinivalue_line("markers", "one_in(number): of a slice, about one case in so many is run")
    config.stash[TABLE] = Table(seed=seed, sliced=config.getoption("--faults-slice"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist the seed."""
    node.workerinput["faults_seed"] = node.config.stash[TABLE].seed


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what a worker did."""
    for name, values in getattr(node, "workeroutput", {}).get("faults", {}).items():
        row = node.config.stash[TABLE].rows[name]
        for key, value in values.items():
            setattr(row, key, getattr(row, key) + value)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the controller what this worker did."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        rows = session.config.stash[TABLE].rows
        output["faults"] = {name: dataclasses.asdict(row) for name, row in rows.items()}


def pytest_report_header(config: pytest.Config) -> str:
    """Say which cases these are."""
    return f"faults: --faults-seed={config.stash[TABLE].seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out most cases of a slice."""
    table = config.stash[TABLE]
    groups: dict[str, list[pytest.Item]] = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("one_in"):
            groups[item.nodeid.partition("[")[0]].append(item)
    out: set[pytest.Item] = set()
    for name, cases in groups.items():
        marker = cases[0].get_closest_marker("one_in")
        assert marker is not None
        out |= set(cases) - set(table.some(cases, name, one_in=marker.args[0], least=1))
    if out:
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=list(out))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash[TABLE]
    if not table.rows:
        return
    terminalreporter.write_sep(
        "=", f"faults (--faults-seed={table.seed}{', a slice' if table.sliced else ''})"
    )
    width = max(len(name) for name in table.rows)
    head = f"{'':<{width}}  {'cases':>6} {'succeeded':>9} {'left':>5} {'foreign':>7} {'seconds':>8}"
    terminalreporter.write_line(head)
    for name, row in table.rows.items():
        numbers = f"{row.cases:>6} {row.succeeded:>9} {row.left:>5} {row.foreign:>7} {row.seconds:>8.1f}"
        terminalreporter.write_line(f"{name:<{width}}  {numbers}")
    total = sum(row.cases for row in table.rows.values())
    terminalreporter.write_line(f"{total} cases; left behind: {sum(row.left for row in table.rows.values())}")


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """What was done in this session."""
    return pytestconfig.stash[TABLE]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that runs thirty times as fast, as far as faults are concerned."""
    shorten(
        monkeypatch,
        CALL_TIMEOUT=2.0,
        SAFE_CALL_TIMEOUT=12.0,
        LOST_ANSWER=0.5,
        IN_FLIGHT=0.5,
        LOOK_AGAIN=0.1,
        FIRST_PAUSE=0.02,
        LONGEST_PAUSE=0.2,
        SETTLING=1.0,
    )


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short temporary directory that runs use too."""
    with tempfile.TemporaryDirectory(prefix="df-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        for name in [name for name in os.environ if name.startswith("OS_")]:
            monkeypatch.delenv(name)
        yield Path(directory)
