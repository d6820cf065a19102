"""cloud-init has found its data and done its work."""

from __future__ import annotations

import dataclasses
import json
import uuid
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pytest_dibctl import Instance, Result

RESULT = "/run/cloud-init/result.json"
STATUS = "/run/cloud-init/status.json"
LOG = "/var/log/cloud-init.log"

FINISHING_MAY_TAKE = 300
"""Seconds after ssh answers; ssh often starts well before the last stage."""

pytestmark = [pytest.mark.usefixtures("instance", "cloud_init"), pytest.mark.dib_first_boot]


@pytest.fixture
def cloud_init(tool: Callable[..., str]) -> str:
    """Return the program's path; skip the test in images that do without."""
    return tool("cloud-init")


def unfinished(host: Host) -> str:
    # `cloud-init status` would take seconds of a slow guest's time, at each look.
    look = host.run("sh -c %s", f"test -e {RESULT} || {{ cat {STATUS}; exit 1; }}")
    return f"cloud-init has not finished: {look.stdout.strip() or f'no {STATUS}'}" if look.rc else ""


@pytest.fixture
def result(host: Host, settle: Callable[..., None]) -> dict[str, Any]:
    """What cloud-init says at its end; waits for it."""
    settle(lambda: unfinished(host), FINISHING_MAY_TAKE)
    text = host.check_output("cat %s", RESULT)
    try:
        outcome = json.loads(text)["v1"]
    except (ValueError, LookupError, TypeError):
        outcome = None
    if not isinstance(outcome, dict):
        pytest.fail(f"{RESULT} is not what cloud-init writes: {text[:1000]}", pytrace=False)
    return outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """What matters of cloud-init's log: lines with their numbers in the first, as they are in the second."""

    is_there: bool
    failures: str
    warnings: list[str]
    errors: str


@pytest.fixture(scope="module")
def memory(instance: Instance) -> dict[str, Log]:
    """What was read in this instance; another instance gets another memory."""
    del instance
    return {}


@pytest.fixture
def log(as_root: Callable[..., Result], memory: dict[str, Log]) -> Log:
    """Read the log with one command of root's, for all tests of this file that ask for it."""
    if "log" not in memory:
        end = uuid.uuid4().hex
        read = as_root(
            f"grep -nE ' - [A-Za-z_./]+\\[(ERROR|CRITICAL)\\]:|^Traceback ' {LOG}; "
            f"echo {end}; grep '\\[WARNING\\]:' {LOG}; test -s {LOG}"
        )
        failures, _, warned = read.output.partition(f"{end}\n")
        memory["log"] = Log(
            is_there=read.returncode == 0,
            failures=failures.strip(),
            warnings=warned.splitlines(),
            errors=read.errors,
        )
    return memory["log"]


def test_it_finishes(host: Host, cloud_init: str, settle: Callable[..., None]) -> None:
    """cloud-init comes to its end, and says that it is done.

    If this fails, a module hangs (often: waiting for the network, or apt), or cloud-init is disabled.
    """
    settle(lambda: unfinished(host), FINISHING_MAY_TAKE)
    status = host.run("%s status --long 2>&1", cloud_init).stdout
    assert "status: done" in status, f"`cloud-init status` says: {status}"


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


def test_its_log_has_no_tracebacks(instance: Instance, log: Log) -> None:
    """The log holds no Python traceback and no line of level ERROR or CRITICAL.

    If this fails, a module broke without the result telling; the lines are below.
    """
    assert not log.failures, f"{LOG} of {instance.name}:\n{log.failures}"


# Warnings are for the reader of the report; a project that turns warnings into errors does not mean these.
@pytest.mark.filterwarnings("always::pytest.PytestWarning")
def test_its_warnings_are_shown(instance: Instance, log: Log) -> None:
    """The log can be read; the warnings in it are repeated in pytest's warnings summary.

    If this fails, there is no log, so what cloud-init did cannot be known.
    """
    assert log.is_there, f"{LOG} is missing or empty: {log.errors}"
    for line in dict.fromkeys(line.partition("[WARNING]: ")[2] for line in log.warnings):
        warnings.warn(pytest.PytestWarning(f"cloud-init in {instance.name}: {line}"), stacklevel=1)
