"""An image from one region to another: bytes, formats, properties, visibility, owner and members.

The bytes go straight from one Glance to the other where they can, else through here, never through a file.
What an interrupted transfer left, hidden and tagged, is taken up again if its bytes are whole, and removed
when it is old.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from pytest_dibctl.clouds.regions import Change, ImageRecord, ImageSpec, LateError, Region
from pytest_dibctl.config.merge import ImportSettings
from pytest_dibctl.config.models.upload import Obsoleting
from pytest_dibctl.errors import ApiError, DibctlError, ImageNotFoundError, NotInConfigError
from pytest_dibctl.publish import image_state, unfinished
from pytest_dibctl.publish.image_state import BOOT_KEYS, UNFINISHED
from pytest_dibctl.system import signals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is to go where. ``what`` is an id, or the name of a current image of the source's project.

    ``rule`` says which images of the source are obsolete. Without ``meta`` only name, formats and bytes go;
    without ``membership`` neither owner nor members. ``timeout`` is seconds for each image's bytes. The
    regions stay the caller's.
    """

    what: str
    source: Region
    destination: Region
    rule: Obsoleting = dataclasses.field(default_factory=Obsoleting)
    meta: bool = True
    membership: bool = True
    timeout: float = 3600.0
    tell: Callable[[str], None] = lambda _line: None
    sent: Callable[[int, int], None] = lambda _done, _total: None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transferred:
    """What came of it. ``how`` is "unchanged", "updated" (bytes were there), "fetched" or "streamed"."""

    source: ImageRecord
    image: ImageRecord
    how: Literal["unchanged", "updated", "fetched", "streamed"]
    pending: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Goal:
    """What the image shall be in the end; ``members`` are ids of the destination's projects."""

    spec: ImageSpec
    members: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arrived:
    """An image of the destination that has its bytes; unless it was whole before, it is still unfinished."""

    source: ImageRecord
    image: ImageRecord
    goal: _Goal
    how: Literal["unchanged", "updated", "fetched", "streamed"]
    pending: tuple[str, ...]
    parts: tuple[_Arrived, ...]

    @property
    def names(self) -> set[str]:
        return {self.source.name}.union(*(part.names for part in self.parts))


@dataclasses.dataclass(kw_only=True)
class _Made:
    """The ids of what a transfer made: the image itself, and what it boots by."""

    image: str | None = None
    parts: list[str] = dataclasses.field(default_factory=list)


WORDS = signals.Words(
    doing="undoing the transfer to", after="the same command again takes up what is left there, or removes it"
)


def transfer(request: Request) -> Transferred:
    """Transfer an image; raises DibctlError, the destination being as before.

    Raises ImageNotFoundError when the source has none, ApiError for one that is not active. What could not
    be undone is said in notes of the error.
    """
    source = _source(request)
    made = _Made()
    with signals.undertaking(WORDS, lambda: [request.destination.name]):
        try:
            arrived = _arrived(request, source, made)
            image, changed = _finished(request, arrived)
        except BaseException as error:
            try:
                with signals.held():
                    _undo(request, made, error)
            except KeyboardInterrupt as stop:
                # It came while that went on, and waited; or nobody waits any more.
                for said in (f"the transfer failed: {error}", *getattr(error, "__notes__", ())):
                    stop.add_note(said)
                raise
            raise
    try:
        unfinished.sweep(
            request.destination,
            arrived.names,
            owner=arrived.goal.spec.owner,
            timeout=request.timeout,
            tell=request.tell,
        )
    except KeyboardInterrupt as stop:
        stop.add_note(f"the transfer had come to its end: image {image.id} is there")
        raise
    how = "updated" if changed and arrived.how == "unchanged" else arrived.how
    return Transferred(source=source, image=image, how=how, pending=arrived.pending)


def _arrived(request: Request, source: ImageRecord, made: _Made, *, is_part: bool = False) -> _Arrived:
    """Have an image arrive, after what it boots by; ``made`` gets the ids of what was made."""
    parts: dict[str, _Arrived] = {}
    for key in BOOT_KEYS if request.meta else ():
        if part_id := source.properties.get(key):
            request.tell(f"transferring its {key.removesuffix('_id')}")
            parts[key] = _arrived(request, _with_bytes(request, part_id), made, is_part=True)
    goal = _goal(request, source, {key: part.image.id for key, part in parts.items()})
    image = _there(request, source, goal)
    how: Literal["unchanged", "updated", "fetched", "streamed"] = "unchanged"
    if image is None:
        image, how = _sent(request, source, goal)
        if is_part:
            made.parts.append(image.id)
        else:
            made.image = image.id
    return _Arrived(
        source=source,
        image=image,
        goal=goal,
        how=how,
        pending=_shared(request, image, goal),
        parts=tuple(parts.values()),
    )


