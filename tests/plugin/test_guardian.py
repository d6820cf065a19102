"""A run that is killed leaves nothing: its guardian removes what it made."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.cleanup import guardian
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run import ledger
from tests.plugin.conftest import ROOT, Project
from tests.support import leaks
from tests.support.plugins import without
from tests.support.terminals import PATIENCE
from tests.support.waiting import until

SITE = ROOT / "tests" / "support" / "site"
FOREVER = "import time\ndef test_it(ssh_access): time.sleep(600)\n"


@pytest.fixture
def guarded(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project whose guardians know the in-memory cloud; nothing that a test started may stay."""
    session = project.path.name + str(os.getpid())
    monkeypatch.setenv("PYTHONPATH", f"{SITE}{os.pathsep}{ROOT}")
    monkeypatch.setenv(leaks.MARKER, session)
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(without()))
    project.write("test_it.py", FOREVER)
    project.images({"debian": [{"pytest": "test_it.py"}]})
    yield project
    left = leaks.settled(lambda: set(leaks.processes(session).values()))
    for pid in leaks.processes(session):  # nor after a test that failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == set()


def start(project: Project, *arguments: str, terminal: Path = Path(os.devnull)) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own, as a shell does; it writes to ``terminal``."""
    with terminal.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dib-image=all", *arguments],
            cwd=project.path,
            stdout=output,
            stderr=output,
            process_group=0,
        )


def runs(project: Project) -> list[ledger.Ledger]:
    [base] = project.log_file.parent.glob("dibctl-*") or [Path("/nonexistent")]
    return list(ledger.all_runs(base))


def nothing_is_left(project: Project) -> bool:
    return not list(project.log_file.parent.glob("dibctl-*"))


def killed_at(project: Project, operation: str, *arguments: str) -> None:
    run = start(project, *arguments)
    until(lambda: operation in project.counts())
    run.send_signal(signal.SIGKILL)
    run.wait()


@pytest.mark.parametrize("moment", ["upload", "import_key", "boot", "ready"])
def test_what_a_killed_run_made_is_removed(guarded: Project, moment: str) -> None:
    if moment == "boot":
        guarded.faults(boot_seconds=600)
    elif moment == "upload":
        guarded.faults(upload_seconds=600)
    killed_at(guarded, moment)
    until(lambda: nothing_is_left(guarded))
    made = {"upload": {"image"}, "import_key": {"image", "keypair"}}.get(
        moment, {"image", "keypair", "instance"}
    )
    assert {f"remove_{kind}" for kind in made} <= set(guarded.counts())


def test_a_killed_controller_s_workers_are_waited_for(guarded: Project) -> None:
    guarded.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    run = start(guarded, "-n2")
    until(lambda: guarded.counts().get("ready") == 2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: nothing_is_left(guarded))
    removed = [one["name"] for one in guarded.operations() if one["operation"] == "remove_instance"]
    deleted = [one["name"] for one in guarded.operations() if one["operation"] == "delete_instance"]
    assert len({*removed, *deleted}) == 2  # xdist's workers end when their controller is gone


def test_a_run_that_makes_nothing_has_no_guardian(guarded: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded.write("test_it.py", "def test_it(image): pass")
    guarded.write(
        "conftest.py",
        (guarded.path / "conftest.py").read_text()
        + "\nfrom pytest_dibctl.cleanup import guardian\nguardian.Guardian.ensure = None\n",
    )
    guarded.run().assert_outcomes(passed=1)
    guarded.write("test_it.py", "def test_it(cloud_image): pass")
    guarded.run().assert_outcomes(errors=1)  # as it would be if anything were made


def test_an_orderly_end_leaves_no_guardian_and_what_failed_stays_on_record(guarded: Project) -> None:
    guarded.write("test_it.py", "def test_it(instance): pass")
    guarded.faults(delete_instance=True)
    guarded.run().assert_outcomes(passed=1)
    [run] = runs(guarded)
    assert not run.has_guardian()
    assert run.finished
    assert [record.kind for record in run.records()] == ["instance"]
    assert "remove_instance" not in guarded.counts()


def test_keep_on_kill_leaves_everything_to_cleanup(guarded: Project) -> None:
    killed_at(guarded, "ready", "--dib-keep-on-kill")
    [run] = runs(guarded)
    assert not run.has_guardian()
    assert {record.kind for record in run.records()} == {"image", "keypair", "key", "instance"}


def test_a_third_ctrl_c_leaves_the_rest_to_the_guardian(guarded: Project) -> None:
    guarded.write(
        "conftest.py",
        (guarded.path / "conftest.py").read_text()
        + """
import os, signal, time
from tests.support.memory import MemoryInstance

def delete(self):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

