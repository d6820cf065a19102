"""The plugin and ``dibctl`` as a user runs them, on images really built and guests really booted."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import leaks, micro, waiting
from tests.support.terminals import PATIENCE, read_until

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """How a command ended."""

    code: int
    output: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """Somebody with a directory of configuration, and an image ``label`` in it, who types commands."""

    path: Path
    label: str = "micro"

    def write(self, name: str, text: str, *, executable: bool = False) -> None:
        """Write a file."""
        (self.path / name).write_text(text)
        if executable:
            (self.path / name).chmod(0o755)

    def has(self, files: Path, **settings: Any) -> None:
        """Have an image that was built before; ``settings`` are those of ``images_yaml``."""
        for name in ("micro.qcow2", "micro.vmlinuz", "micro.initrd"):
            shutil.copy(files / name, self.path / name)
        self.write(
            "images.yaml", micro.images_yaml(filename="micro.qcow2", **{"label": self.label, **settings})
        )

    def start(self, argv: Sequence[str], **popen: Any) -> subprocess.Popen[str]:
        """Start a command in the directory."""
        return subprocess.Popen(
            [sys.executable, "-m", *argv],
            cwd=self.path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "DIB_IMAGE_CACHE": str(micro.cache_directory() / "dib"),
            },
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, **popen},
        )

    def run(self, *argv: str) -> Finished:
        """Run a command to its end."""
        with waiting.ended(self.start(argv)) as child:
            output = waiting.finish(child)
        assert "Traceback (most recent call last)" not in output, output
        return Finished(code=child.returncode, output=output)

    def pytest(self, *arguments: str) -> Finished:
        """Run pytest on the image; unless told otherwise on the file as it is."""
        return self.run("pytest", "-v", f"--dib-image={self.label}", "--dib-build=never", *arguments)

    def dibctl(self, *arguments: str) -> Finished:
        """Run dibctl."""
        return self.run("pytest_dibctl.cli.main", *arguments)

    def junit(self) -> dict[str, dict[str, str]]:
        """Return the properties of every test case in junit.xml."""
        return {
            case.get("name", ""): {
                found.get("name", ""): found.get("value", "")
                for found in case.iterfind("properties/property")
            }
            for case in ET.parse(self.path / "junit.xml").iter("testcase")
        }


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator with an empty directory."""
    return Operator(path=tmp_path)


CONTAINER = "--dib-env=container"
"""For what is the same in every guest: a container is ready in a second."""


def environment(patience: int, engine: str = "qemu") -> str:
    """Return a test.yaml with an environment ``quick`` that gives up after ``patience`` seconds."""
    return json.dumps({"quick": {engine: {"memory": 256}, "tests": {"port_wait_timeout": patience}}})


GUEST_TESTS = """
def test_name(host, instance):
    assert host.check_output("hostname") == instance.name

def test_user(ssh_access):
    assert ssh_access.run("id -un").output.strip() == "debian"

def test_old_names(ssh_backend, instance):
    assert ssh_backend.SystemInfo.hostname == instance.name
    assert ssh_backend.File("/etc/os-release").is_file

def test_paramiko(ssh_client):
    _, out, _ = ssh_client.exec_command("echo hello")
    assert out.read() == b"hello\\n"

def test_console(console_output):
    assert "ready" in console_output

def test_forwarded_port(wait_for_port, instance, host):
    host.run("(while true; do echo hello | nc -l -p 8080; done) >/dev/null 2>&1 </dev/null &")
    assert wait_for_port(8080, 60) < 60

def test_reboot(reboot, ssh_access):
    before = ssh_access.run("cat /proc/sys/kernel/random/boot_id").output
    assert reboot(hard=True, timeout=200) > 0
    assert ssh_access.run("cat /proc/sys/kernel/random/boot_id").output != before
"""


