"""When an image is built, and what a build leaves; the images here are made by external commands."""

from __future__ import annotations

import datetime as dt
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import builder, fingerprint
from pytest_dibctl.build.builder import BuildOutcome
from pytest_dibctl.errors import ArtifactError, BuildError, ConfigError, DibctlError, PreflightError
from pytest_dibctl.guards import build_steps
from pytest_dibctl.image import artifact
from tests.support import building

CREATE = "qemu-img create -q -f qcow2 %(output_filename)s 4M"
KERNEL = 'sh -c \'cp /etc/passwd "${1%%.qcow2}.vmlinuz"; mkdir "${1%%.qcow2}.d"\' - %(filename)s'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def build(directory: Path, *commands: str, told: list[str] | None = None, **options: Any) -> BuildOutcome:
    image = building.entry(
        directory, external_build=[{"cmdline": command} for command in commands or (CREATE,)]
    )
    return builder.build(image, cwd=directory, progress=silent if told is None else told.append, **options)


def silent(_line: str) -> None:
    """Take progress for nobody."""


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


LEFT = {"tiny.qcow2", "tiny.qcow2.build.log", "tiny.qcow2.dibctl.json", ".tiny.qcow2.lock"}


def test_an_image_is_built_once(tmp_path: Path) -> None:
    told: list[str] = []
    first = build(tmp_path, told=told)
    assert (first.built, first.reason) == (True, "no image yet")
    assert told == ["building tiny.qcow2: no image yet", "external_build 1"]
    assert first.artifact.virtual_size == 4 * 1024**2
    assert names(tmp_path) == LEFT
    second = build(tmp_path)
    assert (second.built, second.reason) == (False, "unchanged since it was built")
    assert second.artifact == first.artifact
    assert second.log_file == tmp_path / "tiny.qcow2.build.log"


def test_a_changed_command_builds_again_and_says_so(tmp_path: Path) -> None:
    build(tmp_path)
    again = build(tmp_path, CREATE.replace("4M", "8M"))
    assert (again.built, again.reason) == (True, "external_build changed")
    assert again.artifact.virtual_size == 8 * 1024**2


def test_an_edited_script_builds_again_and_is_named(tmp_path: Path) -> None:
    script = tmp_path / "make.sh"
    script.write_text('exec qemu-img create -q -f qcow2 "$1" 4M\n')
    command = "sh make.sh %(output_filename)s"
    build(tmp_path, command)
    assert not build(tmp_path, command).built
    script.write_text(script.read_text().replace("4M", "8M"))
    again = build(tmp_path, command)
    assert again.reason == "make.sh changed"
    assert again.artifact.virtual_size == 8 * 1024**2
    assert not build(tmp_path, command).built


def test_a_file_that_the_commands_make_on_their_way_is_not_a_change(tmp_path: Path) -> None:
    commands = ("sh -c 'date +%%N > \"$1\"' - made.txt", CREATE)
    build(tmp_path, *commands)
    assert not build(tmp_path, *commands).built
    build(tmp_path, *commands, policy="always")
    assert not build(tmp_path, *commands).built


def test_a_script_that_is_edited_during_the_build_is_noticed_after_it(tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_text("echo true > x.sh\n")
    commands = ("sh x.sh", CREATE)
    build(tmp_path, *commands)
    assert build(tmp_path, *commands).reason == "x.sh changed"
    assert not build(tmp_path, *commands).built


def test_always_builds_what_is_unchanged(tmp_path: Path) -> None:
    build(tmp_path)
    assert build(tmp_path, policy="always").reason == "asked to"


def test_never_uses_what_is_there(tmp_path: Path) -> None:
    build(tmp_path)
    outcome = build(tmp_path, "false", policy="never")
    assert (outcome.built, outcome.reason) == (False, "used as it is")


def test_never_without_a_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"images.yaml \(tiny.filename\): .*no such image file") as caught:
        build(tmp_path, policy="never")
    assert caught.value.hint == "`dibctl build tiny` builds it"


