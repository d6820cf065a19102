"""The Debian packages of the peers: ``python -m benchmarks.packages --install`` brings what is missing.

A peer that cannot be had is left out of the table, and the others are measured all the same.
"""

from __future__ import annotations

import contextlib
import sys

from pytest_dibctl.errors import CommandError
from tests.support import packages

PEERS = {"mkosi": "mkosi", "packer": "packer", "mmdebstrap": "mmdebstrap", "curl": "curl"}

if __name__ == "__main__":
    lacking = packages.lacking_of(PEERS)
    for package in lacking if "--install" in sys.argv[1:] else ():
        with contextlib.suppress(CommandError):
            packages.install([package])
    if lacking := packages.lacking_of(PEERS):
        print(f"not measured beside: {' '.join(lacking)}")
