"""Debian's packer beside a run: boot the prebuilt demo image in QEMU, log in, and be done with it.

Packer's ssh client asks for keys of RSA, of which the micro image's server has none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import demo, session
from benchmarks.rows import Row, seconds
from pytest_dibctl.clouds.qemu import accel, machine
from tests.qemu.test_micro_boot import nocloud
from tests.support import guest

ROUNDS = 1
USER = "debian"


def rows(rounds: str = str(ROUNDS)) -> Iterator[Row]:
    """Compare a run of pytest with one of packer."""
    figure = "session, prebuilt Debian"
    if shutil.which("packer") is None:
        yield Row(figure=figure, missing="not measured: packer is not installed")
        return
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(int(rounds)):
        with tempfile.TemporaryDirectory(prefix="packer-", dir="/var/tmp") as name:
            directory = Path(name)
            image = session.prepared(directory, demo.image().with_suffix(""), USER)
            ours.append(seconds(lambda: session.run(directory)))  # noqa: B023 -- called at once
            theirs.append(_packer(directory, image))
    yield Row(figure=figure, ours=tuple(ours), peer="packer", theirs=tuple(theirs))


def _packer(directory: Path, image: Path) -> float:
    """Return the seconds of a build by packer, which copies the image first."""
    keys = guest.Keys.generate(directory)
    seed = nocloud(directory, keys)
    accelerator = accel.choose("auto", machine.native_arch()).accelerator
    output = directory / "output"
    arguments = [
        ["-machine", "q35,graphics=off"],
        ["-cpu", "max"],
        ["-kernel", f"{image}.vmlinuz"],
        ["-initrd", f"{image}.initrd"],
        ["-append", "root=/dev/vda rw console=ttyS0"],
        ["-drive", f"file={output}/packer-qemu,if=virtio,format=qcow2"],
        ["-device", "virtio-rng-pci"],
        ["-device", "virtio-net-pci,netdev=user.0"],
        ["-serial", f"file:{directory}/console"],
        ["-drive", f"file={seed},if=virtio,format=raw,readonly=on"],
    ]
    builder = {
        "type": "qemu",
        "accelerator": accelerator,
        "headless": True,
        "disk_image": True,
        "use_backing_file": False,
        "skip_resize_disk": True,
        "format": "qcow2",
        "iso_url": f"{image}.qcow2",
        "iso_checksum": "none",
        "memory": 1024,
        "cpus": 2,
        "communicator": "ssh",
        "ssh_username": USER,
        "ssh_private_key_file": str(directory / "user"),
        "ssh_timeout": "10m",
        "boot_wait": "0s",
        "shutdown_command": "sudo poweroff",
        "output_directory": str(output),
        "qemuargs": arguments,
    }
    (directory / "packer.json").write_text(json.dumps({"builders": [builder]}))
    return seconds(lambda: _build(directory))


def _build(directory: Path) -> None:
    argv = ["packer", "build", "-color=false", str(directory / "packer.json")]
    run = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=900)
    if run.returncode:
        raise SystemExit(f"packer: {' '.join(run.stdout.splitlines()[-2:])}")
