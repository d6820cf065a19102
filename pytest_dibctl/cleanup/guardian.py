"""The process that outlives a killed run, and removes the run's resources.

The process that makes a run's first resource starts the guardian before that, in a session of its own. Its
charge, credentials included, comes through its stdin and stays in its memory; then it sleeps on the lock that
every process of the run holds. When the kernel has released the last of these, the guardian looks at the
ledger: a run that ended by itself needs nothing more, any other is swept.

It starts isolated from the tests: none of their modules can take the place of a module that it imports. The
run goes on only when the guardian has said that it holds its charge. Each process of the run watches it, and
starts another when it dies. A run that makes nothing has none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pytest_dibctl.cleanup import watch
from pytest_dibctl.config import credentials
from pytest_dibctl.errors import DibctlError, NotInConfigError
from pytest_dibctl.run.ledger import GUARDIAN, LOCK, Ledger
from pytest_dibctl.system import locks, process
from pytest_dibctl.system.waiting import growing, wait_until

if TYPE_CHECKING:
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.test import TestEnvironment

log = logging.getLogger(__name__)

CHARGED = re.compile(rb"charged (\d+)\n")
"""The content of the locked file, with the guardian's process id, once it no longer needs its starter."""
RETRY_FOR = 900.0
"""Seconds for which a removal that fails is tried again; then it is left to ``dibctl cleanup``."""
LONGEST_PAUSE = 60.0
PATIENCE = 5.0
"""Seconds a run waits at its end for its guardian, which has nothing to do then."""
STARTING = 60.0
"""Seconds until a guardian must hold its charge, on a machine that is busy with builds."""
POLL = 0.02
"""Seconds between two looks at whether it was started; nothing is made meanwhile."""
BREATH = 1.0
"""Seconds between the death of a guardian and the start of the next, against a busy loop."""
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
            raise NotInConfigError(f"the run named no environment {label}") from None


# -- in the run ------------------------------------------------------------------------------------


class Guardian:
    """A run's guardian, as the run's processes see it. Each may call ``ensure``; it is started once.

    ``directory`` is the run's, ``make_charge`` returns the charge of a guardian that is started.
    """

    def __init__(self, *, directory: Path, make_charge: Callable[[], Charge]) -> None:
        self.directory = directory
        self._make_charge = make_charge
        self._child: subprocess.Popen[bytes] | None = None
        self._watch: watch.Watch | None = None
        self._one_at_a_time = threading.Lock()

    def ensure(self) -> None:
        """Return once the run has a guardian that holds its charge and lives.

        From then on its death is noticed, and another one started. Raises DibctlError when it cannot be had.
        """
        if self._watch is not None and self._watch.sees_life():
            return
        self.end_watch()  # which waits for a successor that is being started
        with self._one_at_a_time:
            pid = self._one_that_lives()
            self._watch = watch.Watch(pid, successor=self._successor)

    def _successor(self) -> int | None:
        """Return the process that follows a guardian that died, None when none can be had.

        The next ``ensure`` tries again then, and raises.
        """
        time.sleep(BREATH)
        with self._one_at_a_time:
            try:
                return self._one_that_lives()
            except DibctlError:
                log.exception("the run's guardian died, and no other can be started")
                return None

    def _one_that_lives(self) -> int:
        try:
            with locks.exclusive(self.directory / "guardian.starting", poll=POLL):
                return self._settled()
        except (OSError, ValueError) as error:
            raise DibctlError(
                f"the guardian, which removes what a killed run leaves, cannot be started: {error}",
                hint="--dib-keep-on-kill runs without one",
            ) from None

    def _settled(self) -> int:
        """Return the process of the guardian that has the lock, a new one if none has it."""
        # The lock stays with the guardian, which inherits the descriptor.
        with locks.opened(self.directory / GUARDIAN) as descriptor:
            pid: int | None = None

            def is_settled() -> bool:
                nonlocal pid
                if locks.try_hold(descriptor):
                    pid = None
                    return True
                # A guardian without a charge will end, since its starter died in the middle.
                pid = _charged(descriptor)
                return pid is not None

            if not wait_until(is_settled, timeout=STARTING, poll=POLL):
                raise TimeoutError("an earlier guardian does not end")
            if pid is not None:
                return pid
            if self._child is not None:
                self._child.poll()  # the one that died
            os.ftruncate(descriptor, 0)
            self._child = self._start(descriptor)
            return self._child.pid

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        """Start a guardian and return when it holds its charge; raises OSError when it does not take it."""
        charge = self._make_charge()
        data = pickle.dumps(charge)
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(
                [*process.own_python(__name__), str(self.directory), str(descriptor)],
                cwd=charge.cwd,
                env=_plain_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
                pass_fds=(descriptor,),
            )
            try:
                _hand_over(child, data)
                _await_charged(child, descriptor, output)
            except BaseException:
                child.kill()
                child.wait()
                raise
        return child

    @property
    def pid(self) -> int | None:
        """Its process, if this process started it."""
        return self._child.pid if self._child is not None else None

    def end_watch(self) -> None:
        """Watch no more; to be called before the run's lock is released, which ends the guardian."""
        if self._watch is not None:
            self._watch.end()

    def reap(self) -> None:
        """Wait for the guardian's end after the run's, unless the guardian has resources to remove."""
        self.end_watch()
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(PATIENCE)
        else:
            # A worker may have started it: then it removes the run's directory while this process ends.
            wait_until(lambda: not locks.is_held(self.directory / GUARDIAN), timeout=PATIENCE, poll=POLL)

    def disown(self) -> None:
        """Let it live on without us."""
        self.end_watch()
        if self._child is not None:
            self._child.returncode = 0  # or Python would warn of a child that still runs


