"""The command between a built image and its upload, with real commands."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.errors import ConfigError, PreprocessingError
from pytest_dibctl.image import artifact as images
from pytest_dibctl.image import preprocessing
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.system import process

WHERE = "test.yaml:4:3 (staging.preprocessing)"
CONVERT = "qemu-img convert -O %(disk_format)s %(input_filename)s %(output_filename)s"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A directory with an image in it."""

    cwd: Path
    image: Artifact
    told: list[str] = dataclasses.field(default_factory=list)

    def run(
        self, cmdline: str = CONVERT, output: str = "out.raw", disk_format: str = "raw", **settings: Any
    ) -> contextlib.AbstractContextManager[Artifact]:
        return preprocessing.preprocessed(
            self.image,
            Preprocessing(cmdline=cmdline, output_filename=output, **settings),
            disk_format=disk_format,
            container_format="bare",
            where=WHERE,
            cwd=self.cwd,
            progress=self.told.append,
        )

    def fails(self, **run: Any) -> PreprocessingError:
        with pytest.raises(PreprocessingError) as caught, self.run(**run):
            pytest.fail("an image was made")
        assert caught.value.exit_code == 18
        assert WHERE in caught.value.message
        return caught.value

    @property
    def files(self) -> set[str]:
        """The files that are there, without locks and the records of files that are there."""
        names = {path.name for path in self.cwd.iterdir() if not path.name.endswith(".lock")}
        return names - {f".{name}.made" for name in names}


def make_image(path: Path, size: str = "2M") -> Artifact:
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), size])
    return images.inspect(path)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    return Bench(cwd=work, image=make_image(work / "image.qcow2"))


def test_without_a_section_the_image_itself_is_uploaded(bench: Bench) -> None:
    with preprocessing.preprocessed(
        bench.image,
        None,
        disk_format="qcow2",
        container_format="bare",
        where=WHERE,
        cwd=bench.cwd,
        progress=bench.told.append,
    ) as made:
        assert made is bench.image
    assert bench.told == []


def test_the_output_is_an_image_of_its_own_and_goes_afterwards(bench: Bench) -> None:
    with bench.run() as made:
        assert made.path == bench.cwd / "out.raw"
        assert (made.disk_format, made.size) == ("raw", 2 << 20)
        assert made.sha512 == images.compute_digest(made.path)
    assert bench.files == {"image.qcow2"}
    assert images.inspect(bench.image.path) == bench.image
    assert bench.told[0].startswith("preprocessing: qemu-img convert -O raw /")
    assert bench.told[1].startswith("out.raw: 2 MiB of raw in ")


def test_it_goes_after_a_failed_upload_too(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), bench.run():
        _ = 1 / 0
    assert bench.files == {"image.qcow2"}


def test_it_stays_if_the_section_says_so(bench: Bench) -> None:
    with bench.run(delete_processed_after_upload=False):
        pass
    assert bench.files == {"image.qcow2", "out.raw"}


@pytest.mark.parametrize(
    "name", ["a b.qcow2", "it's.qcow2", 'say "hi" $HOME;x.qcow2', "-dash.qcow2", "é%s.raw"]
)
def test_any_name_reaches_the_command_as_it_is(bench: Bench, name: str) -> None:
    odd = dataclasses.replace(bench, image=make_image(bench.cwd / name))
    with odd.run(output="%(input_filename)s of '$x'.raw") as made:
        assert made.path == bench.cwd / f"{name} of '$x'.raw"
        assert made.size == 2 << 20
    assert bench.files == {"image.qcow2", name}


def test_a_shell_that_the_section_starts_gets_the_names_as_arguments(bench: Bench) -> None:
    with bench.run(
        cmdline='sh -c \'cat "$1" > "$2"\' - %(input_filename)s %(output_filename)s',
        output="a b",
        disk_format="qcow2",
    ) as made:
        assert made.sha512 == bench.image.sha512


