"""Common parts of clouds on this machine: they boot built files, and keep neither images nor keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pytest_dibctl.clouds.local_instance import LocalState, StateT
from pytest_dibctl.clouds.protocols import BootRequest, CloudImage, LeakedResource, Progress, UploadRequest
from pytest_dibctl.clouds.seed import HostKey, Identity
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import ArtifactError, ImageNotFoundError, InstanceError, NotInConfigError
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.system import host


class LocalCloud:
    """The part of ``Cloud`` that every engine on this machine has.

    Each instance has a directory of its own, with its name, below ``directory``.
    """

    def __init__(self, environment: Entry[TestEnvironment], directory: Path) -> None:
        self._environment = environment
        self._directory = directory.absolute()

    @property
    def name(self) -> str:
        """The label of the test environment."""
        return self._environment.label

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of instances here."""
        return self._environment.settings.capabilities

    def identity(self) -> Mapping[str, str]:
        """Return which machine and user this is."""
        return host.identity()

    def upload(
        self,
        artifact: Artifact,
        request: UploadRequest,
        *,
        progress: Progress,  # noqa: ARG002 -- other clouds report progress
    ) -> CloudImage:
        """Return the image. Nothing is copied: instances read the file itself."""
        return CloudImage(
            id=str(artifact.path),
            name=request.name,
            disk_format=artifact.disk_format,
            sha512=artifact.sha512,
            artifact=artifact,
        )

    def delete_image(self, image: CloudImage) -> None:
        """Do nothing: the image is the built file, which stays."""

    def existing_image(self, image_id: str) -> CloudImage:
        """Raise ImageNotFoundError: this cloud has no images but files."""
        raise ImageNotFoundError(
            f"image {image_id}: environment {self.name} is on this machine and keeps no images",
            hint="name the image's file with --dib-input (dibctl: --input)",
        )

    def import_key(self, key: SshKey, *, name: str) -> None:
        """Do nothing: the key goes into each instance's seed."""

    def delete_key(self, name: str, *, fingerprint: str) -> None:
        """Do nothing: ``import_key`` stored no key."""

    def keep(self, kind: str, name: str, details: Mapping[str, Any], *, seconds: float | None = None) -> None:
        """Do nothing: an instance on this machine needs no mark for other users."""

    def renew(self, kind: str, name: str, details: Mapping[str, Any]) -> None:
        """Do nothing: a lock shows that a run on this machine lives."""

    def kept(self) -> tuple[LeakedResource, ...]:
        """Return nothing: all instances are in the ledgers of this machine."""
        return ()

    def remove_kept(self, resource: LeakedResource) -> None:
        """Do nothing: ``kept`` returns no resources."""

    def leaked(self, *, spare: Collection[str]) -> tuple[LeakedResource, ...]:  # noqa: ARG002
        """Return nothing: all instances are in the ledgers of this machine."""
        return ()

    def remove_leaked(self, resource: LeakedResource) -> None:
        """Do nothing: ``leaked`` returns no resources."""

    def client(self, service: str) -> Any | None:  # noqa: ARG002
        """Return None: this cloud has no API."""
        return None

    def close(self) -> None:
        """Do nothing: instances belong to the callers of ``boot``."""

    def _new_directory(self, name: str) -> Path:
        """Make the directory of the instance ``name``; raises InstanceError."""
        directory = self._directory / name
        try:
            directory.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise InstanceError(f"{directory}: cannot be made: {error.strerror}") from None
        return directory

    def _recorded(self, instance_id: str, read: Callable[[Path], StateT]) -> tuple[Path, StateT]:
        """Return the directory and the record of the instance of that id or name.

        Raises NotInConfigError when there is none.
        """
        for directory in sorted(path for path in self._directory.glob("*") if path.is_dir()):
            with contextlib.suppress(NotInConfigError):
                state = read(directory)
                if instance_id in {state.id, state.name}:
                    return directory, state
        raise NotInConfigError(f"there is no instance {instance_id} below {self._directory}")


def unchanged(image: CloudImage) -> Artifact:
    """Return the image's file; raises ArtifactError when it changed since it was inspected."""
    artifact = image.artifact
    if artifact is None:
        raise InstanceError(f"image {image.name} was not made by this environment's upload")
    try:
        size = artifact.path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{artifact.path}: {error.strerror}") from None
    if size != artifact.size:
        raise ArtifactError(
            f"{artifact.path}: the file has {size} bytes now, and had {artifact.size} when it was inspected",
            hint="another process writes to it during the test: a build, or a copy that has not ended?",
        )
    return artifact


def seed_identity(
    state: LocalState, request: BootRequest, host_key: HostKey | None, user_data: str
) -> Identity:
    """Return an instance's facts for its seed."""
    return Identity(
        uuid=state.id,
        name=state.name,
        mac=state.mac,
        key_name=request.key_name,
        public_key=request.key.public_key,
        host_key=host_key,
        user_data=user_data,
    )


def mac_address(uuid: str) -> str:
    """Return a MAC address of QEMU's range, always the same for one instance."""
    return ":".join(["52", "54", "00", *(uuid.replace("-", "")[at : at + 2] for at in (0, 2, 4))])
