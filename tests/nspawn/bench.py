"""A cloud of containers, a key, and whatever is booted with them."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.nspawn import limits
from pytest_dibctl.clouds.nspawn.cloud import NspawnCloud, NspawnInstance
from pytest_dibctl.clouds.protocols import BootRequest
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.merge import Deadlines
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from pytest_dibctl.system import process
from tests.support.uploads import upload_request

READY = 60.0
"""Seconds for a container to let us in; micro takes 1 on an idle machine."""


def environment(**nspawn: Any) -> Entry[TestEnvironment]:
    """Return an environment with an ``nspawn`` section."""
    settings = {"memory": 256, "disk": 1, "processes": 200, **nspawn}
    return Entry(
        label="container",
        settings=TestEnvironment.model_validate({"nspawn": settings}),
        path=Path("test.yaml"),
    )


class Bench:
    """A cloud, a key and the containers that are booted; ``stack`` ends them."""

    def __init__(self, directory: Path, **nspawn: Any) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.cloud = NspawnCloud(environment(**nspawn), directory=directory, cwd=directory)
        made = directory / "id_ed25519"  # by another process, which a test lets die
        self.key = SshKey.from_file(made) if made.exists() else SshKey.generate(directory, comment="bench")
        self.told: list[str] = []
        self.stack = contextlib.ExitStack()

    def request(
        self, name: str | None = None, *, username: str = "root", keepable: bool = False
    ) -> BootRequest:
        """Return a request to boot; names differ, as control groups of all tests are in one place."""
        return BootRequest(
            name=name or f"dibctl-bench-{uuid.uuid4().hex[:8]}",
            key=self.key,
            key_name=self.key.name,
            deadlines=Deadlines(port=READY),
            username=username,
            keepable=keepable,
        )

    def boot(self, built: artifact.Artifact, request: BootRequest | None = None) -> NspawnInstance:
        """Boot a container, which goes with the bench."""
        self.cloud.check(built, upload_request())
        image = self.cloud.upload(built, upload_request(), progress=self.told.append)
        instance = self.cloud.boot(image, request or self.request(), progress=self.told.append)
        self.stack.callback(instance.delete)
        return instance

    def access(self, instance: NspawnInstance, **fields: Any) -> SshAccess:
        """Return a login to a container, which may not be ready yet."""
        endpoint = instance.endpoint(22)
        given = {
            "username": "root",
            "key": self.key,
            "host_keys": instance.host_keys,
            "directory": self.directory,
            **fields,
        }
        access = SshAccess(ip=endpoint.ip, port=endpoint.port, name=instance.name, **given)
        self.stack.callback(access.close)
        return access

    def ready(self, instance: NspawnInstance, **fields: Any) -> SshAccess:
        """Return a login to a container once it lets us in."""
        access = self.access(instance, **fields)
        self.again(instance, access)
        return access

    def again(self, instance: NspawnInstance, access: SshAccess) -> None:
        """Wait until a container that was started anew lets us in."""
        access.disconnect()
        access.wait_ready(timeout=READY, check=instance.check, progress=self.told.append)


def boot_id(access: SshAccess) -> str:
    """Return what tells this boot of a container from others."""
    return access.run("cat /proc/sys/kernel/random/boot_id", check=True).output.strip()


def groups(name: str) -> list[Path]:
    """Return the control groups that are there of an instance, or of all whose names match."""
    return [path for hierarchy in limits.hierarchies() for path in hierarchy.top.glob(name)]


def altered(image: Path, target: Path, script: str) -> artifact.Artifact:
    """Return a copy of a filesystem image in which a shell script ran, with its root as working directory."""
    process.run(["qemu-img", "convert", "-O", "raw", str(image), str(target)])
    point = target.with_suffix(".mounted")
    point.mkdir()
    inside = f'mount -o loop "$0" "$1" && cd "$1" && set -eu && {{\n{script}\n}}'
    process.run(
        ["unshare", "--mount", "--fork", "sh", "-c", inside, str(target), str(point)],
        join_stderr=True,
        timeout=300,
    )
    point.rmdir()
    return artifact.inspect(target)
