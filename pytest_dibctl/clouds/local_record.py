"""The record of an instance on this machine, from which another process takes the instance over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pytest_dibctl.errors import NotInConfigError
from pytest_dibctl.system import files

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FILE: Final = "instance.json"

T = TypeVar("T")


def write(state: DataclassInstance, directory: Path, marks: Mapping[str, Any]) -> None:
    """Write a record into the instance's directory; readers see the old one or the new one, whole.

    ``marks`` tell records of its kind from others. Raises OSError when it cannot be written.
    """
    document = {**marks, **dataclasses.asdict(state)}
    files.write_atomically(directory / FILE, json.dumps(document, indent=1) + "\n")


def read(kind: Callable[..., T], directory: Path, marks: Mapping[str, Any], *, what: str, program: str) -> T:
    """Return the record in an instance's directory, of which ``kind`` makes a value, with the same ``marks``.

    Messages call it the record of ``what``, which ``program`` runs. Raises NotInConfigError when there is
    none, when it cannot be read, and when another engine or another version of this package wrote it.
    """
    path = directory / FILE
    try:
        document = json.loads(path.read_text())
        present = {mark: document.pop(mark) for mark in marks}
        keys = tuple(document.pop("host_keys"))
        if present == marks:
            return kind(host_keys=keys, **document)
    except FileNotFoundError:
        raise NotInConfigError(f"{directory}: no instance is recorded there") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise NotInConfigError(
        f"{path}: not the record of {what} that this version of pytest-dibctl can use",
        hint=f"remove {directory} once no {program} uses it any more",
    )
