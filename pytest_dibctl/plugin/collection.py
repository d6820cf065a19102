"""The hooks that make tests of files: which files, for which images, in which order, with which limits."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_timeout
from _pytest import python, runner

from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.plugin import modules, needs, options, planning
from pytest_dibctl.plugin.budget import failed_tally
from pytest_dibctl.plugin.modules import ENTRY
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.plugin.xdist.worker import CollectedTests, worker_id
from pytest_dibctl.run import warming
from pytest_dibctl.run.targets import Target

NEED_A_BOOT = frozenset({"cloud_image", "instance", "ssh_access"})
PRISTINE_MARK = "dib_pristine"
FIRST_BOOT_MARK = "dib_first_boot"
NOT_ALL_COLLECTED = ("lf", "ignore", "ignore_glob", "deselect")
"""Options with which a listed entry may have no test."""


class Collection:
    """Hooks before and after tests are collected."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    def pytest_sessionstart(self) -> None:
        """Collect, and put in order after all others: pytest's own plugins for --lf and --ff are here now."""
        collector = ImageCollector(
            self._session.config, catalog=self._session.catalog, plan=self._session.plan
        )
        self._session.config.pluginmanager.register(collector, "dibctl-collector")
        if self._session.may_make_things_early and not options.only_shows(self._session.config):
            self._session.resources.begin_guard()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which targets have a test of an instance, or of a first-booted one; only those pay for it.

        On a worker, say which target each test is for, before xdist tells the controller of them.
        """
        items = session.items
        served = [item for item in items if not needs.is_unmet(item)]
        self._session.wanting_pristine = _targets_of(
            item for item in served if item.get_closest_marker(PRISTINE_MARK)
        )
        self._session.wanting_first_boot = _targets_of(item for item in served if needs_first_boot(item))
        self._session.booting = _targets_of(
            item for item in served if modules.view_of(item) == planning.INSTANCE
        )
        worker = worker_id(session.config)
        if worker is not None:
            _collected(items).put(self._session.run_state, worker)


def needs_first_boot(item: pytest.Item) -> bool:
    """Whether a test says, by its mark or its entry, that its instance has to boot for the first time.

    Where no instance goes on from a ready state, each does, and nothing has to be said.
    """
    target = modules.target_of(item)
    if target is None or not warming.has_ready_states(target.environment):
        return False
    entry = item.stash.get(ENTRY, None)
    listed = entry is not None and entry.first_boot
    marked = item.get_closest_marker(FIRST_BOOT_MARK) is not None
    return (listed or marked) and modules.view_of(item) == planning.INSTANCE


def _targets_of(items: Iterable[pytest.Item]) -> frozenset[Target]:
    return frozenset(target for item in items if (target := modules.target_of(item)))


def _collected(items: Sequence[pytest.Item]) -> CollectedTests:
    targets = [modules.target_of(item) for item in items]
    return CollectedTests(
        pid=os.getpid(),
        ids=[item.nodeid for item in items],
        groups=[target.id if target else "" for target in targets],
        kinds=[modules.kind_of(item) if target else "" for item, target in zip(items, targets, strict=True)],
        tallies=[failed_tally(item) for item in items],
        first_boots=[needs_first_boot(item) for item in items],
    )


class ImageCollector:
    """The tests that pytest collects in a run with images: those of ``plan``, with places of ``catalog``."""

    def __init__(self, config: pytest.Config, *, catalog: Catalog, plan: planning.Plan) -> None:
        self._config = config
        self._catalog = catalog
        self._plan = plan

    # -- files -----------------------------------------------------------------------------------

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect items that pytest would not: scripts, commands, and listed files of any name."""
        if file_path.suffix == ".py":
            patterns = self._config.getini("python_files")
            usual = python.path_matches_patterns(file_path, patterns) or parent.session.isinitpath(file_path)
            return self._module(parent, file_path) if self._plan.is_listed(file_path) and not usual else None
        ours = self._plan.is_script(file_path) or self._plan.commands(file_path)
        return self._module(parent, file_path) if ours else None

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module:
        """Make every module one whose tests run for images."""
        return self._module(parent, module_path)

    def _module(self, parent: pytest.Collector, path: Path) -> modules.ImageModule:
        arguments: dict[str, Any] = {"path": path}
        if (nodeid := planning.node_id(path, self._config.rootpath)) is not None:
            arguments["nodeid"] = nodeid
        if places := self._plan.commands(path):
            commands = modules.CommandsFile.from_parent(parent, **arguments)
            commands.places = places
            return commands
        kind = modules.ScriptFile if self._plan.is_script(path) else modules.ImageModule
        return kind.from_parent(parent, **arguments)

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> pytest.CollectReport | None:
        """Collect modules with ids of our own even under --lf, which looks for files by their node id."""
        if isinstance(collector, modules.ImageModule) and planning.node_id(
            collector.path, self._config.rootpath
        ):
            return runner.pytest_make_collect_report(collector)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, collector: pytest.Collector, name: str, obj: object) -> None:
        """Refuse unittest classes, which pytest cannot parametrize."""
        unittest = sys.modules.get("unittest")
        if (
            unittest
            and inspect.isclass(obj)
            and issubclass(obj, unittest.TestCase)
            and obj.__module__ != "unittest.case"
        ):
            raise collector.CollectError(
                f"{name} is a unittest class, and pytest cannot run those once for each image; "
                "make it a plain class, or functions, with fixtures",
            )

    # -- tests -----------------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrize every test of an image module by image and by its subject, at session scope."""
        module = metafunc.definition.getparent(modules.ImageModule)
        if module is None or "image" not in metafunc.fixturenames:
            return
        params = [
            pytest.param(
                use.target,
                use.view,
                id=use.id,
                marks=pytest.mark.dib_entry(*use.entry.key) if use.entry else (),
            )
            for use in module.uses(self._plan, metafunc.definition.originalname)
        ]
        metafunc.parametrize(("image", "dib_view"), params, indirect=True, scope="session")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self,
        session: pytest.Session,
        items: list[pytest.Item],
    ) -> Generator[None, object, object]:
        """Keep each image's tests together, in the order of its ``tests_list``, with their time limits."""
        for item in items:
            item.stash[ENTRY] = modules.planned_entry(item, self._plan)
            _limit(item)
        needs.skip_unmet(items, self._catalog)
        # The tests' folders are on the module path by now.
        options.refuse_shadowing_modules(self._plan)
        self._refuse_lost_entries(session, items)
        self._refuse_boots_in_trees(items)
        # Before others choose by place (--stepwise), and after others have changed the order (--ff).
        items.sort(key=self._order)
        result = yield
        items.sort(key=self._order)
        return result

    def _refuse_lost_entries(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Refuse a run in which an entry has no test: it would pass unseen."""
        if (
            self._plan.paths_given
            or session.testsfailed
            or any(self._config.getoption(name, None) for name in NOT_ALL_COLLECTED)
        ):
            return
        lost = self._plan.missing(item.stash[ENTRY] for item in items)
        if lost:
            places = [f"{self._place(entry)}: {entry.kind} entry {entry.written}" for entry in lost]
            raise pytest.UsageError("no test was found for\n" + "\n".join(places))

    def _refuse_boots_in_trees(self, items: list[pytest.Item]) -> None:
        """Refuse tests of image entries that ask for an instance: they are there to run before any boot."""
        if self._config.getoption("dib_upload_only"):
            return  # every test asks for the upload then, and none is run
        for item in items:
            fixtures = sorted(_asks_for(item)) if modules.view_of(item) == planning.TREE else None
            if fixtures:
                entry = item.stash[ENTRY]
                where = f"{self._place(entry)}: " if entry else ""
                raise pytest.UsageError(
                    f"{where}{item.nodeid} is for the files of an image, without a guest, and asks for "
                    f"{' and '.join(fixtures)}\nhint: list what needs an instance as `- pytest:`"
                )

    def _place(self, entry: planning.PlannedEntry) -> str:
        return self._catalog.image(entry.image).at(entry.place)

    def _order(self, item: pytest.Item) -> tuple[int, int, int]:
        target = modules.target_of(item)
        if target is None:
            return (-1, -1, -1)
        target_turn, entry_turn = self._plan.order(target, item.stash[ENTRY])
        return (target_turn, self._stage(item), entry_turn)

    def _stage(self, item: pytest.Item) -> int:
        """Return what comes before the place in the list: a first boot, where other instances need none."""
        if not options.shares_ready_state(self._config):
            return 0
        if modules.kind_of(item) == "image":
            return 0
        return 1 if needs_first_boot(item) else 2


def _asks_for(item: pytest.Item) -> set[str]:
    """Return the fixtures of an item that only an instance can give."""
    marked = {PRISTINE_MARK} if item.get_closest_marker(PRISTINE_MARK) else set()
    return marked | (NEED_A_BOOT & set(getattr(item, "fixturenames", ())))


def _limit(item: pytest.Item) -> None:
    """Give the item a timer of its own for its body only: a boot is never charged to a test."""
    if modules.target_of(item) is None:
        return
    own = _own_timeout(item)
    entry = item.stash[ENTRY]
    limits = [limit for limit in (own.timeout, entry.timeout if entry else None) if limit]
    item.stash[modules.LIMIT] = min(limits, default=None)
    if limits and not modules.is_script(item):
        # Method thread would end the whole run without removing anything.
        marker = pytest.mark.timeout(min(limits), method="signal", func_only=True)
        item.add_marker(marker, append=False)


def _own_timeout(item: pytest.Item) -> Any:
    """Return the timeout that pytest-timeout itself would apply to the item."""
    return pytest_timeout._get_item_settings(item)  # noqa: SLF001 -- no public name knows marker, option and ini
