"""An image from one region to another: bytes, formats, properties, visibility, owner and members.

The bytes go from one Glance to the other where the destination's can fetch them, else through this process,
never through a file. An interrupted transfer leaves a hidden and tagged image. The next transfer completes it
if its bytes are whole, and removes it once it is old.
"""

from __future__ import annotations

import dataclasses

from pytest_dibctl.clouds.glance_content import BOOT_KEYS
from pytest_dibctl.clouds.marks import CLAIM_KEY, UNFINISHED
from pytest_dibctl.clouds.regions import ImageRecord, ImageSpec
from pytest_dibctl.config.merge import ImportSettings
from pytest_dibctl.errors import ApiError, DibctlError, ImageNotFoundError
from pytest_dibctl.publish import image_state, unfinished
from pytest_dibctl.publish.passage import Passage
from pytest_dibctl.publish.transfer_goal import Goal, goal
from pytest_dibctl.publish.transfer_request import How, Request, Transferred
from pytest_dibctl.system import signals

WORDS = signals.Words(
    doing="undoing the transfer to", after="the same command again takes up what is left there, or removes it"
)


def transfer(request: Request) -> Transferred:
    """Transfer an image; when it raises DibctlError, the destination is as it was before.

    Raises ImageNotFoundError when the source has no such image, ApiError when it is not active. Notes of the
    error name the changes that could not be undone.
    """
    source = _source(request)
    running = _Transfer(request)
    with signals.undertaking(WORDS, lambda: [request.destination.name]):
        try:
            copy = running.copy(source)
            image, changed = running.complete(copy)
        except BaseException as error:
            _undo(running, error)
            raise
    try:
        unfinished.sweep(
            request.destination,
            copy.names,
            owner=copy.goal.spec.owner,
            timeout=request.timeout,
            tell=request.tell,
        )
    except KeyboardInterrupt as stop:
        stop.add_note(f"the transfer had come to its end: image {image.id} is there")
        raise
    how = "updated" if changed and copy.how == "unchanged" else copy.how
    return Transferred(source=source, image=image, how=how, pending=copy.pending)


def _undo(running: _Transfer, error: BaseException) -> None:
    try:
        with signals.held():
            running.undo(error)
    except KeyboardInterrupt as stop:
        # The interruption was held back until the end of the undoing, or the undoing was abandoned.
        for note in (f"the transfer failed: {error}", *getattr(error, "__notes__", ())):
            stop.add_note(note)
        raise


