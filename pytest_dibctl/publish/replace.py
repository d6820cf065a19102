"""Replace the older images of a name by a new one, in one region, or leave all as it was before.

The new image is hidden until it is whole. It becomes visible before the first older one ceases to be current:
for a moment there are two, at no time is there none. When anything fails after that, the older images are
restored first. The new image is removed only once an older one is seen to be current again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Sequence

from pytest_dibctl.clouds.file_body import opened
from pytest_dibctl.clouds.glance_content import BOOT_KEYS, BootFile, make_boot_images
from pytest_dibctl.clouds.marks import CLAIM_KEY, COMPANION, UNFINISHED
from pytest_dibctl.clouds.regions import Change, Content, ImageRecord, ImageSpec, Region
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.publish import image_state, unfinished
from pytest_dibctl.publish.desired import Wanted, is_same

log = logging.getLogger(__name__)

Tell = Callable[[str], None]


def nothing() -> None:
    """Do nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """One image on its way to one region.

    ``content`` makes the bytes to send, once they are known to be needed. ``obsolete`` says whether older
    images become obsolete. ``go_on`` is called between steps until the new image is visible; it raises to
    give up.
    """

    region: Region
    wanted: Wanted
    content: Callable[[], Content]
    obsolete: bool = True
    tell: Tell = lambda _line: None
    go_on: Callable[[], None] = nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replaced:
    """The result of a replacement.

    ``uploaded`` is False for an image that was current already; ``pending`` are the ids of projects that have
    yet to accept it.
    """

    image: ImageRecord
    uploaded: bool
    obsoleted: tuple[ImageRecord, ...] = ()
    pending: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The images of a name in a region: ``same`` is current and equal to the wanted one."""

    same: ImageRecord | None
    current: tuple[ImageRecord, ...]
    unfinished: tuple[ImageRecord, ...]

    @property
    def older(self) -> tuple[ImageRecord, ...]:
        """The current images that are to become obsolete."""
        return tuple(image for image in self.current if self.same is None or image.id != self.same.id)


def look(region: Region, wanted: Wanted, *, obsolete: bool = True) -> Found:
    """Return the images of the wanted image's name; raises ApiError and its like.

    ``obsolete`` says whether older images are to make place.
    """
    named = image_state.newest_first(region.images(name=wanted.spec.name))
    current = [image for image in named if image_state.is_current(image, wanted.rule)]
    return Found(
        same=_same(current, wanted, obsolete=obsolete),
        current=tuple(current),
        unfinished=tuple(image for image in named if UNFINISHED in image.tags and image.hidden),
    )


def _same(current: Sequence[ImageRecord], wanted: Wanted, *, obsolete: bool) -> ImageRecord | None:
    """Return the current image that equals the wanted one; ``current`` is in order, the newest first.

    Of several current images the newest stays, for every command: if each command preferred its own image,
    two simultaneous commands could make both obsolete.
    """
    candidates = current[:1] if obsolete else current
    return next((image for image in candidates if is_same(image, wanted)), None)


def replace(work: Work) -> Replaced:
    """Make the desired image the current one of its name; raises DibctlError after it has undone its changes.

    Notes of the error name the parts that could not be put back.
    """
    existing = look(work.region, work.wanted, obsolete=work.obsolete)
    members = [work.region.project(member) for member in work.wanted.members]
    if existing.same is not None:
        pending = _share(work, existing.same, members)
        facts = work.wanted.facts
        news = {key: value for key, value in facts.items() if key not in existing.same.properties}
        if news:
            work.region.change(existing.same.id, Change(properties=news))
        obsoleted = tuple(_obsoleted(work, existing.older, existing.same, []))
        _tidy_up(work, existing.same)
        return Replaced(image=existing.same, uploaded=False, obsoleted=obsoleted, pending=pending)
    made = _Made(claim=unfinished.new_claim())
    changed: list[tuple[ImageRecord, Change]] = []
    try:
        image = _hidden(work, existing, made)
        pending = _share(work, image, members)
        work.go_on()
        if not unfinished.is_claimed(work.region, image.id, made.claim):
            # Another upload took up these bytes after this process had slept for long: they stay.
            made.image, made.parts = None, []
        made.shown = True
        image = _reveal(work, image)
        losers, winner = _judged(work, existing, image)
        obsoleted = tuple(_obsoleted(work, losers, winner, changed))
    except BaseException as error:
        _roll_back(work, made, changed, existing.older, error)
        raise
    _tidy_up(work, image)
    return Replaced(image=image, uploaded=True, obsoleted=obsoleted, pending=pending)


@dataclasses.dataclass(kw_only=True)
class _Made:
    """The ids of a new image and its parts, which are removed if anything fails.

    An image that was ``taken`` over existed before, and is unfinished again then.
    """

    claim: str
    image: str | None = None
    taken: ImageRecord | None = None
    shown: bool = False
    parts: list[str] = dataclasses.field(default_factory=list)


def _hidden(work: Work, found: Found, made: _Made) -> ImageRecord:
    """Return the new image, whole and hidden; ``made`` gets the ids of the made images."""
    for image in found.unfinished:
        # An image that is older than a current image would have to make place for it.
        overtaken = work.obsolete and found.current and _age(image) < _age(found.current[0])
        if overtaken or not is_same(image, work.wanted) or not _has_whole_parts(work, image):
            continue
        if unfinished.take_up(work.region, image, made.claim, timeout=work.wanted.timeout):
            work.tell("its bytes are there already, from an upload that did not come to its end")
            made.image, made.taken = image.id, image
            return image
    work.go_on()
    spec = work.wanted.spec
    boot_properties = make_boot_images(
        work.wanted.companions,
        lambda companion: _companion(work, companion).id,
        made=made.parts,
        tell=work.tell,
    )
    hidden_spec = dataclasses.replace(
        spec,
        properties={**spec.properties, **boot_properties, CLAIM_KEY: made.claim},
        hidden=True,
        protected=False,
        tags=(*spec.tags, UNFINISHED),
    )
    image = _created(work, hidden_spec, work.content())
    made.image = image.id
    return image


def _has_whole_parts(work: Work, image: ImageRecord) -> bool:
    """Whether the companions that an image has to have are there."""
    parts = {part.id for part in unfinished.companions(work.region, image) if part.status == "active"}
    return {image.properties.get(companion.key) for companion in work.wanted.companions} <= parts


def _companion(work: Work, companion: BootFile) -> ImageRecord:
    spec = work.wanted.spec
    part = companion.spec(
        image_state.companion_name(spec.name, companion.key),
        visibility=spec.visibility,
        hidden=True,
        tags=(COMPANION, UNFINISHED),
        allow_unverified=spec.allow_unverified,
    )
    deadline = time.monotonic() + work.wanted.timeout
    with opened(companion.path, sha512=companion.sha512, deadline=deadline, go_on=work.go_on) as body:
        return _created(work, part, body)


def _created(work: Work, spec: ImageSpec, content: Content) -> ImageRecord:
    """Return the new image, which has exactly the bytes that were looked at before."""
    return work.region.create(
        spec, content, timeout=work.wanted.timeout, properties_at=work.wanted.properties_at
    )


def _share(work: Work, image: ImageRecord, members: Sequence[str]) -> tuple[str, ...]:
    """Share an image and its companions; return the projects that have not accepted it."""
    pending = []
    for member in members:
        for companion in work.wanted.companions:
            if companion.key in image.properties:
                work.region.share(image.properties[companion.key], member)
        if not work.region.share(image.id, member):
            pending.append(member)
    return tuple(pending)


def _reveal(work: Work, image: ImageRecord) -> ImageRecord:
    spec = work.wanted.spec
    return work.region.change(
        image.id,
        Change(
            hidden=False,
            protected=spec.protected,
            tags=frozenset(spec.tags),
            properties={**work.wanted.facts, CLAIM_KEY: None},
        ),
    )


def _age(image: ImageRecord) -> tuple[dt.datetime, str]:
    """Return the key by which images of one name are ordered, the same for all commands that look at them."""
    return image.created, image.id


def _judged(work: Work, found: Found, image: ImageRecord) -> tuple[tuple[ImageRecord, ...], ImageRecord]:
    """Return the current images that become obsolete, the newest first, and the image that stays.

    Another upload may have published meanwhile: the newest of these images stays, by creation and then by
    id. Each upload looks after its image shows, so at least the last one sees all of them, and none makes
    the newest obsolete.
    """
    if not work.obsolete:
        return (), image
    current = look(work.region, work.wanted).current
    before = {old.id for old in found.current}
    rivals = [other for other in current if other.id not in before and other.id != image.id]
    winner = max([image, *rivals], key=_age)
    if winner.id != image.id:
        work.tell(f"image {winner.id} was published meanwhile, is newer, and stays the current one")
    return tuple(other for other in current if other.id != winner.id), winner


def _obsoleted(
    work: Work,
    older: Sequence[ImageRecord],
    successor: ImageRecord,
    changed: list[tuple[ImageRecord, Change]],
) -> Iterator[ImageRecord]:
    """Make images obsolete, the oldest first; ``changed`` gets each one before it is changed."""
    if not work.obsolete or not older:
        return
    now = image_state.time_of(work.region)
    for image in reversed(older):
        change = image_state.obsoletion(
            image, work.wanted.rule, now=now, successor=successor.id, where=work.wanted.rule_at
        )
        changed.append((image, change))
        yield work.region.change(image.id, change)
        work.tell(f"{image.id} is now {change.name!r}")


def _roll_back(
    work: Work,
    made: _Made,
    changed: Sequence[tuple[ImageRecord, Change]],
    older: Sequence[ImageRecord],
    error: BaseException,
) -> None:
    """Restore the older images, then remove the new ones; a failure becomes a note on ``error``."""
    if changed:
        work.tell("going back to the older image")
    older = tuple(image for image in older if made.image != image.id)
    for image, change in reversed(changed):
        with _noting(error, f"image {image.id} may have been left renamed"):
            work.region.change(image.id, image_state.restoration(image, change))
    if made.image is None:
        reason = None
    elif reason := _why_it_stays(work, made, older):
        error.add_note(f"image {made.image} is left: {reason}")
    elif made.taken is not None:
        if made.shown:
            with _noting(error, f"image {made.image} may have been left as a current one"):
                _hide_again(work, made)
    else:
        with _noting(error, f"image {made.image} may have been left"):
            unfinished.take_back(work.region, made.image)
    if not reason:
        _remove_parts(work, made, error)


def _why_it_stays(work: Work, made: _Made, older: Sequence[ImageRecord]) -> str | None:
    """Return why the new image must stay, None if it cannot be needed."""
    assert made.image is not None
    if older and not _any_current(work, older):
        return "none of the older ones is known to be current"
    if not unfinished.is_claimed(work.region, made.image, made.claim, or_published=made.shown):
        return "another upload of the same bytes has taken it up"
    if made.shown and _may_be_needed(work, made):
        return "it may be the only current one"
    return None


def _remove_parts(work: Work, made: _Made, error: BaseException) -> None:
    """Remove a new image's companions, after the image, so that no user finds an image without them."""
    for part_id in made.parts:
        with _noting(error, f"image {part_id} may have been left"):
            if (who := work.region.needed_by(part_id)) is not None:
                error.add_note(f"image {part_id} is left: {who}")
            else:
                unfinished.take_back(work.region, part_id)


