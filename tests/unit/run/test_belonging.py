"""A record is touched only through a login that shows the cloud which is on record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dibctl.cleanup import sweep
from pytest_dibctl.clouds.openstack import identity
from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.run import booting, environments, keys, ledger, uploading
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.removal import State
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import host
from tests.faults.stage import ENVIRONMENT, LABEL, USER, Stage, environment, fake_cloud, staged
from tests.support.fake_openstack import FakeCloud, serving


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with serving(fake_cloud()) as served:
        yield served


@pytest.fixture
def stage(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="db-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(sweep, "IN_FLIGHT", 0.0)
        with staged(Path(directory), cloud.url.removesuffix("/identity/v3")) as made:
            yield dataclasses.replace(made, base=ledger.base_directory())


def leave(stage: Stage) -> ledger.Ledger:
    """Leave an image, a keypair, an instance, its port and its address, as a killed run does."""
    run = ledger.Ledger(directory=stage.base / ledger.new_run_id())
    keep: dict[Path, str] = {}
    with ledger.opened(run.run_id, base=stage.base), contextlib.ExitStack() as stack:
        target_run = TargetRun(
            image=stage.catalog.image(LABEL),
            environment=stage.catalog.environment(ENVIRONMENT),
            options=RunOptions(keep_failed_image=True, keep_failed_instance=True),
            ledger=run,
            cwd=stage.directory,
            progress=lambda _line: None,
        )
        opened = stack.enter_context(environments.opened(target_run))
        uploaded = stack.enter_context(uploading.uploaded(target_run, opened, stage.artifact))
        key = stack.enter_context(keys.keypair(target_run, opened))
        stack.enter_context(booting.booted(target_run, opened, uploaded, key))
        target_run.failed = True
    for record in run.records():
        document = {**json.loads(record.path.read_text()), "kept": None}
        keep[record.path] = json.dumps(document)
    for path, text in keep.items():
        path.write_text(text)
    return run


def clean_up(stage: Stage, entry: Mapping[str, Any] | None = None) -> tuple[sweep.Swept, ...]:
    """Do what `dibctl cleanup` does, where the label has come to mean ``entry``."""
    if entry is not None:
        (stage.directory / "test.yaml").write_text(yaml.safe_dump({ENVIRONMENT: dict(entry)}))
    catalog = configuration.load(cwd=stage.directory, system=stage.directory / "none")
    return sweep.sweep(catalog.environment, sweep.Choice(), cwd=stage.directory)


def test_the_same_cloud_is_cleaned_up(stage: Stage, cloud: FakeCloud) -> None:
    leave(stage)
    assert len(cloud.left()) > 4
    assert not any(item.failed for item in clean_up(stage))
    assert cloud.left() == set()
    assert ledger.all_runs(stage.base) == ()


OTHERS = ("keystone", "project", "region", "user", "image endpoint")


@pytest.mark.parametrize("other", OTHERS)
def test_another_cloud_under_the_same_label_proves_nothing(
    stage: Stage, cloud: FakeCloud, other: str
) -> None:
    run = leave(stage)
    before, records = cloud.left(), len(run.records())
    url = cloud.url.removesuffix("/identity/v3")
    cloud.regions = ("RegionOne", "RegionTwo")
    cloud.users = {**cloud.users, "second": cloud.users[USER]}
    with serving(fake_cloud()) as elsewhere:
        there = elsewhere.url.removesuffix("/identity/v3")
        entry = environment(there if other == "keystone" else url)
        if other == "project":
            cloud.users = {**cloud.users, USER: "9" * 32}
        elif other == "region":
            entry["keystone"]["region_name"] = "RegionTwo"
        elif other == "user":
            entry["keystone"] |= {"username": "second", "project_name": "second"}
        elif other == "image endpoint":
            entry["glance"] = {"endpoint": f"{there}/image-RegionOne"}
        swept = clean_up(stage, entry)
        if other == "image endpoint":  # the record's own Glance is asked, whatever the label's has become
            assert not any(item.failed for item in swept)
            assert cloud.left() == set()
            assert elsewhere.count("GET", "/image") == 0
            return
        assert not any(method != "GET" for method, path in elsewhere.calls if "/auth/" not in path)
    assert cloud.left() == before
    assert len(run.records()) == records
    refused = [item for item in swept if item.removal.state is State.LEFT]
    assert len(refused) == records - 1  # the key waits for its instance
    for item in refused:
        assert identity.normalised(cloud.url) in item.outcome
        assert f"let {ENVIRONMENT} in test.yaml log in there" in item.outcome


def test_a_label_that_is_gone_leads_to_the_cloud_by_name(stage: Stage, cloud: FakeCloud) -> None:
    leave(stage)
    before = cloud.left()
    (stage.directory / "test.yaml").write_text("{}")
    catalog = configuration.load(cwd=stage.directory, system=stage.directory / "none")
    swept = sweep.sweep(catalog.environment, sweep.Choice(), cwd=stage.directory)
    assert cloud.left() == before
    assert any(identity.normalised(cloud.url) in item.outcome for item in swept)


@pytest.mark.parametrize("spoiled", [None, {}, "text", []], ids=repr)
def test_a_record_without_identity_stays(stage: Stage, cloud: FakeCloud, spoiled: object) -> None:
    run = leave(stage)
    before = cloud.left()
    for record in run.records():
        document = json.loads(record.path.read_text())
        document["details"]["cloud"] = spoiled
        record.path.write_text(json.dumps(document))
    swept = clean_up(stage)
    assert cloud.left() == before
    assert all("does not identify its cloud" in item.outcome for item in swept if item.failed)
    assert run.directory.exists()


@pytest.mark.parametrize("key", ["machine", "hostname", "uid"])
def test_a_run_of_another_machine_or_user_is_left_alone(
    stage: Stage, cloud: FakeCloud, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave(stage)
    before, files = cloud.left(), sorted(run.directory.rglob("*"))
    here = host.identity()
    monkeypatch.setattr(host, "identity", lambda: {**here, key: "another"})
    [item] = clean_up(stage)
    assert item.removal.state is State.ELSEWHERE
    assert "run `dibctl cleanup` there" in item.outcome
    assert not item.failed
    assert cloud.left() == before
    assert sorted(run.directory.rglob("*")) == files


@pytest.mark.parametrize(
    "written",
    [
        "https://cloud.example:443/identity/v3/",
        "HTTPS://Cloud.Example/identity",
        "https://user@cloud.example./identity/v2.0",
        " https://cloud.example/identity/ ",
    ],
)
def test_one_keystone_however_it_is_written(written: str) -> None:
    assert identity.normalised(written) == "https://cloud.example/identity"


@pytest.mark.parametrize(
    "other",
    [
        "http://cloud.example/identity",
        "https://cloud.example:5000/identity",
        "https://cloud.example/identity2",
        "https://cloud2.example/identity",
    ],
)
def test_another_keystone_is_another(other: str) -> None:
    assert identity.normalised(other) != identity.normalised("https://cloud.example/identity/v3")
