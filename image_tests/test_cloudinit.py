"""cloud-init has found its data and done its work."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance, Result

RESULT = "/run/cloud-init/result.json"
LOG = "/var/log/cloud-init.log"

FINISHING_MAY_TAKE = 300
"""Seconds after ssh answers; ssh often starts well before the last stage."""

pytestmark = [pytest.mark.usefixtures("instance", "cloud_init"), pytest.mark.dib_first_boot]


@pytest.fixture
def cloud_init(tool: Callable[..., str]) -> str:
    """Return the program's path; skip the test in images that do without."""
    return tool("cloud-init")


def unfinished(host: Host, cloud_init: str) -> str:
    if host.file(RESULT).exists:
        return ""
    return f"cloud-init has not finished: {host.run('%s status --long 2>&1', cloud_init).stdout.strip()}"


@pytest.fixture
def result(host: Host, cloud_init: str, settle: Callable[..., None]) -> dict[str, Any]:
    """What cloud-init says at its end; waits for it."""
    settle(lambda: unfinished(host, cloud_init), FINISHING_MAY_TAKE)
    found: dict[str, Any] = json.loads(host.file(RESULT).content_string)["v1"]
    return found


def test_it_finishes(host: Host, cloud_init: str, settle: Callable[..., None]) -> None:
    """cloud-init comes to its end, and says that it is done.

    If this fails, a module hangs (often: waiting for the network, or apt), or cloud-init is disabled.
    """
    settle(lambda: unfinished(host, cloud_init), FINISHING_MAY_TAKE)
    said = host.run("%s status --long 2>&1", cloud_init).stdout
    assert "status: done" in said, f"`cloud-init status` says: {said}"


def test_it_reports_no_errors(result: dict[str, Any]) -> None:
    """No stage ended with an error.

    If this fails, /var/log/cloud-init.log has a traceback for each of them.
    """
    assert result["errors"] == [], "\n".join(map(str, result["errors"]))


def test_it_found_a_datasource(instance: Instance, result: dict[str, Any]) -> None:
    """cloud-init read its data from the cloud, not from its fallback for machines without one.

    If this fails, the cloud's datasource is missing in the image: see DIB_CLOUD_INIT_DATASOURCES.
    """
    source = result["datasource"] or "no datasource"
    assert not source.startswith(("DataSourceNone", "no ")), f"{instance.name} was configured from {source}"


def test_its_log_has_no_tracebacks(as_root: Callable[..., Result]) -> None:
    """The log holds no Python traceback and no line of level ERROR or CRITICAL.

    If this fails, a module broke without the result telling; the lines are below.
    """
    found = as_root(f"grep -nE ' - [A-Za-z_./]+\\[(ERROR|CRITICAL)\\]:|^Traceback ' {LOG}").output
    assert not found.strip(), found


# Warnings are for the reader of the report; a project that turns warnings into errors does not mean these.
@pytest.mark.filterwarnings("always::pytest.PytestWarning")
def test_its_warnings_are_shown(instance: Instance, as_root: Callable[..., Result]) -> None:
    """The log can be read; the warnings in it are repeated in pytest's warnings summary.

    If this fails, there is no log, so what cloud-init did cannot be known.
    """
    log = as_root(f"test -s {LOG} && grep '\\[WARNING\\]:' {LOG}; test -s {LOG}")
    assert log.returncode == 0, f"{LOG} is missing or empty: {log.output}{log.errors}"
    for line in dict.fromkeys(line.partition("[WARNING]: ")[2] for line in log.output.splitlines()):
        warnings.warn(pytest.PytestWarning(f"cloud-init in {instance.name}: {line}"), stacklevel=1)