def _source(request: Request) -> ImageRecord:
    """Return the image that ``request.what`` names: the newest current image, else the image of that id."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Copy:
    """An image of the destination that has its bytes; a new one is unfinished until ``complete``.

    ``parts`` are the copies of its kernel and initrd.
    """

    source: ImageRecord
    image: ImageRecord
    goal: Goal
    how: How
    pending: tuple[str, ...]
    parts: tuple[_Copy, ...]

    @property
    def names(self) -> set[str]:
        return {self.source.name}.union(*(part.names for part in self.parts))


class _Transfer:
    """One transfer, and the ids of the images that it made at the destination."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._destination = request.destination
        self._claim = unfinished.new_claim()
        self._shown: set[str] = set()
        self._made_image: str | None = None
        self._made_parts: list[str] = []

    def copy(self, source: ImageRecord, *, is_part: bool = False) -> _Copy:
        """Copy an image's bytes after those of its kernel and initrd; the copies stay hidden."""
        parts: dict[str, _Copy] = {}
        for key in BOOT_KEYS if self._request.meta else ():
            if part_id := source.properties.get(key):
                self._request.tell(f"transferring its {key.removesuffix('_id')}")
                parts[key] = self.copy(_with_bytes(self._request, part_id), is_part=True)
        wanted = goal(self._request, source, {key: part.image.id for key, part in parts.items()})
        image = self._existing(source, wanted)
        how: How = "unchanged"
        if image is None:
            image, how = self._send(source, wanted)
            if is_part:
                self._made_parts.append(image.id)
            else:
                self._made_image = image.id
        return _Copy(
            source=source,
            image=image,
            goal=wanted,
            how=how,
            pending=self._share(image, wanted),
            parts=tuple(parts.values()),
        )

    def complete(self, copy: _Copy) -> tuple[ImageRecord, bool]:
        """Make a copy, then its parts, meet their goals; return the image, and whether it was changed.

        In this order every image that a SIGKILL leaves is tagged as unfinished, or needed by a finished one.
        """
        image = copy.image
        changes = UNFINISHED in image.tags or (self._request.meta and not copy.goal.is_met_by(image))
        if changes:
            self._shown.add(image.id)  # before: the answer may get lost
            image = self._destination.change(image.id, copy.goal.change(image))
        for part in copy.parts:
            self.complete(part)
        return image, changes

    def undo(self, error: BaseException) -> None:
        """Remove the copies, the image before its parts; a failure becomes a note on ``error``."""
        if self._made_image is not None:
            self._remove(self._made_image, error)
        for part_id in self._made_parts:
            self._remove(part_id, error, unless_needed=True)

    def _remove(self, image_id: str, error: BaseException, *, unless_needed: bool = False) -> None:
        where = self._destination.name
        try:
            is_visible = image_id in self._shown
            if not unfinished.is_claimed(self._destination, image_id, self._claim, or_published=is_visible):
                error.add_note(f"image {image_id} is left in {where}: another transfer has taken it up")
            elif unless_needed and (user := self._destination.needed_by(image_id)) is not None:
                error.add_note(f"image {image_id} is left in {where}: {user}")
            else:
                unfinished.take_back(self._destination, image_id)
        except DibctlError as second:
            error.add_note(f"image {image_id} may have been left in {where}: {second.message}")

    def _existing(self, source: ImageRecord, wanted: Goal) -> ImageRecord | None:
        """Return an image that has name, formats and bytes already: a finished one rather."""
        spec = wanted.spec
        images = image_state.newest_first(
            image
            for image in self._destination.images(name=source.name, owner=spec.owner)
            if image.status == "active"
            and not image.is_snapshot
            and (image.disk_format, image.container_format) == (spec.disk_format, spec.container_format)
            and same_bytes(image, source)
        )
        for image in sorted(images, key=lambda image: UNFINISHED in image.tags):
            if UNFINISHED not in image.tags or unfinished.take_up(
                self._destination, image, self._claim, timeout=self._request.timeout
            ):
                return image
        return None

    def _send(self, source: ImageRecord, wanted: Goal) -> tuple[ImageRecord, How]:
        spec = dataclasses.replace(
            wanted.spec,
            hidden=True,
            protected=False,
            tags=tuple({*wanted.spec.tags, UNFINISHED}),
            properties={**wanted.spec.properties, CLAIM_KEY: self._claim},
        )
        region = self._destination.fetches_from(self._request.source)
        if region is not None:
            importing = ImportSettings(method="glance-download", region=region, image_id=source.id)
            try:
                return self._create(dataclasses.replace(spec, importing=importing), source), "fetched"
            except ApiError as error:
                self._request.tell(
                    f"the other Glance could not fetch it ({error.message}); it goes through here"
                )
        return self._create(spec, source), "streamed"

    def _create(self, spec: ImageSpec, source: ImageRecord) -> ImageRecord:
        timeout = self._request.timeout
        content = Passage(self._request.source, source, timeout=timeout, sent=self._request.sent)
        return self._destination.create(spec, content, timeout=timeout, properties_at=f"image {source.id}")

    def _share(self, image: ImageRecord, wanted: Goal) -> tuple[str, ...]:
        """Share an image with its members; return the projects that have not accepted it."""
        known = dict(self._destination.members(image.id)) if wanted.members else {}
        return tuple(
            member
            for member in wanted.members
            if known.get(member) != "accepted" and not self._destination.share(image.id, member)
        )


def same_bytes(image: ImageRecord, other: ImageRecord) -> bool:
    """Whether two images are known to have the same bytes."""
    if image.size != other.size:
        return False
    if image.hash_value and image.hash_algorithm == other.hash_algorithm:
        return image.hash_value == other.hash_value
    return image.checksum is not None and image.checksum == other.checksum
