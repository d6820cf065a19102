"""What there is of a cloud on this machine. After ``down`` it must be nothing.

``python -m tests.openstack.cloud.leftovers [DIR]`` names what it finds and then exits with 1.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pytest_dibctl.system import process
from tests.openstack.cloud import layout as ports
from tests.openstack.cloud import loops, names, packages, services
from tests.openstack.cloud.layout import Layout
from tests.support import leaks

CACHES = ("venv-", "databases-", "failed", "lock")
"""How the names of what may stay begin."""


def found(layout: Layout) -> set[str]:
    """Return a line for each thing that is there of a cloud: processes, links, devices, ports, files ..."""
    return {
        *(f"process {pid}: {line}" for pid, line in processes(layout).items()),
        *(f"link {link}" for link in links()),
        *(f"mount {point}" for point in leaks.mounts(layout.base)),
        *(f"loop device {device}" for device in loops.attached(layout)),
        *(f"nftables: {line}" for line in translations()),
        *(f"port {port} is open" for port in ports.PORTS if services.port_is_open(port)),
        *(f"file {path}" for path in files(layout)),
    }


def processes(layout: Layout) -> dict[int, str]:
    """Return command lines, by process id, of what runs from or in the cloud's directory."""
    place = os.fsencode(layout.base) + b"/"
    lines = {}
    for directory in Path("/proc").glob("[0-9]*"):
        if directory.name in {str(os.getpid()), str(os.getppid())}:
            continue
        try:
            line = (directory / "cmdline").read_bytes()
            known = line + (directory / "environ").read_bytes() + os.fsencode((directory / "cwd").readlink())
        except OSError:
            continue  # it ended while we looked
        if place in known + b"/":
            lines[int(directory.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return lines


def links() -> list[str]:
    """Return the cloud's links that exist."""
    wanted = [link for network in names.NETWORKS for link in (network.host_link, network.cloud_link)]
    return [link for link in wanted if Path("/sys/class/net", link).exists()]


def translations() -> list[str]:
    """Return the tables that make floating IPs work."""
    listing = process.run(["nft", "list", "tables"]).output
    return [line for line in listing.splitlines() if "dibctl_floating" in line]


def files(layout: Layout) -> list[Path]:
    """Return what is neither a cache nor a log of a failure; nor may a policy against services stay."""
    here = layout.base.iterdir() if layout.base.exists() else ()
    kept = [path for path in here if not path.name.startswith(CACHES)]
    forbids = packages.POLICY.exists() and packages.POLICY.read_text() == packages.FORBID
    return [*kept, packages.POLICY] if forbids else kept


def main() -> int:
    """Say what is there."""
    left = found(Layout.at(Path(sys.argv[1]) if sys.argv[1:] else None))
    for line in sorted(left):
        print(line, file=sys.stderr)
    if left:
        return 1
    print("nothing is left of the cloud")
    return 0


if __name__ == "__main__":
    sys.exit(main())
