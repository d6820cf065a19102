"""testinfra's ``host``, pointed at the instance under test or, in ``image`` entries, at the image's files."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
import testinfra
import testinfra.host
from testinfra.backend.base import CommandResult
from testinfra.backend.chroot import ChrootBackend

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
    return testinfra.get_host(
        f"ssh://{access.name}",
        ssh_config=str(access.config_file),
        controlpersist=0,
        sudo=sudo,
        sudo_user=sudo_user,
    )


class TreeBackend(ChrootBackend):  # type: ignore[misc]  # testinfra is not typed here
    """Commands of an image, run in its read-only file tree: testinfra's chroot, behind the tree's guard."""

    def __init__(self, tree: ImageTree) -> None:
        super().__init__(str(tree.artifact.path))
        self._tree = tree

    def run(self, command: str, *args: str, **_options: Any) -> CommandResult:
        """Run a command of the image's shell; it is ended together with the test."""
        line = self.get_command(command, *args)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            # Files and not pipes: what a test wants to see may be bytes.
            with process.spawn(
                self._tree.command(["/bin/sh", "-c", line]), stdout=out, stderr=err
            ) as running:
                code = running.wait()
            out.seek(0)
            err.seek(0)
            return self.result(code, self.encode(line), out.read(), err.read())


def of_tree(tree: ImageTree) -> Any:
    """Return a testinfra host whose files and commands are those of an image."""
    return testinfra.host.Host(TreeBackend(tree))


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
