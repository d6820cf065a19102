"""What we aim at, by figure; a figure that is not here is only shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aim:
    """At most this ratio to the peer, or this many seconds; ``note`` says why it is missed, where it is."""

    ratio: float | None = None
    seconds: float | None = None
    note: str = ""


AIMS: Mapping[str, Aim] = MappingProxyType(
    {
        "clean build": Aim(
            ratio=0.6,
            note="of a build of 72 s, dpkg and the packages' own scripts take 47 s, which both builds run: "
            "mmdebstrap 12, the base system 10, the elements' packages 25. Compression takes 8 s, keeping "
            "trees for later builds 4 s. Done: mmdebstrap for debootstrap, no fsync, downloads kept, "
            "compression on all cores.",
        ),
        "late element changed": Aim(ratio=0.25),
        "second image with the same base": Aim(ratio=0.5),
        "nothing changed": Aim(seconds=0.3),
        "first line of the README": Aim(ratio=0.6),
        "warm start to the first test": Aim(ratio=0.1),
        "pristine instance": Aim(seconds=0.6),
        "session, prebuilt micro image": Aim(
            ratio=1.03,
            note="before QEMU starts, the interpreter and pytest take 0.2 s of a processor, our modules and "
            "the configuration 0.35 s; the look at the guest after the tests takes one command. Tried: no "
            "search for garbage while modules are imported (0.18 s less), no metadata read twice.",
        ),
        "first test, container": Aim(
            seconds=3.0,
            note="on an idle machine it begins after 2 s: interpreter and pytest 0.35 s, our modules and the "
            "configuration 0.45 s, collection 0.25 s, guardian and key 0.3 s, opening the image 0.6 s. Busy "
            "processors stretch all of it.",
        ),
        "demo list in a container": Aim(ratio=0.15),
        "command over ssh": Aim(ratio=0.5),
        "OpenStack flow": Aim(ratio=0.45),
        "4 regions verified, throttled": Aim(ratio=0.18),
        "4 regions verified, unthrottled": Aim(ratio=0.12),
        "one region verified, throttled": Aim(ratio=1.05),
        "one region verified, unthrottled": Aim(ratio=1.2),
        "plugin in a run without images": Aim(ratio=1.02),
        "4 images on 4 workers": Aim(ratio=0.35),
    }
)
