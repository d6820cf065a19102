"""The process that outlives a run which was killed, and removes what it made.

The process that makes a run's first resource starts the guardian before that, in a session of its own. Its
charge, credentials included, comes through its stdin and stays in its memory; then it sleeps on the lock that
every process of the run holds. When the kernel has released the last of these, the guardian looks at the
ledger: a run that ended by itself needs nothing more, any other is swept.

Started as ``python -m pytest_dibctl.cleanup.guardian``. It imports little until it is needed: it costs a run
some hundredths of a second, and a run that makes nothing has none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pytest_dibctl.errors import DibctlError, NotInConfigError
from pytest_dibctl.run.ledger import GUARDIAN, LOCK, Ledger
from pytest_dibctl.system import locks, process
from pytest_dibctl.system.waiting import growing, wait_until

if TYPE_CHECKING:
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.test import TestEnvironment

log = logging.getLogger(__name__)

CHARGED = b"charged\n"
"""The content of the locked file once the guardian no longer needs the process that started it."""
RETRY_FOR = 900.0
"""Seconds for which a removal that fails is tried again; then it is left to ``dibctl cleanup``."""
LONGEST_PAUSE = 60.0
PATIENCE = 5.0
"""Seconds a run waits at its end for its guardian, which has nothing to do then."""
STARTING = 10.0
"""Seconds another process of the run may take to start it."""
POLL = 0.02
"""Seconds between two looks at whether it was started; nothing is made meanwhile."""
LOG = "guardian.log"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Charge:
    """All that a guardian must know.

    ``environ`` are the OS_* variables, secrets among them; ``files`` are the texts of files that such
    variables name: jobs delete their clouds.yaml when they end.
    """

    directory: Path
    cwd: Path
    environments: Mapping[str, Entry[TestEnvironment]]
    environ: Mapping[str, str] = dataclasses.field(repr=False)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)

    def environment(self, label: str) -> Entry[TestEnvironment]:
        """Return an environment; raises NotInConfigError."""
        try:
            return self.environments[label]
        except KeyError:
            raise NotInConfigError(f"the run said nothing of an environment {label}") from None


# -- in the run ------------------------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class Guardian:
    """A run's guardian, as the run's processes see it. Each may call ``ensure``; it is started once."""

    directory: Path
    make_charge: Callable[[], Charge]
    _ensured: bool = False
    _child: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """Return once the run has a guardian that lives; raises DibctlError when it cannot be had."""
        if self._ensured:
            return
        try:
            with locks.exclusive(self.directory / "guardian.starting", poll=POLL):
                self._ensure()
        except (OSError, ValueError) as error:
            raise DibctlError(
                f"the guardian, which removes what a killed run leaves, cannot be started: {error}",
                hint="--dib-keep-on-kill runs without one",
            ) from None
        self._ensured = True

    def _ensure(self) -> None:
        # The lock stays with the guardian, which inherits the descriptor.
        with locks.opened(self.directory / GUARDIAN) as descriptor:
            is_ours = False

            def is_settled() -> bool:
                nonlocal is_ours
                is_ours = locks.try_hold(descriptor)
                # A guardian without a charge will end, since its starter died in the middle.
                return is_ours or os.pread(descriptor, len(CHARGED), 0) == CHARGED

            if not wait_until(is_settled, timeout=STARTING, poll=POLL):
                raise TimeoutError("another one does not end")
            if is_ours:
                os.ftruncate(descriptor, 0)
                self._child = self._start(descriptor)

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        charge = self.make_charge()
        data = pickle.dumps(charge)
        child = subprocess.Popen(
            # -P: not the working directory, whose files may be called like modules.
            [
                *(process.interpreter(), "-P", "-m", "pytest_dibctl.cleanup.guardian"),
                *(str(self.directory), str(descriptor)),
            ],
            cwd=charge.cwd,
            env={**_plain_environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(descriptor,),
        )
        assert child.stdin is not None
        with child.stdin as pipe:
            pipe.write(struct.pack("!Q", len(data)) + data)
        return child

    @property
    def pid(self) -> int | None:
        """Its process, if this process started it."""
        return self._child.pid if self._child is not None else None

    def reap(self) -> None:
        """Wait for the guardian's end, after that of the run; not for one that has something to do."""
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(PATIENCE)

    def disown(self) -> None:
        """Let it live on without us."""
        if self._child is not None:
            self._child.returncode = 0  # or Python would warn of a child that still runs


