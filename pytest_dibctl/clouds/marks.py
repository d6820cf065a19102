"""The marks of this project on resources in a cloud: made by it, for which run, and for how long.

A mark is a tag of an image or metadata of a server, and counts only together with a name of ours. It is no
image property: Nova copies those to the snapshots that users make of their servers. The only exception is the
property of a test's own snapshot, which counts only if it equals the image's name. Lifetimes are seconds
since the cloud made the resource; a run that lives longer renews a lease, and a kept resource may have an
end. Both are seconds since 1970 by the cloud's own clock, not that of a machine which ran tests.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterable, Mapping

from pytest_dibctl.clouds.protocols import LIFETIME

TEST = "dibctl-test"
"""The tag of every image that is made for a test."""
KEPT = "dibctl-kept"
"""The tag of a test image that is kept; as metadata, ``dibctl_kept``, on a server."""
UNFINISHED = "dibctl-unfinished"
"""The tag of an image whose publication has not come to its end. It is hidden as well."""
CLAIM_KEY = "dibctl_claim"
"""The property of an unfinished image that names the upload or transfer whose it is."""
COMPANION = "dibctl-companion"
"""The tag of a published kernel or initrd that goes with an image; hidden, and removed with it."""
_RUN, _HOST, _LIFETIME = "dibctl-run-", "dibctl-host-", "dibctl-lifetime-"
"""How the tags begin that say which run made a test image, where, and for how many seconds."""
KEPT_KEY = "dibctl_kept"
_LEASE, _KEPT_UNTIL = "dibctl-lease-", "dibctl-kept-until-"
_LEASE_KEY, _KEPT_UNTIL_KEY = "dibctl_lease", "dibctl_kept_until"
SNAPSHOT_KEY = "dibctl_snapshot"
"""The property of a snapshot that a test took: the name that it was given."""
SNAPSHOT_RUN_KEY = "dibctl_snapshot_run"
ALWAYS = math.inf
"""The time of a resource without an end, or with an unreadable end: in doubt a resource stays."""
RUN_KEY = "dibctl_run"
LONGEST = 255
"""Characters of a tag or a value."""


def tags(run_id: str) -> tuple[str, ...]:
    """Return the tags by which an image is known to be ``run_id``'s; every version sets them."""
    return (TEST, f"{_RUN}{run_id}")


def all_tags(run_id: str) -> tuple[str, ...]:
    """Return the tags of an image that ``run_id`` makes."""
    host = f"{_HOST}{socket.gethostname()}"[:LONGEST]
    return (*tags(run_id), host, f"{_LIFETIME}{LIFETIME}")


def metadata(run_id: str) -> dict[str, str]:
    """Return the metadata of a server that ``run_id`` makes."""
    return {
        RUN_KEY: run_id,
        "dibctl_host": socket.gethostname()[:LONGEST],
        "dibctl_lifetime": str(LIFETIME),
    }


def lease_tag(until: float) -> str:
    """Return the tag of a lease that is over at ``until``."""
    return f"{_LEASE}{until:.0f}"


def is_lease(tag: str) -> bool:
    """Whether a tag is that of a lease."""
    return tag.startswith(_LEASE)


def lease_metadata(until: float) -> dict[str, str]:
    """Return the metadata of a server's lease."""
    return {_LEASE_KEY: f"{until:.0f}"}


def kept_tags(until: float | None) -> tuple[str, ...]:
    """Return the tags of an image that is kept; ``until`` None: without an end."""
    # The end comes first: between the two calls that set them, the image must not be kept for good.
    return (KEPT,) if until is None else (f"{_KEPT_UNTIL}{until:.0f}", KEPT)


def kept_metadata(run_id: str, until: float | None) -> dict[str, str]:
    """Return the metadata of a server that is kept."""
    return {KEPT_KEY: run_id, **({} if until is None else {_KEPT_UNTIL_KEY: f"{until:.0f}"})}


def snapshot_properties(run_id: str, title: str) -> dict[str, str]:
    """Return the properties of a snapshot that a test takes under the name ``title``."""
    return {SNAPSHOT_KEY: title, SNAPSHOT_RUN_KEY: run_id}


