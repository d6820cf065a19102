"""A repository of images whose test environments lie in the real cloud, and what a run left there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
import yaml

from pytest_dibctl.clouds.openstack.cloud import OpenStackCloud
from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.config import merge
from pytest_dibctl.image.artifact import Artifact, inspect
from pytest_dibctl.run import ledger
from pytest_dibctl.run.ledger import Ledger
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.target_run import TargetRun
from tests.openstack.belongings import Belongings
from tests.openstack.cloud import DevCloud, names
from tests.support import leaks
from tests.support.plugins import without

ROOT = Path(__file__).parents[2]
READY = 240
"""Seconds for a micro guest to let one log in; it takes 10 on an idle machine."""
SETTLED = 10.0
"""Seconds for the services to finish what they have said to be done."""
TOKEN_CACHE = 3.0
"""Seconds after which the services have noticed that a token was revoked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """A directory with the three files. ``image`` is a built micro image."""

    path: Path
    cloud: DevCloud
    image: Path
    belongings: Belongings | None = None
    before: frozenset[str] = frozenset()

    def left(self) -> set[str]:
        """Return what is ours in the cloud and was not there when the test began."""
        assert self.belongings is not None
        return self.belongings.found() - self.before

    def left_at_last(self) -> set[str]:
        """Return what is left once the services are done, which takes them some seconds at most.

        Nova takes the port of a server that it was still building away after the server.
        """
        return leaks.settled(self.left, seconds=SETTLED)

    def network(self, name: str = names.EXT.name) -> str:
        """Return a network's id."""
        return self.cloud.network_id(name)

    def revoke(self, token: str) -> None:
        """Make a token worth nothing, and return once the services have noticed."""
        with self.cloud.connected("admin") as admin:
            answer = admin.identity.delete("/auth/tokens", headers={"X-Subject-Token": token})
            assert answer.status_code == requests.codes.no_content
        time.sleep(TOKEN_CACHE)

    def environment(
        self,
        *,
        user: str = "demo",
        keystone: Mapping[str, Any] | None = None,
        nova: Mapping[str, Any] | None = None,
        wait: float = READY,
        **sections: Any,
    ) -> dict[str, Any]:
        """Return an entry of test.yaml: one nic, and in the fake zone unless ``nova`` says else."""
        sized = {} if nova and "flavor_id" in nova else {"flavor": self.cloud.flavor_nano}
        return {
            "keystone": dict(keystone) if keystone is not None else {"cloud": user},
            "nova": {
                **sized,
                "availability_zone": self.cloud.zone_fake,
                "nics": [{"net_id": self.network()}],
                "create_timeout": 60,
                "keypair_timeout": 60,
                **(nova or {}),
            },
            "tests": {"port_wait_timeout": wait},
            **sections,
        }

    def live(self, **nova: Any) -> dict[str, Any]:
        """Return an entry of test.yaml whose guests really run."""
        return self.environment(nova={"availability_zone": self.cloud.zone_live, **nova})

    def write(
        self,
        environments: Mapping[str, Any],
        tests: Sequence[Mapping[str, Any]] = (),
        *,
        image: Mapping[str, Any] | None = None,
    ) -> None:
        """Write images.yaml, with the one image ``micro``, and test.yaml."""
        document = {
            "filename": str(self.image),
            "tests": {
                "ssh": {"username": "root"},
                "environment_name": next(iter(environments)),
                "tests_list": [dict(test) for test in tests],
            },
            **(image or {}),
        }
        (self.path / "images.yaml").write_text(yaml.safe_dump({"micro": document}, sort_keys=False))
        (self.path / "test.yaml").write_text(yaml.safe_dump(dict(environments), sort_keys=False))

    def environ(self, **extra: str) -> dict[str, str]:
        """Return the environment of a run: no OS_* variables but the place of clouds.yaml."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        return {
            **plain,
            "OS_CLIENT_CONFIG_FILE": str(self.cloud.clouds_yaml),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTEST_ADDOPTS": " ".join(without()),
            **extra,
        }

    def start(self, *argv: str, **extra: str) -> subprocess.Popen[str]:
        """Start a Python module with arguments in the site; the caller waits for it."""
        return subprocess.Popen(
            [sys.executable, "-m", *argv],
            cwd=self.path,
            env=self.environ(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, *argv: str, timeout: float = 600, extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python module to its end; its output and errors are joined in ``stdout``."""
        with self.start(*argv, **(extra or {})) as started:
            try:
                output, _ = started.communicate(timeout=timeout)
            except BaseException:
                started.kill()
                raise
        return subprocess.CompletedProcess(started.args, started.returncode, output)

    def dibctl(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run ``dibctl``."""
        return self.run("pytest_dibctl.cli.main", *arguments, extra=extra)

    def pytest(
        self, *arguments: str, env: str | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``pytest --dib-image=micro``."""
        chosen = [f"--dib-env={env}"] if env else []
        return self.run(
            "pytest", "-p", "no:cacheprovider", "--dib-image=micro", *chosen, *arguments, extra=extra
        )

    @contextlib.contextmanager
    def opened(self, label: str) -> Iterator[Bench]:
        """Open an environment of test.yaml as the library does, with a ledger of its own."""
        catalog = configuration.load(cwd=self.path)
        environment, image = catalog.environment(label), catalog.image("micro")
        with ledger.opened(ledger.new_run_id()) as book:
            told: list[str] = []
            target_run = TargetRun(
                image=image,
                environment=environment,
                options=RunOptions(build="never"),
                ledger=book,
                cwd=self.path,
                progress=told.append,
            )
            opened = OpenStackCloud(
                environment,
                run_id=book.run_id,
                cwd=self.path,
                deadlines=merge.deadlines(image, environment),
                image_endpoint=target_run.image_endpoint,
                progress=told.append,
                environ=self.environ(),
            )
            with contextlib.closing(opened):
                yield Bench(
                    target_run=target_run, cloud=opened, ledger=book, artifact=inspect(self.image), told=told
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """An opened environment; ``target_run`` is what the steps of a run take."""

    target_run: TargetRun
    cloud: OpenStackCloud
    ledger: Ledger
    artifact: Artifact
    told: list[str]


def runs_left() -> list[str]:
    """Return the directories that runs left on this machine."""
    return [str(run.directory) for run in ledger.all_runs()]


def properties_of(junit: Path) -> dict[str, str]:
    """Return the properties of the first test case of a JUnit file."""
    from xml.etree import ElementTree as ET

    case = next(ET.parse(junit).iter("testcase"))
    return {item.attrib["name"]: item.attrib["value"] for item in case.iter("property")}


def line_of(path: Path, words: str) -> int:
    """Return the number of the first line that holds ``words``."""
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if words in line)