MemoryInstance.delete = delete
""",
    )
    guarded.write(
        "test_it.py", "import os, signal\ndef test_it(ssh_access): os.kill(os.getpid(), signal.SIGINT)"
    )
    result = guarded.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stderr.fnmatch_lines(
        [
            "dibctl: still removing: *instance dibctl-debian-*; once more to leave that to the run's *",
            "dibctl: the run's guardian removes *instance dibctl-debian-*",
        ]
    )
    until(lambda: nothing_is_left(guarded))
    assert guarded.counts()["remove_instance"] == 1


@pytest.fixture
def stuck(guarded: Project) -> Iterator[subprocess.Popen[bytes]]:
    """A run over workers that was interrupted, as by a terminal: every process of it; a removal hangs."""
    guarded.write(
        "conftest.py",
        (guarded.path / "conftest.py").read_text()
        + """
import time
from tests.support.memory import MemoryInstance, log

def delete(self):
    log("deleting")
    time.sleep(600)

MemoryInstance.delete = delete
""",
    )
    run = start(guarded, "-n2", terminal=guarded.path / "said")
    try:
        until(lambda: "ready" in guarded.counts())
        os.killpg(run.pid, signal.SIGINT)
        until(lambda: "deleting" in guarded.counts())
        yield run
    finally:
        run.kill()
        run.wait()


def test_a_second_ctrl_c_at_workers_gives_nothing_up(
    guarded: Project, stuck: subprocess.Popen[bytes]
) -> None:
    os.killpg(stuck.pid, signal.SIGINT)
    assert stuck.wait(PATIENCE) == pytest.ExitCode.INTERRUPTED
    text = (guarded.path / "said").read_text()
    assert re.search(r"dibctl: still removing: .*instance dibctl-debian-", text)
    assert "Traceback" not in text
    # The worker that hangs is ended, and the controller does its work.
    assert nothing_is_left(guarded)
    counts = guarded.counts()
    assert (counts["remove_instance"], counts["delete_image"]) == (1, 1)


def test_a_third_ctrl_c_at_workers_leaves_the_rest_to_the_guardian(
    guarded: Project, stuck: subprocess.Popen[bytes]
) -> None:
    said = guarded.path / "said"
    os.killpg(stuck.pid, signal.SIGINT)
    until(lambda: "still removing" in said.read_text())
    assert stuck.poll() is None
    os.killpg(stuck.pid, signal.SIGINT)
    assert stuck.wait(PATIENCE) == pytest.ExitCode.INTERRUPTED
    assert "the run's guardian removes" in said.read_text()
    assert "Traceback" not in said.read_text()
    until(lambda: nothing_is_left(guarded))
    assert guarded.counts()["remove_instance"] == 1


def test_processes_that_the_run_started_end_too(guarded: Project) -> None:
    guarded.write("wait.sh", "#!/bin/sh\necho $$ > started\nsleep 601\n", executable=True)
    guarded.images({"debian": [{"shell": "wait.sh"}]})
    run = start(guarded)
    until((guarded.path / "started").exists)
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: nothing_is_left(guarded))


def test_credentials_reach_the_guardian_and_nothing_else(
    guarded: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_PASSWORD", "planted-4711")
    run = start(guarded)
    until(lambda: "ready" in guarded.counts())
    try:
        [found] = [
            pid for pid, line in leaks.processes(os.environ[leaks.MARKER]).items() if "guardian" in line
        ]
        process = Path(f"/proc/{found}")
        assert b"planted" not in (process / "environ").read_bytes()
        assert b"planted" not in (process / "cmdline").read_bytes()
        for path in guarded.log_file.parent.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the run goes on
                assert not (path.is_file() and b"planted" in path.read_bytes()), path
    finally:
        run.kill()
        run.wait()
    until(lambda: nothing_is_left(guarded))


def test_a_guardian_without_a_whole_charge_is_replaced(tmp_path: Path) -> None:
    with ledger.opened("0123abcd", base=tmp_path) as run:

        def broken() -> guardian.Charge:
            raise OSError("out of memory")

        with pytest.raises(DibctlError, match="cannot be started: out of memory"):
            guardian.Guardian(directory=run.directory, make_charge=broken).ensure()
        assert not run.has_guardian()
        charge = guardian.charge_for(run.directory, [], cwd=tmp_path, environ={})
        whole = guardian.Guardian(directory=run.directory, make_charge=lambda: charge)
        whole.ensure()
        second = guardian.Guardian(directory=run.directory, make_charge=broken)
        second.ensure()  # it asks for nothing: there is one
        assert run.has_guardian()
        run.finish()
    whole.reap()
    assert not run.has_guardian()


def test_a_record_of_a_newer_version_stays(guarded: Project) -> None:
    guarded.write("test_it.py", "def test_it(instance): pass")
    guarded.faults(delete_instance=True)
    guarded.run()
    [run] = runs(guarded)
    [record] = run.records()
    document = json.loads(record.path.read_text())
    path = run.directory / "balloon.b.1.json"
    path.write_text(json.dumps({**document, "version": 9, "kind": "balloon", "colour": "red"}))
    (run.directory / "broken.json").write_text("{")
    result = guarded.pytester.run(sys.executable, "-m", "pytest_dibctl.cli.main", "cleanup")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*balloon *: could not be removed: this version knows nothing of its kind*"])
    result.stdout.fnmatch_lines(["*broken.json: could not be removed: this version cannot read*"])
    assert path.exists()