def _hide_again(work: Work, made: _Made) -> None:
    """Give an image back the state in which it was taken over, so that the next upload finds it."""
    assert made.taken is not None
    facts = {key: made.taken.properties.get(key) for key in work.wanted.facts}
    work.region.change(
        made.taken.id,
        Change(
            hidden=True,
            protected=made.taken.protected,
            tags=made.taken.tags,
            properties={**facts, CLAIM_KEY: made.claim},
        ),
    )


def _may_be_needed(work: Work, made: _Made) -> bool:
    """Whether another upload may have made its image obsolete in favour of ours, so that none is left."""
    try:
        images = list(work.region.images(properties={image_state.BY: str(made.image)}))
        return bool(images) and not any(
            image.id != made.image for image in look(work.region, work.wanted).current
        )
    except DibctlError:
        return True


def _any_current(work: Work, older: Sequence[ImageRecord]) -> bool:
    for image in older:
        with contextlib.suppress(DibctlError):
            now = work.region.image(image.id)
            if now.name == image.name and image_state.is_current(now, work.wanted.rule):
                return True
    return False


@contextlib.contextmanager
def _noting(error: BaseException, left: str) -> Iterator[None]:
    try:
        yield
    except DibctlError as second:
        log.warning("%s: %s", left, second)
        error.add_note(f"{left}: {second.message}")


def _tidy_up(work: Work, image: ImageRecord) -> None:
    """Mark a published image's companions as finished, and sweep leftovers of earlier uploads of its name."""
    unfinished.settle(work.region, image)
    name = work.wanted.spec.name
    names = {name, *(image_state.companion_name(name, key) for key in BOOT_KEYS)}
    unfinished.sweep(work.region, names, timeout=work.wanted.timeout, tell=work.tell)
