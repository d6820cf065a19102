"""Planted passwords, tokens and keys turn up nowhere: not in logs with debug, reports, ledger or children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stage import PASSWORD, write
from tests.faults.test_kills import Site, site_in, until
from tests.support import leaks
from tests.support.fake_openstack.faults import refuse_deletes
from tests.support.fake_openstack.messages import TOKEN

FROM_ENVIRONMENT = "planted-environment-77aa"
SECRETS = (PASSWORD, FROM_ENVIRONMENT, TOKEN, "planted-admin-pass", "PRIVATE KEY")
"""Values that the services know of, and what a private key begins with."""
TEST = """
import logging, subprocess, sys, time
from pathlib import Path
from pytest_dibctl.system import process

def test_it(instance, connection, artifact):
    logging.getLogger().debug("%r", connection)
    child = process.start([sys.executable, "-c", "import time; time.sleep(30)", "plain child"])
    Path("started").write_text("")
    while not Path("seen").exists():
        time.sleep(0.05)
    process.stop(child)
    assert False, "to be reported"
"""


@pytest.fixture
def site(place: Path) -> Iterator[Site]:
    with site_in(place, place.name) as made:
        yield made


def holding(path: Path) -> set[str]:
    """Return "secret in file" for the files below a folder that hold one."""
    return {
        f"{secret} in {file.relative_to(path)}"
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith("id_ed25519")
        for secret in SECRETS
        if secret.encode() in file.read_bytes()
    }


def exposed_by_processes(marker: str) -> set[str]:
    """Return what processes other than pytest's own show to whoever may ask /proc."""
    found = set()
    for pid, line in leaks.processes(marker).items():
        directory = Path(f"/proc/{pid}")
        shown = {"argv": (directory / "cmdline").read_bytes()}
        if "pytest -" not in line and "sys.stdin.readline" not in line:
            shown["environment"] = (directory / "environ").read_bytes()
        found |= {
            f"{secret} in the {where} of {line}"
            for where, text in shown.items()
            for secret in SECRETS
            if secret.encode() in text
        }
    return found


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["single", "xdist"])
def test_no_secret_is_written_or_shown(site: Site, workers: tuple[str, ...]) -> None:
    (site.path / "test_it.py").write_text(TEST)
    write(site.path, site.server.url, tests=[{"pytest": "test_it.py"}])
    argv = [
        *(sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "--dib-image=all"),
        *("--log-level=DEBUG", "--log-file=debug.log", "--log-cli-level=DEBUG", "--junit-xml=junit.xml"),
        *("--dib-summary=summary.md", "--dib-logs=logs", "--dib-keep-failed-instance", *workers),
    ]
    environ = {**site.environ(), "OS_PASSWORD": FROM_ENVIRONMENT}
    # The environment's password wins, as in dibctl; the services take both.
    site.cloud.passwords.add(FROM_ENVIRONMENT)
    with (site.path / "output").open("wb") as output:
        run = subprocess.Popen(argv, cwd=site.path, env=environ, stdout=output, stderr=output)
        try:
            until(lambda: (site.path / "started").exists() or run.poll() is not None, 90)
            assert run.poll() is None, site.said()
            time.sleep(0.5)
            lines = leaks.processes(site.marker).values()
            assert any("plain child" in line for line in lines)
            assert any("pytest_dibctl.cleanup.guardian" in line for line in lines)
            exposed = exposed_by_processes(site.marker)
            (site.path / "seen").write_text("")
            run.wait(90)
        finally:
            run.kill()
            run.wait()
    assert "to be reported" in site.said()
    for written in ("debug.log", "junit.xml", "summary.md", "output"):
        assert (site.path / written).exists() or (written == "debug.log" and workers)
    (site.path / "test.yaml").unlink()
    assert exposed | holding(site.path) | holding(site.temporary) == set()
    write(site.path, site.server.url)
    [run_directory] = site.temporary.glob("dibctl-*/*")
    assert site.start("pytest_dibctl.cli.main", "cleanup", "--run", run_directory.name).wait(90) == 0, (
        site.said()
    )
    assert site.cloud.left() == set()


def test_a_guardian_that_sweeps_writes_no_secret(site: Site) -> None:
    (site.path / "test_it.py").write_text(TEST)
    write(site.path, site.server.url, tests=[{"pytest": "test_it.py"}])
    run = site.start("pytest", "-p", "no:cacheprovider", "--dib-image=all")
    assert until((site.path / "started").exists, 90), site.said()
    accepting, site.cloud.before = site.cloud.before, refuse_deletes
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    (site.path / "test.yaml").unlink()  # as a job does with what it was given

    def has_said() -> bool:
        logs = site.temporary.glob("dibctl-*/*/guardian.log")
        return any("could not be removed" in log.read_text() for log in logs)

    assert until(has_said, 60)
    assert holding(site.path) | holding(site.temporary) == set()
    site.cloud.before = accepting
    assert until(lambda: not list(site.temporary.glob("dibctl-*")), 60)
    assert site.cloud.left() == set()
