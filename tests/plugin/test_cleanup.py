"""What is removed, what is kept, and what is said about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugin.conftest import Project
from tests.support import sampling, waiting


@pytest.fixture
def booting(project: Project) -> Project:
    """A project whose one test boots an instance and fails."""
    project.write("test_it.py", "def test_it(ssh_access): assert 0, 'broken image'")
    project.images({"debian": [{"pytest": "test_it.py"}]})
    return project


def runs_left(project: Project) -> list[Path]:
    """Return the directories of runs that still hold something."""
    return list(project.log_file.parent.glob("dibctl-*/*"))


def test_everything_goes_after_a_failure(booting: Project) -> None:
    booting.run().assert_outcomes(failed=1)
    assert booting.counts() == {
        "upload": 1,
        "import_key": 1,
        "boot": 1,
        "ready": 1,
        "delete_instance": 1,
        "delete_key": 1,
        "delete_image": 1,
        "close": 1,
    }
    assert runs_left(booting) == []


def test_a_port_that_never_answers_removes_the_instance(project: Project) -> None:
    project.write("test_it.py", "def test_a(ssh): pass")
    project.images({"debian": [{"pytest": "test_it.py"}]})
    project.faults(port=True)
    project.run().assert_outcomes(errors=1)
    assert project.counts()["delete_instance"] == 1


def test_keep_failed_instance_keeps_it_and_its_key_and_says_how_to_go_on(booting: Project) -> None:
    result = booting.run("--dib-keep-failed-instance")
    assert "delete_instance" not in booting.counts()
    assert booting.counts()["delete_image"] == 1
    [run] = runs_left(booting)
    records = sorted(json.loads(path.read_text())["kind"] for path in run.glob("*.json"))
    assert records == ["instance", "key", "keypair"]
    assert "delete_key" not in booting.counts()
    assert len(list(run.glob("key-*/id_ed25519"))) == 1
    result.stdout.fnmatch_lines(
        ["debian: kept instance dibctl-debian-*", f"*remove:  dibctl cleanup --run {run.name}"]
    )


def test_keep_options_keep_nothing_of_an_image_that_passed(project: Project) -> None:
    project.write("test_it.py", "def test_it(ssh_access): pass")
    project.images({"debian": [{"pytest": "test_it.py"}]})
    project.run("--dib-keep-failed-instance", "--dib-keep-failed-image").assert_outcomes(passed=1)
    assert project.counts()["delete_instance"] == project.counts()["delete_image"] == 1


def test_only_the_failed_image_s_instance_is_kept(project: Project) -> None:
    project.write("test_it.py", "def test_it(ssh_access, image): assert image.label != 'alpha'")
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    project.run("--dib-keep-failed-instance").assert_outcomes(passed=1, failed=1)
    deleted = [item["name"] for item in project.operations() if item["operation"] == "delete_instance"]
    assert len(deleted) == 1
    assert "beta" in deleted[0]


def test_keep_failed_image_keeps_the_image(booting: Project) -> None:
    result = booting.run("--dib-keep-failed-image")
    assert "delete_image" not in booting.counts()
    assert booting.counts()["delete_instance"] == 1
    result.stdout.fnmatch_lines(["debian: kept image dibctl-*"])


def test_a_removal_that_fails_is_loud_and_hides_no_other(project: Project) -> None:
    project.write("test_it.py", "def test_it(ssh_access): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    project.faults(delete_instance=True)
    result = project.run()
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "alpha: NOT REMOVED: instance dibctl-alpha-*: the hypervisor does not answer",
            "beta: NOT REMOVED:*",
        ],
    )
    assert project.counts()["delete_image"] == 2
    [run] = runs_left(project)
    assert [json.loads(path.read_text())["kind"] for path in run.glob("*.json")] == ["instance"] * 2


def test_an_existing_instance_is_neither_made_nor_removed(project: Project, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    project.write("test_it.py", "def test_it(instance, ssh): assert instance.id == 'mine'")
    project.images({"debian": [{"pytest": "test_it.py"}]})
    project.write(
        "test.yaml",
        "elsewhere:\n  keystone: {auth_url: http://cloud.example:5000}\n  nova: {flavor: m1.small}\n",
    )
    result = project.run(
        "--dib-use-existing-instance=mine",
        f"--dib-private-key-file={tmp_path / 'key'}",
        "--dib-env=elsewhere",
    )
    result.assert_outcomes(passed=1)
    assert set(project.counts()) == {"ready", "close"}
    assert (tmp_path / "key").exists()


def test_the_key_is_removed_by_the_name_and_fingerprint_it_was_imported_with(booting: Project) -> None:
    booting.run()
    [imported] = [item for item in booting.operations() if item["operation"] == "import_key"]
    [deleted] = [item for item in booting.operations() if item["operation"] == "delete_key"]
    assert imported["name"].startswith("dibctl-")
    assert (imported["name"], imported["fingerprint"]) == (deleted["name"], deleted["fingerprint"])


def test_an_existing_image_is_booted_and_not_removed(booting: Project) -> None:
    (booting.path / "debian.qcow2").unlink()
    booting.run("--dib-use-existing-image=mine").assert_outcomes(failed=1)
    counts = booting.counts()
    assert [item["image"] for item in booting.operations() if item["operation"] == "boot"] == ["mine"]
    assert "upload" not in counts
    assert "delete_image" not in counts
    assert counts["delete_instance"] == 1


def test_an_existing_image_that_is_not_there_is_an_error_of_its_tests(booting: Project) -> None:
    result = booting.run("--dib-use-existing-image=no-such")
    result.assert_outcomes(errors=1)
    assert "there is no image no-such" in result.stdout.str()


def test_upload_only_keeps_the_image_and_boots_nothing(booting: Project) -> None:
    result = booting.run("--dib-upload-only")
    result.assert_outcomes(skipped=1)
    assert set(booting.counts()) == {"upload", "close"}
    [run] = runs_left(booting)
    result.stdout.fnmatch_lines(
        [
            "debian: kept image dibctl-* (id-dibctl-*) (--dib-upload-only)",
            f"*remove:  dibctl cleanup --run {run.name}",
        ]
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--dib-use-existing-image=a", "--dib-use-existing-instance=b"),
        ("--dib-use-existing-image=a", "--dib-input=debian.qcow2"),
        ("--dib-use-existing-image=a", "--dib-upload-only"),
    ],
)
def test_options_that_contradict_each_other_are_refused(booting: Project, options: tuple[str, ...]) -> None:
    result = booting.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*exclude each other*"])
    assert booting.operations() == []


SIGNALS = [
    (number, moment)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for moment in ("test", "boot")
]


@pytest.mark.parametrize(
    ("number", "moment"), sampling.sampled(SIGNALS, 3), ids=lambda value: getattr(value, "name", value)
)
def test_a_signal_removes_everything(project: Project, number: signal.Signals, moment: str) -> None:
    project.write("test_it.py", "import time\ndef test_it(ssh_access): time.sleep(60)")
    project.images({"debian": [{"pytest": "test_it.py"}]})
    if moment == "boot":
        project.faults(boot_seconds=60)
    awaited = "ready" if moment == "test" else "boot"
    run = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--dib-image=debian",
            "--dib-keep-failed-instance",
        ],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ},
    )
    with waiting.ended(run) as process:
        waiting.until(lambda: awaited in project.counts(), process)
        time.sleep(0.3)
        process.send_signal(number)
        output = waiting.finish(process)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    expected = {"upload", "import_key", "boot", "delete_key", "delete_image", "close"}
    assert set(project.counts()) == (
        expected | {"ready", "delete_instance"} if moment == "test" else expected | {"remove_instance"}
    )
    assert runs_left(project) == []


def test_ctrl_c_again_does_not_abandon_the_removal(project: Project) -> None:
    project.write(
        "conftest.py",
        (project.path / "conftest.py").read_text()
        + """
