"""A run that is killed leaves nothing: its guardian removes what it made."""

from __future__ import annotations

import contextlib
import functools
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
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run import ledger
from tests.plugin.conftest import ROOT, Project
from tests.support import leaks, sampling
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


@pytest.mark.parametrize("moment", sampling.sampled(["upload", "import_key", "boot", "ready"], 2))
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


def test_a_guardian_gets_the_clouds_yaml_that_os_cloud_means(tmp_path: Path) -> None:
    (tmp_path / "clouds.yaml").write_text("clouds: {mine: {}}\n")
    settings = TestEnvironment.model_validate(
        {
            "keystone": {},
            "nova": {"flavor": "f", "nics": [{"net_id": "4d5e0df8-1fd4-4d6c-a7a4-fa2d36f0a7fe"}]},
        }
    )
    place = Entry(label="x", settings=settings, path=tmp_path / "test.yaml", display_name="test.yaml")
    named = {"OS_CLIENT_CONFIG_FILE": str(tmp_path / "clouds.yaml")}
    for environ, known in (({**named, "OS_CLOUD": "mine"}, True), (named, False)):
        charge = guardian.charge_for(tmp_path, [place], cwd=tmp_path, environ=environ)
        assert ("clouds: {mine: {}}\n" in charge.files.values()) is known
        assert charge.environ == environ


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
    result.stdout.fnmatch_lines(["*balloon *: could not be removed: this version does not know its kind*"])
    result.stdout.fnmatch_lines(["*broken.json: could not be removed: this version cannot read*"])
    assert path.exists()


def guardian_of(run: ledger.Ledger, tmp_path: Path) -> guardian.Guardian:
    charge = guardian.charge_for(run.directory, [], cwd=tmp_path, environ={})
    return guardian.Guardian(directory=run.directory, make_charge=lambda: charge)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_guardian_that_dies_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(guardian, "BREATH", 0.0)
    with ledger.opened("0123abcd", base=tmp_path) as run:
        first, second = guardian_of(run, tmp_path), guardian_of(run, tmp_path)
        first.ensure()
        second.ensure()  # another process of the run, which did not start it
        seen = {first.pid}
        for _ in range(3):
            pid = next(one.pid for one in (second, first) if one.pid is not None and alive(one.pid))
            os.kill(pid, number)
            until(functools.partial(followed, seen, first, second))
            until(run.has_guardian)
            seen |= {first.pid, second.pid}
        first.ensure()
        assert run.has_guardian()
        first.end_watch()
        second.end_watch()
        run.finish()
    first.reap()
    second.reap()
    assert not run.has_guardian()


def followed(seen: set[int | None], *guardians: guardian.Guardian) -> bool:
    return any(one.pid is not None and one.pid not in seen and alive(one.pid) for one in guardians)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_run_whose_guardian_was_killed_leaves_nothing_when_it_is_killed_too(guarded: Project) -> None:
    run = start(guarded)
    until(lambda: "ready" in guarded.counts() or run.poll() is not None)
    marker = os.environ[leaks.MARKER]

    def guardians() -> list[int]:
        return [pid for pid, line in leaks.processes(marker).items() if "cleanup.guardian" in line]

    (first,) = guardians()
    os.kill(first, signal.SIGKILL)
    until(lambda: guardians() not in ([], [first]) and runs(guarded)[0].has_guardian())
    until(lambda: re.search(rb"charged", (runs(guarded)[0].directory / "guardian").read_bytes()))
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: nothing_is_left(guarded))
    assert guarded.counts()["remove_instance"] == 1


@pytest.mark.parametrize("fault", ["import os; os._exit(3)", "raise RuntimeError('no')", "1 / 0"])
def test_nothing_is_made_before_the_guardian_holds_its_charge(
    guarded: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nif 'cleanup.guardian' in ' '.join(sys.orig_argv):\n"
        f"    from pytest_dibctl.cleanup import guardian\n    def main():\n        {fault}\n"
        f"    guardian.main = main\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{ROOT}")
    result = guarded.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the guardian, which removes *, cannot be started: it exited with *"])
    assert not {"upload", "boot"} & set(guarded.counts())


SHADOWS = [
    "platform",
    "queue",
    "random",
    "signal",
    "pickle",
    "logging",
    "select",
    "pydantic",
    "psutil",
    "yaml",
]


@pytest.mark.parametrize("as_a_module", [False, True])
@pytest.mark.parametrize("name", sampling.sampled(SHADOWS, 4))
def test_modules_beside_the_tests_do_not_stop_the_guardian(
    guarded: Project, name: str, *, as_a_module: bool
) -> None:
    guarded.write(f"{name}.py", "raise RuntimeError('a module of the tests')")
    entry = (
        [sys.executable, "-m", "pytest"] if as_a_module else [str(Path(sys.executable).with_name("pytest"))]
    )
    run = subprocess.Popen(
        [*entry, "-p", "no:cacheprovider", "--dib-image=all"],
        cwd=guarded.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    until(lambda: "ready" in guarded.counts() or run.poll() is not None)
    ended = run.poll() is not None
    run.kill()
    output, _ = run.communicate()
    if ended:  # it never began
        text = output.decode()
        assert f"{name}.py" in text
        assert not guarded.counts()
    until(lambda: nothing_is_left(guarded))


STAGING = """
staging:
  keystone: {auth_url: "http://127.0.0.1:9", username: u, project_name: p}
  nova: {flavor: f, nics: [{net_id: 6f70656e-7374-4163-8b20-696d61676573}]}
"""


def run_alone(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in an interpreter that has imported nothing yet."""
    argv = [sys.executable, "-P", "-m", "pytest", "--dib-image=all", *arguments]
    return subprocess.run(argv, cwd=project.path, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("name", ["openstack", "requests", "keystoneauth1", "http", "mailbox"])
@pytest.mark.parametrize("place", ["", "deep/er"])
def test_a_module_that_hides_a_library_s_is_named(guarded: Project, name: str, place: str) -> None:
    guarded.write(f"{place}/{name}.py".lstrip("/"), "")
    guarded.write(f"{place}/test_x.py".lstrip("/"), "def test_it(instance): pass")
    guarded.images({"debian": [{"pytest": f"{place}/test_x.py".lstrip("/")}]})
    guarded.write("test.yaml", STAGING)
    guarded.monkeypatch.setenv("OS_PASSWORD", "x")
    result = run_alone(guarded, "--dib-env=staging")
    said = result.stdout + result.stderr
    if result.returncode == 0:
        assert name == "http"  # imported by pytest itself, from Python
        return
    assert result.returncode == pytest.ExitCode.USAGE_ERROR, said
    assert re.search(rf"{name}\.py takes the place of .* module {name}, which runs with images need", said)
    assert "Traceback" not in said
    assert not guarded.counts().get("upload")


def test_a_helper_that_no_library_is_called_like_is_no_clash(guarded: Project) -> None:
    for name in ("helpers", "requests", "openstack"):  # a local guest needs no OpenStack
        guarded.write(f"{name}.py", "answer = 42")
    guarded.write(
        "test_it.py", "import helpers, requests\ndef test_it(instance): assert requests.answer == 42"
    )
    result = run_alone(guarded)
    assert result.returncode == 0, result.stdout