def test_the_whole_way_from_elements_to_junit_and_back_to_nothing(operator: Operator) -> None:
    operator.write("test_guest.py", GUEST_TESTS)
    operator.write(
        "up.sh", '#!/bin/sh\ntest "$($DIBCTL_SSH hostname)" = "$DIBCTL_INSTANCE_NAME"\n', executable=True
    )
    tests = [{"pytest": "generic:login"}, {"pytest": "test_guest.py"}, {"shell": "up.sh"}]
    operator.write(
        "images.yaml", micro.images_yaml(filename="out/micro.qcow2", tests=tests, username="debian")
    )

    first = operator.run("pytest", "-v", "--dib-image=micro", "--junit-xml=junit.xml")
    assert first.code == 0, first.output
    assert "to be built: no image yet" in first.output
    assert "9 passed" in first.output
    for name, facts in operator.junit().items():
        assert facts["dib_image"] == "micro", name
        assert re.fullmatch(r"sha512:[0-9a-f]{128}", facts["dib_digest"])
        assert float(facts["dib_seconds_build"]) > 1
        assert float(facts["dib_seconds_ready"]) > 1

    second = operator.run("pytest", "-v", "--dib-image=micro", "generic:login")
    assert second.code == 0, second.output
    assert "unchanged" in second.output
    assert "building" not in second.output
    assert {path.name for path in (operator.path / "out").iterdir() if not path.name.startswith(".")} == {
        "micro.qcow2",
        "micro.qcow2.boots.json",
        "micro.qcow2.build.log",
        "micro.qcow2.dibctl.json",
        "micro.qcow2.tests.intoto.jsonl",
        "micro.vmlinuz",
        "micro.initrd",
    }


def test_a_build_that_fails_is_told_once_and_dibctl_build_exits_with_its_code(operator: Operator) -> None:
    operator.write("test_it.py", "def test_a(instance): pass\ndef test_b(instance): pass\n")
    text = micro.images_yaml(
        filename="micro.qcow2",
        variables={"MICRO_FAIL": "1"},
        tests=[{"pytest": "test_it.py"}],
    )
    operator.write("images.yaml", text)
    failed = operator.run("pytest", "--dib-image=micro")
    assert failed.code == 1
    assert "1 skipped, 1 error" in failed.output
    # In CI pytest's last lines are not cut, and repeat it.
    told, _, _ = failed.output.partition("short test summary info")
    assert told.count("micro.qcow2.build.failed.log") == 1
    assert "the build of micro failed, see test_it.py::test_a[micro]" in failed.output
    assert operator.dibctl("build", "micro").code == 3
    assert operator.dibctl("test", "micro").code == 3


def test_a_guest_that_panics_is_named_and_removed(
    operator: Operator, micro_variant: Callable[[str], Path]
) -> None:
    """Guests that no one can log in to for other reasons are in tests/nspawn/test_operators.py."""
    operator.has(micro_variant("panic"))
    operator.write("test.yaml", environment(PATIENCE))
    finished = operator.dibctl("test", "micro", "--environment=quick", "--build=never")
    assert finished.code == 70, finished.output
    assert "[kernel-panic]" in finished.output
    assert "console" in finished.output


