"""An image's own programs, which mean harm, and this machine, which takes none."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.guards import image_command, namespace
from pytest_dibctl.image import artifact, tree
from pytest_dibctl.image.tree import ImageTree
from pytest_dibctl.system import process
from tests.support import hostile, leaks

pytestmark = pytest.mark.real

SECRET = "of this machine alone"


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filesystem image with perl."""
    return hostile.image(tmp_path_factory.mktemp("hostile") / "image.raw")


@pytest.fixture
def opened(image_file: Path, tmp_path: Path) -> Iterator[ImageTree]:
    with tree.opened(artifact.inspect(image_file), tmp_path / "tree") as open_tree:
        yield open_tree


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of this machine that any user may read, in directories that any user may enter."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o666)
    return file


def run(opened: ImageTree, *argv: str, timeout: float = 60) -> process.Result:
    return process.run(opened.command(argv), check=False, join_stderr=True, timeout=timeout)


def perl(opened: ImageTree, code: str, *arguments: object) -> process.Result:
    # The image has no locales for perl to find.
    return run(opened, "/usr/bin/env", "LC_ALL=C", "/usr/bin/perl", "-e", code, *map(str, arguments))


# -- ways out ----------------------------------------------------------------------------------------

ANYWHERE = "for my $f ($ARGV[0], map { $_ . $ARGV[0] } @_) { if (open my $h, '<', $f) { print <$h> } }"
LOOK = f"sub look {{ {ANYWHERE} }} "

