"""All kinds of tests on a real image and in a real container, and what is left when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.qemu.test_end_to_end import CONTAINER, Operator
from tests.support import leaks, overlay, waiting

pytestmark = pytest.mark.real


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator with an empty directory."""
    return Operator(path=tmp_path)


CONTENT_TESTS = """
def test_tree(image_tree):
    assert "ID=micro" in image_tree.read("/etc/os-release")
    assert "/bin/busybox" in {item.name for item in image_tree.walk("/bin")}

def test_host(host):
    assert host.file("/etc/os-release").contains("ID=micro")
    assert host.file("/bin/busybox").content[:4] == b"\\x7fELF"
    assert host.run("touch /etc/x").rc != 0
    assert host.run("echo out; echo err >&2; exit 5").stderr == "err\\n"

def test_nothing_is_wanted():
    pass
"""

CONTENT_SCRIPT = """#!/bin/sh
set -e
test -x "$DIBCTL_IMAGE_ROOT/bin/busybox"
! touch "$DIBCTL_IMAGE_ROOT/x" 2>/dev/null
test "$("$DIBCTL_IMAGE_CHROOT" /bin/sh -c 'pwd; ls /bin/busybox')" = "$(printf '/\\n/bin/busybox')"
test -e images.yaml
test "$DIBCTL_IMAGE_LABEL/$DIBCTL_IMAGE_FORMAT/$DIBCTL_IMAGE_LAYOUT" = micro/qcow2/filesystem
test "$(stat -c %s "$DIBCTL_IMAGE_FILE")" = "$DIBCTL_IMAGE_SIZE"
test "$(sha512sum < "$DIBCTL_IMAGE_FILE")" = "$DIBCTL_IMAGE_SHA512  -"
test "$(blkid -o value -s TYPE "$DIBCTL_IMAGE_DEVICE")" = "$DIBCTL_IMAGE_FILESYSTEM"
test -s "$DIBCTL_IMAGE_KERNEL" && test -s "$DIBCTL_IMAGE_INITRD"
test "$DIBCTL_COLOUR" = "it's \\"blue\\""
"""

GUEST_SCRIPT = """#!/bin/sh
test "$(cat /etc/hostname 2>/dev/null || hostname)" = "$DIBCTL_INSTANCE_NAME" || exit 4
test "$DIBCTL_COLOUR" = "it's \\"blue\\"" || exit 5
test -d /usr/lib/micro || exit 6
echo "$(id -un) in $(pwd) ran ${0##*/}"
printf 'no newline'
exit 7
"""

HANGING_SCRIPT = """#!/bin/sh
echo started
sleep 4321 &
( trap '' TERM; sleep 4321 ) &
trap '' TERM
wait
sleep 4321
"""

AFTER_TESTS = """
def test_the_guest_is_rid_of_scripts(host):
    assert "sleep 4321" not in host.check_output("ps")
    assert host.check_output("ls -d /tmp/dibctl.* 2>/dev/null; true") == ""
"""

MIXED = [
    {"ssh": "in_guest.sh", "timeout": 60},
    {"ssh": "hang.sh", "timeout": 8},
    {"ssh": "folder", "sudo": True, "timeout": 60},
    {"pytest": "test_after.py"},
    {"shell": "here.sh"},
    {"image": "test_content.py"},
    {"image": "content.sh"},
    *({"image": f"generic:{name}"} for name in ("bootable", "filesystem", "identity", "permissions", "size")),
]


def test_all_kinds_of_one_image(operator: Operator, micro_files: Path) -> None:
    operator.write("test_content.py", CONTENT_TESTS)
    operator.write("test_after.py", AFTER_TESTS)
    operator.write("content.sh", CONTENT_SCRIPT, executable=True)
    operator.write("in_guest.sh", GUEST_SCRIPT, executable=True)
    operator.write("hang.sh", HANGING_SCRIPT, executable=True)
    operator.write("here.sh", "#!/bin/sh\n$DIBCTL_SSH true\n", executable=True)
    (operator.path / "folder").mkdir()
    operator.write("folder/data", "beside")
    operator.write(
        "folder/root.sh", '#!/bin/sh\ntest "$(id -u) $(cat "${0%/*}/data")" = "0 beside"\n', executable=True
    )
    command = 'sh -c \'test "$1" = micro && test -f "$2" && test "$($DIBCTL_SSH hostname)" = "$3"\' -'
    operator.has(
        micro_files,
        tests=MIXED,
        external_tests=[{"cmdline": f"{command} %(label)s %(input_filename)s %(instance_name)s"}],
    )
    document = (operator.path / "images.yaml").read_text()
    colour = json.dumps({"COLOUR": 'it\'s "blue"'})
    (operator.path / "images.yaml").write_text(
        document.replace("wait_for_port: 22", f"wait_for_port: 22\n    environment_variables: {colour}")
    )
    finished = operator.pytest(CONTAINER, "--junit-xml=junit.xml")
    cases = list(ET.parse(operator.path / "junit.xml").iter("testcase"))
    failed = {
        case.get("name"): case.findtext("failure") or "" for case in cases if case.find("failure") is not None
    }
    assert set(failed) == {"in_guest[micro]", "hang[micro]"}, finished.output
    assert "root in /root ran in_guest.sh\nno newline" in failed["in_guest[micro]"]
    assert "in_guest.sh exited with 7" in failed["in_guest[micro]"]
    assert "hang.sh was stopped after 8 s\nstarted" in failed["hang[micro]"]
    kinds = [facts["dib_kind"] for facts in operator.junit().values()]
    assert list(dict.fromkeys(kinds)) == ["image", "external", "ssh", "pytest", "shell"]
    assert finished.output.count("systemd-nspawn runs") == 1, finished.output