def test_an_image_built_elsewhere_must_exist(tmp_path: Path) -> None:
    image = building.entry(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        builder.build(image, cwd=tmp_path, progress=silent)
    assert "neither dib nor external_build" in str(caught.value.hint)
    build(tmp_path)
    assert builder.build(image, cwd=tmp_path, progress=silent).reason == "built elsewhere"


def test_an_overwritten_image_is_built_again(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "tiny.qcow2").write_bytes(b"damage")
    assert build(tmp_path).reason == "file changed since it was built"
    artifact.record_file(tmp_path / "tiny.qcow2").unlink()
    assert build(tmp_path).reason == "no build record"


def test_an_image_and_record_restored_from_elsewhere_are_used(tmp_path: Path) -> None:
    build(tmp_path, CREATE, KERNEL)
    for file in [path for path in tmp_path.iterdir() if path.is_file()]:
        copy = file.with_name("copy")
        copy.write_bytes(file.read_bytes())
        copy.replace(file)
    assert build(tmp_path, CREATE, KERNEL).reason == "unchanged since it was built"


def test_another_output_leaves_the_configured_file_alone(tmp_path: Path) -> None:
    outcome = build(tmp_path, output=Path("sub/../other/x.qcow2"))
    assert outcome.artifact.path == tmp_path / "other" / "x.qcow2"
    assert not (tmp_path / "tiny.qcow2").exists()


def test_the_forecast_tells_what_build_would_do(tmp_path: Path) -> None:
    image = building.entry(tmp_path, external_build=[{"cmdline": CREATE}])
    assert builder.forecast(image, cwd=tmp_path).text == "to be built: no image yet"
    assert builder.forecast(image, cwd=tmp_path, policy="never").text == "does not exist"
    assert not (tmp_path / ".tiny.qcow2.lock").exists()
    outcome = build(tmp_path)
    digest = outcome.artifact.sha512[:12]
    assert builder.forecast(image, cwd=tmp_path).text == f"unchanged, sha512 {digest}"
    assert builder.forecast(image, cwd=tmp_path, policy="never").text == f"used as it is, sha512 {digest}"
    assert builder.forecast(image, cwd=tmp_path, policy="always").text == "to be built: asked to"


def test_commands_run_in_their_order_and_see_the_same_file(tmp_path: Path) -> None:
    outcome = build(tmp_path, CREATE, "qemu-img resize -q %(input_filename)s 16M", "test -s %(filename)s")
    assert outcome.artifact.virtual_size == 16 * 1024**2
    assert list(outcome.phases) == ["external_build 1", "external_build 2", "external_build 3"]


def test_commands_run_in_the_working_directory(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "seed.qcow2").write_bytes((tmp_path / "tiny.qcow2").read_bytes())
    assert build(tmp_path, "cp seed.qcow2 %(output_filename)s").built


def test_a_command_may_write_to_the_place_itself(tmp_path: Path) -> None:
    outcome = build(tmp_path, f"qemu-img create -q -f qcow2 {tmp_path}/tiny.qcow2 4M")
    assert outcome.built
    assert not build(tmp_path, f"qemu-img create -q -f qcow2 {tmp_path}/tiny.qcow2 4M").built


def test_a_failing_command_gives_its_code_and_words_and_keeps_the_old_image(tmp_path: Path) -> None:
    old = build(tmp_path).artifact
    with pytest.raises(BuildError) as caught:
        build(tmp_path, CREATE, "sh -c 'echo about to fail; echo error: no luck >&2; exit 7'", "touch never")
    assert caught.value.exit_code == 7
    assert "images.yaml (tiny): the build exited with 7 in external_build 2 after " in caught.value.message
    assert "\n  error: no luck\n" in caught.value.message
    assert caught.value.message.endswith(f"log: {tmp_path}/tiny.qcow2.build.failed.log")
    assert "about to fail" in (tmp_path / "tiny.qcow2.build.failed.log").read_text()
    assert names(tmp_path) == LEFT | {"tiny.qcow2.build.failed.log"}
    assert artifact.inspect(tmp_path / "tiny.qcow2") == old
    assert not build(tmp_path).built


def test_a_command_killed_by_a_signal_gives_128_and_its_number(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="was killed by SIGKILL in external_build 1") as caught:
        build(tmp_path, "sh -c 'kill -9 $$'")
    assert (caught.value.exit_code, caught.value.hint) == (137, None)
    assert names(tmp_path) == {"tiny.qcow2.build.failed.log", ".tiny.qcow2.lock"}


def test_an_exit_code_beyond_all_signals_is_no_signal(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the build exited with 255 in external_build 1") as caught:
        build(tmp_path, "sh -c 'exit 255'")
    assert caught.value.exit_code == 255
    assert "set -x" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("program", "said", "hint", "code"),
    [
        ("no-such-program", "not found", "install it", 127),
        ("./no-such.sh", "not found", "commands run in ", 127),
        ("./plain.sh", "is not executable", "chmod +x ", 126),
    ],
)
def test_a_program_that_cannot_be_started_is_named_at_its_place(
    tmp_path: Path, program: str, said: str, hint: str, code: int
) -> None:
    (tmp_path / "plain.sh").write_text("#!/bin/sh\n")
    with pytest.raises(BuildError) as caught:
        build(tmp_path, "true", f"{program} %(filename)s")
    place = "images.yaml (tiny.external_build[1].cmdline)"
    assert caught.value.message.splitlines() == [
        f"{place}: {program}: {said}",
        f"log: {tmp_path}/tiny.qcow2.build.failed.log",
    ]
    assert str(caught.value.hint).startswith(hint)
    assert caught.value.exit_code == code


def test_a_command_that_itself_misses_a_program_is_not_mistaken(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the build exited with 127 in external_build 1") as caught:
        build(tmp_path, "sh -c no-such-program")
    assert "no-such-program: not found" in caught.value.message


def test_a_command_that_makes_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"made no tiny.qcow2; it made: nothing") as caught:
        build(tmp_path, "true")
    assert "%(output_filename)s" in str(caught.value.hint)


def test_a_command_that_makes_no_image_is_told_and_the_old_image_stays(tmp_path: Path) -> None:
    old = build(tmp_path).artifact
    with pytest.raises(BuildError, match=r"made a file that is not an image: .*not a qcow2 image"):
        build(tmp_path, "cp /etc/passwd %(output_filename)s")
    assert artifact.inspect(tmp_path / "tiny.qcow2") == old


def test_a_broken_interpolation_is_told_with_its_place_before_anything_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(ConfigError, match=r"\(tiny.external_build\[1\].cmdline\).*%\(file_name\)s"):
        build(tmp_path, "touch ran", "cp x %(file_name)s", told=told)
    assert told == []
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"external_build": [{"cmdline": "cp x %(file_name)s"}]},
            r"external_build\[0\].cmdline\): unknown name",
        ),
        ({"external_build": [{"cmdline": "a | b"}]}, r"external_build\[0\].cmdline\): '\|' needs a shell"),
        ({"dib": {"elements": ["tinny"]}}, r"dib.elements\): there is no element 'tinny'"),
        ({"dib": {"elements": ["base"], "cli_options": ["--odd"]}}, r"dib.cli_options\): option --odd"),
    ],
    ids=["placeholder", "shell", "element", "option"],
)
def test_what_build_would_refuse_is_told_without_building(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    image = building.entry(tmp_path, **settings)
    with pytest.raises(DibctlError, match=said) as checked:
        builder.check_recipe(image, tmp_path)
    with pytest.raises(DibctlError) as built:
        builder.build(image, cwd=tmp_path, progress=silent)
    assert str(checked.value) == str(built.value)
    assert names(tmp_path) == set()


def test_a_good_recipe_and_none_pass_the_check(tmp_path: Path) -> None:
    building.element(tmp_path / "elements")
    for settings in (
        {},
        {"dib": building.dib(tmp_path / "elements")},
        {"external_build": [{"cmdline": CREATE}]},
    ):
        builder.check_recipe(building.entry(tmp_path, **settings), tmp_path)


def test_companions_travel_with_the_image_and_go_with_it(tmp_path: Path) -> None:
    assert build(tmp_path, CREATE, KERNEL).artifact.kernel == tmp_path / "tiny.vmlinuz"
    assert build(tmp_path, CREATE, KERNEL, policy="always").artifact.kernel is not None
    assert (tmp_path / "tiny.d").is_dir()
    (tmp_path / "tiny.vmlinuz").write_bytes(b"other")
    assert build(tmp_path, CREATE, KERNEL).reason == "file changed since it was built"
    assert build(tmp_path, CREATE).artifact.kernel is None
    assert not (tmp_path / "tiny.vmlinuz").exists()


def test_the_directory_of_the_output_is_made(tmp_path: Path) -> None:
    image = building.entry(tmp_path, filename="new/dir/x.qcow2", external_build=[{"cmdline": CREATE}])
    assert builder.build(image, cwd=tmp_path, progress=silent).artifact.path == tmp_path / "new/dir/x.qcow2"


def test_a_file_in_the_place_of_the_output_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("")
    with pytest.raises(PreflightError, match=r"output directory: .*images is no directory"):
        build(tmp_path, output=Path("images/x.qcow2"))


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".tiny.qcow2.building" / "tmp" / "dib_build.x"
    left.mkdir(parents=True)
    (left.parent.parent / build_steps.LOOPS).write_text('[{"name": "loop0", "odd": 1}]')
    build(tmp_path)
    assert names(tmp_path) == LEFT


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pytest_dibctl.build import builder
from pytest_dibctl.system import signals
from tests.support import building
directory, command = Path(sys.argv[2]), sys.argv[3]
image = building.entry(directory, external_build=[{"cmdline": command}])
with signals.as_keyboard_interrupt():
    print(builder.build(image, cwd=directory, progress=lambda line: print(line, flush=True)).reason)
"""
REPOSITORY = Path(__file__).resolve().parents[3]


def tool(directory: Path, command: str) -> subprocess.Popen[str]:
    """A run of the tool in a process of its own, started and past its preparations."""
    argv = [sys.executable, "-c", SCRIPT, str(REPOSITORY), str(directory), command]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def slow(directory: Path, body: str = "") -> str:
    """A command that tells its process id in the file ``pid`` and then does not end."""
    script = f"{body} touch {directory}/started; exec sleep 4321"
    return f"sh -c {shlex.quote(script)}"


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def sleepers(directory: Path) -> list[int]:
    """The processes that work in ``directory`` and sleep."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"4321" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == directory:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def settle(directory: Path, seconds: float = 60) -> None:
    """Wait until a guard has ended everything and removed the building directory."""
    deadline = time.monotonic() + seconds
    while sleepers(directory) or ".tiny.qcow2.building" in names(directory):
        assert time.monotonic() < deadline, f"left: {names(directory)}, processes {sleepers(directory)}"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_however_a_run_is_ended_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    running = tool(tmp_path, slow(tmp_path))
    wait_for(tmp_path / "started")
    assert sleepers(tmp_path)
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode != 0
    settle(tmp_path)
    assert names(tmp_path) == {"started", "tiny.qcow2.build.failed.log", ".tiny.qcow2.lock"}
    assert build(tmp_path).built


def test_a_command_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_steps, "GRACE", 1.0)
    command = slow(tmp_path, "trap : TERM;").replace("exec sleep", "while :; do sleep")[:-1] + "; done'"
    stop = threading.Event()

    def interrupt() -> None:
        try:
            wait_for(tmp_path / "started")
            stop.set()
        finally:  # nothing else ends the build
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, command, told=told)
    assert stop.is_set()
    assert told[-1].startswith("interrupted in ")
    assert told[-1].endswith(": the build is being ended and cleaned up")
    settle(tmp_path)


