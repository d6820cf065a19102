"""QEMU's sandbox: the surroundings of a guest that breaks out of QEMU.

bubblewrap gives QEMU namespaces of its own, an empty root with the system's programs read-only, no
capability, and no way to get one. The files of the guest reach QEMU as open descriptors and single mounts.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pytest_dibctl.clouds.qemu import machine
from pytest_dibctl.errors import CommandError, PreflightError
from pytest_dibctl.system import checks, process, user_network
from pytest_dibctl.system.waiting import wait_until

RESOLV_CONF: Final = "resolv.conf"
SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix", "/etc/ld.so.cache")
"""Programs, libraries and firmware, as far as they are here."""
DEVICES: Final = ("null", "zero", "full", "random", "urandom")
STARTED: Final = 30.0
"""Seconds that bubblewrap may take to make the sandbox; it takes 0.01."""
NAMESPACES: Final = (
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
)


def require(*, host_loopback: bool) -> None:
    """Raise PreflightError when QEMU cannot be confined on this machine."""
    tools = ("bwrap",) if host_loopback else ("bwrap", "slirp4netns", "ip", "nsenter")
    checks.require(map(checks.tool, tools), saying="this machine cannot keep a local guest apart from itself")
    try:
        process.run([*_bwrap(host_loopback=host_loopback), "--", "/usr/bin/true"], timeout=30)
    except CommandError as error:
        raise PreflightError(
            f"a local guest cannot be kept apart from this machine: {error.message}",
            hint="bubblewrap needs user namespaces, or root that may mount; a container has to allow that",
        ) from None


def argv(
    qemu: Sequence[str],
    spec: machine.Machine,
    directory: Path,
    *,
    host_loopback: bool,
    keepable: bool,
    copied: Mapping[Path, int],
    info: int,
    block: int,
) -> list[str]:
    """Return the command line that runs ``qemu`` in its sandbox.

    ``copied`` are open descriptors of boot files that QEMU may not read itself. bubblewrap writes what it
    made to the descriptor ``info``. It starts QEMU once it can read from ``block``.
    """
    program = Path(shutil.which(qemu[0], path=process.tool_path()) or qemu[0])
    files = [
        *("--bind", str(directory / machine.DISK), str(directory / machine.DISK)),
        *("--ro-bind", str(directory / machine.SEED), str(directory / machine.SEED)),
        *(word for path in spec.boot_files for word in _boot_file(path, copied.get(path))),
    ]
    if not host_loopback:
        files += ["--ro-bind", str(directory / RESOLV_CONF), "/etc/resolv.conf"]
    if spec.accelerator == "kvm":
        files += ["--dev-bind", "/dev/kvm", "/dev/kvm"]
    return [
        *_bwrap(host_loopback=host_loopback, program=program),
        *([] if keepable else ["--die-with-parent"]),
        *("--info-fd", str(info), "--block-fd", str(block)),
        *files,
        *("--chdir", str(directory), "--", str(program), *qemu[1:]),
    ]


def _boot_file(path: Path, copied: int | None) -> list[str]:
    if copied is None:
        return ["--ro-bind", str(path), str(path)]
    return ["--perms", "0400", "--ro-bind-data", str(copied), str(path)]


def _bwrap(*, host_loopback: bool, program: Path | None = None) -> list[str]:
    system = [*SYSTEM, *(["/etc/resolv.conf", "/etc/hosts"] if host_loopback else [])]
    if program is not None and not any(program.is_relative_to(path) for path in SYSTEM):
        system.append(str(program.parent.parent))
    return [
        # slirp4netns enters an ordinary user's namespace as its root. QEMU gains nothing by that name.
        *("bwrap", *(["--unshare-user"] if makes_users() else []), *NAMESPACES),
        *(["--uid", "0", "--gid", "0"] if os.geteuid() != 0 else []),
        *([] if host_loopback else ["--unshare-net"]),
        # As process 1 of its namespace, QEMU takes everything with it that is in there.
        *("--as-pid-1", "--cap-drop", "ALL", "--clearenv"),
        *("--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LC_ALL", "C.UTF-8"),
        *(word for path in system for word in ("--ro-bind-try", path, path)),
        # bubblewrap's own /dev takes a second user namespace, from which an ordinary user cannot join the
        # network's.
        *(word for name in DEVICES for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")),
        *("--tmpfs", "/tmp"),  # noqa: S108 -- the sandbox's own
    ]


@functools.cache
def makes_users() -> bool:
    """Whether the sandbox gets a user namespace; for root in a chroot the kernel makes none."""
    if os.geteuid() != 0:
        return True
    probe = ["bwrap", "--unshare-user", "--ro-bind", "/", "/", "--", "/usr/bin/true"]
    return process.run(probe, check=False, timeout=30).returncode == 0


def write_resolver(directory: Path) -> None:
    """Write the file that tells QEMU where to send the guest's DNS queries; raises OSError."""
    (directory / RESOLV_CONF).write_text(f"nameserver {user_network.RESOLVER}\n")


def inner_process(info: int, started: subprocess.Popen[str]) -> int | None:
    """Return the id of the process that becomes QEMU, once its namespaces are ready.

    Returns None when the sandbox could not be made; bubblewrap has ended then.
    ``info`` is read to its end, which comes when bubblewrap has written all or has ended.
    """
    text = b""
    while part := os.read(info, 4096):
        text += part
        if text.rstrip().endswith(b"}"):
            break
    if not text:
        started.wait()
        return None
    pid = int(json.loads(text)["child-pid"])
    if not wait_until(lambda: _has_root(pid, started), timeout=STARTED, poll=0.002):
        process.stop(started, grace=0)
    return pid if started.poll() is None else None


def _has_root(pid: int, started: subprocess.Popen[str]) -> bool:
    """Whether the sandbox has a root of its own, which comes after its loopback; also when all has ended.

    bubblewrap gives up when another process configures the network namespace at the same time.
    """
    with contextlib.suppress(OSError):
        return not os.path.samestat(Path(f"/proc/{pid}/root").stat(), Path("/").stat())
    return started.poll() is not None