SPOILED: Mapping[str, Mapping[str, Any]] = {
    "secrets": {"files": {"/root/id_rsa": "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"}},
    "identity": {"files": {"/etc/machine-id": "0123456789abcdef0123456789abcdef\n"}},
    "permissions": {"commands": ["set_inode_field /etc/passwd mode 0100666"]},
    "filesystem": {"commands": ["set_inode_field /etc/passwd links_count 7"]},
}
"""What makes each generic test fail."""


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_image_fails_at_once_and_is_not_booted(
    operator: Operator, micro_files: Path, name: str
) -> None:
    operator.has(micro_files, tests=[{"pytest": "generic:login"}, {"image": f"generic:{name}"}])
    good = operator.pytest("-k", name)
    assert good.code == 0, good.output
    (operator.path / "micro.qcow2").rename(operator.path / "base.qcow2")
    for suffix in ("vmlinuz", "initrd"):
        (operator.path / f"micro.{suffix}").rename(operator.path / f"base.{suffix}")
    overlay.make(operator.path / "base.qcow2", operator.path / "micro.qcow2", **SPOILED[name])
    finished = operator.pytest("--junit-xml=junit.xml")
    assert finished.code == 1
    cases = list(ET.parse(operator.path / "junit.xml").iter("testcase"))
    content = [case for case in cases if case.get("classname", "").startswith("image_tests.tree")]
    assert any(case.find("failure") is not None for case in content), finished.output
    assert sum(float(case.get("time", "")) for case in content) < 60
    assert "micro was not booted: the image's files failed image_tests/tree/" in finished.output
    assert "QEMU runs" not in finished.output


LOOKS = """
import time
from pathlib import Path

def test_long({fixture}):
    Path("looking").touch()
    time.sleep(60)
"""


@contextlib.contextmanager
def looking(operator: Operator, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run, wait until it looks into the image, and give its process."""
    run = operator.start(
        ["pytest", "-q", "--dib-image=micro", "--dib-build=never", "-p", "no:cacheprovider", *arguments]
    )
    with waiting.ended(run) as child:
        waiting.until((operator.path / "looking").exists, child)
        yield child


@pytest.fixture
def temporary() -> Path:
    """The session's temporary directory, where runs keep what they make."""
    return Path(os.environ["TMPDIR"])


def held(under: Path) -> set[str]:
    """Return what holds an image's files open: loop devices, and processes that no run is any more."""
    session = os.environ[leaks.MARKER]
    return {*leaks.loop_devices(under), *leaks.mounts(under), *leaks.processes(session).values()}


@pytest.mark.parametrize("kind", ["test_long.py", "long.sh"])
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name
)
def test_a_run_killed_while_it_looks_leaves_nothing_open(
    operator: Operator, micro_files: Path, temporary: Path, number: signal.Signals, kind: str
) -> None:
    operator.write("test_long.py", LOOKS.format(fixture="image_tree"))
    operator.write(
        "long.sh",
        '#!/bin/sh\n"$DIBCTL_IMAGE_CHROOT" /bin/sh -c "sleep 70" &\ntouch looking; sleep 60\n',
        executable=True,
    )
    operator.has(micro_files, tests=[{"image": kind}])
    # A guardian would have removed what is on record before we can look.
    with looking(operator, *(["--dib-keep-on-kill"] if number == signal.SIGKILL else [])) as child:
        assert leaks.loop_devices(temporary)
        child.send_signal(number)
        waiting.finish(child)
    assert leaks.settled(lambda: held(temporary)) == set()
    if number == signal.SIGKILL:
        swept = operator.dibctl("cleanup")
        assert "tree" in swept.output
        assert swept.code == 0, swept.output


def test_a_worker_killed_while_it_looks_leaves_nothing_open(
    operator: Operator, micro_files: Path, temporary: Path
) -> None:
    text = LOOKS.format(fixture="image_tree").replace("touch()", "write_text(str(__import__('os').getpid()))")
    operator.write("test_long.py", text)
    operator.has(micro_files, tests=[{"image": "test_long.py"}, {"pytest": "generic:login"}])
    with looking(operator, "-n1", "--basetemp=base") as child:
        waiting.until((operator.path / "looking").read_text, child)
        os.kill(int((operator.path / "looking").read_text()), signal.SIGKILL)
        output = waiting.finish(child)
    assert "1 failed, 1 skipped" in output
    assert "micro was not booted" in output
    assert "NOT REMOVED" not in output
    assert leaks.settled(lambda: held(temporary)) == set()