def test_a_missing_qemu_is_named_with_its_package(
    operator: Operator,
    micro_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    operator.has(micro_files)
    # A machine without QEMU: everything else of /usr/bin, by links.
    tools = tmp_path_factory.mktemp("bin")
    for tool in (*Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()):
        if not tool.name.startswith("qemu-system") and not (tools / tool.name).exists():
            (tools / tool.name).symlink_to(tool)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr("os.defpath", str(tools))
    operator.write(
        "conftest.py",
        "import os\nfrom pytest_dibctl.system import process\n"
        "process.tool_path = lambda: os.environ['PATH']\n",
    )
    finished = operator.pytest()
    assert finished.code == 1
    assert "qemu-system-x86" in finished.output
    assert "apt" in finished.output or "doctor" in finished.output


MOMENTS = {
    "build": ("pre-finalise.d", {"MICRO_SLEEP": "60"}, "auto"),
    "boot": ("QEMU runs", {}, "never"),
}
"""What a run shows then, variables of the build, and the policy for builds. A test sleeps, so to say, in
tests/nspawn/test_operators.py."""


SLEEPING_TEST = """
import os, time

def test_it(ssh_access):
    os.write(9, b"the test sleeps\\n")
    time.sleep(200)
"""


def interrupted(operator: Operator, awaited: str, number: signal.Signals, *options: str) -> str:
    """Send a signal to a run once it shows the awaited words; return what it showed."""
    read, write = os.pipe()
    argv = ["sh", "-c", 'exec 9>&1; exec "$@"', "sh", sys.executable, "-m", "pytest"]
    run = subprocess.Popen(
        [*argv, "--dib-image=micro", *options, "-v"],  # with every line of progress
        cwd=operator.path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DIB_IMAGE_CACHE": str(micro.cache_directory() / "dib")},
        stdout=write,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    with waiting.ended(run) as child:
        os.close(write)
        output = read_until(read, awaited)
        time.sleep(1)
        child.send_signal(number)
        output += read_until(read, None)
        assert child.wait(timeout=PATIENCE) == pytest.ExitCode.INTERRUPTED, output
    os.close(read)
    assert "Traceback (most recent call last)" not in output
    return output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_run_leaves_nothing(
    operator: Operator,
    micro_files: Path,
    moment: str,
    number: signal.Signals,
) -> None:
    awaited, variables, policy = MOMENTS[moment]
    operator.write("test_it.py", SLEEPING_TEST)
    operator.has(micro_files, variables=variables, tests=[{"pytest": "test_it.py"}])
    if policy == "auto":
        (operator.path / "micro.qcow2").unlink()
    interrupted(operator, awaited, number, f"--dib-build={policy}")
    assert not [path for path in operator.path.iterdir() if path.name.endswith(".building")]
    if policy == "auto":
        assert not (operator.path / "micro.qcow2").exists()


def test_a_kept_instance_is_reached_tested_again_and_removed(operator: Operator, micro_files: Path) -> None:
    operator.write(
        "test_it.py", "def test_it(ssh_access): assert ssh_access.run('test -e /tmp/fixed').returncode == 0\n"
    )
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    operator.write("test.yaml", environment(PATIENCE))
    failed = operator.pytest("--dib-keep-failed-instance", "--dib-env=quick")
    try:
        assert failed.code == 1, failed.output
        command = re.search(r"log in: +(.*)", failed.output)
        name = re.search(r"kept instance (\S+)", failed.output)
        assert command, failed.output
        assert name, failed.output
        reached = subprocess.run(
            ["sh", "-c", f"{command.group(1)} touch /tmp/fixed"], timeout=60, check=False
        )
        assert reached.returncode == 0

        kept = operator.dibctl("cleanup")
        assert f"instance {name.group(1)}: kept" in kept.output
        again = operator.pytest(f"--dib-use-existing-instance={name.group(1)}")
        assert again.code == 0, again.output
        assert "QEMU runs" not in again.output
        assert "environment quick" in again.output
    finally:
        # Whoever cleans up need not have the configuration of the run.
        (operator.path / "test.yaml").unlink()
        removal = re.search(r"remove: +dibctl (.*)", failed.output)
        assert removal, failed.output
        removed = operator.dibctl(*removal.group(1).split())
    assert removed.code == 0, removed.output
    assert "removed" in removed.output


def test_what_a_killed_run_left_is_removed_by_cleanup(
    operator: Operator,
    micro_files: Path,
) -> None:
    operator.write(
        "test_it.py", "import os, signal\ndef test_it(ssh_access): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    # An instance that may be kept has no parent to die with.
    run = operator.start(["pytest", "--dib-image=micro", "--dib-build=never", "--dib-keep-on-kill"])
    with waiting.ended(run) as child:
        waiting.finish(child)
    assert child.returncode == -signal.SIGKILL
    assert any("qemu-system" in line for line in leaks.processes(os.environ[leaks.MARKER]).values())
    planned = operator.dibctl("cleanup", "--dry-run")
    assert "would be removed" in planned.output
    assert leaks.files(Path(tempfile.gettempdir()))
    done = operator.dibctl("cleanup")
    assert done.code == 0, done.output
    assert "would" not in done.output


def test_a_guardian_removes_what_a_killed_run_left(operator: Operator, micro_files: Path) -> None:
    killed_with_a_guardian(operator, micro_files, "qemu-system")


def killed_with_a_guardian(operator: Operator, micro_files: Path, holder: str, *options: str) -> None:
    """Kill a run once its test runs in an instance of the process ``holder``, and see that all is removed."""
    operator.write(
        "test_it.py",
        "import pathlib, time\n"
        "def test_it(ssh_access):\n    pathlib.Path('started').touch()\n    time.sleep(600)\n",
    )
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    argv = ["pytest", "--dib-image=micro", "--dib-build=never", "--basetemp=base", *options]
    session = os.environ[leaks.MARKER]
    # The instance would not die with the run: it may be kept.
    run = operator.start([*argv, "--dib-keep-failed-instance"], stdout=subprocess.DEVNULL)
    with waiting.ended(run) as child:
        waiting.until((operator.path / "started").exists, child)
        assert any(holder in line for line in leaks.processes(session).values())
        child.send_signal(signal.SIGKILL)
        child.wait(PATIENCE)
    left = leaks.settled(
        lambda: leaks.files(Path(tempfile.gettempdir())) | set(leaks.processes(session).values()), seconds=60
    )
    assert left == set()