def description(name: str) -> str:
    """Return the description of a floating IP or port that belongs to the instance ``name``."""
    return f"dibctl test instance {name}"


def is_passing(tag: str) -> bool:
    """Whether a tag is about one image in one cloud only, so that a transferred copy must not bear it."""
    return tag in {TEST, KEPT, UNFINISHED} or tag.startswith((_RUN, _HOST, _LIFETIME, _LEASE, _KEPT_UNTIL))


# -- reading marks ---------------------------------------------------------------------------------


def instance_of(text: str | None) -> str | None:
    """Return the name of the instance that a description names, None if it is none of ours."""
    match = re.fullmatch(r"dibctl test instance (dibctl-[a-z0-9-]+-[0-9a-f]{8})", text or "")
    return match[1] if match else None


def run_of_tags(tags: Iterable[str]) -> str | None:
    """Return the run that an image's tags name; None unless they are ours."""
    present = set(tags)
    runs = [match[1] for tag in present if (match := re.fullmatch(rf"{_RUN}([0-9a-f]{{8}})", tag))]
    return runs[0] if len(runs) == 1 and TEST in present else None


def lifetime_of_tags(tags: Iterable[str]) -> float:
    """Return the seconds an image was made for."""
    return _seconds(*(match[1] for tag in tags if (match := re.fullmatch(rf"{_LIFETIME}(.*)", tag))))


def lifetime_of(metadata: Mapping[str, str]) -> float:
    """Return the seconds a server was made for, by its metadata."""
    return _seconds(*([metadata["dibctl_lifetime"]] if "dibctl_lifetime" in metadata else []))


def lease_of_tags(tags: Iterable[str]) -> float:
    """Return when an image's lease is over, 0 where there is none."""
    return max((_moment(tag.removeprefix(_LEASE)) for tag in tags if is_lease(tag)), default=0.0)


def lease_of(metadata: Mapping[str, str]) -> float:
    """Return when a server's lease is over, 0 where there is none."""
    return _moment(metadata[_LEASE_KEY]) if _LEASE_KEY in metadata else 0.0


def kept_until_of_tags(tags: Iterable[str]) -> float | None:
    """Return until when an image is kept, None if it is not."""
    present = set(tags)
    ends = [_moment(tag.removeprefix(_KEPT_UNTIL)) for tag in present if tag.startswith(_KEPT_UNTIL)]
    return max(ends, default=ALWAYS) if ends or KEPT in present else None


def kept_until(metadata: Mapping[str, str]) -> float | None:
    """Return until when a server is kept, None if it is not."""
    if _KEPT_UNTIL_KEY in metadata:
        return _moment(metadata[_KEPT_UNTIL_KEY])
    return ALWAYS if KEPT_KEY in metadata else None


def run_of_snapshot(image: Mapping[str, object]) -> str | None:
    """Return the run whose test took a snapshot; None for a user's, which may have copied the properties."""
    name, run_id = str(image.get("name")), str(image.get(SNAPSHOT_RUN_KEY))
    ours = re.fullmatch(r"dibctl-[a-z0-9-]+-[0-9a-f]{8}-.+-[0-9a-f]{8}", name)
    return run_id if ours and image.get(SNAPSHOT_KEY) == name and _is_run(run_id) else None


def _is_run(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{8}", text) is not None


def _moment(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,12}", text) else ALWAYS


def _seconds(*texts: str) -> float:
    """Return the longest of the lifetimes; a text that is no number is ignored."""
    return float(max((int(text) for text in texts if text.isdecimal()), default=LIFETIME))


def run_of_server(name: str, metadata: Mapping[str, str]) -> str | None:
    """Return the run that a server's metadata names; None unless its name is ours too."""
    run_id = str(metadata.get(RUN_KEY, ""))
    ours = re.fullmatch(r"dibctl-[a-z0-9-]+-[0-9a-f]{8}", name) and re.fullmatch(r"[0-9a-f]{8}", run_id)
    return run_id if ours else None


def run_of_name(name: str) -> str | None:
    """Return the run that the name of an image or a keypair bears."""
    match = re.fullmatch(r"dibctl-([0-9a-f]{8})-[a-z0-9-]+-[0-9a-f]{6}(-kernel|-ramdisk)?", name)
    return match[1] if match else None
