"""Secrets stay out of pytest's output, with every option of pytest.

A failure, a time-out or an interrupt may fall into a call of openstacksdk, whose frames hold tokens and
passwords. Tracebacks end where such a call begins, so that no option shows its variables. Known secrets in
the remaining text, such as variables and output of tests, are replaced.
"""

from __future__ import annotations

import traceback
import types
from collections.abc import Generator
from typing import Any, TextIO

import pytest
from _pytest._code.code import ExceptionRepr

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.plugin.visible_reports import make_visible, visible_value
from pytest_dibctl.system.redaction import redacted

SILENT = (
    *("openstack", "keystoneauth1", "keystoneclient", "requests", "urllib3", "osc_lib", "os_client_config"),
    *("pytest_dibctl.clouds.openstack", "pytest_dibctl.config.credentials"),
)
"""Packages and modules whose variables, and those of what they call, are in no traceback."""
SECTION = "Calls that are not shown (their variables may hold secrets)"


class Redacting:
    """Hooks between what failed and everything that shows it."""

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Replace secrets in text for the terminal; stacks of pytest-timeout go there directly."""
        if not session.config.pluginmanager.has_plugin("terminalreporter"):
            return  # a worker: what it reports is shown by the controller
        writer = session.config.get_terminal_writer()
        # Writers have no public way to be given another file.
        file = vars(writer).get("_file")
        if file is not None and not isinstance(file, _RedactedFile):
            vars(writer)["_file"] = _RedactedFile(file)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Cut the traceback before pytest makes a text of it, and say in words where it was.

        Nothing is said of it for an error of ours, which explains itself, unless --full-trace is given.
        """
        left_out = cut(call.excinfo) if call.excinfo else []
        told = call.excinfo is not None and isinstance(call.excinfo.value, DibctlError)
        report = yield
        if left_out and report.failed and (not told or item.config.getoption("fulltrace", default=False)):
            report.sections.append((SECTION, "\n".join(left_out)))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Replace secrets in a report that is whole now, before anything reads, sends or writes it."""
        make_visible(report)
        report.user_properties = [
            (name, redacted(value) if isinstance(value, str) else value)
            for name, value in report.user_properties
        ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Do so with the report of a module that could not be imported."""
        make_visible(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Cut the traceback of an interrupt, which --full-trace shows with arguments of functions."""
        cut(excinfo)

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(
        self, excrepr: ExceptionRepr, excinfo: pytest.ExceptionInfo[BaseException]
    ) -> None:
        """Make the text of an internal error, which has variables with -l, once more without them."""
        cut(excinfo)
        plain = excinfo.getrepr(style="long", funcargs=False, showlocals=False)
        if type(plain) is type(excrepr):
            vars(excrepr).update(vars(plain))
        visible_value(excrepr)

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: Any) -> None:
        """Replace secrets in a warning, which may tell of an exception in a thread."""
        message = warning_message.message
        if isinstance(message, Warning):
            message.args = tuple(
                redacted(value) if isinstance(value, str) else value for value in message.args
            )


def cut(excinfo: pytest.ExceptionInfo[BaseException]) -> list[str]:
    """End the tracebacks of an exception, its causes and its members where a silent package begins.

    Return the places that were cut off, as "file:line in function".
    """
    places: list[str] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [excinfo.value]
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        places += _cut(error)
        waiting += [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
    places += _cut_after(excinfo.tb)
    excinfo.traceback = type(excinfo.traceback)(excinfo.tb)
    return places


def _cut(error: BaseException) -> list[str]:
    first = error.__traceback__
    if first is not None and _is_silent(first):
        # A context or cause that was raised and caught inside of such a package.
        error.__traceback__ = None
        return _places(first)
    return _cut_after(first)


def _cut_after(first: types.TracebackType | None) -> list[str]:
    """End a traceback before its first silent frame; its first frame stays."""
    while first is not None and (following := first.tb_next) is not None:
        if _is_silent(following):
            first.tb_next = None
            return _places(following)
        first = following
    return []


def _is_silent(entry: types.TracebackType) -> bool:
    module = str(entry.tb_frame.f_globals.get("__name__"))
    return any(module == name or module.startswith(f"{name}.") for name in SILENT)


def _places(first: types.TracebackType) -> list[str]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(first), lookup_lines=False)
    return [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]


class _RedactedFile:
    """A text file that replaces secrets in each text that is written to it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        return self._file.write(redacted(text))
