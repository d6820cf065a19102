"""The record of an instance on disk, from which another process takes the instance over."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pytest_dibctl.clouds import local_record
from pytest_dibctl.clouds.qemu import machine

MARKS = {"version": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """An instance's record. It holds no secrets.

    ``memory`` is in MiB, ``disk`` in GiB; ``reason`` says why the accelerator was chosen. ``pid`` is None
    until QEMU was started. ``host_loopback`` says that QEMU is in this machine's network, as all once were.
    """

    id: str
    name: str
    environment: str
    arch: machine.Arch
    accelerator: machine.Accelerator
    reason: str
    memory: int
    vcpus: int
    disk: int
    mac: str
    image: str
    private_key_file: str
    host_keys: tuple[str, ...]
    first_seen: bool
    pid: int | None = None
    host_loopback: bool = True

    def write(self, directory: Path) -> None:
        """Write the record into the instance's directory; readers see the old one or the new one, whole.

        Raises OSError when it cannot be written.
        """
        local_record.write(self, directory, MARKS)


def read_state(directory: Path) -> State:
    """Return the record in an instance's directory.

    Raises NotInConfigError when there is none, when it cannot be read, and when another version of this
    package wrote it.
    """
    return local_record.read(State, directory, MARKS, what="an instance", program="QEMU")