WAYS_OUT = {
    "the image's own path": "look('')",
    "chroot and dots": (
        "mkdir '/tmp/d'; opendir my $d, '/'; print chroot('/tmp/d') ? 'IN' : ''; chdir $d;"
        "chdir '..' for 1..99; chroot '.'; look('', '.', '..')"
    ),
    "dots": "chdir '..' for 1..99; look('..', '.', '../' x 99)",
    "roots of processes": 'look(map { ("$_/root", "$_/cwd") } glob(\'/proc/[0-9]*\'))',
    "descriptors of processes": 'look(map { ($_, "$_/..", "$_/../..") } glob(\'/proc/[0-9]*/fd/*\'))',
    "tasks of processes": "look(glob('/proc/[0-9]*/task/*/root'))",
    "the detached root": "look('/oldroot', '/newroot', '/mnt', '/tmp', '/run')",
    "a working directory that was open": "look('.', '/dev/fd/3', '/dev/fd/4', '/dev/fd/5', '/dev/fd/6')",
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_file_of_this_machine_is_in_reach(opened: ImageTree, secret: Path, way: str) -> None:
    result = perl(opened, f"{LOOK} {WAYS_OUT[way]}; print 'END'", secret)
    assert result.output == "END"
    assert result.returncode == 0


REFUSED = {
    "chroot": ("chroot", ["'/tmp'"]),
    "mount of a tmpfs": ("mount", ["'none'", "'/mnt'", "'tmpfs'", "0", "0"]),
    "mount of another proc": ("mount", ["'proc'", "'/mnt'", "'proc'", "0", "0"]),
    "remount for writing": ("mount", ["'none'", "'/'", "0", "32", "0"]),
    "pivot of the root": ("pivot_root", ["'/tmp'", "'/tmp'"]),
    "new kind of mount": ("fsopen", ["'tmpfs'", "0"]),
    "copy of a mount": ("open_tree", ["-100", "'/'", "1"]),
    "attributes of a mount": ("mount_setattr", ["-100", "'/'", "0", "0", "0"]),
    "device node": ("mknodat", ["-100", "'/tmp/disk'", "0060644", "7 << 8"]),
    "user namespace": ("unshare", ["0x10000000"]),
    "mount namespace": ("unshare", ["0x00020000"]),
    "user namespace by clone": ("clone", ["0x10000011", "0", "0", "0", "0"]),
    "another namespace": ("setns", ["0", "0"]),
    "ptrace": ("ptrace", ["16", "1", "0", "0"]),
    "memory of others": ("process_vm_readv", ["1", "0", "0", "0", "0", "0"]),
    "descriptors of others": ("pidfd_getfd", ["0", "0", "0"]),
    "file by handle": ("open_by_handle_at", ["-100", "pack('IIQQ', 16, 1, 2, 0)", "0"]),
    "handle of a file": ("name_to_handle_at", ["-100", "'/'", "0", "0", "0"]),
    "new key": ("add_key", ["'user'", "'x'", "'y'", "1", "-4"]),
    "keyring": ("keyctl", ["0", "-4", "1"]),
    "program in the kernel": ("bpf", ["0", "0", "0"]),
    "module": ("init_module", ["'x'", "1", "''"]),
    "another kernel": ("kexec_load", ["0", "0", "0", "0"]),
    "reboot": ("reboot", ["0xfee1dead", "672274793", "0", "0"]),
    "swap": ("swapon", ["'/tmp/x'", "0"]),
    "kernel log": ("syslog", ["3", "' ' x 99", "99"]),
    "page faults of others": ("userfaultfd", ["0"]),
    "performance counters": ("perf_event_open", ["0", "0", "0", "0", "0"]),
    "ring of calls": ("io_uring_setup", ["1", "0"]),
    "memory of no process": ("memfd_create", ["'x'", "0"]),
    "typing into a terminal": ("ioctl", ["0", "0x5412", "'x'"]),
    "typing, with a wide number": ("ioctl", ["0", "0x100005412", "'x'"]),
    "typing into a console": ("ioctl", ["0", "0x541c", "'x'"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_call_is_refused(opened: ImageTree, name: str) -> None:
    call, arguments = REFUSED[name]
    passed = ", ".join(arguments)
    result = perl(
        opened, f"my @a = ({passed}); print syscall({hostile.number(call)}, @a) == -1 ? $!+0 : 'DONE'"
    )
    assert result.output == "1", f"{call}: {os.strerror(int(result.output or 0))}"  # EPERM


@pytest.mark.parametrize("family", [3, 15, 17, 29, 38, 40, 44])
def test_socket_that_no_namespace_holds_is_refused(opened: ImageTree, family: int) -> None:
    result = perl(opened, f"print syscall({hostile.number('socket')}, {family}, 1, 0) == -1 ? $!+0 : 'DONE'")
    assert result.output == "97"  # EAFNOSUPPORT


def test_programs_are_nobody_on_this_machine(opened: ImageTree) -> None:
    said = run(opened, "/bin/cat", "/proc/self/status", "/proc/self/uid_map").output
    assert re.search(r"^NoNewPrivs:\s+1$", said, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", said, re.MULTILINE)
    assert re.search(
        r"^CapPrm:\s+0000000000000006$", said, re.MULTILINE
    )  # what concerns files of its own users
    assert said.split()[-3:] == ["0", str(namespace.FIRST_USER), str(namespace.USERS)]


SETTINGS = (
    *("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe"),
    *("/proc/sys/kernel/panic", "/proc/sys/vm/drop_caches", "/proc/self/oom_score_adj", "/proc/kcore"),
    *("/proc/self/mem", "/etc/passwd", "/dev/kmsg", "/dev/mem", "/sys/power/state"),
)


@pytest.mark.parametrize("file", SETTINGS)
def test_no_setting_of_the_kernel_can_be_written(opened: ImageTree, file: str) -> None:
    result = perl(opened, "print open(my $h, '+<', $ARGV[0]) ? 'OPENED' : 'no'", file)
    assert result.output == "no"


def test_processes_of_this_machine_are_neither_seen_nor_ended(opened: ImageTree) -> None:
    with process.spawn(["sleep", "600"]) as victim:
        said = perl(
            opened, "print join ' ', glob('/proc/[0-9]*'); kill 9, -1, $ARGV[0], 2..400", victim.pid
        ).output
        assert said == "/proc/1"
        assert victim.poll() is None


def test_no_socket_of_this_machine_is_reached(opened: ImageTree, tmp_path: Path) -> None:
    abstract = f"dibctl-{os.getpid()}"
    by_path = tmp_path / "socket"
    with (
        socket.socket(socket.AF_UNIX) as hidden,
        socket.socket(socket.AF_UNIX) as named,
        socket.create_server(("127.0.0.1", 0)) as tcp,
    ):
        hidden.bind(f"\0{abstract}")
        named.bind(str(by_path))
        hidden.listen()
        named.listen()
        port = tcp.getsockname()[1]
        code = (
            "sub try_ { my ($f, $a) = @_; socket(my $s, $f, 1, 0) or die; "
            "print connect($s, $a) ? 'IN' : 'no' }"
            "try_(1, pack('S a*', 1, qq(\\0$ARGV[0]))); try_(1, pack('S a*', 1, $ARGV[1]));"
            "try_(2, pack('S n C4 x8', 2, $ARGV[2], 127, 0, 0, 1))"
        )
        assert perl(opened, code, abstract, by_path, port).output == "nonono"


def test_no_descriptor_and_no_secret_of_the_caller_comes_in(
    opened: ImageTree, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", SECRET)
    monkeypatch.setenv("DIBCTL_COLOUR", "blue")
    script = f'exec 7</ 8<{secret} 9>>{secret}; "$0" /usr/bin/env LC_ALL=C /usr/bin/perl -e "$1"'
    code = (
        "opendir my $d, '/proc/self/fd'; my $own = fileno $d;"
        "print join(' ', sort grep { /^\\d/ && $_ != $own }"
        " readdir $d), qq(\\n$ENV{DIBCTL_COLOUR}\\n);"
        "for (glob '/proc/*/environ') { open my $e, '<', $_; print <$e> }"
    )
    argv = opened.inside(["bash", "-c", script, str(opened.enter), code])
    said = process.run(argv, join_stderr=True).output
    assert said.splitlines()[:2] == ["0 1 2", "blue"]
    assert SECRET not in said


@pytest.mark.parametrize("redirection", ["<", ">>", "2>>", "<>", ">>FILE 2>&1 <"])
def test_a_redirected_file_can_only_be_used_as_it_was_meant(
    opened: ImageTree, tmp_path: Path, redirection: str
) -> None:
    """What stands behind a descriptor of the caller could be opened anew through /proc, for writing."""
    file = tmp_path / "file"
    file.write_text(SECRET)
    file.chmod(0o644)
    code = (
        "for (0..2) { if (open my $h, '+<', qq(/proc/self/fd/$_)) { print $h 'BROKEN'; truncate $h, 0 } }"
        "for (1, 2) { if (open my $h, '<', qq(/proc/self/fd/$_)) { -f $h and print 'FILE' } }"
    )
    redirected = redirection.replace("FILE", shlex.quote(str(file))) + shlex.quote(str(file))
    script = f'"$0" /usr/bin/env LC_ALL=C /usr/bin/perl -e "$1" {redirected}'
    said = process.run(opened.inside(["sh", "-c", script, str(opened.enter), code]), join_stderr=True).output
    assert file.read_text() == SECRET
    assert "FILE" not in said


def test_a_terminal_of_the_caller_is_not_handed_on(opened: ImageTree) -> None:
    controller, terminal = pty.openpty()
    code = (
        "print -t STDIN || -t STDOUT || -t STDERR ? 'TTY' : 'none';"
        "print open(my $h, '+<', '/dev/tty') ? 'TTY' : 'none'"
    )
    with subprocess.Popen(
        opened.command(["/usr/bin/env", "LC_ALL=C", "/usr/bin/perl", "-e", code]),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as running:
        assert running.wait(60) == 0
    os.close(terminal)
    assert os.read(controller, 1000) == b"nonenone"
    os.close(controller)


def replace_by_links(root: Path, target: str) -> None:
    for name in ("tmp", "run", "dev", "proc", "mnt"):
        (root / name).rmdir()
        (root / name).symlink_to(target)


@pytest.mark.parametrize(
    "target", ["/../../../../tmp", "/", "..", "/proc/self/root", "usr", "nowhere", "/mnt"]
)
def test_links_in_place_of_directories_lead_no_mount_astray(tmp_path: Path, target: str) -> None:
    image = hostile.image(tmp_path / "links.raw", lambda root: replace_by_links(root, target))
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        said = run(opened, "/bin/sh", "-c", "echo runs; ls /etc/hostname")
        assert said.output.startswith("runs\n")
        mounted = Path(f"/proc/{opened.pid}/mountinfo").read_text()
        points = [line.split()[4] for line in mounted.splitlines()]
        outside = Path("/proc/self/mountinfo").read_text()
        known = {line.split()[4] for line in outside.splitlines()}
        assert {point for point in points if point not in known} <= {
            point for point in points if point.startswith(str(tmp_path))
        }


# -- limits ------------------------------------------------------------------------------------------


def test_a_flood_of_output_is_ended(opened: ImageTree) -> None:
    argv = opened.command(
        ["/usr/bin/env", "LC_ALL=C", "/usr/bin/perl", "-e", "$| = 1; print 'y' x 65536 while 1"]
    )
    with process.spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        written = 0
        while block := os.read(running.stdout.fileno(), 1 << 20):
            written += len(block)
        assert written == image_command.OUTPUT
        assert running.wait() == image_command.AT_LIMIT
        assert "was ended: it wrote 64 MiB" in running.stderr.read()


def test_memory_is_limited(opened: ImageTree) -> None:
    """Each process alone by the kernel, all together by our own count."""
    alone = perl(opened, f"my $x = 'x' x {image_command.MEMORY + 1}; print 'GOT'")
    assert "GOT" not in alone.output
    hogs = "for (1..6) { fork or do { my $x = 'x' x (400 << 20); sleep 100; exit } } sleep 100"
    started = time.monotonic()
    together = perl(opened, hogs)
    assert together.returncode == image_command.AT_LIMIT
    assert "MiB of memory" in together.output
    assert time.monotonic() - started < 60


def test_processes_are_limited_and_end_with_the_command(opened: ImageTree) -> None:
    bomb = (
        "my $n = 0; while ($n < 9999 && defined(my $p = fork)) "
        "{ $p or do { sleep 500; exit }; $n++ } print $n"
    )
    said = perl(opened, bomb)
    assert 0 < int(said.output) < image_command.PROCESSES
    session = os.environ[leaks.MARKER]
    assert not [line for line in leaks.processes(session).values() if line.startswith("/usr/bin/perl")]


def test_time_is_limited(opened: ImageTree, tmp_path: Path) -> None:
    """The limit itself is half an hour; what is changed here is only its value."""
    wrapper = tmp_path / "soon.py"
    package = Path(image_command.__file__).parents[2]
    wrapper.write_text(
        f"import sys; sys.path.append({str(package)!r})\n"
        "from pytest_dibctl.guards import image_command\nimage_command.TIME = 1.0\nimage_command.main()\n"
    )
    arguments = [f"--tree={opened.directory / 'commands'}", "--proc", "--", "/bin/sleep", "600"]
    argv = opened.inside([process.interpreter(), str(wrapper), *arguments])
    result = process.run(argv, check=False, join_stderr=True)
    assert result.returncode == image_command.AT_LIMIT
    assert "it took 1 s" in result.output


def test_what_can_be_written_is_limited(opened: ImageTree) -> None:
    code = (
        "open my $h, '>', '/tmp/x'; my $n = 0; $n++ while $n < 900 && syswrite $h, 'x' x (1 << 20); print $n"
    )
    assert int(perl(opened, code).output) <= 512
    code = "my $n = 0; $n++ while $n < 200000 && open my $h, '>', qq(/run/$n); print $n"
    assert int(perl(opened, code).output) <= 100_000


# -- what commands may rely on -------------------------------------------------------------------------


def test_commands_behave_as_in_a_guest(opened: ImageTree) -> None:
    assert run(opened, "/bin/sh", "-c", "exit 7").returncode == 7
    assert run(opened, "/bin/nothing").returncode == image_command.NOT_FOUND
    assert run(opened, "/bin/sh", "-c", "id -u; echo >/dev/null && echo ok >/tmp/kept").output == "0\n"
    assert run(opened, "/bin/cat", "/tmp/kept").output == "ok\n"  # /tmp lives as long as the tree is open
    assert run(opened, "/bin/sh", "-c", "for n in 1 2 3; do echo $n; echo $n >&2; done").output == (
        "1\n1\n2\n2\n3\n3\n"
    )


def test_stdin_that_is_not_read_is_left_to_the_script(opened: ImageTree) -> None:
    script = 'printf "a\\nb\\n" | while read x; do "$0" /bin/sh -c "echo $x"; done; echo in | "$0" /bin/cat'
    said = process.run(opened.inside(["sh", "-c", script, str(opened.enter)]), join_stderr=True).output
    assert said == "a\nb\nin\n"


def test_a_reader_that_leaves_ends_the_command(opened: ImageTree) -> None:
    script = '"$0" /usr/bin/env LC_ALL=C /usr/bin/perl -e "print qq(y\\n) while 1" | head -1'
    assert process.run(opened.inside(["sh", "-c", script, str(opened.enter)])).output == "y\n"


def private_files(root: Path) -> None:
    for name, owner in (("root-only", 0), ("of-a-user", 1000), ("none-at-all", 0)):
        file = root / "etc" / name
        file.write_text(f"{name}\n")
        file.chmod(0o000 if name == "none-at-all" else 0o600)
        os.chown(file, owner, owner)


def test_root_reads_every_file_of_the_image_and_sees_its_owner(tmp_path: Path) -> None:
    image = hostile.image(tmp_path / "private.raw", private_files)
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    with tree.opened(artifact.inspect(image), tmp_path / "tree") as opened:
        said = run(opened, "/bin/sh", "-c", "cat /etc/root-only /etc/of-a-user /etc/none-at-all; ls -ln /etc")
        assert said.output.startswith("root-only\nof-a-user\nnone-at-all\n")
        assert re.search(r"1000\s+1000 .* of-a-user", said.output)
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before