def test_the_second_of_two_runs_waits_and_finds_the_image_built(tmp_path: Path) -> None:
    create = CREATE % {"output_filename": '"$1"'}
    script = f"touch {tmp_path}/started; while ! test -e {tmp_path}/go; do sleep 0.05; done; exec {create}"
    command = f"sh -c {shlex.quote(script)} - %(output_filename)s"
    first = tool(tmp_path, command)
    wait_for(tmp_path / "started")
    second = tool(tmp_path, command)
    assert second.stdout is not None
    waiting = second.stdout.readline()
    assert waiting.startswith(f"waiting for process {first.pid} on ")
    assert waiting.endswith(", which builds tiny.qcow2\n")
    (tmp_path / "go").touch()
    said, errors = first.communicate(timeout=60)
    assert said.endswith("no image yet\n"), errors
    said, errors = second.communicate(timeout=60)
    assert said == "another run has just built it\n", errors


def test_a_run_waits_until_the_guard_of_a_dead_one_has_cleaned_up(tmp_path: Path) -> None:
    # The trap takes its time, as disk-image-create's does: here until somebody waits for it.
    trap = f"until test -e {tmp_path}/go; do sleep 0.1; done; exit 1"
    script = f"trap '{trap}' TERM; touch {tmp_path}/started; while :; do sleep 0.1; done; : 4321"
    running = tool(tmp_path, f"sh -c {shlex.quote(script)}")
    wait_for(tmp_path / "started")
    running.kill()
    running.communicate()
    told: list[str] = []

    def progress(line: str) -> None:
        told.append(line)
        if line == "an earlier build was interrupted and is being cleaned up":
            (tmp_path / "go").touch()

    image = building.entry(tmp_path, external_build=[{"cmdline": CREATE}])
    assert builder.build(image, cwd=tmp_path, progress=progress).built
    assert (tmp_path / "go").exists(), told
    assert names(tmp_path) == LEFT | {"started", "go"}


