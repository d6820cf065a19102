"""A failed step is reported once, by the first test that needed it; the others are skipped with that reason.

A build, an upload or a boot is a session fixture here. pytest raises its error again in every test that asks
for it, and would report one cause as many errors.
"""

from __future__ import annotations

import pathlib
import types
from types import MappingProxyType

import pytest

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.image import statements
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.run.target_run import TargetRun

STEPS = MappingProxyType(
    {
        "dib_later_rungs": "a later rung of the ladder of {image} could not be used",
        "artifact": "the build of {image} failed",
        "image_tree": "the files of {image} could not be opened",
        "cloud": "the test environment {environment} could not be used",
        "cloud_image": "the upload of {image} to {environment} failed",
        "keypair": "no ssh key could be made for {image} in {environment}",
        "instance": "the boot of {image} in {environment} failed",
        "ssh_access": "{image} in {environment} did not become ready",
    }
)
"""The words for each failed step, by its fixture."""


class FailedSteps:
    """The failures of steps that this process has met, and the first test that met each of them."""

    def __init__(self, session: DibSession) -> None:
        self._session = session
        self._failures: dict[int, tuple[BaseException, str]] = {}
        """By an error's id: the error, which lives on so that no other gets its id, and its fixture."""
        self._first_tests: dict[int, str] = {}

    def note(self, fixture: str, error: BaseException) -> None:
        """Note that a fixture raised an error; the innermost fixture that it comes through is its step."""
        if fixture in STEPS and isinstance(error, (Exception, pytest.fail.Exception)):
            self._failures.setdefault(id(error), (error, fixture))

    def words(self, error: BaseException | None, target_run: TargetRun) -> str | None:
        """Return which step failed with an error, in words; None for an error of no step."""
        if isinstance(error, DibctlError) and error.follows:
            return error.message.splitlines()[0]
        if error is None or id(error) not in self._failures:
            return None
        _, fixture = self._failures[id(error)]
        return STEPS[fixture].format(image=target_run.label, environment=target_run.environment.label)

    def first_test(self, error: BaseException, nodeid: str) -> str:
        """Return the first test that met an error, which is ``nodeid`` if none did before."""
        if isinstance(error, DibctlError) and error.follows:
            return error.follows
        if isinstance(error, DibctlError) and error.origin is not None:
            return self._session.run_state.first(error.origin, nodeid)
        return self._first_tests.setdefault(id(error), nodeid)

    def settle(
        self,
        item: pytest.Item,
        report: pytest.TestReport,
        excinfo: pytest.ExceptionInfo[BaseException],
        words: str,
        target_run: TargetRun,
    ) -> str | None:
        """Make the report of a test whose step failed an error, or a skip if an earlier test has told it.

        Return the reason of the skip. A mark like xfail excuses a test's failure, not a step before it.
        """
        vars(report).pop("wasxfail", None)
        first = self.first_test(excinfo.value, item.nodeid)
        if first == item.nodeid:
            report.outcome = "failed"
            ours = isinstance(excinfo.value, DibctlError)
            report.longrepr = str(excinfo.value) if ours else item.repr_failure(excinfo)
            return None
        error = excinfo.value
        is_reported = isinstance(error, DibctlError) and error.follows
        reason = words if is_reported else f"{words}, see {first}"
        report.outcome = "skipped"
        # The image's place, not the test's: pytest's summary then has one line for all of them.
        report.longrepr = (*_place(target_run.image), f"Skipped: {reason}")
        return reason


def _place(image: Entry[Image]) -> tuple[str, int]:
    """Return the file and the line of an image's entry."""
    mark = image.mark()
    return str(image.path), mark.line if mark is not None else 1


def hide_internals(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """End a traceback where a test calls a function of ours, for errors that explain themselves.

    These are our own, and tests that were ended because their time was over. A fault of ours keeps all of it.
    """
    if not isinstance(excinfo.value, (DibctlError, pytest.fail.Exception)):
        return
    if item.config.getoption("fulltrace", default=False):
        return
    # The traceback itself and not pytest's list of its entries, which pytest makes anew.
    entry: types.TracebackType | None = excinfo.tb
    while entry is not None and not _is_in(entry, item.path):
        entry = entry.tb_next
    while entry is not None and (following := entry.tb_next) is not None:
        if _is_internal(following):
            entry.tb_next = None
            # Other errors that were raised on the way come from this plugin too.
            excinfo.value.__suppress_context__ = True
            excinfo.value.__cause__ = None
            excinfo.traceback = type(excinfo.traceback)(excinfo.tb)
            return
        entry = following


def _is_in(entry: types.TracebackType, file: pathlib.Path) -> bool:
    return entry.tb_frame.f_code.co_filename == str(file)


def _is_internal(entry: types.TracebackType) -> bool:
    module = str(entry.tb_frame.f_globals.get("__name__"))
    file = pathlib.Path(entry.tb_frame.f_code.co_filename)
    return module.startswith("pytest_dibctl.") and not statements.is_shipped(file)
