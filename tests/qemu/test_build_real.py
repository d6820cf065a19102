"""disk-image-create really runs: success, reuse, every kind of failure and interruption, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import builder, preflight
from pytest_dibctl.build.builder import BuildOutcome
from pytest_dibctl.errors import BuildError, PreflightError
from pytest_dibctl.guards import build_steps, unsynced
from pytest_dibctl.image import artifact
from pytest_dibctl.system import process
from tests.support import building, leaks, waiting
from tests.support.terminals import PATIENCE

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="disk-image-create needs root"),
]

LEFT = {"tiny.qcow2", "tiny.qcow2.build.log", "tiny.qcow2.dibctl.json", ".tiny.qcow2.lock"}
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("DIB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def elements(tmp_path: Path) -> Path:
    building.element(tmp_path / "elements")
    return tmp_path / "elements"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _no_lost_loop_device() -> Iterator[None]:
    """Fail when a loop device stays whose file went away together with the namespace it was mounted in."""
    before = lost_loops()
    yield
    left = lost_loops() - before

    def still_left() -> set[str]:
        # Builds of other workers hold such devices as well, but none for long.
        left.intersection_update(lost_loops())
        return left

    assert leaks.settled(still_left) == set()


def lost_loops() -> set[str]:
    listing = process.run(["losetup", "--json", "--list", "--output", "NAME,BACK-FILE"]).output
    devices = json.loads(listing)["loopdevices"] if listing.strip() else []
    return {device["name"] for device in devices if device["back-file"] == "/image0.raw"}


def build(
    out: Path, elements: Path, *names: str, told: list[str] | None = None, **settings: Any
) -> BuildOutcome:
    filename = settings.pop("filename", "tiny.qcow2")
    image = building.entry(out, filename=filename, dib=building.dib(elements, *names, **settings))
    heard = told if told is not None else []
    return builder.build(image, cwd=out, progress=heard.append)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def compressed_clusters(image: Path) -> int:
    return int(
        json.loads(process.run(["qemu-img", "check", "--output=json", str(image)]).output)[
            "compressed-clusters"
        ]
    )


def test_an_image_is_built_reused_and_built_again_when_its_element_changes(elements: Path, out: Path) -> None:
    kernel = "echo kernel > $IMAGE_NAME.vmlinuz; mkdir $IMAGE_NAME.d; echo manifest > $IMAGE_NAME.d/m\n"
    building.hook(elements / "tiny", "cleanup.d", "10-out", f"#!/bin/bash\n{kernel}")
    told: list[str] = []
    first = build(out, elements, told=told)
    assert first.built
    assert first.artifact.path == out / "tiny.qcow2"
    assert (first.artifact.disk_format, first.artifact.layout) == ("qcow2", "filesystem")
    assert first.artifact.kernel == out / "tiny.vmlinuz"
    assert (out / "tiny.d" / "m").read_text() == "manifest\n"
    assert compressed_clusters(out / "tiny.qcow2") > 0
    assert told[:3] == [
        "building tiny.qcow2: no image yet",
        "starts from nothing: no tree was kept",
        "prepare",
    ]
    # A phase that takes long is told of again.
    assert [line.partition(" ")[0] for line in told[3:] if not line.endswith(" so far")] == [
        "root.d",
        "extra-data.d",
        "post-root.d",
        "image",
        "cleanup.d",
        "convert",
        "compress",
    ]
    assert list(first.phases) == [
        *("prepare", "root.d", "extra-data.d", "post-root.d", "image", "cleanup.d", "convert", "compress")
    ]
    assert first.seconds > sum(first.phases.values())
    assert "root.d/10-tiny" in first.scripts
    assert first.log_file is not None
    assert "Build completed successfully" in first.log_file.read_text()
    assert names(out) == {*LEFT, "tiny.vmlinuz", "tiny.d"}

    second = build(out, elements)
    assert (second.built, second.artifact) == (False, first.artifact)

    building.hook(elements / "tiny", "cleanup.d", "10-out", "#!/bin/bash\n:\n")
    third = build(out, elements)
    assert (third.built, third.reason) == (True, "element tiny changed")
    assert third.artifact.kernel is None
    assert names(out) >= {"tiny.qcow2", "tiny.d"}


@pytest.mark.parametrize(
    ("filename", "options", "disk_format"),
    [
        ("plain", [], "qcow2"),
        ("x.img", ["-u"], "qcow2"),
        ("x.img", ["-t", "raw"], "raw"),
        ("a.b.qcow2", ["-t", "raw,qcow2"], "qcow2"),
    ],
    ids=["no suffix", "uncompressed", "raw", "two types"],
)
def test_the_result_lies_where_the_filename_says(
    elements: Path, out: Path, filename: str, options: list[str], disk_format: str
) -> None:
    outcome = build(out, elements, filename=filename, cli_options=["-n", *options])
    assert outcome.artifact.path == out / filename
    assert outcome.artifact.disk_format == disk_format
    others = {"a.b.raw"} if "raw,qcow2" in options else set()
    beside = {f"{filename}.build.log", f"{filename}.dibctl.json", f".{filename}.lock"}
    assert names(out) == {filename, *beside, *others}


def test_zstd_can_be_asked_for_as_disk_image_create_has_it(elements: Path, out: Path) -> None:
    build(out, elements, cli_options=["-n", "--qemu-img-options", "compression_type=zstd"])
    assert "compression type: zstd" in process.run(["qemu-img", "info", str(out / "tiny.qcow2")]).output


def test_checksums_are_those_of_the_image(elements: Path, out: Path) -> None:
    build(out, elements, cli_options=["-n", "--checksum"])
    assert compressed_clusters(out / "tiny.qcow2") > 0
    [digest] = (out / "tiny.qcow2.sha256").read_text().split()[:1]
    assert process.run(["sha256sum", str(out / "tiny.qcow2")]).output.split()[0] == digest


def test_an_external_command_runs_on_what_disk_image_create_made(elements: Path, out: Path) -> None:
    commands = [{"cmdline": "qemu-img resize -q %(input_filename)s 64M"}]
    image = building.entry(out, dib=building.dib(elements), external_build=commands)
    outcome = builder.build(image, cwd=out, progress=lambda _line: None)
    assert outcome.artifact.virtual_size == 64 * 1024**2
    assert list(outcome.phases)[-1] == "external_build 1"


@pytest.mark.parametrize("options", [["-n"], ["-n", "-x"]], ids=["quiet", "traced"])
def test_a_failing_element_is_told_with_its_own_words(elements: Path, out: Path, options: list[str]) -> None:
    building.element(elements, root="echo this is why >&2\nexit 5\n")
    with pytest.raises(BuildError) as caught:
        build(out, elements, cli_options=options)
    message = caught.value.message.splitlines()
    script = f"root.d/10-tiny ({elements}/tiny/root.d/10-tiny)"
    assert message[0].startswith(f"images.yaml (tiny): the build exited with 5 in {script} after ")
    assert message[1:] == ["  this is why", f"log: {out}/tiny.qcow2.build.failed.log"]
    assert caught.value.exit_code == 5
    assert names(out) == {"tiny.qcow2.build.failed.log", ".tiny.qcow2.lock"}


def test_a_filesystem_that_cannot_be_made_is_told(elements: Path, out: Path) -> None:
    with pytest.raises(BuildError, match=r"in image after .*\n(.*\n)*  Total journal size too big") as caught:
        build(out, elements, environment_variables={"DIB_JOURNAL_SIZE": "64"})
    assert "DIB_JOURNAL_SIZE" in str(caught.value.hint)


def test_a_missing_disk_image_create_is_told(
    elements: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "tool_path", lambda: "/usr/sbin:/usr/bin:/sbin:/bin")
    with pytest.raises(PreflightError, match="disk-image-create: not found") as caught:
        build(out, elements)
    assert caught.value.hint == "pip install diskimage-builder"
    assert names(out) == set()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with 48 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    process.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(directory)])
    try:
        yield directory
    finally:
        process.run(["umount", str(directory)])


def test_a_disk_that_fills_up_is_told_and_left_clean(elements: Path, small: Path) -> None:
    # 24 MiB of noise: once as it is and once compressed, which is too much.
    building.element(
        elements, root="sudo dd if=/dev/urandom of=$TARGET_ROOT/noise bs=1M count=24 status=none\n"
    )
    with pytest.raises(BuildError) as caught:
        build(small, elements, environment_variables={"DIB_IMAGE_SIZE": "0.04"})
    assert "No space left on device" in caught.value.message
    assert f"{small} is full" in str(caught.value.hint)
    assert names(small) == {"tiny.qcow2.build.failed.log", ".tiny.qcow2.lock"}


def test_a_disk_that_is_too_small_from_the_start_is_told_at_once(elements: Path, small: Path) -> None:
    with pytest.raises(PreflightError, match=r"free space: 4[78] MiB free in .*, about 1.0 GiB needed"):
        build(small, elements, environment_variables={"DIB_IMAGE_SIZE": "1"})


def test_an_output_directory_that_is_read_only_is_told(elements: Path, small: Path) -> None:
    process.run(["mount", "-o", "remount,ro", str(small)])
    with pytest.raises(PreflightError, match=f"output directory: {small} is read-only") as caught:
        build(small, elements)
    assert "--output" in str(caught.value.hint)


def test_an_output_directory_that_turns_read_only_is_told(
    elements: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.run(["mount", "-o", "remount,ro", str(small)])
    monkeypatch.setattr(preflight, "for_build", lambda *_: None)
    with pytest.raises(BuildError, match=f"cannot write in {small}: Read-only file system"):
        build(small, elements)


# -- interruptions ---------------------------------------------------------------------------------

PHASES = {"root.d": "root.d", "cleanup.d": "cleanup.d"}
"""Before the loop device is there, and while it is mounted."""

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pytest_dibctl.build import builder
from pytest_dibctl.system import signals
from tests.support import building
out, elements = map(Path, sys.argv[2:])
image = building.entry(out, filename="tiny.qcow2", dib=building.dib(elements))
with signals.as_keyboard_interrupt():
    print(builder.build(image, cwd=out, progress=lambda line: print(line, flush=True)).reason)
"""


