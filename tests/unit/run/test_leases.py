"""What tells other machines that a run lives, or that a thing is kept: marks, by the cloud's clock."""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.cleanup import kept, renewal, sweep
from pytest_dibctl.cli.main import main
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.run import booting, environments, keys, ledger, uploading
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.removal import State
from pytest_dibctl.run.target_run import TargetRun
from tests.faults.stage import ENVIRONMENT, LABEL, Stage, fake_cloud, staged
from tests.support.fake_openstack import FakeCloud, serving

HOUR = 3600.0


@dataclasses.dataclass(kw_only=True)
class World:
    """A cloud whose clock ``ahead`` moves, and a configuration on the machine that cleans up."""

    cloud: FakeCloud
    stage: Stage
    ahead: float = 0.0
    lost: list[contextlib.ExitStack] = dataclasses.field(default_factory=list)
    """Of runs that died: held, because a generator that is collected would clean up after all."""

    def run(self, stack: contextlib.ExitStack, **options: object) -> TargetRun:
        """Start a run on another machine: image, key, instance and a snapshot of it; the stack ends it."""
        base = self.stage.directory / "elsewhere"
        base.mkdir(exist_ok=True)
        run = stack.enter_context(ledger.opened(ledger.new_run_id(), base=base))
        target_run = TargetRun(
            image=self.stage.catalog.image(LABEL),
            environment=self.stage.catalog.environment(ENVIRONMENT),
            options=RunOptions(**options),  # type: ignore[arg-type]
            ledger=run,
            cwd=self.stage.directory,
            progress=lambda _line: None,
        )
        opened = stack.enter_context(environments.opened(target_run))
        uploaded = stack.enter_context(uploading.uploaded(target_run, opened, self.stage.artifact))
        key = stack.enter_context(keys.keypair(target_run, opened))
        instance = stack.enter_context(booting.booted(target_run, opened, uploaded, key))
        instance.snapshot("before")
        return target_run

    def expired(self, *, dry_run: bool = False) -> list[sweep.Swept]:
        entries = self.stage.catalog.environments.values()
        return list(sweep.sweep_expired(entries, sweep.Choice(), cwd=self.stage.directory, dry_run=dry_run))

    def renew(self, target_run: TargetRun) -> None:
        renewal.renew(self.stage.catalog.environment, target_run.ledger, cwd=self.stage.directory)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="dl-") as directory, serving(fake_cloud()) as cloud:
        monkeypatch.setenv("TMPDIR", directory)
        with staged(Path(directory), cloud.url.removesuffix("/identity/v3")) as stage:
            made = World(cloud=cloud, stage=stage)
            cloud.clock = lambda: time.time() + made.ahead
            yield made
            for stack in made.lost:
                stack.close()


