"""Resources of a run from its configuration to its end: ledger, guardian and signal handlers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_dibctl.cleanup import guardian, renewal
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run import ledger
from pytest_dibctl.run.ledger import Ledger, Record
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.targets import Target
from pytest_dibctl.system import process, signals


class RunResources:
    """The run's ledger, opened; on a worker, whose ``run_id`` is its controller's, another hold on it.

    pytest closes them by its hook. ``guard`` is to be called before the first resource is made: it starts the
    guardian, which removes the resources if this process is killed. Raises DibctlError if the ledger cannot
    be opened.
    """

    def __init__(
        self,
        *,
        run_id: str | None,
        is_worker: bool,
        options: RunOptions,
        targets: Sequence[Target],
        cwd: Path,
    ) -> None:
        self._is_worker = is_worker
        self._beginning: threading.Thread | None = None
        self.guard: Callable[[], None] = lambda: None
        with contextlib.ExitStack() as stack:
            directory = ledger.base_directory() / (run_id or ledger.new_run_id())
            if not options.keep_on_kill:
                environments = [target.environment for target in targets]
                run_guardian = guardian.of_run(directory, environments, cwd=cwd)
                self.guard = run_guardian.ensure
                # Closed last of all: it waits for all processes of the run to release the ledger.
                stack.callback(run_guardian.disown if is_worker else run_guardian.reap)
            self.ledger: Ledger = stack.enter_context(ledger.opened(directory.name))
            # Local guests have no leases, and a thread less is a stack less in pytest-timeout's reports.
            if not is_worker and not all(target.environment.settings.is_local for target in targets):
                by_label = {target.environment.label: target.environment for target in targets}
                stack.enter_context(renewal.renewing(by_label.__getitem__, self.ledger, cwd=cwd))
            if not options.keep_on_kill:
                # Before the ledger is released: the guardian ends then, and needs no successor.
                stack.callback(run_guardian.end_watch)
            stack.enter_context(process.marked(self.ledger.run_id))
            interruption = stack.enter_context(signals.as_keyboard_interrupt())
            interruption.outlook = self._outlook
            interruption.guarded = not options.keep_on_kill
            self._open = stack.pop_all()

    def begin_guard(self) -> None:
        """Call ``guard`` in the background: a guardian takes a third of a second to start.

        The next call raises its error, before any resource is made.
        """

        def begin() -> None:
            with contextlib.suppress(DibctlError):
                self.guard()

        self._beginning = threading.Thread(target=begin, name="dibctl-guardian-start", daemon=True)
        self._beginning.start()

    def not_removed(self) -> list[Record]:
        """Return the records of resources that the run has neither removed nor kept; keys are left out.

        A key stays as long as the instance that it opens.
        """
        return [record for record in self.ledger.records() if record.kept is None and record.kind != "key"]

    def _outlook(self) -> list[str]:
        """Return the resources still to be removed, in words; none on an xdist worker."""
        if self._is_worker:
            return []
        return [f"{record.kind} {record.name}" for record in self.not_removed()]

    def pytest_unconfigure(self) -> None:
        """Release the ledger and the signals."""
        if self._beginning is not None:
            self._beginning.join()
        self._open.close()
