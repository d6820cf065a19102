"""The request for a transfer, and its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from pytest_dibctl.clouds.regions import ImageRecord, Region
from pytest_dibctl.config.models.upload import Obsoleting

How = Literal["unchanged", "updated", "fetched", "streamed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """An image of ``source`` and the ``destination`` of its copy; the caller closes both regions.

    ``what`` is an id, or the name of a current image of the source's project; ``rule`` says which images of
    the source are obsolete. Without ``meta`` only name, formats and bytes are copied, without ``membership``
    neither owner nor members. ``timeout`` is seconds for each image's bytes; ``allow_unverified`` accepts
    images of which Glance tells no size or digest. ``tell`` gets lines of progress,
    ``sent`` the bytes sent so far and their total.
    """

    what: str
    source: Region
    destination: Region
    rule: Obsoleting = dataclasses.field(default_factory=Obsoleting)
    meta: bool = True
    membership: bool = True
    timeout: float = 3600.0
    allow_unverified: bool = False
    tell: Callable[[str], None] = lambda _line: None
    sent: Callable[[int, int], None] = lambda _done, _total: None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transferred:
    """The image at the source, and its copy at the destination.

    ``how`` is "updated" if only the bytes were there, "fetched" if the destination's Glance got them itself.
    ``pending`` are the projects that have not accepted the image yet.
    """

    source: ImageRecord
    image: ImageRecord
    how: How
    pending: tuple[str, ...] = ()