import os, signal, time
from tests.support.memory import MemoryInstance, log

def delete(self):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    log("delete_instance", name=self.name)

MemoryInstance.delete = delete
""",
    )
    project.write(
        "test_it.py",
        "import os, signal\ndef test_it(ssh_access): os.kill(os.getpid(), signal.SIGINT)",
    )
    project.images({"debian": [{"pytest": "test_it.py"}]})
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert project.counts()["delete_instance"] == project.counts()["delete_image"] == 1
    assert "still removing" in result.stderr.str()


SELF_INTERRUPTING = {
    "in the removal of the instance": """
from tests.support import memory

def delete(self):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    memory.log("delete_instance", name=self.name)

memory.MemoryInstance.delete = delete
""",
    "in somebody's session fixture": """
@pytest.fixture(scope="session", autouse=True)
def theirs(ssh_access):
    yield
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
""",
    "between boot and the record": """
from pytest_dibctl.run import ledger

usual = ledger.Record.update

def update(self, **details):
    if self.kind == "instance":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
    return usual(self, **details)

ledger.Record.update = update
""",
}


@pytest.mark.parametrize("place", SELF_INTERRUPTING)
def test_a_first_interruption_anywhere_leaves_nothing(project: Project, place: str) -> None:
    text = (project.path / "conftest.py").read_text()
    project.write("conftest.py", f"import os, signal, time, pytest\n{text}\n{SELF_INTERRUPTING[place]}")
    project.write("test_it.py", "def test_it(ssh_access): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}], "beta": [{"pytest": "test_it.py"}]})
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    counts = project.counts()
    assert counts["boot"] == counts["delete_instance"] == counts["delete_image"] == counts["upload"]
    assert runs_left(project) == []


def test_the_record_stays_when_boot_cannot_remove_what_it_began(project: Project) -> None:
    project.write(
        "conftest.py",
        (project.path / "conftest.py").read_text()
        + """
from tests.support import memory

def remove(self, kind, name, details):
    raise memory.InstanceError("the hypervisor does not answer")

memory.MemoryCloud.remove = remove
""",
    )
    project.write("test_it.py", "def test_it(ssh_access): pass")
    project.images({"alpha": [{"pytest": "test_it.py"}]})
    project.faults(boot=True)
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["alpha: NOT REMOVED: instance dibctl-alpha-*: the hypervisor does not answer"]
    )
    [run] = runs_left(project)
    assert [json.loads(path.read_text())["kind"] for path in run.glob("*.json")] == ["instance"]


def test_timeout_method_thread_ends_no_run_without_removal(project: Project) -> None:
    project.write("test_it.py", "import time\ndef test_it(ssh_access): time.sleep(30)")
    project.images({"alpha": [{"pytest": "test_it.py", "timeout": 1}]})
    project.run("--timeout-method=thread").assert_outcomes(failed=1)
    assert project.counts()["delete_instance"] == 1


def test_pytest_timeout_is_needed_and_said_to_be(project: Project) -> None:
    project.images({"alpha": []})
    result = project.run("-p", "no:timeout")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --dib-image needs pytest-timeout*"])
