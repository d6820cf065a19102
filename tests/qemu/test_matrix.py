"""Two images, really built, booted as machines and as containers; and what is left when things are killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from tests.qemu.test_end_to_end import Operator
from tests.support import micro, waiting
from tests.support.terminals import PATIENCE

pytestmark = pytest.mark.real

CHECKS = """
import os, time
from pathlib import Path

def test_mark(ssh_access, image):
    mark = ssh_access.run("cat /etc/micro-mark").output.strip()
    assert mark == f"this is {image.label}"

def test_memory(ssh_access, dib_run, instance):
    settings = dib_run.environment.settings
    if settings.engine == "nspawn":  # /proc/meminfo is this machine's
        assert instance.flavor.ram == settings.nspawn.memory
        assert f"{settings.nspawn.memory} MiB memory" in instance.facts["limits"]
        return
    total = int(ssh_access.run("grep MemTotal /proc/meminfo").output.split()[1])
    expected = settings.qemu.memory * 1024
    assert 0.5 * expected < total <= expected

def test_where(image, dib_run, instance):
    with Path("where.txt").open("a") as file:
        file.write(f"{image.label} {dib_run.environment.label} {os.getpid()} {instance.id}\\n")
"""


LONG = """
def test_long(ssh_access):
    # Not over before the other image is up, too, however long that takes.
    deadline = time.monotonic() + 300
    while not Path("go").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
"""


@pytest.fixture
def operator(tmp_path: Path, micro_files: Path) -> Operator:
    """Somebody with two images, to be built from the micro element, and two environments."""
    somebody = Operator(path=tmp_path)
    somebody.write("test_checks.py", CHECKS)
    images: dict[str, object] = {}
    for label in ("one", "two"):
        text = micro.images_yaml(
            label=label,
            filename=f"out/{label}.qcow2",
            variables={"MICRO_MARK": f"this is {label}"},
            tests=[{"pytest": "test_checks.py"}],
        )
        images |= yaml.safe_load(text)
    somebody.write("images.yaml", yaml.safe_dump(images, sort_keys=False))
    environments = {"machine": {"qemu": {"memory": 192}}, "container": {"nspawn": {"memory": 320}}}
    somebody.write("test.yaml", json.dumps(environments))
    return somebody


def test_a_matrix_is_built_once_and_booted_everywhere(operator: Operator) -> None:
    finished = operator.run(
        *("pytest", "-v", "--dib-image=all", "--dib-env=machine,container", "-n2", "--basetemp=base"),
        *("--junit-xml=junit.xml", "--dib-summary=summary.md"),
    )
    assert finished.code == 0, finished.output
    for label in ("one", "two"):
        assert finished.output.count(f"building {label}.qcow2") == 1
    lines = [line.split() for line in (operator.path / "where.txt").read_text().splitlines()]
    assert {(image, environment) for image, environment, _, _ in lines} == {
        (image, environment) for image in ("one", "two") for environment in ("machine", "container")
    }
    assert len({instance for *_, instance in lines}) == 4
    facts = operator.junit()
    assert len(facts) == 12
    for name, known in facts.items():
        wanted = {"dib_digest", "dib_instance", "dib_seconds_build", "dib_seconds_boot", "dib_build_log"}
        assert wanted <= set(known), name
        assert (operator.path / known["dib_console_log"]).exists()
    assert (operator.path / "summary.md").read_text().count("| ✅ |") == 4


@pytest.mark.parametrize(("victim", "environment"), [("worker", "container"), ("run", "machine")])
def test_kills_leave_nothing(operator: Operator, victim: str, environment: str) -> None:
    operator.write("test_checks.py", CHECKS + LONG)
    argv = (
        "pytest",
        "--dib-image=all",
        f"--dib-env={environment}",
        "-n2",
        "--basetemp=base",
        "--max-worker-restart=0",
    )
    where = operator.path / "where.txt"
    with waiting.ended(operator.start(argv)) as child:
        # Two builds, one after the other, and two boots.
        waiting.until(
            lambda: where.exists() and len(where.read_text().splitlines()) == 2, child, seconds=2 * PATIENCE
        )
        workers = [int(line.split()[2]) for line in where.read_text().splitlines()]
        os.kill(
            workers[0] if victim == "worker" else child.pid,
            signal.SIGKILL if victim == "worker" else signal.SIGTERM,
        )
        (operator.path / "go").touch()
        output = waiting.finish(child)
    assert child.returncode in {1, 2}, output
    assert "NOT REMOVED" not in output
    # What is left of processes and files is looked for after each test here.
