"""The terminal's header and summary of a session with images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_dibctl.build import builder
from pytest_dibctl.clouds.qemu import accel
from pytest_dibctl.clouds.qemu.machine import native_arch
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.plugin import known_failures, ladder
from pytest_dibctl.plugin.markdown import not_run
from pytest_dibctl.plugin.session import DibSession
from pytest_dibctl.plugin.target_report import TargetReport, phase_table, verdict
from pytest_dibctl.plugin.xdist.worker import is_controller
from pytest_dibctl.system.text import visible, visible_line

COLOURS = {"passed": "green", "failed": "red", "not run": "yellow"}

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


class TerminalOutput:
    """Hooks of pytest's terminal reporter."""

    def __init__(self, session: DibSession) -> None:
        self._session = session

    def pytest_report_header(self) -> list[str]:
        """Say for each image what is tested and where."""
        config = self._session.config
        dist = config.getoption("dist", "no")
        lines = [self._header(image) for image in self._session.plan.images]
        lines += [f"dib-image: warning: {warning}" for warning in self._session.catalog.warnings]
        lines += self._emulation()
        if is_controller(config) and dist != "load":
            lines.append(f"dib-image: --dist={dist} is not used: a worker has one image at a time")
        return [visible_line(line) for line in lines]

    def _emulation(self) -> list[str]:
        """Say once why guests of this machine are slow, if they are."""
        if self._session.options.existing_instance:
            return []
        reasons = set()
        for target in self._session.plan.targets:
            qemu = target.environment.settings.qemu
            choice = accel.known_choice(qemu.accelerator, qemu.arch or native_arch()) if qemu else None
            if choice is not None and choice.reason.startswith(accel.NO_KVM):
                reasons.add(choice.reason.removeprefix(accel.NO_KVM))
        return [
            f"dib-image: guests are emulated, which is slow; KVM does not work here: {reason}"
            for reason in sorted(reasons)
        ]

    def _header(self, image: Entry[Image]) -> str:
        targets = self._session.plan.rungs(image)
        labels = ", ".join(target.environment.label for target in targets)
        several = "ladder" if self._session.plan.ladder else "environments"
        where = f"{'environment' if len(targets) == 1 else several} {labels}"
        return f"dib-image {image.label}: {self._what_is_tested(image)}, {where}"

    def _what_is_tested(self, image: Entry[Image]) -> str:
        options = self._session.options
        if options.existing_instance:
            return f"instance {options.existing_instance}"
        if options.existing_image:
            return f"image {options.existing_image}"
        try:
            forecast = builder.forecast(
                image,
                policy="never" if options.input else options.build,
                output=options.input,
                cwd=self._session.cwd,
            )
        except DibctlError as error:
            return error.message.splitlines()[0]
        return f"{forecast.path}, {forecast.text}"

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter, exitstatus: int) -> None:
        """Print phase times per image, then the kept resources and those that could not be removed."""
        target_reports = self._session.target_reports
        if not target_reports or self._is_quiet(terminalreporter):
            return
        terminalreporter.write_sep("=", "images")
        _write_table(terminalreporter, target_reports, whole=exitstatus != pytest.ExitCode.INTERRUPTED)
        for label, target_report in target_reports.items():
            for line in not_run(label, target_report):
                _write(terminalreporter, line, yellow=True)
            for line in target_report.known_failures:
                _write(terminalreporter, line, yellow=True)
        for line in known_failures.told(self._session):
            _write(terminalreporter, line, yellow=True)
        for line in (*ladder.summary(self._session), *self._session.notes):
            _write(terminalreporter, line)
        for warning in self._session.warnings:
            _write(terminalreporter, warning, red=True, bold=True)
        for label, target_report in target_reports.items():
            for line in target_report.seen:
                _write(terminalreporter, f"{label}: {line}")
            _write_removals(terminalreporter, label, target_report)

    def _is_quiet(self, terminalreporter: TerminalReporter) -> bool:
        """Whether -q was given and there is no news that must be shown."""
        reports = self._session.target_reports.values()
        has_news = any(report.failed or report.kept for report in reports) or bool(self._session.warnings)
        has_news = has_news or bool(self._session.run_state.get(known_failures.TOLD))
        return terminalreporter.config.get_verbosity() < 0 and not has_news


def _write_table(
    terminalreporter: TerminalReporter, target_reports: Mapping[str, TargetReport], *, whole: bool
) -> None:
    """Write the table of images, each line in the colour of its outcome; say it if it is not of all tests."""
    head, *rows = phase_table(target_reports)
    _write(terminalreporter, head, bold=True)
    for row, target_report in zip(rows, target_reports.values(), strict=True):
        _write(terminalreporter, row, **{COLOURS[verdict(target_report)]: True})
    if not whole:
        line = "the run was interrupted, or stopped early: tests that did not run are not counted"
        _write(terminalreporter, line, yellow=True)


def _write(terminalreporter: TerminalReporter, line: str, **markup: bool) -> None:
    terminalreporter.write_line(visible(line), **markup)


def _write_removals(terminalreporter: TerminalReporter, label: str, target_report: TargetReport) -> None:
    for kept in target_report.kept:
        _write(terminalreporter, f"{label}: kept {kept.resource} ({kept.reason})", yellow=True)
        if kept.login:
            _write(terminalreporter, f"    log in:  {kept.login}")
        _write(terminalreporter, f"    remove:  {kept.command}")
    for leftover in target_report.leftovers:
        line = f"{label}: NOT REMOVED: {leftover.resource}: {leftover.reason}"
        _write(terminalreporter, line, red=True, bold=True)
        _write(terminalreporter, "    `dibctl cleanup` tries again")
