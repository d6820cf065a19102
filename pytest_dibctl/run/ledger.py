"""A record on disk of everything a run makes, written before it is made.

A run has a directory ``<base>/<run id>/`` that holds its records and the files of its instances. While
anything of the run lives (pytest, its workers), it holds a shared flock on ``lock`` in there; the kernel
releases it however the process ends, so "is this run dead?" needs no pid. A record is one JSON file,
``<kind>.<name>.json``, removed when the thing is gone again.

Versions: a record may get new keys, which older versions keep as they are, and new kinds, which they leave
alone. A file that cannot be read counts as a thing that is still there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run.removal import Resource
from pytest_dibctl.system import files, host, locks, short_paths

RECORD_VERSION = 1
LOCK = "lock"
GUARDIAN = "guardian"
"""The file that a run's guardian has locked while it lives."""
FINISHED = "finished"
"""The mark of a run that ended by itself and reported the resources that it could not remove."""
PROBES = (0.0, 0.01, 0.05)
"""Seconds before each look at a lock: another look holds it for a moment, and is no living run."""
ROOM = 64 * 1024
"""Bytes a new run must be able to write: it will need some for the records of its resources."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One thing a run made or was about to make.

    ``kept`` is the reason why it was left on purpose, ``None`` if it was not. ``details`` are the values by
    which the cloud finds it again; never a secret.
    """

    path: Path
    kind: str
    name: str
    created: float
    kept: str | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    unknown: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    """Further keys that another version wrote."""

    @property
    def resource(self) -> Resource:
        """The thing that is on record."""
        return Resource(kind=self.kind, name=self.name)

    @property
    def pid(self) -> int | None:
        """The process that made the record."""
        number = self.path.name.split(".")[-2]
        return int(number) if number.isdigit() else None

    def keep(self, reason: str) -> Record:
        """Return this record, on disk too, marked as left on purpose."""
        return _write(dataclasses.replace(self, kept=reason))

    def update(self, **details: Any) -> Record:
        """Return this record, on disk too, with more details."""
        return _write(dataclasses.replace(self, details={**self.details, **details}))

    def done(self) -> None:
        """Forget the thing: it is gone."""
        self.path.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """The records of one run. ``directory`` is the run's own: 0700, gone when nothing is left in it."""

    directory: Path

    @property
    def run_id(self) -> str:
        """The run's id: eight hexadecimal digits."""
        return self.directory.name

    def record(self, kind: str, name: str, **details: Any) -> Record:
        """Record that ``name`` is about to be made; raises DibctlError if the record cannot be stored."""
        # Two workers of a run may each hold a record of the same thing.
        path = self.directory / f"{kind}.{_safe(name)}.{os.getpid()}.json"
        return _write(Record(path=path, kind=kind, name=name, created=time.time(), details=details))

    def records(self) -> tuple[Record, ...]:
        """Return the present records, oldest first; unreadable files are skipped."""
        found = [record for path in _files(self.directory, "*.json") if (record := _read(path))]
        return tuple(sorted(found, key=lambda record: record.created))

    def unreadable(self) -> tuple[Path, ...]:
        """Return the records that this version cannot read."""
        return tuple(path for path in _files(self.directory, "*.json") if _read(path) is None)

    def is_alive(self) -> bool:
        """Whether a process of this run still holds its lock."""
        return locks.is_held(self.directory / LOCK, pauses=PROBES)

    def is_of_this_machine(self) -> bool:
        """Whether this user ran it on this machine: only then does ``is_alive`` tell anything."""
        return self.machine() == host.identity()

    def machine(self) -> dict[str, str]:
        """Return which machine and user the run is of; empty where an older version did not write it."""
        try:
            document = json.loads((self.directory / LOCK).read_text())
        except (OSError, ValueError):
            return {}
        return {str(key): str(text) for key, text in document.items()} if isinstance(document, dict) else {}

    def has_guardian(self) -> bool:
        """Whether a guardian watches over this run, or is removing its leftovers."""
        return locks.is_held(self.directory / GUARDIAN, pauses=PROBES)

    def finish(self) -> None:
        """Mark that the run ended by itself: a report has named the resources that are still on record."""
        with contextlib.suppress(OSError):
            (self.directory / FINISHED).touch(mode=0o600)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end by itself."""
        return (self.directory / FINISHED).exists()

    def remove_if_empty(self) -> None:
        """Remove the run's directory unless a record, so a thing, is still there."""
        if not _files(self.directory, "*.json"):
            short_paths.remove_all(self.directory)
            shutil.rmtree(self.directory, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.directory.parent.rmdir()


def base_directory(*, make: bool = True) -> Path:
    """Return where runs keep their directories: ``dibctl-<uid>`` in the temporary directory.

    It holds unix sockets, whose paths may have 107 bytes, and root disks, which may be large: set TMPDIR
    to move it. Without ``make`` it may not be there. Raises DibctlError if another user owns it.
    """
    # Python takes another directory in silence when $TMPDIR is full or read-only, and finds neither again.
    base = Path(os.environ.get("TMPDIR") or tempfile.gettempdir()) / f"dibctl-{os.getuid()}"
    try:
        if make:
            base.mkdir(mode=0o700, exist_ok=True)
        info = base.lstat()
    except OSError as error:
        if not make and isinstance(error, FileNotFoundError):
            return base
        raise DibctlError(
            f"{base}: cannot be used for instance files: {error.strerror}", hint="set TMPDIR"
        ) from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise DibctlError(
            f"{base}: not a directory that only this user can enter",
            hint="remove it, or set TMPDIR to another directory",
        )
    return base


def new_run_id() -> str:
    """Return an id for a new run."""
    return uuid.uuid4().hex[:8]


@contextlib.contextmanager
def opened(run_id: str, *, base: Path | None = None) -> Iterator[Ledger]:
    """Hold a run's ledger; several processes of one run may hold it at the same time."""
    directory = (base or base_directory()) / run_id
    try:
        _make(directory)
        _check_room(directory)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        with contextlib.suppress(OSError):
            directory.rmdir()
        raise DibctlError(
            f"{directory}: cannot keep a record of the run: {error.strerror}; nothing was made",
            hint="make room there, or set TMPDIR to another directory",
        ) from None
    ledger = Ledger(directory=directory)
    _held.add(descriptor)
    try:
        locks.hold(descriptor, shared=True)
        # A directory may be shared with other machines, which see neither our locks nor our processes.
        os.pwrite(descriptor, json.dumps(host.identity()).encode(), 0)
        yield ledger
    finally:
        if descriptor in _held:  # not in a forked child, which has closed its own
            _held.remove(descriptor)
            os.close(descriptor)
            if not ledger.is_alive():
                ledger.remove_if_empty()


def _make(directory: Path) -> None:
    """Make a run's directory, and the base again: another run that ends just now may have removed it."""
    for _ in range(10):
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            directory.mkdir(mode=0o700, exist_ok=True)
            return
    directory.mkdir(mode=0o700)


_held: set[int] = set()
"""Descriptors that say that this process lives."""


def _let_go() -> None:
    """Close, in a forked child, the locks that would make the run look alive after its end."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _check_room(directory: Path) -> None:
    """Write and remove a file; raises OSError where there is no room, or no writing."""
    draft = directory / f"room.{os.getpid()}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(bytes(ROOM))
    finally:
        draft.unlink(missing_ok=True)


def all_runs(base: Path | None = None) -> tuple[Ledger, ...]:
    """Return every run that left a directory, the living ones too."""
    base = base or base_directory(make=False)
    return tuple(
        Ledger(directory=path)
        for path in _files(base, "*")
        if path.is_dir() and re.fullmatch(r"[0-9a-f]{8}", path.name)
    )


def _files(directory: Path, pattern: str) -> list[Path]:
    """Return the entries of a directory, sorted; none if another process removes it at this moment."""
    try:
        return sorted(directory.glob(pattern))
    except FileNotFoundError:
        return []


def load(path: Path) -> Record | None:
    """Return the record at ``path``, None if it is gone or unreadable."""
    return _read(path)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _write(record: Record) -> Record:
    document = {
        **record.unknown,
        "version": RECORD_VERSION,
        "kind": record.kind,
        "name": record.name,
        "created": record.created,
        "kept": record.kept,
        "details": record.details,
    }
    try:
        files.write_atomically(record.path, json.dumps(document), mode=0o600, durable=True)
    except OSError as error:
        raise DibctlError(
            f"{record.path}: cannot record {record.kind} {record.name}: {error.strerror}; nothing was made",
        ) from None
    return record


_KNOWN = frozenset({"version", "kind", "name", "created", "kept", "details"})


def _read(path: Path) -> Record | None:
    try:
        document = json.loads(path.read_text())
        return Record(
            path=path,
            kind=str(document["kind"]),
            name=str(document["name"]),
            created=float(document.get("created") or 0.0),
            kept=document.get("kept"),
            details=dict(document.get("details") or {}),
            unknown={key: value for key, value in document.items() if key not in _KNOWN},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
