"""Whole runs in containers: all kinds of tests, and what is left when a run is ended at any moment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from pytest_dibctl.guards import container_network
from tests.nspawn.bench import groups
from tests.qemu.test_end_to_end import CONTAINER, Operator
from tests.support import leaks, waiting
from tests.support.terminals import PATIENCE

pytestmark = pytest.mark.real

NSPAWN_RUN = Path("/run/systemd/nspawn")


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator with an empty directory, and an image of whose label nobody else has control groups."""
    return Operator(path=tmp_path, label=f"micro-{uuid.uuid4().hex[:8]}")


def own_groups(operator: Operator) -> list[Path]:
    """Return the control groups of the operator's containers."""
    return groups(f"dibctl-{operator.label}-*")


GUEST_TESTS = """
import pytest

def test_name(host, instance):
    assert host.check_output("hostname") == instance.name
    assert instance.flavor.ram == 1024

def test_user(ssh_access, instance, main_ip):
    assert ssh_access.run("id -un").output.strip() == "debian"
    assert main_ip == instance.interfaces[0].addresses[0].ip

def test_paramiko(ssh_client):
    _, out, _ = ssh_client.exec_command("echo hello")
    assert out.read() == b"hello\\n"

def test_console(console_output):
    assert "ready" in console_output

def test_forwarded_port(wait_for_port, host):
    host.run("(while true; do echo hello | nc -l -p 8080; done) >/dev/null 2>&1 </dev/null &")
    assert wait_for_port(8080, 60) < 60

def test_reboot(reboot, ssh_access):
    ssh_access.run("echo kept > file")
    assert reboot() < 60
    assert ssh_access.run("cat file").output == "kept\\n"

def test_rebuild(rebuild, ssh_access):
    assert rebuild() < 60
    assert ssh_access.run("cat file").returncode != 0

@pytest.mark.dib_pristine
@pytest.mark.parametrize("number", [1, 2])
def test_pristine(ssh_access, number):
    assert ssh_access.run("ls spoiled").returncode != 0
    ssh_access.run("touch spoiled")
"""


def test_fixtures_in_the_built_in_environment(operator: Operator, micro_files: Path) -> None:
    """All kinds are in test_kinds.py."""
    operator.write("test_guest.py", GUEST_TESTS)
    operator.has(micro_files, username="debian", tests=[{"pytest": "test_guest.py"}])
    finished = operator.pytest(CONTAINER, "--junit-xml=junit.xml", "-p", "no:randomly")
    assert finished.code == 0, finished.output
    assert finished.output.count("systemd-nspawn runs") == 1
    assert "environment container" in finished.output
    assert own_groups(operator) == []


def test_a_container_s_settings_are_as_in_the_qemu_section(operator: Operator, micro_files: Path) -> None:
    operator.write("data.sh", "#!/bin/sh\ntouch /tmp/user-data\n")
    operator.write(
        "test.yaml",
        json.dumps(
            {
                "small": {
                    "nspawn": {
                        "memory": 128,
                        "disk": 1,
                        "userdata_file": "data.sh",
                        "seed": "configdrive",
                        "forward_ports": [{"guest": 80}],
                    }
                }
            }
        ),
    )
    operator.write(
        "test_it.py",
        "import time\n"
        "def test_it(ssh_access, instance):\n"
        "    assert (instance.flavor.ram, instance.flavor.disk) == (128, 1)\n"
        "    for _ in range(100):\n"
        "        if ssh_access.run('test -e /tmp/user-data').returncode == 0: return\n"
        "        time.sleep(0.1)\n"
        "    assert 0\n",
    )
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    finished = operator.pytest("--dib-env=small")
    assert finished.code == 0, finished.output


LONG = """
import pathlib, time

def test_it(ssh_access{fixtures}):
    pathlib.Path("started").touch()
    end = time.monotonic() + 200
    while time.monotonic() < end:
        {act}
"""
LOOKS = """
import pathlib, time

def test_files(image_tree):
    pathlib.Path("started").touch()
    time.sleep(200)
"""
TESTS: Mapping[str, str] = {
    "test": LONG.format(fixtures="", act="time.sleep(1)"),
    "rebuild": LONG.format(fixtures=", instance", act="instance.rebuild()"),
    "snapshot": LONG.format(fixtures=", instance", act="instance.snapshot('x')"),
}


def moment_has_come(operator: Operator, moment: str) -> bool:
    if moment == "opening":
        return bool(own_groups(operator))
    if moment == "boot":
        return "systemd-nspawn runs" in (operator.path / "output").read_text()
    return (operator.path / "started").exists()


def left(operator: Operator) -> set[str]:
    """Return what the operator's runs in containers may leave behind, anywhere on this machine."""
    session = os.environ[leaks.MARKER]
    return {
        *leaks.files(Path(tempfile.gettempdir())),
        *leaks.processes(session).values(),
        *map(str, own_groups(operator)),
        *leaks.mounts(Path(tempfile.gettempdir())),
        *leaks.loop_devices(Path(tempfile.gettempdir())),
        *orphaned_disks(),
    }


