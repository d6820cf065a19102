"""The Debian packages that the cloud needs, and their installation without any service being started.

``python -m tests.openstack.cloud.packages`` names the missing ones, with ``--install`` it installs them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from pytest_dibctl.errors import PreflightError
from tests.openstack.cloud import environment
from tests.openstack.cloud.layout import Layout
from tests.support import packages

LIBVIRT = "/usr/lib/x86_64-linux-gnu/libvirt"
POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian's packages ask this program whether they may start their services."""

FORBID = "#!/bin/sh\n# Nothing may start while the test cloud's packages are being installed.\nexit 101\n"

CLOUD_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "/usr/lib/rabbitmq/bin/rabbitmq-server": "rabbitmq-server",
        "mariadbd": "mariadb-server",
        "libvirtd": "libvirt-daemon-system",
        f"{LIBVIRT}/connection-driver/libvirt_driver_qemu.so": "libvirt-daemon-driver-qemu",
        "virsh": "libvirt-clients",
        "qemu-system-x86_64": "qemu-system-x86",
        "qemu-img": "qemu-utils",
        "genisoimage": "genisoimage",
        "ip": "iproute2",
        "nft": "nftables",
        "unshare": "util-linux",
        "ssh-keygen": "openssh-client",
        # for the Python packages that are built here
        "gcc": "gcc",
        "pkg-config": "pkg-config",
        "/usr/include/libvirt/libvirt.h": "libvirt-dev",
    }
)
"""Debian packages by a program (or a file) of each."""


def missing() -> tuple[str, ...]:
    """Return the packages that this machine lacks, those for building guests' images included."""
    wanted = {**CLOUD_PACKAGES, **packages.TEST_PACKAGES}
    if sys.prefix == sys.base_prefix or Path(sys.base_prefix) == Path("/usr"):
        # Debian's Python has its headers in a package; other Pythons bring theirs.
        wanted[str(Path(sysconfig.get_path("include", vars={"base": sys.base_prefix})) / "Python.h")] = (
            "python3-dev"
        )
    return packages.lacking_of(wanted)


def require() -> None:
    """Raise PreflightError, with the line that helps, when this machine cannot run the cloud."""
    if os.geteuid() != 0:
        raise PreflightError("the test cloud needs root: it makes network links and mounts")
    if lacking := missing():
        raise PreflightError(
            f"the test cloud needs Debian packages that are missing: {', '.join(lacking)}",
            hint="python -m tests.openstack.cloud.packages --install",
        )


def install(names: Sequence[str]) -> None:
    """Install packages, starting none of their services; raises CommandError when apt cannot.

    Meanwhile the services' Python packages are fetched, whose turn would be next.
    """
    with ThreadPoolExecutor(1) as pool, _no_service_starts():
        pool.submit(lambda: environment.begin(Layout.at(None)))
        packages.install(names)


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Forbid packages to start services; what was there before is there again afterwards."""
    kept = POLICY.with_name(f"{POLICY.name}.dibctl-test-cloud")
    if POLICY.exists() or POLICY.is_symlink():
        POLICY.rename(kept)
    try:
        POLICY.write_text(FORBID)
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)
        if kept.exists() or kept.is_symlink():
            kept.rename(POLICY)


if __name__ == "__main__":
    packages.main(missing, install)