class TestFailures:
    def test_a_failing_command_is_quoted_with_its_last_lines(self, bench: Bench) -> None:
        error = bench.fails(cmdline="qemu-img convert -O nonsense %(input_filename)s %(output_filename)s")
        assert "exited with 1" in error.message
        assert "Unknown file format 'nonsense'" in error.message
        assert "setpriv" not in error.message
        assert bench.files == {"image.qcow2"}

    def test_only_the_last_lines_are_shown(self, bench: Bench) -> None:
        error = bench.fails(cmdline="sh -c 'seq 100; exit 3'")
        assert error.message.splitlines()[-1] == "  100"
        assert len(error.message.splitlines()) == 1 + preprocessing.LAST_LINES
        assert "exited with 3" in error.message

    def test_what_a_failing_command_wrote_goes(self, bench: Bench) -> None:
        bench.fails(cmdline="sh -c 'echo part > out.raw; exit 3'", delete_processed_after_upload=False)
        assert bench.files == {"image.qcow2"}

    def test_a_file_it_did_not_touch_stays(self, bench: Bench) -> None:
        (bench.cwd / "out.raw").write_text("mine")
        bench.fails(cmdline="false")
        assert (bench.cwd / "out.raw").read_text() == "mine"

    def test_a_missing_program(self, bench: Bench) -> None:
        assert "no-such-program: not found" in bench.fails(cmdline="no-such-program x").message

    def test_no_output(self, bench: Bench) -> None:
        error = bench.fails(cmdline="true")
        assert "out.raw: no such image file" in error.message
        assert "%(output_filename)s" in str(error)

    def test_an_output_that_is_no_image(self, bench: Bench) -> None:
        bench.fails(cmdline="touch out.raw", delete_processed_after_upload=False)
        assert bench.files == {"image.qcow2"}

    def test_an_output_in_no_folder(self, bench: Bench) -> None:
        assert "there is no folder" in bench.fails(output="nowhere/out.raw").message

    def test_the_image_itself_as_output(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match="is the image itself"), bench.run(output="./image.qcow2"):
            pass
        assert images.compute_digest(bench.image.path) == bench.image.sha512

    def test_a_wrong_format_is_refused(self, bench: Bench) -> None:
        command = "qemu-img convert -O vmdk %(input_filename)s %(output_filename)s"
        with (
            pytest.raises(PreprocessingError, match=r"is vmdk, and Glance's disk_format says raw"),
            bench.run(cmdline=command),
        ):
            pytest.fail("it was taken")


@pytest.mark.parametrize("container_format", ["bare", "compressed", "ova"])
def test_an_archive_is_taken_only_where_glance_is_told(bench: Bench, container_format: str) -> None:
    settings = Preprocessing(
        cmdline='sh -c \'gzip < "$1" > "$2"\' - %(input_filename)s %(output_filename)s',
        output_filename="out.gz",
    )
    made = preprocessing.preprocessed(
        bench.image,
        settings,
        disk_format="raw",
        container_format=container_format,
        where=WHERE,
        cwd=bench.cwd,
        progress=bench.told.append,
    )
    refused = pytest.raises(PreprocessingError, match="is a gzip file, and no image by itself")
    with refused if container_format == "bare" else contextlib.nullcontext(), made as taken:
        assert taken.path.read_bytes().startswith(b"\x1f\x8b")


class TestExistingFile:
    def test_one_from_elsewhere_is_taken_and_never_removed(self, bench: Bench) -> None:
        there = make_image(bench.cwd / "out.qcow2", "3M")
        with bench.run(cmdline="false", output="out.qcow2", disk_format="qcow2", use_existing=True) as made:
            assert made == dataclasses.replace(there, unproven=True)
        assert there.path.exists()
        assert any("nothing shows that it was made of image.qcow2" in line for line in bench.told)

    def test_one_that_was_made_of_the_image_is_proven(self, bench: Bench) -> None:
        with bench.run(delete_processed_after_upload=False) as first:
            assert not first.unproven
        inode = first.path.stat().st_ino
        with bench.run(use_existing=True) as second:
            assert (second, second.path.stat().st_ino) == (first, inode)
        assert first.path.exists()
        assert "out.raw is there already, made of image.qcow2, and used" in bench.told

    @pytest.mark.parametrize("change", ["image", "command"])
    def test_one_that_was_made_of_another_image_is_made_again(self, bench: Bench, change: str) -> None:
        with bench.run(delete_processed_after_upload=False) as first:
            pass
        if change == "image":
            bench = dataclasses.replace(bench, image=make_image(bench.cwd / "image.qcow2", "5M"))
            size = 5 << 20
        else:
            size = first.size
        command = CONVERT if change == "image" else CONVERT.replace("convert", "convert -W")
        with bench.run(command, use_existing=True, delete_processed_after_upload=False) as second:
            assert (second.size, second.unproven) == (size, False)
        assert any("and is made again" in line for line in bench.told)

    @pytest.mark.parametrize("record", ["", "[]", "{}", None])
    def test_one_that_was_changed_since_or_has_no_record_is_unproven(
        self, bench: Bench, record: str | None
    ) -> None:
        with bench.run(delete_processed_after_upload=False) as first:
            pass
        if record is None:
            with first.path.open("r+b") as file:
                file.write(b"x")
        else:
            first.path.with_name(".out.raw.made").write_text(record)
        with bench.run(use_existing=True) as second:
            assert second.unproven
        assert first.path.exists()

    def test_what_was_made_because_there_was_none_goes(self, bench: Bench) -> None:
        with bench.run(use_existing=True):
            pass
        assert bench.files == {"image.qcow2"}

    def test_without_use_existing_it_is_made_again(self, bench: Bench) -> None:
        (bench.cwd / "out.raw").write_text("old")
        with bench.run() as made:
            assert made.size == 2 << 20
        assert bench.files == {"image.qcow2"}

    def test_one_that_is_no_image_is_refused_and_left(self, bench: Bench) -> None:
        (bench.cwd / "out.qcow2").write_text("not one")
        assert "use_existing" in str(bench.fails(output="out.qcow2", disk_format="qcow2", use_existing=True))
        assert (bench.cwd / "out.qcow2").read_text() == "not one"


