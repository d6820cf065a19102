"""Images broken on purpose, with the cause that is to be named for each; ``boot_corpus.py`` boots them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

FILE: Final = Path(__file__).resolve().parents[1] / "data" / "broken_images.yaml"
OPTIONS: Final = "rw console=ttyS0 mitigations=off tsc=reliable random.trust_cpu=on"
"""What a kernel command line has after root=, for a guest without KVM."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A broken image: a good one with one change; ``broken`` says in words which.

    ``base`` is ``micro``, ``disk`` (micro with a boot loader), ``debian`` or ``cloud-init``. ``script`` runs
    in its root directory, ``at_boot`` becomes a part of the micro image's boot. ``initrd`` files are laid
    over the initrd, ``ballast`` is MiB of such a file. ``boot_files`` names a change of kernel, initrd or
    boot sector. ``machine`` is added to the environment's section; ``wait`` is the port deadline in seconds.
    """

    name: str
    broken: str
    cause: str
    engine: str = "qemu"
    base: str = "micro"
    script: str = ""
    at_boot: str = ""
    damaged: bool = False
    initrd: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ballast: int = 0
    boot_files: str = ""
    syslinux: str | None = None
    cmdline: str = "root=/dev/vda"
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    username: str = "root"
    wait: float = 30.0

    @property
    def all_scripts(self) -> str:
        """What runs in the image's root directory."""
        if not self.at_boot:
            return self.script
        return (
            f"cat > usr/lib/micro/extra <<'END'\n#!/bin/sh\n{self.at_boot}\nEND\n"
            "chmod 755 usr/lib/micro/extra\n"
            f"sed -i 's|^wait$|wait; /usr/lib/micro/extra|; /^dmesg -n/d' usr/lib/micro/boot\n{self.script}"
        )


CASES: Final = tuple(Case(**fields) for fields in yaml.safe_load(FILE.read_text()))
