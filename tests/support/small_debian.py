"""A small Debian with systemd and OpenSSH, without a kernel: what boots in a container only."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from filelock import FileLock

from pytest_dibctl.build import dib, mirrors
from pytest_dibctl.system import process
from tests.support import micro

PACKAGES: Final = ("systemd-sysv", "openssh-server", "dbus", "iproute2", "systemd-resolved", "sudo")
_SETTINGS: Final = """
set -eu
cd "$1"
ln -sf ../lib/systemd/system/systemd-networkd.service etc/systemd/system/multi-user.target.wants/
printf '[Match]\\nName=e*\\n[Network]\\nDHCP=ipv4\\n' > etc/systemd/network/10-all.network
: > etc/machine-id
rm -f etc/ssh/ssh_host_*
chroot . useradd --create-home --shell /bin/bash debian
printf 'debian ALL=(ALL) NOPASSWD: ALL\\n' > etc/sudoers.d/debian
rm -rf var/cache/apt var/lib/apt/lists usr/share/doc usr/share/locale usr/share/man
"""


def cached(*, cloud_init: bool = False) -> Path:
    """Return the image, built at most once per machine and state of this file; never write to it.

    With ``cloud_init`` it has that too.
    """
    name = "small-debian-cloud-init" if cloud_init else "small-debian"
    cache = micro.cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    image = cache / f"{name}-{digest}" / "debian.qcow2"
    with FileLock(cache / f"{name}.lock"):
        if not image.exists():
            work = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
            _build(work, (*PACKAGES, "cloud-init") if cloud_init else PACKAGES)
            image.parent.mkdir()
            (work / "debian.qcow2").rename(image)
            shutil.rmtree(work)
    return image


def _build(work: Path, packages: Sequence[str]) -> None:
    tree, raw = work / "tree", work / "debian.raw"
    mirror = dib.host_mirrors().get(mirrors.MAIN_MIRROR, "http://deb.debian.org/debian")
    options = ["--variant=minbase", f"--include={','.join(packages)}"]
    # mmdebstrap takes half the time, and `dibctl doctor --install` brings it.
    tool = "mmdebstrap" if shutil.which("mmdebstrap", path=process.tool_path()) else "debootstrap"
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    process.run(
        [*inside, tool, *options, "bookworm", str(tree), mirror],
        timeout=600,
        join_stderr=True,
    )
    process.run([*inside, "sh", "-c", _SETTINGS, "sh", str(tree)], timeout=60)
    with raw.open("wb") as file:
        file.truncate(1 << 30)
    process.run(["mkfs.ext4", "-q", "-d", str(tree), str(raw)], timeout=120)
    process.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(work / "debian.qcow2")], timeout=120)
