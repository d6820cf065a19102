"""Ready states of local guests: the choice of one for a boot, its making, and the guest that resumes it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from pytest_dibctl.clouds import seed
from pytest_dibctl.clouds.qemu import machine
from pytest_dibctl.clouds.qemu.ready_store import About, ReadyState, ReadyStore, free_now, limit
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest import renewal
from pytest_dibctl.image.artifact import Artifact, digest_of
from pytest_dibctl.system import locks, process, sockets
from pytest_dibctl.system.waiting import wait_until

FORMAT: Final = 2
"""The version of the saved data; a state of another version is not used."""
RENEWAL_PATIENCE: Final = 60.0
"""Seconds that a guest may take to renew itself; it takes 0.5."""
LONGEST_ANSWER: Final = 4096


def obstacle(settings: Qemu, arch: machine.Arch) -> str | None:
    """Return why guests of these settings have no ready states, None if they may have."""
    if limit() == 0:
        return "DIBCTL_WARM_SIZE is 0"
    if arch != "x86_64":
        return f"an {arch} guest cannot be renewed"
    if settings.ssh_host_key != "injected":
        return "with ssh_host_key: first-seen the guest's own key could not be told from an old one"
    return None


def key_of(
    artifact: Artifact,
    settings: Qemu,
    *,
    disk: int,
    arch: machine.Arch,
    accelerator: machine.Accelerator,
    user_data: str,
    salt: str,
) -> str:
    """Return the key of the state of such a guest: a digest of all that its first boot depends on.

    User data may hold secrets: because of the ``salt``, a reader of the key cannot try guesses.

    Raises ArtifactError when a boot file cannot be read, PreflightError when QEMU is missing.
    """
    platform = machine.PLATFORMS[arch]
    program = shutil.which(platform.program, path=process.tool_path()) or platform.program
    status = Path(program).stat()
    boot_files = [path for path in (artifact.kernel, artifact.initrd) if path is not None]
    parts = {
        "format": FORMAT,
        "renewal": renewal.version(),
        "image": artifact.sha512,
        "boot files": [digest_of(path) for path in boot_files],
        # The guest's forwarded ports and its deadline are no part of it.
        "settings": settings.model_dump(
            mode="json", exclude={"forward_ports", "userdata", "userdata_file", "active_timeout"}
        ),
        "seed": hmac.new(salt.encode(), _seed(settings, user_data).encode(), "sha256").hexdigest(),
        "disk": disk,
        "qemu": [program, status.st_size, status.st_mtime_ns],
        "machine": [platform.machine, accelerator, platform.cpus[accelerator], machine.TRANSLATED_CODE],
        # With KVM the guest sees this machine's processor.
        "processor": _processor() if accelerator == "kvm" else "",
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def _seed(settings: Qemu, user_data: str) -> str:
    """Return the seed of such guests, without the values that differ for each."""
    host_key = seed.HostKey(private="", public="")
    identity = seed.Identity(
        uuid="", name="", mac="", key_name="", public_key="", host_key=host_key, user_data=user_data
    )
    return json.dumps(seed.documents(settings.seed, identity), sort_keys=True)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("vendor_id", "model", "stepping", "flags")))


@dataclasses.dataclass(kw_only=True)
class Claim:
    """A boot's part in the state of its key: it uses ``state``, or ``makes`` it, or neither.

    It holds the state's lock until ``release``.
    """

    store: ReadyStore
    key: str
    state: ReadyState | None
    makes: bool
    _stack: contextlib.ExitStack

    @classmethod
    def of(cls, store: ReadyStore, key: str, *, timeout: float, waiting: Callable[[], object]) -> Self:
        """Return the claim of a boot that begins now.

        While another process makes the state, this waits, at most for ``timeout`` seconds; ``waiting`` is
        called once then. Raises OSError where the cache cannot be used.
        """
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(locks.opened(store.lock_file(key)))
            settled = _settled(store, key, lock)
            if settled is None:
                waiting()
                settled = wait_until(lambda: _settled(store, key, lock), timeout=timeout)
            state, makes = settled or (None, False)
            return cls(store=store, key=key, state=state, makes=makes, _stack=stack.pop_all())

    def release(self) -> None:
        """Let others use or make the state."""
        self._stack.close()
        self.makes = False


def _settled(store: ReadyStore, key: str, lock: int) -> tuple[ReadyState | None, bool] | None:
    """Return the state to use, and whether to make it; None while another process makes it."""
    if locks.try_hold(lock, shared=True):
        if (state := store.find(key)) is not None:
            return state, False
        if locks.try_hold(lock):
            state = store.find(key)  # another process may have had the lock in between
            if state is not None:
                locks.try_hold(lock, shared=True)
            return state, state is None
        locks.let_go(lock)  # or two that look at the same time would wait for each other
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """The second serial line of the instance in ``directory``, seen from this machine."""

    directory: Path

    def ask(self, text: str, timeout: float) -> str:
        """Send text, and return the line that the guest answers; empty when it does not in time.

        Raises DibctlError when QEMU does not answer.
        """
        deadline = time.monotonic() + timeout
        answer = b""
        try:
            with sockets.connected(self.directory / machine.LINE) as connection:
                connection.sendall(text.encode())
                while b"\n" not in answer and len(answer) < LONGEST_ANSWER:
                    connection.settimeout(max(0.01, deadline - time.monotonic()))
                    part = connection.recv(LONGEST_ANSWER)
                    if not part:
                        break
                    answer += part
        except TimeoutError:
            pass
        except OSError as error:
            raise DibctlError(f"QEMU's second serial line does not answer: {error}") from None
        return answer.partition(b"\n")[0].decode(errors="replace").strip()


def keep(claim: Claim, disk: Path, about: About) -> None:
    """Copy the disk of a paused guest into the cache, and make room for it; raises DibctlError."""
    size = disk.stat().st_size
    if size > limit():
        raise DibctlError(f"it takes {size >> 20} MiB, more than DIBCTL_WARM_SIZE allows")
    try:
        free_now(claim.store, limit() - size)
        claim.store.take_in(disk, claim.key, about)
    except OSError as error:
        where = error.filename or claim.store.directory
        raise DibctlError(f"{where}: {error.strerror or error}") from None


def verify(state: ReadyState, sha256: str) -> None:
    """Raise DibctlError when the file of a state is not the saved one."""
    if sha256 != state.about.sha256:
        raise DibctlError(f"{state.disk} is damaged")


def described(state: ReadyState) -> str:
    """Return how old a state is, for people."""
    minutes = max(0.0, time.time() - state.about.made) / 60
    age = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"  # noqa: PLR2004 -- two hours
    return f"resumed from a ready state, {age} old"
