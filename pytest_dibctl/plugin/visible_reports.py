"""Text from images, guests and services on pytest's reports and log lines, made visible."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest._code.code import TerminalRepr

from pytest_dibctl.system.text import VisibleFormatter, visible

LOG_HANDLERS = ("log_cli_handler", "log_file_handler")
"""The handlers of pytest's logging plugin that write at once; captured records go on reports."""


def make_visible(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Escape control characters in a report's failure and its captured output; replace secrets."""
    report.sections = [(visible(name), visible(text)) for name, text in report.sections]
    report.longrepr = visible_value(report.longrepr)


def visible_value(value: Any) -> Any:
    """Return a part of a report with visible texts; a representation of pytest's is changed itself."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list | tuple) and type(value) in {list, tuple}:
        return type(value)(map(visible_value, value))
    if isinstance(value, TerminalRepr):
        for name, part in vars(value).items():
            setattr(value, name, visible_value(part))
    return value


def watch_logging(config: pytest.Config) -> None:
    """Have pytest's live log and log file show messages of this session visibly."""
    plugin = config.pluginmanager.getplugin("logging-plugin")
    for name in LOG_HANDLERS:
        handler = getattr(plugin, name, None)
        if handler is not None and handler.formatter is not None:
            handler.setFormatter(VisibleFormatter(handler.formatter))