def _charged(descriptor: int) -> int | None:
    """Return the process of the guardian that has said in the locked file that it holds its charge."""
    match = CHARGED.fullmatch(os.pread(descriptor, 64, 0))
    return int(match.group(1)) if match else None


def _hand_over(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    # A child that has ended says why on stderr, which is read next.
    with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
        pipe.write(struct.pack("!Q", len(data)) + data)


def _await_charged(child: subprocess.Popen[bytes], descriptor: int, said: IO[bytes]) -> None:
    def is_over() -> bool:
        return _charged(descriptor) is not None or child.poll() is not None

    if not wait_until(is_over, timeout=STARTING, poll=POLL):
        raise TimeoutError(f"it does not take its charge within {STARTING:g} s")
    if _charged(descriptor) is None:
        said.seek(0)
        last = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
        raise ChildProcessError(f"it {process.describe_exit(child.wait())}: {last[0]}")


def _plain_environment() -> dict[str, str]:
    """Return this process's environment without credentials and the mark of processes to be ended."""
    variables = process.environment({process.RUN: ""})
    return {name: value for name, value in variables.items() if not name.startswith("OS_")}


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
    """Return the charge with which a run's guardian can remove resources in these environments."""
    entries = {environment.label: environment for environment in environments}
    files: dict[str, str] = {}
    sections = [entry.settings.keystone for entry in entries.values() if entry.settings.keystone is not None]
    if any(credentials.cloud_of(keystone, environ) for keystone in sections):
        from pytest_dibctl.clouds.openstack.login import login_files  # loaded by now: its cloud is open

        files = login_files(environ)
    plain = {name: value for name, value in environ.items() if name.startswith("OS_")}
    return Charge(directory=directory, cwd=cwd, environments=entries, environ=plain, files=files)


# -- the guardian itself ---------------------------------------------------------------------------


def main() -> int:
    """Take the charge from stdin, wait for the end of the run, and remove its leftovers."""
    # A signal that ends a terminal, a login or a job is meant for the run; the guardian cleans up after the
    # run.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    run, descriptor = Ledger(directory=Path(sys.argv[1])), int(sys.argv[2])
    data = _read(sys.stdin.buffer)
    if data is None:
        return 1  # the process that started us was killed in the middle, before it made anything
    # Before the promise: an unreadable charge or a missing library is reported now.
    charge: Charge = pickle.loads(data)  # noqa: S301 -- from our own parent, through our own pipe
    from pytest_dibctl.cleanup import sweep  # noqa: F401

    os.pwrite(descriptor, b"charged %d\n" % os.getpid(), 0)
    _let_go_of_stderr()
    _await_end(run)
    if run.finished or not run.directory.exists():
        run.remove_if_empty()  # our waiting lock may have made the run look alive to itself
        return 0
    _take_credentials(charge)
    return _clean_up(run, charge)


def _read(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(8)
    if len(head) < 8:  # noqa: PLR2004 -- what !Q packs
        return None
    (length,) = struct.unpack("!Q", head)
    data = pipe.read(length)
    return data if len(data) == length else None


def _let_go_of_stderr() -> None:
    """Close the starter's file: no process reads it any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


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
