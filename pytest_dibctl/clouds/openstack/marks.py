"""How a resource in a cloud shows that this project made it, and for which run.

A tag, or metadata of a server, together with a name that is recorded in the run's ledger. Never an image
property: Nova copies those to the snapshots that users make of their servers.
"""

from __future__ import annotations

import socket

TAG = "dibctl-test"
"""On every image that is made for a test."""


def tags(run_id: str) -> tuple[str, ...]:
    """Return the tags of an image that ``run_id`` makes."""
    return (TAG, f"dibctl-run-{run_id}")


def metadata(run_id: str) -> dict[str, str]:
    """Return the metadata of a server that ``run_id`` makes."""
    return {"dibctl_run": run_id, "dibctl_host": socket.gethostname()[:255]}


def description(name: str) -> str:
    """Return the description of a floating IP or port that belongs to the instance ``name``."""
    return f"dibctl test instance {name}"