@pytest.mark.parametrize("hours", [25, 40, 100])
def test_expiry_does_not_touch_what_a_living_run_renews(world: World, hours: int) -> None:
    with contextlib.ExitStack() as stack:
        target_run = world.run(stack)
        before = world.cloud.left()
        for _ in range(hours // 10):
            world.ahead += 10 * HOUR
            world.renew(target_run)
        world.ahead += hours % 10 * HOUR
        assert world.expired() == []
        assert world.cloud.left() == before
        tags = [tag for image in world.cloud.region().values() for tag in image["tags"]]
        assert sum(tag.startswith("dibctl-lease-") for tag in tags) == 2  # of the image and its snapshot


@pytest.mark.parametrize("own_key", [True, False], ids=["own key", "made key"])
def test_a_lost_machine_leaves_nothing_once_lease_and_grace_are_over(world: World, own_key: bool) -> None:
    file = world.stage.directory / "key"
    options = {}
    if own_key:
        from pytest_dibctl.guest.keys import SshKey

        file.mkdir()
        options["private_key_file"] = SshKey.generate(file, comment="me@laptop").private_key_file
    with contextlib.ExitStack() as stack:
        target_run = world.run(stack, **options)
        world.ahead += 20 * HOUR
        world.renew(target_run)
        world.lost.append(stack.pop_all())  # the machine is lost
    before = world.cloud.left()
    assert len(before) > 5
    world.ahead += 24 * HOUR
    assert world.expired() == []
    assert world.cloud.left() == before
    world.ahead += HOUR
    assert not any(item.failed for item in world.expired())
    world.expired()
    assert world.cloud.left() == set()


@pytest.mark.parametrize("date", ["", "yesterday"], ids=repr)
def test_nothing_is_judged_without_the_cloud_s_time(world: World, date: str) -> None:
    with contextlib.ExitStack() as stack:
        world.run(stack)
        before = world.cloud.left()
        world.ahead += 1000 * HOUR
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(email.utils, "format_datetime", lambda *_all, **_more: date)
            [item] = world.expired()
        assert item.failed
        assert "does not say what time it is" in item.outcome
        assert world.cloud.left() == before


@pytest.mark.parametrize("how", ["kept", "renewed"])
def test_what_changes_between_listing_and_removal_stays(
    world: World, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        target_run = world.run(stack)
        world.lost.append(stack.pop_all())
    before = world.cloud.left()
    world.ahead += 30 * HOUR
    usual = sweep._expired
    first = [True]

    def late(cloud: object, leaked: object, *, dry_run: bool) -> object:
        if first.pop() if first else False:
            for record in target_run.ledger.records():
                if how == "kept":
                    cloud.keep(record.kind, record.name, record.details)  # type: ignore[attr-defined]
            if how == "renewed":
                world.renew(target_run)
        return usual(cloud, leaked, dry_run=dry_run)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "_expired", late)
    usual_opening = environments.open_environment

    def as_the_run(environment: object, *, run: object, **more: object) -> object:
        del run  # marks are made by a login of the run
        return usual_opening(environment, run=target_run.ledger, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(environments, "open_environment", as_the_run)
    swept = world.expired()
    assert swept
    assert all(item.removal.state is State.LEFT for item in swept)
    assert world.cloud.left() == before


def keep(world: World, **options: object) -> None:
    with contextlib.ExitStack() as stack:
        target_run = world.run(stack, keep_failed_instance=True, keep_failed_image=True, **options)
        target_run.failed = True
    shutil.rmtree(world.stage.directory / "elsewhere")


@pytest.mark.parametrize(("days", "end"), [(7.0, 7.0), (1.5, 1.5), (0.0, None)])
def test_kept_things_stay_until_their_end(world: World, days: float, end: float | None) -> None:
    keep(world, keep_days=days)
    before = world.cloud.left()
    world.ahead += ((end or 1000) * 24 - 1) * HOUR
    assert [item for item in world.expired() if item.what.startswith(("instance", "image"))] == []
    assert {one for one in before if one.startswith(("server", "keypair"))} <= world.cloud.left()
    if end is not None:
        world.ahead += 2 * HOUR
        world.expired()
        world.expired()
        assert world.cloud.left() == set()


def test_kept_things_are_listed_and_removed_without_a_ledger(world: World) -> None:
    keep(world)
    entries = world.stage.catalog.environments.values()
    listed = list(kept.listed(entries, sweep.Choice(), cwd=world.stage.directory))
    assert {item.removal.resource.kind for item in listed} == {"instance", "image"}
    assert all("kept until " in item.outcome for item in listed)
    for item in listed:
        identity = item.removal.resource.id
        [outcome] = kept.removed(entries, sweep.Choice(), identity, cwd=world.stage.directory)
        assert outcome.removal.state is State.REMOVED, outcome.outcome
    assert world.cloud.left() == set()
    assert list(kept.listed(entries, sweep.Choice(), cwd=world.stage.directory)) == []


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b'{"kind": 5}',
    b"\xff\xfe",
    b'{"kind":"key","name":"x","details":{"directory":7}}',
]


@pytest.mark.parametrize("text", DAMAGED, ids=repr)
def test_a_damaged_record_does_not_hide_the_others(world: World, text: bytes) -> None:
    with contextlib.ExitStack() as stack:
        target_run = world.run(stack)
        world.lost.append(stack.pop_all())
    run = target_run.ledger
    records = run.records()
    [instance] = [record for record in records if record.kind == "instance"]
    instance.path.write_bytes(text)
    removals = sweep.sweep_records(
        world.stage.catalog.environment, run, run.records(), cwd=world.stage.directory
    )
    left = {one.split()[0] for one in world.cloud.left()}
    assert "keypair" not in left
    assert len(removals) >= len(records) - 1


def test_a_damaged_record_beside_a_kept_thing_holds_back_nothing_else(world: World) -> None:
    with contextlib.ExitStack() as stack:
        target_run = world.run(stack)
        world.lost.append(stack.pop_all())
    lost = target_run.ledger.directory
    dead = ledger.Ledger(directory=ledger.base_directory() / lost.name)
    shutil.copytree(lost, dead.directory, ignore=shutil.ignore_patterns("*.sock"))
    records = {record.kind: record for record in dead.records()}
    records["image"].keep("somebody looks at it")  # of which the cloud was not told
    records["instance"].path.write_text("{")
    world.ahead += 25 * HOUR
    assert not any(item.failed for item in world.expired())
    world.expired()
    left = world.cloud.left()
    assert not any(one.startswith(("server", "keypair")) for one in left), left
    assert any(records["image"].name in one for one in left), left


def test_a_record_that_was_kept_since_it_was_read_stays(world: World) -> None:
    with contextlib.ExitStack() as stack:
        target_run = world.run(stack)
        world.lost.append(stack.pop_all())
    run = target_run.ledger
    read = run.records()
    [instance] = [record for record in read if record.kind == "instance"]
    instance.keep("somebody looks at it")
    before = {one for one in world.cloud.left() if one.startswith("server")}
    assert before
    sweep.sweep_records(world.stage.catalog.environment, run, read, cwd=world.stage.directory)
    assert before <= world.cloud.left()


def test_a_run_renews_by_itself(world: World) -> None:
    def leases() -> set[str]:
        tags = [tag for image in world.cloud.region().values() for tag in image["tags"]]
        return {tag for tag in tags if tag.startswith("dibctl-lease-")}

    with contextlib.ExitStack() as stack:
        target_run = world.run(stack)
        world.ahead += 10 * HOUR
        find = world.stage.catalog.environment
        before, deadline = leases(), time.monotonic() + 30
        with renewal.renewing(find, target_run.ledger, cwd=world.stage.directory, every=0.05):
            while leases() == before and time.monotonic() < deadline:
                time.sleep(0.05)
        assert leases() != before


def test_kept_things_on_the_command_line(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dibctl(*arguments: str) -> tuple[int, str, str]:
        code = main(["cleanup", *arguments])
        return code, *capsys.readouterr()

    monkeypatch.chdir(world.stage.directory)
    assert dibctl("--list-kept")[:2] == (0, "nothing was kept\n")
    keep(world)
    before = world.cloud.left()
    code, out, _ = dibctl("--list-kept", "--json")
    assert code == 0
    listed = [one["what"] for one in json.loads(out)]
    assert {what.split()[0] for what in listed} == {"instance", "image"}
    [identity] = [what.split("(")[1].split(")")[0] for what in listed if what.startswith("instance")]
    code, out, err = dibctl("--remove-kept", "nothing")
    assert code == ExitCode.NOT_IN_CONFIG
    assert "--list-kept" in err
    code, out, _ = dibctl("--remove-kept", identity, "--dry-run")
    assert (code, world.cloud.left()) == (0, before)
    code, out, _ = dibctl("--remove-kept", identity)
    assert code == 0
    assert "removed" in out
    assert not {one for one in world.cloud.left() if one.startswith("server")}
