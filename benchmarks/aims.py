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
            note="of a build of 60 s, dpkg and the packages' own scripts take 40 s, which both builds run: "
            "mmdebstrap 10, the base system 10, the elements' packages 20. Making the filesystem takes 3 s, "
            "keeping trees for later builds 4 s. Done: mmdebstrap for debootstrap, no fsync, downloads kept, "
            "compression on all cores. mmdebstrap installs the same packages in one call, and the image is "
            "there after 44 s; diskimage-builder installs them in several calls.",
        ),
        "late element changed": Aim(ratio=0.25),
        "second image with the same base": Aim(ratio=0.5),
        "nothing changed": Aim(seconds=0.3),
        "first line of the README": Aim(
            ratio=0.6,
            note="of 190 s, the build takes 60, the boot 33. Of the tests' 95 s a reboot takes 35 (shutdown "
            "2, kernel and initrd 7, the rest services, cloud-init above all, and the login), the end of its "
            "services 6, apt-get update 16 (apt's own work), nginx 23. Done: fewer remote commands, shorter "
            "pauses. Tried: other processors of QEMU, other compression of indexes: no difference.",
        ),
        "warm start to the first test": Aim(ratio=0.1),
        "pristine instance": Aim(seconds=0.6),
        "session, prebuilt micro image": Aim(
            ratio=1.03,
            note="QEMU starts 0.8 s after the command: interpreter, pytest, modules and configuration take "
            "0.4, the checks of the image 0.1, those of QEMU and its sandbox 0.1, the guardian 0.2. The test "
            "and the look at the guest after it take 0.3, and micro boots in 3.5. Tried: no search for "
            "garbage while modules are imported (0.18 s less), no metadata read twice.",
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
        "4 regions verified, throttled": Aim(
            ratio=0.18, note="a GiB at 100 MiB/s takes 10.24 s: the line is the limit."
        ),
        "4 regions verified, unthrottled": Aim(
            ratio=0.12, note="sha512 of a GiB takes 1.4 s of a processor, the four fakes share the other one."
        ),
        "one region verified, throttled": Aim(ratio=1.05),
        "one region verified, unthrottled": Aim(
            ratio=1.2, note="sha512 of a GiB takes 1.4 s of a processor; curl computes none."
        ),
        "plugin in a run without images": Aim(ratio=1.02),
        "4 images on 4 workers": Aim(ratio=0.35),
    }
)