def orphaned_disks() -> set[str]:
    """Return the loop devices of container disks that are deleted; nothing leads from here to their files."""
    files = {path: path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")}
    return {str(path) for path, name in files.items() if name.strip() == "/disk.img (deleted)"}


def nspawn_leaves() -> set[str]:
    return {str(path) for path in NSPAWN_RUN.rglob("*")} if NSPAWN_RUN.exists() else set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("moment", ["opening", "boot", "test", "rebuild", "snapshot", "early"])
def test_a_run_ended_at_any_moment_leaves_nothing(
    operator: Operator, micro_files: Path, moment: str, number: signal.Signals
) -> None:
    operator.write("test_it.py", TESTS.get(moment, TESTS["test"]))
    operator.write("test_files.py", LOOKS)
    entries = [{"pytest": "test_it.py"}, *([{"image": "test_files.py"}] if moment == "early" else [])]
    operator.has(micro_files, tests=entries)
    leaves = nspawn_leaves()
    output = operator.path / "output"
    argv = [
        "pytest",
        f"--dib-image={operator.label}",
        "--dib-build=never",
        CONTAINER,
        "-s",
        "-p",
        "no:cacheprovider",
    ]
    with output.open("w") as sink:
        run = operator.start(argv, stdout=sink, stderr=sink)
    with waiting.ended(run) as child:
        waiting.until(lambda: moment_has_come(operator, moment), child)
        if moment in {"rebuild", "snapshot"}:
            time.sleep(0.3)
        child.send_signal(number)
        child.wait(PATIENCE)
    assert leaks.settled(lambda: left(operator), seconds=60) == set(), output.read_text()
    assert container_network.NEAR not in psutil.net_if_addrs()
    assert nspawn_leaves() == leaves
    assert "Traceback (most recent call last)" not in output.read_text()


@pytest.mark.parametrize("keep", [False, True], ids=["", "keepable"])
def test_cleanup_removes_what_a_run_without_a_guardian_left(
    operator: Operator, micro_files: Path, *, keep: bool
) -> None:
    operator.write(
        "test_it.py", "import os, signal\ndef test_it(ssh_access): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    argv = ["pytest", f"--dib-image={operator.label}", "--dib-build=never", CONTAINER, "--dib-keep-on-kill"]
    run = operator.start([*argv, *(["--dib-keep-failed-instance"] if keep else [])])
    with waiting.ended(run) as child:
        waiting.finish(child)
    assert child.returncode == -signal.SIGKILL
    assert own_groups(operator)
    planned = operator.dibctl("cleanup", "--dry-run")
    assert "would be removed" in planned.output
    done = operator.dibctl("cleanup")
    assert done.code == 0, done.output
    assert leaks.settled(lambda: left(operator), seconds=30) == set()


def test_a_kept_container_is_reached_tested_again_and_removed(operator: Operator, micro_files: Path) -> None:
    operator.write(
        "test_it.py", "def test_it(ssh_access): assert ssh_access.run('test -e /tmp/fixed').returncode == 0\n"
    )
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    operator.write("test.yaml", json.dumps({"quick": {"nspawn": {"memory": 256}}}))
    failed = operator.pytest("--dib-keep-failed-instance", "--dib-env=quick")
    try:
        assert failed.code == 1, failed.output
        command = re.search(r"log in: +(.*)", failed.output)
        name = re.search(r"kept instance (\S+)", failed.output)
        assert command, failed.output
        assert name, failed.output
        argv = ["sh", "-c", f"{command.group(1)} touch /tmp/fixed"]
        assert subprocess.run(argv, timeout=60, check=False).returncode == 0
        again = operator.pytest(f"--dib-use-existing-instance={name.group(1)}")
        assert again.code == 0, again.output
        assert "systemd-nspawn runs" not in again.output
        assert "environment quick" in again.output
    finally:
        (operator.path / "test.yaml").unlink()
        removal = re.search(r"remove: +dibctl (.*)", failed.output)
        assert removal, failed.output
        removed = operator.dibctl(*removal.group(1).split())
    assert removed.code == 0, removed.output
    assert own_groups(operator) == []


def test_a_killed_worker_leaves_nothing(operator: Operator, micro_files: Path) -> None:
    text = TESTS["test"].replace("touch()", "write_text(str(__import__('os').getpid()))")
    operator.write("test_it.py", text)
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    argv = [
        "pytest",
        f"--dib-image={operator.label}",
        "--dib-build=never",
        CONTAINER,
        "-n1",
        "--basetemp=base",
    ]
    run = operator.start([*argv, "--max-worker-restart=0"])
    with waiting.ended(run) as child:
        waiting.until((operator.path / "started").exists, child)
        waiting.until((operator.path / "started").read_text, child)
        os.kill(int((operator.path / "started").read_text()), signal.SIGKILL)
        output = waiting.finish(child)
    assert "NOT REMOVED" not in output
    assert leaks.settled(lambda: left(operator), seconds=30) == set()


def test_a_missing_systemd_nspawn_is_named_with_its_package(
    operator: Operator,
    micro_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    operator.has(micro_files)
    tools = tmp_path_factory.mktemp("bin")
    for tool in (*Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()):
        if tool.name != "systemd-nspawn" and not (tools / tool.name).exists():
            (tools / tool.name).symlink_to(tool)
    monkeypatch.setenv("PATH", str(tools))
    operator.write(
        "conftest.py",
        "import os\nfrom pytest_dibctl.system import process\n"
        "process.tool_path = lambda: os.environ['PATH']\n",
    )
    operator.write("test_it.py", "def test_it(ssh_access): pass\n")
    operator.has(micro_files, tests=[{"pytest": "test_it.py"}])
    finished = operator.pytest(CONTAINER)
    assert finished.code == 1
    assert "this machine cannot boot containers" in finished.output
    assert "systemd-container" in finished.output
    doctor = subprocess.run(
        [sys.executable, "-m", "pytest_dibctl.cli.main", "doctor"],
        cwd=operator.path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "containers" in doctor.stdout
