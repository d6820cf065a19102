"""testinfra's ``host``, pointed at the instance under test or, in ``image`` entries, at the image's files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import pytest
import testinfra.host
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.backend.chroot import ChrootBackend
from testinfra.backend.ssh import SshBackend

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image.tree import ImageTree
from pytest_dibctl.plugin import planning
from pytest_dibctl.system import process


def connect(access: SshAccess, *, sudo: bool = False, sudo_user: str | None = None) -> Any:
    """Return a testinfra host that shares the run's one multiplexed connection.

    ``sudo`` and ``sudo_user`` are testinfra's: commands run as root, or as that user, in the guest.
    """
    # controlpersist=0 keeps testinfra from adding ControlMaster options of its own: ours are in the file.
    backend = GuestBackend(
        access.name,
        ssh_config=str(access.config_file),
        controlpersist=0,
        sudo=sudo,
        sudo_user=sudo_user,
    )
    return _host_of(backend)


class GuestBackend(SshBackend):  # type: ignore[misc]  # testinfra is not typed here
    """Commands of a guest: testinfra's ssh, found where this run finds its other programs."""

    def run_local(self, command: str, *args: str) -> CommandResult:
        """Run ssh; testinfra's own way finds it on this process's PATH only, where it may be missing."""
        line = self.quote(command, *args)
        return self.result(*_collected(["/bin/sh", "-c", line], self.encode(line)))


class TreeBackend(ChrootBackend):  # type: ignore[misc]  # testinfra is not typed here
    """Commands of an image, run in its read-only file tree: testinfra's chroot, behind the tree's guard."""

    def __init__(self, tree: ImageTree) -> None:
        super().__init__(str(tree.artifact.path))
        self._tree = tree

    def run(self, command: str, *args: str, **_options: Any) -> CommandResult:
        """Run a command of the image's shell; it is ended together with the test."""
        line = self.get_command(command, *args)
        argv = self._tree.command(["/bin/sh", "-c", line])
        return self.result(*_collected(argv, self.encode(line)))


def _collected(argv: Sequence[str], command: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Run a command, and return what testinfra makes a result of: exit code, ``command`` and both outputs."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # Files and not pipes: what a test wants to see may be bytes.
        with process.spawn(argv, stdout=out, stderr=err) as running:
            code = running.wait()
        out.seek(0)
        err.seek(0)
        return code, command, out.read(), err.read()


def of_tree(tree: ImageTree) -> Any:
    """Return a testinfra host whose files and commands are those of an image."""
    return _host_of(TreeBackend(tree))


def _host_of(backend: BaseBackend) -> Any:
    host = testinfra.host.Host(backend)
    backend.set_host(host)
    return host


@pytest.fixture(scope="session")
def host(image: Entry[Image], dib_view: str, request: pytest.FixtureRequest) -> Any:  # noqa: ARG001 -- ends with it
    """testinfra's ``Host``: the instance under test over ssh; in ``image`` entries the image's file tree."""
    # Asked for only here: tests of a file tree need no instance, and the others no file tree.
    option = request.config.option
    if dib_view == planning.TREE:
        # --sudo alone asks for what is there: programs of a file tree run as a confined root.
        if option.sudo_user:
            pytest.fail(
                "--sudo-user is for instances: programs of an image's files run as their root, confined; "
                "leave the option out, or choose tests of the instance with -k",
                pytrace=False,
            )
        return of_tree(request.getfixturevalue("image_tree"))
    access = request.getfixturevalue("ssh_access")
    return connect(access, sudo=option.sudo, sudo_user=option.sudo_user)
