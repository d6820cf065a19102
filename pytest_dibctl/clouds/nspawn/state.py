"""The record of an instance on disk, from which another process takes the instance over."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pytest_dibctl.clouds import local_record

MARKS = {"version": 1, "engine": "nspawn"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """An instance's record. It holds no secrets.

    ``memory`` is in MiB, ``disk`` in GiB; ``limits`` says how they are kept, empty before
    they are. ``pid`` is the guard's, None until it was started.
    """

    id: str
    name: str
    environment: str
    memory: int
    disk: int
    processes: int
    limits: str
    mac: str
    image: str
    private_key_file: str
    host_keys: tuple[str, ...]
    first_seen: bool
    host_loopback: bool
    pid: int | None = None

    def write(self, directory: Path) -> None:
        """Write the record into the instance's directory; readers see the old one or the new one, whole.

        Raises OSError when it cannot be written.
        """
        local_record.write(self, directory, MARKS)


def read_state(directory: Path) -> State:
    """Return the record in an instance's directory.

    Raises NotInConfigError when there is none, and when another engine or version wrote it.
    """
    return local_record.read(State, directory, MARKS, what="a container", program="systemd-nspawn")
