"""The record of an instance on disk, from which another process takes the instance over."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Final

from pytest_dibctl.errors import NotInConfigError
from pytest_dibctl.system import files

STATE: Final = "instance.json"
VERSION: Final = 1
ENGINE: Final = "nspawn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """An instance's record. It holds no secrets.

    ``memory`` is in MiB, ``disk`` in GiB; ``limits`` says how they are kept. ``pid`` is the guard's, None
    until it was started.
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
        document = {"version": VERSION, "engine": ENGINE, **dataclasses.asdict(self)}
        files.write_atomically(directory / STATE, json.dumps(document, indent=1) + "\n")


def read_state(directory: Path) -> State:
    """Return the record in an instance's directory.

    Raises NotInConfigError when there is none, and when another engine or version wrote it.
    """
    path = directory / STATE
    try:
        document = json.loads(path.read_text())
        version, engine = document.pop("version"), document.pop("engine")
        keys = tuple(document.pop("host_keys"))
        if (version, engine) == (VERSION, ENGINE):
            return State(host_keys=keys, **document)
    except FileNotFoundError:
        raise NotInConfigError(f"{directory}: no instance is recorded there") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise NotInConfigError(
        f"{path}: not the record of a container that this version of pytest-dibctl can use",
        hint=f"remove {directory} once no systemd-nspawn uses it any more",
    )
