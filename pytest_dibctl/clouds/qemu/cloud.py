"""The local cloud: guests under QEMU on this machine, reached through ports on loopback.

They need no root, no bridge and no daemon. All files of an instance are in one directory of mode 0700 that
has its name. The QEMU of an instance that may not be kept dies with the thread that booted it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import math
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds import seed
from pytest_dibctl.clouds.local import LocalCloud, mac_address, seed_identity, unchanged
from pytest_dibctl.clouds.local_instance import remove_directory
from pytest_dibctl.clouds.protocols import BootRequest, CloudImage, Progress, UploadRequest
from pytest_dibctl.clouds.qemu import accel, confinement, guest, launch, machine, warm
from pytest_dibctl.clouds.qemu.instance import QemuInstance
from pytest_dibctl.clouds.qemu.ready_store import ReadyState, ReadyStore
from pytest_dibctl.clouds.qemu.state import State, read_state
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.input_files import read_user_data
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import ConfigError, DibctlError, NotInConfigError, PreflightError
from pytest_dibctl.guest.renewal import Renewal
from pytest_dibctl.image.artifact import Artifact, companion
from pytest_dibctl.system import files, process

__all__ = ["QemuCloud", "QemuInstance"]

GIB = 1 << 30


class QemuCloud(LocalCloud):
    """A test environment with a ``qemu`` section.

    Each instance has a directory of its own below ``directory``. Relative paths of the configuration are
    below ``cwd``. Raises ConfigError when the environment has no ``qemu`` section.
    """

    def __init__(self, environment: Entry[TestEnvironment], *, directory: Path, cwd: Path) -> None:
        if environment.settings.qemu is None:
            raise ConfigError(f"{environment.at()}: this test environment has no qemu section")
        super().__init__(environment, directory)
        self._settings: Qemu = environment.settings.qemu
        self._cwd = cwd
        self._arch: machine.Arch = self._settings.arch or machine.native_arch()

    def preflight(self) -> None:
        """Raise PreflightError or ConfigError if no guest can be started with these settings."""
        machine.require_tools(self._arch)
        confinement.require(host_loopback=self._settings.host_loopback)
        self._user_data()
        if self._settings.accelerator == "kvm":
            accel.choose("kvm", self._arch)

    def check(self, artifact: Artifact, request: UploadRequest) -> None:  # noqa: ARG002 -- other clouds need it
        """Raise PreflightError or ConfigError if ``artifact`` cannot be booted here."""
        self.preflight()
        if artifact.disk_format not in {*machine.FORMATS, *machine.FORMATS.values()}:
            raise PreflightError(
                f"{artifact.path}: QEMU boots {', '.join(machine.FORMATS)}; this is {artifact.disk_format}",
            )
        self._check_bootable(artifact)

    def boot(self, image: CloudImage, request: BootRequest, *, progress: Progress) -> QemuInstance:
        """Start a guest and return once it runs.

        Raises ArtifactError when the image file has changed since it was inspected, PreflightError when QEMU
        is missing, InstanceError when QEMU does not start. After an error, no process and no file remains.
        The caller owns the instance and deletes it.
        """
        artifact = unchanged(image)
        machine.require_tools(self._arch)
        begun = time.monotonic()
        claim = self._claim(artifact, request, progress) if request.warm != "no" else None
        waited = time.monotonic() - begun
        try:
            if claim is not None and claim.state is not None and request.warm == "leave":
                claim.release()
                claim = None
            elif claim is not None and claim.state is not None:
                resumed = self._resumed(artifact, request, claim, claim.state, progress)
                if resumed is not None:
                    resumed.waited = waited
                    return resumed
                waited = time.monotonic() - begun
            instance = self._booted(artifact, request, claim, progress)
        except BaseException:
            if claim is not None:
                claim.release()
            raise
        instance.waited = waited
        return instance

    def _booted(
        self, artifact: Artifact, request: BootRequest, claim: warm.Claim | None, progress: Progress
    ) -> QemuInstance:
        state, host_key = self._state(artifact, request)
        directory = self._new_directory(request.name)
        with _removed_on_failure(directory, state.id):
            state.write(directory)
            self._make_disk(artifact, directory, state, progress)
            identity = seed_identity(state, request, host_key, self._user_data())
            seed.write(directory / machine.SEED, self._settings.seed, identity)
            instance = self._start(artifact, directory, state, request, progress, claim=claim)
            with _deleted_on_failure(instance):
                instance.switch_on(request.deadlines.active, self._forwards())
        return instance

    def _claim(self, artifact: Artifact, request: BootRequest, progress: Progress) -> warm.Claim | None:
        """Return the boot's part in the ready state of such guests; None where there are no such states."""
        reason = warm.obstacle(self._settings, self._arch)
        if reason is None:
            store = ReadyStore()
            try:
                key = warm.key_of(
                    artifact,
                    self._settings,
                    disk=self._disk_size(artifact),
                    arch=self._arch,
                    accelerator=accel.choose(self._settings.accelerator, self._arch).accelerator,
                    user_data=self._user_data(),
                    salt=store.salt(),
                )
                return warm.Claim.of(
                    store,
                    key,
                    timeout=request.deadlines.port if request.warm == "resume" else 0,
                    waiting=lambda: progress("waiting for the ready state that another process makes"),
                )
            except OSError as error:
                reason = f"{error.filename}: {error.strerror}"
        progress(f"no warm start: {reason}")
        return None

    def _resumed(
        self,
        artifact: Artifact,
        request: BootRequest,
        claim: warm.Claim,
        ready: ReadyState,
        progress: Progress,
    ) -> QemuInstance | None:
        """Return a guest that goes on from a ready state; None if it cannot, and the state is gone then."""
        started = time.monotonic()
        state, host_key = self._state(artifact, request, mac=ready.about.mac)
        assert host_key is not None
        directory = self._new_directory(request.name)
        change = Renewal(
            name=request.name,
            old_name=ready.about.name,
            key=request.key.public_key,
            old_key=ready.about.public_key,
            host_key=host_key.private,
            public_host_key=host_key.public,
        )
        disk = directory / machine.DISK
        try:
            with _removed_on_failure(directory, state.id):
                state.write(directory)
                files.copy(ready.disk, disk)
                # The state's: cloud-init would take another one for a new instance at the next reboot.
                identity = dataclasses.replace(
                    seed_identity(state, request, host_key, self._user_data()), uuid=ready.about.uuid
                )
                seed.write(directory / machine.SEED, self._settings.seed, identity)
                origin = warm.described(ready)
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    digest = pool.submit(files.sha256, ready.disk)
                    instance = self._start(artifact, directory, state, request, progress, origin=origin)
                    with _deleted_on_failure(instance):
                        instance.go_on(
                            request.deadlines.active,
                            change,
                            verify=lambda: warm.verify(ready, digest.result()),
                        )
        except (DibctlError, OSError) as error:
            if isinstance(error, DibctlError):  # another error is this machine's
                claim.store.discard(ready)
            progress(f"booting, since a ready state could not be used: {str(error).splitlines()[0]}")
            return None
        finally:
            claim.release()
        with _deleted_on_failure(instance):
            instance.forward(self._forwards())
        claim.store.touch(ready)
        progress(f"{origin}, in {time.monotonic() - started:.1f} s")
        return instance

    def existing(self, instance_id: str) -> QemuInstance:
        """Return an instance of an earlier run by its id or name; its QEMU may have ended already.

        Raises NotInConfigError when there is none.
        """
        directory, state = self._recorded(instance_id, read_state)
        return QemuInstance(state, directory, guest.find(state.id, state.pid))

    def remove(self, kind: str, name: str, details: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Remove an instance that an ended run recorded; for other kinds, this cloud made nothing.

        The directory is removed even if it has no valid record: the run may have ended while it made the
        instance, or another version wrote the record. Raises InstanceError when it cannot be removed.
        """
        if kind != "instance":
            return
        directory = self._directory / name
        with contextlib.suppress(NotInConfigError):
            instance = self.existing(name)
            instance.delete()
            guest.kill_all(instance.id)  # a sandbox that was being made when the run ended
        for pid in guest.running_in(directory):
            guest.kill(pid)
        remove_directory(name, directory)

    def _check_bootable(self, artifact: Artifact) -> None:
        if artifact.kernel is not None:
            return
        names = " and ".join(companion(artifact.path, suffix).name for suffix in (".vmlinuz", ".initrd"))
        remedy = f"put {names} beside it (DIB's baremetal element writes both)"
        if artifact.layout == "filesystem":
            raise PreflightError(
                f"{artifact.path}: this is a filesystem, not a whole disk, and no kernel lies beside it",
                hint=f"{remedy}, or build a whole disk (DIB's vm element)",
            )
        if not machine.PLATFORMS[self._arch].firmware:
            raise PreflightError(
                f"{artifact.path}: {self._arch} guests boot by their kernel, and none lies beside the image",
                hint=remedy,
            )

    def _user_data(self) -> str:
        """Return the operator's user data; raises ConfigError when its file cannot be read."""
        return read_user_data(self._settings, self._environment, "qemu", self._cwd) or ""

    def _disk_size(self, artifact: Artifact) -> int:
        return max(self._settings.disk, math.ceil(artifact.virtual_size / GIB))

    def _state(
        self, artifact: Artifact, request: BootRequest, *, mac: str | None = None
    ) -> tuple[State, seed.HostKey | None]:
        settings = self._settings
        identity = str(uuid.uuid4())
        choice = accel.choose(settings.accelerator, self._arch)
        host_key = seed.HostKey.made(request.name) if settings.ssh_host_key == "injected" else None
        state = State(
            id=identity,
            name=request.name,
            environment=self.name,
            arch=self._arch,
            accelerator=choice.accelerator,
            reason=choice.reason,
            memory=settings.memory,
            vcpus=settings.vcpus,
            disk=self._disk_size(artifact),
            mac=mac or mac_address(identity),
            image=str(artifact.path),
            private_key_file=str(request.key.private_key_file),
            host_keys=(host_key.public,) if host_key else (),
            first_seen=host_key is None,
            host_loopback=settings.host_loopback,
        )
        return state, host_key

    def _make_disk(self, artifact: Artifact, directory: Path, state: State, progress: Progress) -> None:
        if state.disk > self._settings.disk:
            progress(
                f"the disk has {state.disk} GiB, since the image needs more than {self._settings.disk} GiB"
            )
        backing = machine.FORMATS.get(artifact.disk_format, artifact.disk_format)
        process.run(
            [
                *(
                    "qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-F",
                    backing,
                    "-b",
                    str(artifact.path.absolute()),
                ),
                *(machine.DISK, str(state.disk * GIB)),
            ],
            cwd=directory,
            timeout=60,
        )

    def _start(
        self,
        artifact: Artifact,
        directory: Path,
        state: State,
        request: BootRequest,
        progress: Progress,
        *,
        claim: warm.Claim | None = None,
        origin: str = "",
    ) -> QemuInstance:
        """Start QEMU, which waits before the guest's first instruction."""
        spec = machine.Machine(
            uuid=state.id,
            name=state.name,
            arch=state.arch,
            accelerator=state.accelerator,
            memory=state.memory,
            vcpus=state.vcpus,
            mac=state.mac,
            image_format=machine.FORMATS.get(artifact.disk_format, artifact.disk_format),
            kernel=artifact.kernel,
            initrd=artifact.initrd,
            cmdline=machine.kernel_cmdline(self._settings.kernel_cmdline, state.arch),
        )
        child = launch.start(
            spec,
            artifact.path.absolute(),
            directory,
            keepable=request.keepable,
            host_loopback=state.host_loopback,
            line=claim is not None or bool(origin),
        )
        instance = QemuInstance(state, directory, child, claim=claim, origin=origin)
        with _deleted_on_failure(instance):
            State(**{**vars(state), "pid": child.pid}).write(directory)
            progress(f"QEMU runs (process {child.pid}, {state.accelerator})")
        return instance

    def _forwards(self) -> list[machine.Forward]:
        return [
            machine.Forward(guest=forward.guest, host=forward.host or 0)
            for forward in self._settings.forward_ports
        ]


@contextlib.contextmanager
def _deleted_on_failure(instance: QemuInstance) -> Iterator[None]:
    try:
        yield
    except BaseException:
        instance.delete()
        raise


@contextlib.contextmanager
def _removed_on_failure(directory: Path, identity: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        # An interruption may come after the start of QEMU, but before its process id is known here.
        guest.kill_all(identity)
        shutil.rmtree(directory, ignore_errors=True)
        raise