def _finished(request: Request, arrived: _Arrived) -> tuple[ImageRecord, bool]:
    """Make an image what it shall be, and then what it boots by; return it, and whether it was not yet.

    In this order whatever is left by an end by force is tagged, or needed by what is.
    """
    image = arrived.image
    unfinished = UNFINISHED in image.tags
    changes = unfinished or (request.meta and not _says(image, arrived.goal))
    if changes:
        image = request.destination.change(image.id, _finish(arrived.goal, image))
    for part in arrived.parts:
        _finished(request, part)
    return image, changes


def _source(request: Request) -> ImageRecord:
    """Return the image that is meant."""
    named = image_state.newest_first(
        image
        for image in request.source.images(name=request.what)
        if image_state.is_current(image, request.rule)
    )
    return named[0] if named else _with_bytes(request, request.what)


def _with_bytes(request: Request, image_id: str) -> ImageRecord:
    image = request.source.image(image_id)
    if image.status != "active":
        raise ApiError(f"image {image.id} is {image.status} in {request.source.name}, not active")
    if image.size is None:
        raise ImageNotFoundError(f"image {image.id} has no bytes in {request.source.name}")
    return image


def _goal(request: Request, source: ImageRecord, parts: Mapping[str, str]) -> _Goal:
    """Return what the image shall be; ``parts`` are the destination's ids of what it boots by."""
    spec = ImageSpec(
        name=source.name, disk_format=source.disk_format, container_format=source.container_format
    )
    if request.meta:
        spec = dataclasses.replace(
            spec,
            visibility=source.visibility,
            protected=source.protected,
            hidden=source.hidden,
            min_disk=source.min_disk,
            min_ram=source.min_ram,
            tags=tuple(sorted(tag for tag in source.tags if not image_state.is_passing(tag))),
            properties={**source.properties, **parts},
        )
    if not request.membership:
        return _Goal(spec=spec, members=())
    members = tuple(_project(request, member) for member in _members(request, source))
    if request.meta and source.visibility == "shared":
        spec = dataclasses.replace(spec, visibility="shared")
    if source.owner != request.source.project_id:
        spec = dataclasses.replace(spec, owner=_project(request, source.owner))
    return _Goal(spec=spec, members=members)


def _members(request: Request, source: ImageRecord) -> list[str]:
    """Return the ids of the projects that share the image at the source."""
    if source.visibility != "shared" or not request.meta:
        return []
    return list(request.source.members(source.id))


def _project(request: Request, project_id: str) -> str:
    """Return the destination's project that has the name of the source's."""
    name = request.source.project_name(project_id)
    if name is None:
        raise NotInConfigError(
            f"{request.source.name}: project {project_id} has no name that these credentials can see",
            hint="log in as somebody who sees it, or leave it out with --ignore-membership",
        )
    try:
        return request.destination.project(name)
    except NotInConfigError as error:
        raise NotInConfigError(
            error.message, hint="make the project, or leave it out with --ignore-membership"
        ) from None


# -- what is there already -------------------------------------------------------------------------


def _there(request: Request, source: ImageRecord, goal: _Goal) -> ImageRecord | None:
    """Return an image of the destination that has the name and the bytes."""
    found = [
        image
        for image in request.destination.images(name=source.name, owner=goal.spec.owner)
        if image.status == "active" and same_bytes(image, source) and not image.is_snapshot
    ]
    formats = (goal.spec.disk_format, goal.spec.container_format)
    found = [image for image in found if (image.disk_format, image.container_format) == formats]
    whole = [image for image in found if UNFINISHED not in image.tags]
    return next(iter(image_state.newest_first(whole) or image_state.newest_first(found)), None)


def same_bytes(one: ImageRecord, other: ImageRecord) -> bool:
    """Whether two images are known to have the same bytes."""
    if one.size != other.size:
        return False
    if one.hash_value and one.hash_algorithm == other.hash_algorithm:
        return one.hash_value == other.hash_value
    return one.checksum is not None and one.checksum == other.checksum


def _says(image: ImageRecord, goal: _Goal) -> bool:
    spec = goal.spec
    return (
        (image.visibility, image.protected, image.hidden) == (spec.visibility, spec.protected, spec.hidden)
        and image.tags == set(spec.tags)
        and image.properties == spec.properties
    )


