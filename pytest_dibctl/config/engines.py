"""The capabilities of each engine, as far as tests of images can need them.

Known without opening an environment, so a run can tell before it builds or boots anything which tests an
engine cannot serve.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType

from pytest_dibctl.system.suggestions import suggestion

CAPABILITIES: Mapping[str, str] = MappingProxyType(
    {
        # The running kernel is the image's, not that of the machine that runs the tests.
        "kernel": "kernel of the image's own",
        # Firmware starts the image's boot loader, which finds its configuration and the kernel.
        "boot-loader": "boot loader of the image's own",
        # The kernel mounts the root filesystem through the image's initial ramdisk.
        "initrd": "initial ramdisk of the image's own",
        # The disk is larger than the image, so the first boot enlarges partition and root filesystem.
        "root-growth": "larger disk for the root filesystem to grow to",
        # The guest loads kernel modules of the image, the drivers of its devices among them.
        "modules": "kernel modules of the image's own",
        # The guest keeps its own time, and may set it.
        "clock": "clock of the guest's own",
        # The root filesystem lies on a block device that the guest sees.
        "disk": "disk of the guest's own",
        # A picture can be taken of the machine's screen.
        "screen": "screen that can be pictured",
        # A snapshot holds memory too, so that going back to it needs no boot.
        "memory-snapshot": "snapshot that holds memory",
    }
)
"""The capabilities by name; each value completes "the environment has no ..."."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine's capabilities, and whether tests that pass on it vouch for an image by default."""

    capabilities: frozenset[str]
    vouches: bool = True


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "qemu": Engine(capabilities=frozenset(CAPABILITIES)),
        "openstack": Engine(capabilities=frozenset(CAPABILITIES) - {"memory-snapshot", "screen"}),
        # A container's kernel and clock are this machine's, and it boots without the image's boot loader.
        "nspawn": Engine(capabilities=frozenset(), vouches=False),
    }
)
"""The engines by the name that ``TestEnvironment.engine`` gives."""


def problem(name: str) -> str | None:
    """Return what is wrong with the name of a capability, with all names there are; None if known."""
    if name in CAPABILITIES:
        return None
    near = suggestion(name, CAPABILITIES, listed="known:")
    known = "" if near.startswith("known:") else f" known: {', '.join(sorted(CAPABILITIES))}"
    return f"there is no capability {name!r}; {near}{known}"


def absence(capabilities: Collection[str]) -> str:
    """Return what an environment without ``capabilities`` lacks, as in "no clock of the guest's own".

    Of several the first is told in words, the others by name.
    """
    first, *others = (name for name in CAPABILITIES if name in capabilities)
    also = f" (nor {', '.join(others)})" if others else ""
    return f"no {CAPABILITIES[first]}{also}"
