"""The local cloud of containers: an image's own programs, booted by systemd-nspawn under this kernel.

They boot in seconds where there is no KVM. All files of an instance are in one directory of mode 0700 that
has its name. One process holds the rest; it dies with the thread that booted it unless the instance may be
kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.clouds import seed
from pytest_dibctl.clouds.local import LocalCloud, mac_address, seed_identity, unchanged
from pytest_dibctl.clouds.local_instance import remove_directory
from pytest_dibctl.clouds.nspawn import guard, launch, limits, preflight
from pytest_dibctl.clouds.nspawn.instance import NspawnInstance
from pytest_dibctl.clouds.nspawn.state import State, read_state
from pytest_dibctl.clouds.protocols import BootRequest, CloudImage, Progress, UploadRequest
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.input_files import read_user_data
from pytest_dibctl.config.models.nspawn import Nspawn
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import ConfigError, DibctlError
from pytest_dibctl.guards import container_network
from pytest_dibctl.image.artifact import Artifact

__all__ = ["NspawnCloud", "NspawnInstance"]

SEED_DIRECTORIES: Final[Mapping[seed.SeedKind, str]] = {
    "nocloud": "/var/lib/cloud/seed/nocloud",
    "configdrive": "/var/lib/cloud/seed/config_drive",
}
"""Where cloud-init looks for a seed that is in the image."""


class NspawnCloud(LocalCloud):
    """A test environment with an ``nspawn`` section.

    Each instance has a directory of its own below ``directory``. Relative paths of the configuration are
    below ``cwd``. Raises ConfigError when the environment has no ``nspawn`` section.
    """

    def __init__(self, environment: Entry[TestEnvironment], *, directory: Path, cwd: Path) -> None:
        if environment.settings.nspawn is None:
            raise ConfigError(f"{environment.at()}: this test environment has no nspawn section")
        super().__init__(environment, directory)
        self._settings: Nspawn = environment.settings.nspawn
        self._cwd = cwd

    def preflight(self) -> None:
        """Raise PreflightError or ConfigError if no container can be started with these settings."""
        preflight.require(self._environment.at("nspawn"))
        self._user_data()

    def check(self, artifact: Artifact, request: UploadRequest) -> None:  # noqa: ARG002 -- other clouds need it
        """Raise PreflightError or ConfigError if containers cannot be booted here."""
        self.preflight()

    def boot(self, image: CloudImage, request: BootRequest, *, progress: Progress) -> NspawnInstance:
        """Start a container and return once it runs.

        Raises ArtifactError when the image file cannot be opened or has changed since it was inspected,
        InstanceError when the container does not start. After an error, no process, no control group and no
        file remains. The caller owns the instance and deletes it.
        """
        return self.begin_boot(image, request, progress=progress)()

    def begin_boot(
        self, image: CloudImage, request: BootRequest, *, progress: Progress
    ) -> Callable[[], NspawnInstance]:
        """Start the container's guard, and return a function that waits for it and starts the container.

        Both raise as ``boot`` does.
        """
        artifact = unchanged(image)
        state, host_key = self._state(artifact, request)
        directory = self._new_directory(request.name)
        with _removed_on_failure(request.name, directory):
            state.write(directory)
            spec = self._spec(artifact, state, request, host_key)
            groups = limits.make(state.name, memory=state.memory, processes=state.processes)
            state = dataclasses.replace(state, limits=_told(state, groups.enforced))
            spec |= {"groups": [str(path) for path in groups.paths], "enforced": sorted(groups.enforced)}
            starting = launch.Starting(state.name, spec, directory, keepable=request.keepable)

        def finish() -> NspawnInstance:
            with _removed_on_failure(request.name, directory):
                held = starting.finish(host_loopback=state.host_loopback)
                return self._start(held, state, directory, progress)

        return finish

    def existing(self, instance_id: str) -> NspawnInstance:
        """Return an instance of an earlier run by its id or name; it may have ended already.

        Raises NotInConfigError when there is none.
        """
        directory, state = self._recorded(instance_id, read_state)
        return NspawnInstance(state, directory, guard.find(state.name, directory))

    def remove(self, kind: str, name: str, details: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Remove an instance that an ended run recorded; for other kinds, this cloud made nothing.

        Processes, control groups and directory have the instance's name, so no valid record is needed.
        Raises InstanceError when something cannot be removed.
        """
        if kind != "instance":
            return
        directory = self._directory / name
        guard.end(name)
        limits.remove(name)
        remove_directory(name, directory)

    def _user_data(self) -> str:
        """Return the operator's user data; raises ConfigError when its file cannot be read."""
        return read_user_data(self._settings, self._environment, "nspawn", self._cwd) or ""

    def _state(self, artifact: Artifact, request: BootRequest) -> tuple[State, seed.HostKey | None]:
        settings = self._settings
        identity = str(uuid.uuid4())
        host_key = seed.HostKey.made(request.name) if settings.ssh_host_key == "injected" else None
        state = State(
            id=identity,
            name=request.name,
            environment=self.name,
            memory=settings.memory,
            disk=settings.disk,
            processes=settings.processes,
            limits="",
            mac=mac_address(identity),
            image=str(artifact.path),
            private_key_file=str(request.key.private_key_file),
            host_keys=(host_key.public,) if host_key else (),
            first_seen=host_key is None,
            host_loopback=settings.host_loopback,
        )
        return state, host_key

    def _spec(
        self, artifact: Artifact, state: State, request: BootRequest, host_key: seed.HostKey | None
    ) -> dict[str, Any]:
        """Return the description that the guard reads."""
        identity = dataclasses.replace(
            seed_identity(state, request, host_key, self._user_data()), device=container_network.DEVICE
        )
        kind = self._settings.seed
        documents = seed.documents(kind, identity)
        return {
            "id": state.id,
            "name": state.name,
            "image": str(artifact.path.absolute()),
            "format": artifact.disk_format,
            "disk": state.disk,
            "memory": state.memory,
            "processes": state.processes,
            "mac": state.mac,
            "seed": {f"{SEED_DIRECTORIES[kind]}/{name}": text for name, text in documents.items()},
            "user": request.username,
            "public_key": request.key.public_key,
            "host_key": {"private": host_key.private, "public": host_key.public} if host_key else None,
        }

    def _start(self, held: guard.Guard, state: State, directory: Path, progress: Progress) -> NspawnInstance:
        instance = NspawnInstance(state, directory, held)
        try:
            dataclasses.replace(state, pid=held.pid).write(directory)
            for forward in self._settings.forward_ports:
                instance.publish(forward.guest, forward.host or 0)
            instance.start()
        except BaseException:
            instance.delete()
            raise
        for note in held.notes:
            progress(note)
        progress(f"systemd-nspawn runs (guard {held.pid}; limits: {state.limits})")
        return instance


def _told(state: State, enforced: Collection[str]) -> str:
    """Return in words which limits hold, and how they are kept."""
    memory = "memory" if "memory" in enforced else "memory of each process"
    processes = "processes" if "processes" in enforced else "processes of the user"
    how = (
        "control groups"
        if {"memory", "processes"} <= set(enforced)
        else "control groups and rlimits"
        if enforced
        else "rlimits"
    )
    counts = f"{state.memory} MiB {memory}, {state.processes} {processes}"
    return f"{counts}, {state.disk} GiB disk, by {how}"


@contextlib.contextmanager
def _removed_on_failure(name: str, directory: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        guard.end(name)
        with contextlib.suppress(DibctlError):
            limits.remove(name)
        shutil.rmtree(directory, ignore_errors=True)
        raise
