"""Snapshots of a guest's disk, memory and devices, which QEMU keeps in the overlay of its root disk."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

from pytest_dibctl.clouds.qemu import machine, qmp
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.system import processes

SNAPSHOT_PATIENCE = 300.0
"""Seconds QEMU may take to write or read a guest's memory; it answers no other command meanwhile."""
MIB = 1024**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshots:
    """The snapshots of the instance ``name`` in ``directory``; ``memory`` in MiB.

    QEMU knows a snapshot by its tag. All methods raise InstanceError when QEMU does not answer.
    """

    name: str
    directory: Path
    memory: int

    @property
    def _control(self) -> Path:
        return self.directory / machine.CONTROL

    def tags(self) -> set[str]:
        """Return the tags of all snapshots of the root disk."""
        nodes = qmp.execute(self._control, "query-named-block-nodes", {"flat": True})
        return {
            snapshot["name"]
            for node in (nodes if isinstance(nodes, list) else ())
            if node["node-name"] == machine.DISK_NODE
            for snapshot in node["image"].get("snapshots", ())
        }

    def save(self, tag: str, *, pid: int) -> None:
        """Save disk, memory and devices under ``tag``, in place of an older snapshot of that tag.

        ``pid`` is QEMU's. Raises InstanceError when the filesystem has not enough room for the memory that
        the guest has touched, and when QEMU cannot write the snapshot.
        """
        self._require_room(pid)
        output = qmp.monitor(self._control, f"savevm {tag}", timeout=SNAPSHOT_PATIENCE).strip()
        if output:
            raise self._failure(output.removeprefix("Error: "))

    def drop(self, tag: str) -> None:
        """Remove a snapshot; its room is used again."""
        qmp.monitor(self._control, f"delvm {tag}", timeout=SNAPSHOT_PATIENCE)

    def _require_room(self, pid: int) -> None:
        """Refuse a snapshot that might fill the filesystem.

        The data that QEMU wrote before it noticed would stay in the overlay, and the guest would halt at its
        next write.
        """
        needed = min(processes.private_memory(pid), self.memory * MIB)
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise self._failure(f"it may take {needed // MIB} MiB, and {free // MIB} MiB are free")

    def _failure(self, reason: str) -> InstanceError:
        return InstanceError(
            f"{self.name}: QEMU cannot take a snapshot: {reason}",
            hint=f"it needs the guest's memory ({self.memory} MiB at most) as free space in "
            f"{self.directory}; TMPDIR names another directory",
        )

    def load(self, tag: str) -> None:
        """Put disk, memory and devices back as they were at ``tag``. A paused guest stays paused.

        Raises InstanceError when QEMU cannot read it.
        """
        output = qmp.monitor(self._control, f"loadvm {tag}", timeout=SNAPSHOT_PATIENCE).strip()
        if output:
            raise InstanceError(
                f"{self.name}: QEMU cannot go back to a snapshot: {output.removeprefix('Error: ')}"
            )


def tag_of(name: str) -> str:
    """Return the tag of the snapshot ``name``: never a number, which QEMU would take for an id.

    Raises InstanceError when ``name`` has characters that the monitor would misread, or more than 100.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
        raise InstanceError(
            f"{name!r}: not a name for a snapshot", hint="use letters, digits, dots, dashes and underscores"
        )
    return f"at-{name}"
