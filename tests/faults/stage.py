"""A test environment on the services in memory, and one whole flow through it: upload to removal."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pytest_dibctl.cleanup import sweep
from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.image.artifact import Artifact, inspect
from pytest_dibctl.run import booting, environments, keys, ledger, uploading
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.removal import Removal
from pytest_dibctl.run.target_run import TargetRun
from tests.support.fake_openstack import FakeCloud
from tests.support.fake_openstack.documents import NETWORK

LABEL = "image"
ENVIRONMENT = "cloud"
USER = "tester"
PASSWORD = "planted-password-9f2c"
"""A value that must turn up in no log, report or file."""


def fake_cloud(**more: Any) -> FakeCloud:
    """Return a cloud with one user, who is a member of a project."""
    return FakeCloud(users={USER: "0" * 31 + "1"}, passwords={PASSWORD}, **more)


def environment(url: str, **nova: Any) -> dict[str, Any]:
    """Return an entry of test.yaml for the services at ``url``: a port, a nic and a floating IP."""
    return {
        "keystone": {
            "auth_url": f"{url}/identity/v3",
            "username": USER,
            "password": PASSWORD,
            "project_name": USER,
            "region_name": "RegionOne",
        },
        "nova": {
            "flavor_id": "1",
            "nics": [
                {"net_id": NETWORK, "v4_fixed_ip": "127.0.0.9", "v6_fixed_ip": "::9"},
                {"net_id": NETWORK},
            ],
            "floating_network": "ext",
            "ssh_host_key": "first-seen",
            "active_timeout": 20,
            "cleanup_timeout": 20,
            **nova,
        },
    }


def write(directory: Path, url: str, *, tests: list[dict[str, Any]] | None = None, **nova: Any) -> None:
    """Write images.yaml, test.yaml and the image's file."""
    file = directory / "image.qcow2"
    if not file.exists():
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), "1M"], check=True)
    image = {
        "filename": "image.qcow2",
        "tests": {
            "ssh": {"username": "root"},
            "environment_name": ENVIRONMENT,
            "tests_list": tests or [],
        },
    }
    (directory / "images.yaml").write_text(yaml.safe_dump({LABEL: image}))
    (directory / "test.yaml").write_text(yaml.safe_dump({ENVIRONMENT: environment(url, **nova)}))


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """How a flow ended: ``error`` is None if all of it worked; ``leftovers`` are what it said of removals."""

    error: BaseException | None = None
    leftovers: list[Removal] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(kw_only=True)
class Stage:
    """A configuration in ``directory`` and the base of its ledgers."""

    directory: Path
    base: Path
    catalog: Catalog
    artifact: Artifact

    def flow(self, *, snapshot: bool = True) -> Outcome:
        """Do everything once: upload, key, instance, its operations, and the removal of it all."""
        outcome = Outcome()
        image = self.catalog.image(LABEL)
        with ledger.opened(ledger.new_run_id(), base=self.base) as run:
            target_run = TargetRun(
                image=image,
                environment=self.catalog.environment(ENVIRONMENT),
                options=RunOptions(),
                ledger=run,
                cwd=self.directory,
                progress=lambda _line: None,
            )
            try:
                self._steps(target_run, snapshot=snapshot)
            except DibctlError as error:
                outcome.error = error
            outcome.leftovers = target_run.leftovers
        return outcome

    def _steps(self, target_run: TargetRun, *, snapshot: bool) -> None:
        with contextlib.ExitStack() as stack:
            cloud = stack.enter_context(environments.opened(target_run))
            uploaded = stack.enter_context(uploading.uploaded(target_run, cloud, self.artifact))
            key = stack.enter_context(keys.keypair(target_run, cloud))
            instance = stack.enter_context(booting.booted(target_run, cloud, uploaded, key))
            instance.check()
            instance.console_output()
            instance.reboot(hard=True)
            if snapshot:
                instance.snapshot("before")
                instance.revert("before")
            instance.stop()
            instance.start()
            instance.rebuild()

    def sweep(self) -> tuple[sweep.Swept, ...]:
        """Do what `dibctl cleanup` does."""
        runs = ledger.all_runs(self.base)
        swept: list[sweep.Swept] = []
        for run in runs:
            records = run.records()
            swept += [
                sweep.Swept(run_id=run.run_id, what=str(removal.resource), removal=removal)
                for removal in sweep.sweep_records(self.catalog.environment, run, records, cwd=self.directory)
            ]
            run.remove_if_empty()
        return tuple(swept)


@contextlib.contextmanager
def staged(directory: Path, url: str, **nova: Any) -> Iterator[Stage]:
    """Write a configuration for the services at ``url`` and read it."""
    write(directory, url, **nova)
    catalog = configuration.load(cwd=directory, system=directory / "none")
    base = directory / "runs"
    base.mkdir(mode=0o700, exist_ok=True)
    artifact = inspect(directory / "image.qcow2")
    yield Stage(directory=directory, base=base, catalog=catalog, artifact=artifact)