class TestKernel:
    @pytest.fixture
    def filesystem(self, bench: Bench) -> Bench:
        """A bench whose image is a bare filesystem with its kernel and initrd."""
        path = bench.cwd / "fs.qcow2"
        raw = bench.cwd / "raw"
        process.run(["mke2fs", "-q", "-t", "ext4", str(raw), "4M"])
        process.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(path)])
        raw.unlink()
        for suffix in ("vmlinuz", "initrd"):
            (bench.cwd / f"fs.{suffix}").write_text(suffix)
        return dataclasses.replace(bench, image=images.inspect(path))

    def test_it_goes_along_wherever_the_output_lies(self, filesystem: Bench) -> None:
        (filesystem.cwd / "elsewhere").mkdir()
        with filesystem.run(output="elsewhere/other.raw") as made:
            assert made.layout == "filesystem"
            assert made.kernel == filesystem.cwd / "fs.vmlinuz"
            assert made.initrd == filesystem.cwd / "fs.initrd"

    def test_a_whole_disk_made_of_it_needs_none(self, filesystem: Bench) -> None:
        code = "import sys; open(sys.argv[1], 'wb').write(bytes(510) + b'\\x55\\xaa' + bytes(1 << 20))"
        with filesystem.run(cmdline=f'{sys.executable} -c "{code}" %(output_filename)s') as made:
            assert (made.layout, made.kernel, made.initrd) == ("disk", None, None)


RUN = """
import sys, time
from pathlib import Path
from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.image import artifact, preprocessing
from pytest_dibctl.system import signals

cwd, cmdline, use_existing = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "existing"
with signals.as_keyboard_interrupt():
    with preprocessing.preprocessed(
        artifact.inspect(cwd / "image.qcow2"),
        Preprocessing(cmdline=cmdline, output_filename="out.raw", use_existing=use_existing),
        disk_format="qcow2", container_format="bare", where="x", cwd=cwd,
        progress=lambda line: print(line, flush=True),
    ) as made:
        first = made.path.read_bytes()
        time.sleep(0.5)
        assert made.path.read_bytes() == first
        print("uploaded", len(first), flush=True)
"""
SLOWLY = (
    'sh -c \'echo $$ > pid; head -c 1000 /dev/zero > "$2"; sleep 1; cat "$1" > "$2"\' - '
    "%(input_filename)s %(output_filename)s"
)


@contextlib.contextmanager
def another(bench: Bench, cmdline: str, how: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run the same in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), str(bench.cwd), cmdline, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def await_file(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["", "existing"])
def test_two_runs_do_not_spoil_each_other_s_file(bench: Bench, how: str) -> None:
    command = SLOWLY.replace("sleep 1", "until test -e go; do sleep 0.1; done")
    with another(bench, command, how) as first:
        await_file(bench.cwd / "out.raw")
        with another(bench, command, how) as second:
            assert second.stdout is not None
            assert "waiting for another run" in second.stdout.readline()
            (bench.cwd / "go").touch()
            outputs = [child.communicate(timeout=60)[0] for child in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    for output in outputs:
        assert f"uploaded {bench.image.size}" in output
    assert bench.files == {"image.qcow2", "pid", "go"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_command_is_ended_and_leaves_nothing(bench: Bench, number: signal.Signals) -> None:
    with another(bench, SLOWLY.replace("sleep 1", "sleep 60")) as child:
        await_file(bench.cwd / "out.raw")
        child.send_signal(number)
        output, _ = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in output
    assert bench.files == {"image.qcow2", "pid"}
    await_end_of_command(bench)


def test_what_a_killed_run_left_is_not_taken_for_whole(bench: Bench) -> None:
    with another(bench, SLOWLY.replace("sleep 1", "sleep 60"), "existing") as child:
        await_file(bench.cwd / "out.raw")
        child.kill()
        child.wait()
    assert (bench.cwd / "out.raw").stat().st_size == 1000
    await_end_of_command(bench)
    with bench.run(use_existing=True) as made:
        assert made.size == 2 << 20
    assert any("was left unfinished" in line for line in bench.told)
    assert bench.files == {"image.qcow2", "pid"}


def await_end_of_command(bench: Bench) -> None:
    """Fail if the command lives on; what was killed may take a moment to be gone on a busy machine."""
    pid = int((bench.cwd / "pid").read_text())
    deadline = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < deadline, "the command outlived its run"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Return whether a process lives; a zombie that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
