"""The script that a user would write instead: it boots an image in QEMU, logs in and runs one command."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pytest_dibctl.clouds.qemu import accel, machine

SCRIPT = Path(__file__).with_suffix(".sh")


def boot_once(image: Path, directory: Path) -> None:
    """Run the script with ``image``, a path without its suffix; raises SystemExit when it fails."""
    kind = f"tcg,thread=multi,tb-size={machine.TRANSLATED_CODE} -cpu max"
    if accel.choose("auto", machine.native_arch()).accelerator == "kvm":
        kind = "kvm -cpu host"
    env = {**os.environ, "IMAGE": str(image), "TMPDIR": str(directory)}
    env["MACHINE"] = f"-machine q35,graphics=off -accel {kind}"
    run = subprocess.run([SCRIPT], env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stdout + run.stderr or f"the bare script exited with {run.returncode}")