def _plain_environment() -> dict[str, str]:
    """Return this process's environment without credentials, and without the mark of what is to be ended."""
    found = process.environment({process.RUN: ""})
    return {name: value for name, value in found.items() if not name.startswith("OS_")}


def of_run(directory: Path, environments: Iterable[Entry[TestEnvironment]], *, cwd: Path) -> Guardian:
    """Return the guardian of a run whose ledger is in ``directory``; it is not started yet."""
    places = tuple(environments)
    return Guardian(
        directory=directory,
        make_charge=lambda: charge_for(directory, places, cwd=cwd, environ=os.environ),
    )


def charge_for(
    directory: Path, environments: Iterable[Entry[TestEnvironment]], *, cwd: Path, environ: Mapping[str, str]
) -> Charge:
    """Return what a run's guardian must know to remove things in these environments."""
    entries = {environment.label: environment for environment in environments}
    files: dict[str, str] = {}
    if any(entry.settings.keystone and entry.settings.keystone.cloud for entry in entries.values()):
        from pytest_dibctl.clouds.openstack.login import login_files  # loaded by now: its cloud is open

        files = login_files(environ)
    plain = {name: value for name, value in environ.items() if name.startswith("OS_")}
    return Charge(directory=directory, cwd=cwd, environments=entries, environ=plain, files=files)


# -- the guardian itself ---------------------------------------------------------------------------


def main() -> int:
    """Take the charge from stdin, wait for the end of the run, and remove what it left."""
    # Who ends a terminal, a login or a job means the run; this is what cleans up after it.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    run, descriptor = Ledger(directory=Path(sys.argv[1])), int(sys.argv[2])
    data = _read(sys.stdin.buffer)
    if data is None:
        return 1  # the process that started us was killed in the middle, before it made anything
    os.pwrite(descriptor, CHARGED, 0)
    _await_end(run)
    if run.finished or not run.directory.exists():
        run.remove_if_empty()  # our waiting lock may have made the run look alive to itself
        return 0
    charge: Charge = pickle.loads(data)  # noqa: S301 -- from our own parent, through our own pipe
    _take_credentials(charge)
    return _clean_up(run, charge)


def _read(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(8)
    if len(head) < 8:  # noqa: PLR2004 -- what !Q packs
        return None
    (length,) = struct.unpack("!Q", head)
    data = pipe.read(length)
    return data if len(data) == length else None


def _take_credentials(charge: Charge) -> None:
    """Put credentials where a login looks for them: in memory, and out of sight in /proc."""
    os.environ.update(charge.environ)
    for variable, text in charge.files.items():
        descriptor = os.memfd_create(variable)
        os.write(descriptor, text.encode())
        os.environ[variable] = f"/proc/self/fd/{descriptor}"


def _await_end(run: Ledger) -> None:
    """Return when no process of the run is left."""
    with (
        contextlib.suppress(FileNotFoundError),
        locks.opened(run.directory / LOCK, create=False) as descriptor,
    ):
        locks.hold(descriptor)


def _clean_up(run: Ledger, charge: Charge) -> int:
    logging.basicConfig(
        filename=run.directory / LOG, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO
    )
    log.info("the run ended without removing what it made")
    from pytest_dibctl.cleanup import sweep
    from pytest_dibctl.run.removal import State
    from pytest_dibctl.system import processes

    processes.end_marked(run.run_id)

    def is_clean() -> bool:
        records = [record for record in run.records() if record.kept is None]
        removals = list(sweep.sweep_records(charge.environment, run, records, cwd=charge.cwd))
        for removal in removals:
            log.info("%s: %s", removal.resource, removal.outcome)
        return all(removal.state is State.REMOVED for removal in removals)

    pauses = growing(1.0, factor=2.0, longest=LONGEST_PAUSE)
    clean = wait_until(is_clean, timeout=RETRY_FOR, poll=pauses)
    run.remove_if_empty()
    return int(not clean)


if __name__ == "__main__":
    sys.exit(main())
