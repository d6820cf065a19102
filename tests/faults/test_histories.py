"""Histories made by chance: runs, crashes, clocks that jump, foreign things, snapshots; then a cleanup.

Whatever happened before: what is foreign or kept is never removed, and what is ours never stays. A crash is
what a killed process looks like from outside: nothing of it runs on, its lock is free, its records are there,
and the call it died in is answered or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pytest_dibctl.cleanup import sweep
from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.openstack import cloud as engine
from pytest_dibctl.clouds.openstack import in_flight
from pytest_dibctl.clouds.protocols import GRACE, LIFETIME
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest.keys import make_key
from pytest_dibctl.run import booting, environments, keys, ledger, uploading
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.target_run import TargetRun
from tests.faults import adapter
from tests.faults.conftest import Table
from tests.faults.stage import ENVIRONMENT, LABEL, Stage, fake_cloud, staged
from tests.support.fake_openstack import FakeCloud
from tests.support.fake_openstack.documents import NETWORK
from tests.support.fake_openstack.messages import Answer, Request

HOUR = 3600.0
HISTORIES, CHUNKS = 10_000, 20
EVENTS = 6


class Killed(BaseException):
    """The process ends here: nothing of it runs on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run that dies after ``calls`` changes to the cloud, answered or not; None: it ends by itself."""

    dies_after: int | None
    answered: bool
    keeps: bool
    here: bool
    """Whether its ledger is on the machine that cleans up; else that machine is lost."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """Time passes in the cloud; the clock of the machine that tests is another one."""

    hours: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign:
    """Somebody makes something that looks like ours."""

    how: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cleanup:
    """Somebody cleans up in the middle of everything."""

    expired: bool


OURS = {"name": "dibctl-image-0a1b2c3d", "metadata": {"dibctl_run": "0a1b2c3d"}}
"""What a server of ours looks like, for whoever imitates it."""
OUR_IMAGE = {"name": "dibctl-0a1b2c3d-image-0a1b2c", "tags": ["dibctl-test", "dibctl-run-0a1b2c3d"]}
SERVERS: Mapping[str, Callable[[Any], tuple[str, dict[str, str]]]] = {
    "server without mark": lambda ours: (ours["name"], {}),
    "server marked without name": lambda ours: ("mine", dict(ours["metadata"])),
    "server of no run": lambda ours: (ours["name"], {**ours["metadata"], "dibctl_run": "not one"}),
}
IMAGES: Mapping[str, Callable[[Any], tuple[str, list[str], dict[str, Any]]]] = {
    "image named alike": lambda ours: (ours["name"], [], {}),
    "image tagged alike": lambda ours: ("mine", ours["tags"], {}),
    # By a tool that copies the name and makes properties of everything else.
    "image copies all": lambda ours: (ours["name"], [], dict.fromkeys(ours["tags"], "yes")),
    "tagged snapshot": lambda ours: (f"{ours['name']}-copy", ours["tags"], {"image_type": "snapshot"}),
}
SNAPSHOTS = {"snapshot of ours": "my snapshot", "snapshot as ours": "{name}-before"}
FOREIGN = (*SERVERS, *IMAGES, *SNAPSHOTS, "keypair alike", "port")
events = st.one_of(
    st.builds(
        Run,
        dies_after=st.one_of(st.none(), st.integers(0, 9)),
        answered=st.booleans(),
        keeps=st.booleans(),
        here=st.booleans(),
    ),
    st.builds(Pass, hours=st.sampled_from([0.1, 5.0, 20.0, 30.0, 200.0])),
    st.builds(Foreign, how=st.sampled_from(FOREIGN)),
    st.builds(Cleanup, expired=st.booleans()),
)


@dataclasses.dataclass(kw_only=True)
class World:
    """The cloud, the machines, and what everybody knows of what is whose."""

    stage: Stage
    cloud: FakeCloud
    elsewhere: Path
    time: float
    foreign: set[str] = dataclasses.field(default_factory=set)
    kept: set[str] = dataclasses.field(default_factory=set)
    changes_left: int | None = None
    answers_last: bool = True
    dead: bool = False

    def backend(self, request: Request) -> Answer:
        """Answer a request of a run, which may die of it."""
        if self.dead:
            raise Killed
        if request.method == "GET" or "auth/tokens" in request.path or self.changes_left is None:
            return self.cloud.handle(request)
        if self.changes_left > 0:
            self.changes_left -= 1
            return self.cloud.handle(request)
        self.dead = True
        if self.answers_last:
            self.cloud.handle(request)
        raise Killed

    # -- what happens ------------------------------------------------------------------------------

    def happen(self, event: Run | Pass | Foreign | Cleanup) -> None:
        if isinstance(event, Pass):
            self.time += event.hours * HOUR
        elif isinstance(event, Foreign):
            self._foreign(event.how)
        elif isinstance(event, Cleanup):
            self.clean_up(expired=event.expired)
        else:
            self._run(event)

    def _run(self, event: Run) -> None:
        before = self.cloud.left()
        base = self.stage.base if event.here else self.elsewhere
        stage = dataclasses.replace(self.stage, base=base)
        self.changes_left, self.answers_last, self.dead = event.dies_after, event.answered, False
        run_id = ledger.new_run_id()
        try:
            flow(stage, run_id, keeps=event.keeps)
        except Killed:
            pass
        finally:
            self.changes_left, self.dead = None, False
        if event.keeps:
            self.kept |= self._kept_of(base / run_id, self.cloud.left() - before, here=event.here)

    def _kept_of(self, directory: Path, made: set[str], *, here: bool) -> set[str]:
        """Return what is kept: by the ledger, or where that is lost by what shows in the cloud."""
        records = ledger.Ledger(directory=directory).records()
        names = {record.name for record in records if record.kept is not None}
        if not here:
            servers = [one for one in self.cloud.servers.values() if marks.KEPT_KEY in one["metadata"]]
            images = [one for one in self.cloud.region().values() if marks.KEPT in one["tags"]]
            # What a kept server was made of stays with it.
            names = {one["name"] for one in (*servers, *images)} | {one["key_name"] for one in servers}
            needed = {one["image"]["id"] for one in servers}
            names |= {one["name"] for one in self.cloud.region().values() if one["id"] in needed}
        return {one for one in made if one.split()[1] in names or self._belongs(one, names)}

    def _belongs(self, one: str, names: set[str]) -> bool:
        kind, *_, identity = one.split()
        servers = {server["id"] for server in self.cloud.servers.values() if server["name"] in names}
        return kind == "port" and self.cloud.ports[identity]["device_id"] in servers

    def _foreign(self, how: str) -> None:
        before = self.cloud.left()
        servers = list(self.cloud.servers.values())
        if how in SERVERS:
            name, metadata = SERVERS[how](servers[-1] if servers else OURS)
            self.cloud.add_server(name, metadata)
        elif how in IMAGES:
            images = list(self.cloud.region().values())
            name, tags, properties = IMAGES[how](images[-1] if images else OUR_IMAGE)
            self.cloud.add_image(name, tags=tuple(tags), **properties)
        elif how in SNAPSHOTS and servers:
            self.cloud.add_snapshot(servers[-1]["id"], SNAPSHOTS[how].format(**servers[-1]))
        elif how == "keypair alike":
            _, public = make_key("me@laptop")
            self.cloud.add_keypair(f"dibctl-0a1b2c3d-image-{len(self.cloud.keypairs):06x}", public)
        elif how == "port":
            self.cloud.add_port("mine", description="dibctl test instance")
        self.foreign |= self.cloud.left() - before

    def clean_up(self, *, expired: bool) -> None:
        """Do what `dibctl cleanup` does."""
        self.stage.sweep()
        if expired:
            environments = self.stage.catalog.environments.values()
            list(sweep.sweep_expired(environments, sweep.Choice(), cwd=self.stage.directory))

    # -- what must hold ----------------------------------------------------------------------------

    def check_nothing_is_lost(self) -> None:
        left = self.cloud.left()
        assert self.foreign <= left, f"foreign things are gone: {self.foreign - left}"
        assert self.kept <= left, f"kept things are gone: {self.kept - left}"

    def check_nothing_leaks(self) -> None:
        left = self.cloud.left() - self.foreign - self.kept
        assert not left, f"left behind: {left}"


def flow(stage: Stage, run_id: str, *, keeps: bool) -> None:
    """Boot an instance of an image and remove both, or keep them since a test failed."""
    run_options = RunOptions(keep_failed_image=keeps, keep_failed_instance=keeps, keep_days=0)
    with ledger.opened(run_id, base=stage.base) as run, contextlib.ExitStack() as stack:
        target_run = TargetRun(
            image=stage.catalog.image(LABEL),
            environment=stage.catalog.environment(ENVIRONMENT),
            options=run_options,
            ledger=run,
            cwd=stage.directory,
            progress=lambda _line: None,
        )
        with contextlib.suppress(DibctlError):
            cloud = stack.enter_context(environments.opened(target_run))
            uploaded = stack.enter_context(uploading.uploaded(target_run, cloud, stage.artifact))
            key = stack.enter_context(keys.keypair(target_run, cloud))
            stack.enter_context(booting.booted(target_run, cloud, uploaded, key))
            target_run.failed = keeps


MEMORY = Path("/dev/shm")
"""Where files cost no disk: these histories write thousands of records, each flushed."""


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="dh-", dir=where) as directory:
        monkeypatch.setenv("TMPDIR", directory)
        nics = [{"net_id": NETWORK}]
        with staged(Path(directory), adapter.URL, nics=nics, floating_network=None) as made:
            yield dataclasses.replace(made, base=ledger.base_directory())


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """The one world there is at a time; of a run that died nothing goes on, on this machine either."""
    worlds: list[World] = []

    def if_alive(usual: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if worlds[-1].dead:
                raise Killed
            return usual(*arguments, **options)

        return call

    for owner, name in (
        (ledger, "_write"),
        (ledger.Record, "done"),
        (ledger.Ledger, "remove_if_empty"),
        (keys, "remove_directory"),
        (sweep, "remove_directory"),
    ):
        monkeypatch.setattr(owner, name, if_alive(getattr(owner, name)))
    for module in (sweep, in_flight):
        monkeypatch.setattr(module, "IN_FLIGHT", 0.0)

    def backend(request: Request) -> Answer:
        return worlds[-1].backend(request)

    monkeypatch.setattr(engine, "open_api", adapter.opening(backend))
    return worlds


@pytest.mark.one_in(20)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_leaks_and_nothing_is_lost(
    stage: Stage, living: list[World], table: Table, chunk: int
) -> None:
    @settings(
        max_examples=HISTORIES // CHUNKS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @seed(table.seed * CHUNKS + chunk)
    @given(history=st.lists(events, min_size=1, max_size=EVENTS), hour=st.integers(-9000, 9000))
    def histories(history: list[Run | Pass | Foreign | Cleanup], hour: int) -> None:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=stage.directory) as elsewhere:
            world: World = World(
                stage=stage,
                cloud=fake_cloud(clock=lambda: world.time),
                elsewhere=Path(elsewhere),
                time=time.time() + hour * HOUR,
            )
            living[:] = [world]
            _live_through(world, history)
        for run in stage.base.glob("*"):
            shutil.rmtree(run)
        table.add("histories", started=started)

    histories()


def _live_through(world: World, history: list[Run | Pass | Foreign | Cleanup]) -> None:
    for event in history:
        world.happen(event)
        world.check_nothing_is_lost()
    world.clean_up(expired=False)
    world.time += LIFETIME + GRACE + HOUR
    world.clean_up(expired=True)
    world.check_nothing_is_lost()
    world.check_nothing_leaks()