def test_a_failed_build_leaves_the_log_of_the_file_that_is_there(tmp_path: Path) -> None:
    good, failed = tmp_path / "tiny.qcow2.build.log", tmp_path / "tiny.qcow2.build.failed.log"
    build(tmp_path, "echo good", CREATE)
    with pytest.raises(BuildError):
        build(tmp_path, "echo bad", "sh -c 'exit 3'")
    assert "\ngood\n" in good.read_text()
    assert "\nbad\n" in failed.read_text()
    build(tmp_path, "echo better", CREATE)
    assert "\nbetter\n" in good.read_text()
    assert not failed.exists()


def test_a_build_goes_on_when_the_log_is_removed(tmp_path: Path) -> None:
    assert build(tmp_path, f"rm {tmp_path}/tiny.qcow2.build.failed.log", CREATE).built


def test_output_that_is_no_text_does_not_disturb(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="exited with 1"):
        build(tmp_path, "sh -c 'head -c 20000 /dev/urandom; printf \"\\\\377\\\\0error no newline\"; exit 1'")


def test_every_outcome_is_an_error_in_words(tmp_path: Path) -> None:
    image = building.entry(tmp_path, dib={"elements": ["tinny"]})
    with pytest.raises(DibctlError) as caught:
        builder.forecast(image, cwd=tmp_path)
    assert "there is no element 'tinny'" in caught.value.message


def test_the_record_keeps_what_the_build_took(tmp_path: Path) -> None:
    outcome = build(tmp_path)
    record = fingerprint.load(tmp_path / "tiny.qcow2")
    assert record is not None
    assert list(record.phases) == list(outcome.phases)
    assert dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(record.finished) < dt.timedelta(minutes=5)
    assert record.sha512 == outcome.artifact.sha512