def _finish(goal: _Goal, there: ImageRecord) -> Change:
    """Return the change that makes a hidden image what it shall be."""
    spec = goal.spec
    gone: dict[str, str | None] = dict.fromkeys(set(there.properties) - set(spec.properties))
    return Change(
        visibility=spec.visibility if spec.visibility != there.visibility else None,
        hidden=spec.hidden,
        protected=spec.protected,
        tags=frozenset(spec.tags),
        properties={**gone, **spec.properties},
    )


# -- sending ---------------------------------------------------------------------------------------


def _sent(
    request: Request, source: ImageRecord, goal: _Goal
) -> tuple[ImageRecord, Literal["fetched", "streamed"]]:
    spec = dataclasses.replace(
        goal.spec, hidden=True, protected=False, tags=tuple({*goal.spec.tags, UNFINISHED})
    )
    region = request.destination.fetches_from(request.source)
    if region is not None:
        importing = ImportSettings(method="glance-download", region=region, image_id=source.id)
        fetched = dataclasses.replace(spec, importing=importing)
        try:
            image = _created(request, fetched, Passage(request, source))
        except ApiError as error:
            request.tell(f"the other Glance could not fetch it ({error.message}); it goes through here")
        else:
            return image, "fetched"
    return _created(request, spec, Passage(request, source)), "streamed"


def _created(request: Request, spec: ImageSpec, content: Passage) -> ImageRecord:
    return request.destination.create(
        spec, content, timeout=request.timeout, properties_at=f"image {content.source.id}"
    )


class Passage:
    """An image's bytes on their way through here; each iteration downloads them anew, and checks them."""

    def __init__(self, request: Request, source: ImageRecord) -> None:
        self.source = source
        self._request = request
        self._deadline = time.monotonic() + request.timeout
        self._sendings = 0

    def __len__(self) -> int:
        return self.source.size or 0

    @property
    def sendings(self) -> int:
        """How often the bytes were asked for."""
        return self._sendings

    def __iter__(self) -> Iterator[bytes]:
        self._sendings += 1
        algorithm = self.source.hash_algorithm or "md5"
        digest = hashlib.new(algorithm, usedforsecurity=False)
        done, held = 0, b""
        for block in self._request.source.download(self.source.id):
            if time.monotonic() > self._deadline:
                raise LateError
            digest.update(block)
            done += len(block)
            if held:
                yield held
            held = block
            self._request.sent(done, len(self))
        # Before the last block goes out: what is damaged never becomes a whole image.
        self._check(done, digest.hexdigest())
        if held:
            yield held

    def _check(self, done: int, digest: str) -> None:
        expected = self.source.hash_value if self.source.hash_algorithm else self.source.checksum
        if done != len(self) or expected not in {None, digest}:
            raise ApiError(
                f"image {self.source.id} came damaged from {self._request.source.name}: "
                f"{done} of {len(self)} bytes, digest {digest}",
                transient=True,
            )

    def digest(self, algorithm: str) -> str | None:
        """Return the source's digest, which what was given out has."""
        if algorithm == self.source.hash_algorithm:
            return self.source.hash_value
        return self.source.checksum if algorithm == "md5" else None

    def go_on(self) -> None:
        """Do nothing: who interrupts a transfer interrupts this thread."""

    def refuse_changed(self) -> None:
        """Do nothing: an image in Glance never changes, and its digest was compared before the last block."""


def _shared(request: Request, image: ImageRecord, goal: _Goal) -> tuple[str, ...]:
    known = dict(request.destination.members(image.id)) if goal.members else {}
    return tuple(
        member
        for member in goal.members
        if known.get(member) != "accepted" and not request.destination.share(image.id, member)
    )


def _undo(request: Request, made: _Made, error: BaseException) -> None:
    """Remove what was made, the image before what it boots by; what fails becomes a note on ``error``."""
    region = request.destination
    if made.image is not None:
        _take_back(region, made.image, error)
    for part_id in made.parts:
        _take_back(region, part_id, error, unless_needed=True)


def _take_back(region: Region, image_id: str, error: BaseException, *, unless_needed: bool = False) -> None:
    try:
        if unless_needed and (who := region.needed_by(image_id)) is not None:
            error.add_note(f"image {image_id} is left in {region.name}: {who}")
        else:
            unfinished.take_back(region, image_id)
    except DibctlError as second:
        error.add_note(f"image {image_id} may have been left in {region.name}: {second.message}")
