"""The package manager's database is whole: what is installed is installed completely, with all it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree, Result

pytestmark = pytest.mark.usefixtures("image_tree")

CHECK_MAY_TAKE = 300
"""Seconds."""

DATABASES = {"dpkg": ("/var/lib/dpkg/status",), "rpm": ("/var/lib/rpm/*", "/usr/lib/sysimage/rpm/*")}
"""Where each package manager keeps what is installed."""

RPM = (
    "db=/tmp/dibctl-rpmdb; rm -rf $db && mkdir $db && "
    'cp -R "$(rpm --eval %_dbpath)/." $db && rpm --dbpath $db'
)
"""rpm with a copy of its database, which it has to write beside even to read it."""

STATE_CHECKS = {"dpkg": "dpkg --audit", "rpm": f"{RPM} --query --all >/dev/null"}
"""Commands that say what is wrong, and nothing if all is well."""

NEEDS_CHECKS = {
    # The cache of what is available has nowhere to go in read-only files.
    "dpkg": "apt-get -q -o Debug::NoLocking=1 -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= check",
    "rpm": f"{RPM} --verify --all --nofiles",
}
"""Commands that fail when something needs what is not there."""
NEEDS_PROGRAMS = {"dpkg": "apt-get", "rpm": "rpm"}
"""What they are commands of."""


@pytest.fixture
def manager(image_tree: ImageTree, has_program: Callable[[str], bool]) -> str:
    """Which package manager the image has; the test is skipped where it has none."""
    for name, files in DATABASES.items():
        if has_program(name) and any(map(image_tree.glob, files)):
            return name
    pytest.skip(f"the image has none of {', '.join(DATABASES)} with a database")


def test_every_package_is_whole(manager: str, run_inside: Callable[..., Result]) -> None:
    """No package is half installed, not configured, or waiting for a trigger.

    If this fails, a package's script failed and the build went on: look for its name in the build's log.
    """
    result = run_inside(STATE_CHECKS[manager], timeout=CHECK_MAY_TAKE)
    assert (result.returncode, result.output.strip()) == (0, ""), (
        f"{STATE_CHECKS[manager]}:\n{result.output.strip() or f'exited with {result.returncode}'}"
    )


def test_no_package_misses_another(
    manager: str, has_program: Callable[[str], bool], run_inside: Callable[..., Result]
) -> None:
    """Every package that an installed one depends on is installed too.

    If this fails, something was forced, or removed with ``--force-depends``; the image cannot be updated.
    """
    check = NEEDS_CHECKS[manager]
    if not has_program(NEEDS_PROGRAMS[manager]):
        pytest.skip(f"the image has no {NEEDS_PROGRAMS[manager]}")
    result = run_inside(check, timeout=CHECK_MAY_TAKE)
    assert result.returncode == 0, f"{check} exited with {result.returncode}:\n{result.output.strip()}"


def test_nothing_was_left_in_the_middle(image_tree: ImageTree) -> None:
    """dpkg was not interrupted while it wrote its database.

    If this fails, ``dpkg --configure -a`` is due; a build script was killed or lost its disk space.
    """
    if not image_tree.exists("/var/lib/dpkg/status"):
        pytest.skip("the image has no dpkg")
    left = image_tree.glob("/var/lib/dpkg/updates/[0-9]*")
    assert not left, f"updates of dpkg's database were not finished: {', '.join(left)}"
