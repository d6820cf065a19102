"""The capabilities that tests need, and the skipping of tests whose engine lacks one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import pytest

from pytest_dibctl.config import engines
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.plugin import modules, planning
from pytest_dibctl.run.targets import Target

MARK = "dib_needs"
MOST_LABELS = 3
"""Environments that a reason names."""
_UNMET: pytest.StashKey[bool] = pytest.StashKey()


def needs_of(item: pytest.Item, entry: planning.PlannedEntry | None) -> frozenset[str]:
    """Return the capabilities that a test's marks and its entry name; a test of files needs none."""
    if modules.view_of(item) != planning.INSTANCE:
        return frozenset()
    marked = {name for marker in item.iter_markers(MARK) for name in marker.args}
    return frozenset(marked) | (entry.needs if entry else frozenset())


def meets(target: Target, needs: Collection[str]) -> bool:
    """Whether a target's engine has all of ``needs``."""
    return target.environment.settings.capabilities.issuperset(needs)


def skip_unmet(items: Iterable[pytest.Item], catalog: Catalog) -> None:
    """Mark each test to be skipped whose engine lacks a capability: nothing is set up for it.

    Raises pytest.UsageError for marks that name no capability.
    """
    wrong: dict[str, None] = {}
    for item in items:
        wrong |= dict.fromkeys(_mistakes(item))
        target = modules.target_of(item)
        needs = needs_of(item, item.stash.get(modules.ENTRY, None))
        if target is not None and not wrong and not meets(target, needs):
            item.add_marker(pytest.mark.skip(reason=_reason(target, needs, catalog)))
            item.stash[_UNMET] = True
    if wrong:
        raise pytest.UsageError("\n".join(wrong))


def is_unmet(item: pytest.Item) -> bool:
    """Whether a test is skipped because its engine lacks a capability."""
    return item.stash.get(_UNMET, False)


def _mistakes(item: pytest.Item) -> Iterator[str]:
    """Yield the errors of a test's marks, once for all of its targets."""
    where = item.nodeid.partition("[")[0]
    for marker in item.iter_markers(MARK):
        if marker.kwargs or not marker.args:
            yield f'{where}: {MARK} takes names of capabilities, as in @pytest.mark.{MARK}("kernel")'
        for name in marker.args:
            problem = engines.problem(name) if isinstance(name, str) else f"{name!r} is not text"
            if problem:
                yield f"{where}: {MARK}: {problem}"


def _reason(target: Target, needs: frozenset[str], catalog: Catalog) -> str:
    """Return the words for a missing capability of a target, and for environments that have it."""
    own = target.environment
    lacks = f"{own.label} has {engines.absence(needs - own.settings.capabilities)}"
    able = [
        label
        for label, environment in catalog.environments.items()
        if environment.settings.capabilities.issuperset(needs)
    ]
    return f"{lacks}: run it on {' or '.join(able[:MOST_LABELS])}" if able else lacks