@pytest.fixture
def run(elements: Path, out: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Build in a process of its own."""
    argv = [sys.executable, "-c", SCRIPT, str(REPOSITORY), str(out), str(elements)]
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(
            waiting.ended(
                subprocess.Popen(
                    argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
                )
            )
        )


def slow(elements: Path, out: Path, phase: str) -> None:
    """Let the element stop in ``phase``, after it has said so, until it is killed."""
    building.hook(elements / "tiny", phase, "50-slow", f"#!/bin/bash\ntouch {out}/started\nsudo sleep 4321\n")


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def started(running: subprocess.Popen[str], out: Path) -> None:
    wait_until(lambda: (out / "started").exists() or running.poll() is not None, "the build did not start")
    assert running.poll() is None, running.communicate()


def descendants(pid: int) -> list[int]:
    """Return the processes below ``pid``, nearest first."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended while we looked
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def arguments(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def sleepers(running: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in descendants(running.pid) if arguments(pid).startswith("sleep 4321")]


def mounts(pid: int) -> str:
    return Path(f"/proc/{pid}/mountinfo").read_text()


def is_clean(out: Path) -> bool:
    return ".tiny.qcow2.building" not in names(out)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_whose_run_is_ended_leaves_nothing(
    elements: Path, out: Path, run: Callable[[], subprocess.Popen[str]], number: signal.Signals, phase: str
) -> None:
    slow(elements, out, phase)
    running = run()
    started(running, out)
    wait_until(lambda: sleepers(running), "nobody sleeps")
    below = descendants(running.pid)
    os.killpg(running.pid, number)
    _, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode != 0
    assert number is signal.SIGKILL or "KeyboardInterrupt" in errors
    wait_until(lambda: is_clean(out), f"left: {names(out)}")
    wait_until(lambda: not any("4321" in arguments(pid) for pid in below), "the build outlived its run")
    assert names(out) == {"started", "tiny.qcow2.build.failed.log", ".tiny.qcow2.lock"}


def test_the_mounts_of_a_build_are_its_own(
    elements: Path, out: Path, run: Callable[[], subprocess.Popen[str]]
) -> None:
    slow(elements, out, "cleanup.d")
    running = run()
    started(running, out)
    try:
        wait_until(lambda: sleepers(running), "nobody sleeps")
        [sleeper] = sleepers(running)
        assert str(out) in mounts(sleeper)
        assert str(out) not in mounts(os.getpid())
    finally:
        running.terminate()
        running.communicate(timeout=PATIENCE)
    wait_until(lambda: is_clean(out), f"left: {names(out)}")


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_disk_image_create_is_told_and_left_clean(
    elements: Path, out: Path, run: Callable[[], subprocess.Popen[str]], phase: str
) -> None:
    slow(elements, out, phase)
    running = run()
    started(running, out)
    tool = f"disk-image-create -n -u -o {out}/"
    [shell] = [
        pid
        for pid in descendants(running.pid)
        if arguments(pid).startswith("bash ") and tool in arguments(pid)
    ][:1]
    os.kill(shell, signal.SIGKILL)
    _, errors = running.communicate(timeout=PATIENCE)
    assert f"the build was killed by SIGKILL in {phase}/50-slow" in errors
    assert names(out) == {"started", "tiny.qcow2.build.failed.log", ".tiny.qcow2.lock"}


def test_when_run_and_guard_are_killed_the_next_build_removes_what_is_left(
    elements: Path, out: Path, run: Callable[[], subprocess.Popen[str]]
) -> None:
    slow(elements, out, "cleanup.d")
    running = run()
    started(running, out)
    loops = out / ".tiny.qcow2.building" / build_steps.LOOPS
    wait_until(loops.exists, "the guard did not note its loop device")
    below = descendants(running.pid)
    [guard] = [pid for pid in below if "guards.build_steps" in arguments(pid)]
    [loop] = json.loads(loops.read_text())
    device = Path("/sys/block") / loop["name"] / "loop" / "backing_file"
    assert device.read_text().strip().endswith("/image0.raw")
    os.kill(running.pid, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    running.communicate(timeout=PATIENCE)
    wait_until(lambda: not any("4321" in arguments(pid) for pid in below), "the build outlived its guard")
    assert not is_clean(out)

    (elements / "tiny" / "cleanup.d" / "50-slow").unlink()
    assert build(out, elements).built
    assert is_clean(out)
    assert not device.exists() or str(out) not in device.read_text()


def test_two_runs_build_the_same_file_once(
    elements: Path, out: Path, run: Callable[[], subprocess.Popen[str]]
) -> None:
    slow(elements, out, "root.d")
    script = elements / "tiny" / "root.d" / "50-slow"
    script.write_text(
        script.read_text().replace("sudo sleep 4321", f"while ! [ -e {out}/go ]; do sleep 0.1; done")
    )
    first = run()
    started(first, out)
    second = run()
    assert second.stdout is not None
    waits = f"waiting for process {first.pid} on "
    assert second.stdout.readline().startswith(waits)
    (out / "go").touch()
    assert first.communicate(timeout=PATIENCE)[0].endswith("no image yet\n")
    *others, last = second.communicate(timeout=PATIENCE)[0].splitlines()
    assert last == "another run has just built it"
    assert all(line.startswith(waits) for line in others), "said again while a slow build goes on"
    assert artifact.inspect(out / "tiny.qcow2").disk_format == "qcow2"


def test_a_step_that_heeds_no_signal_yet_is_not_waited_for(tmp_path: Path) -> None:
    """disk-image-create sets its trap within a second; the first of a namespace is deaf until it has one."""
    building = tmp_path / "building"
    building.mkdir()
    script = f"touch {tmp_path}/started; exec sleep 4321"
    step = build_steps.Step(name="early", argv=("sh", "-c", script), isolate=True)
    with process.spawn(
        build_steps.command([step], building=building, grace=300.0), stdin=subprocess.PIPE
    ) as guard:
        waiting.until((tmp_path / "started").exists, seconds=PATIENCE)
        guard.send_signal(signal.SIGTERM)
        assert guard.wait(PATIENCE) == 128 + signal.SIGKILL
    assert not building.exists()


def test_a_guard_without_a_mount_namespace_of_its_own_starts_nothing(tmp_path: Path) -> None:
    building = tmp_path / "building"
    building.mkdir()
    step = build_steps.Step(name="mount", argv=("touch", str(tmp_path / "started")), isolate=True)
    argv = build_steps.command([step], building=building)
    assert argv[:3] == ["unshare", "--mount", "--"]
    refused = process.run(argv[3:], check=False)
    assert refused.returncode == 127
    assert "no mount namespace of its own" in refused.output
    assert not (tmp_path / "started").exists()


def test_what_a_build_starts_waits_for_no_disk_and_sudo_works_there() -> None:
    """A descriptor that is none cannot be flushed, unless nothing is flushed at all."""
    argv = ["sudo", "-n", sys.executable, "-c", "import os; os.fsync(999); os.sync(); os.fdatasync(999)"]
    assert process.run(unsynced.command(argv)).returncode == 0
    assert process.run(argv, check=False).returncode != 0
