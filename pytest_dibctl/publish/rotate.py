"""Obsolete images that are not in use are deleted; every other image stays exactly as it is.

The users of all candidates are looked up once, page by page, and those of each one again just before its
deletion. No image is renamed, deactivated or unprotected to find out whether it could be deleted.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Literal

from pytest_dibctl.clouds.marks import TEST
from pytest_dibctl.clouds.regions import ImageRecord, Region
from pytest_dibctl.config.models.upload import Obsoleting
from pytest_dibctl.errors import ApiError, DibctlError, ImageNotFoundError
from pytest_dibctl.publish import image_state, unfinished
from pytest_dibctl.system import signals

CONFLICT, FORBIDDEN = 409, 403
KERNELS = frozenset({"aki", "ari"})
"""Disk formats of images that other images may need: kernels and initrds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Which obsolete images may be deleted.

    ``rule`` says which images are obsolete, ``where`` in which setting. ``names`` are the names of the images
    while they were current, or their present ones; without any, all images are candidates. The ``keep``
    newest of each name stay, and so do images that are obsolete for less than ``older_than``.
    """

    rule: Obsoleting
    where: str
    names: tuple[str, ...] = ()
    keep: int = 0
    older_than: dt.timedelta | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An obsolete image. ``size`` is bytes, ``since`` when it became obsolete.

    ``named`` says whether its name is that of an obsolete image. ``marked`` says whether it has the mark of a
    replacement, which no current image has. ``companions`` are the ids of its kernel and initrd.
    """

    id: str
    name: str
    size: int
    since: dt.datetime
    created: dt.datetime
    is_snapshot: bool
    named: bool
    marked: bool
    is_test: bool
    protected: bool
    disk_format: str
    companions: tuple[str, ...]


Fate = Literal["deleted", "goes", "stays", "failed"]
"""The outcome for a candidate; a plan says "goes" for a candidate that would be deleted."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A candidate's outcome, and its reason."""

    candidate: Candidate
    outcome: Fate
    reason: str = ""
    error: DibctlError | None = None


STOPPING = signals.Words(
    doing="waiting for the deletion of", after="the next rotation looks whether it is still there"
)


class RotationInterrupted(KeyboardInterrupt):
    """A rotation was interrupted; ``verdicts`` are the outcomes for the candidates by then."""

    def __init__(self, reason: str, verdicts: Sequence[Verdict]) -> None:
        super().__init__(reason)
        self.verdicts = verdicts


def plan(region: Region, policy: Policy) -> list[Verdict]:
    """Return the plan of a rotation; nothing is changed.

    Raises NovaForbiddenError for a user who may not see the servers of all projects.
    """
    return _Rotation(region, policy).plan()


def rotate(region: Region, policy: Policy, *, tell: Callable[[str], None]) -> list[Verdict]:
    """Delete the obsolete images that may be deleted, and return the outcome for each candidate.

    An image that cannot be deleted does not stop the others. Raises as ``plan``, before any deletion. An
    interruption waits for the deletion in progress, and is raised as RotationInterrupted.
    """
    rotation = _Rotation(region, policy)
    verdicts = rotation.plan()
    going: list[Candidate] = []
    try:
        with signals.undertaking(STOPPING, lambda: [f"{image.name} ({image.id})" for image in going]):
            for number, verdict in enumerate(verdicts):
                if verdict.outcome != "goes":
                    continue
                # An image and its kernel are deleted together: a kernel alone does not tell whose it was.
                with signals.held():
                    going.append(verdict.candidate)
                    verdicts[number] = rotation.delete(verdict.candidate, tell)
                    going.clear()
    except KeyboardInterrupt as stop:
        raise RotationInterrupted(str(stop), [_not_reached(verdict, going) for verdict in verdicts]) from None
    return verdicts


def _not_reached(verdict: Verdict, going: Sequence[Candidate]) -> Verdict:
    if verdict.outcome != "goes":
        return verdict
    if verdict.candidate in going:
        return dataclasses.replace(verdict, outcome="failed", reason="its deletion was not waited for")
    return dataclasses.replace(verdict, outcome="stays", reason="interrupted before its turn")


class _Rotation:
    """A region and the policy of its rotation; the caller closes the region."""

    def __init__(self, region: Region, policy: Policy) -> None:
        self._region = region
        self._policy = policy
        self._rule = policy.rule

    def plan(self) -> list[Verdict]:
        candidates = self._candidates()
        reasons = self._reasons(candidates)
        ids = [candidate.id for candidate in candidates if candidate.id not in reasons]
        if ids:
            reasons |= {image_id: f"used by {user}" for image_id, user in self._region.uses(ids).items()}
        return [
            Verdict(candidate=candidate, outcome="stays", reason=reasons[candidate.id])
            if candidate.id in reasons
            else Verdict(candidate=candidate, outcome="goes", reason="nobody uses it")
            for candidate in candidates
        ]

    def delete(self, candidate: Candidate, tell: Callable[[str], None]) -> Verdict:
        """Delete an image and its kernel, unless it must stay after all."""
        try:
            reason = self._change_since(candidate)
            if reason is not None:
                return Verdict(candidate=candidate, outcome="stays", reason=reason)
            self._region.delete(candidate.id)
            tell(f"deleted {candidate.name} ({candidate.id})")
            removed = unfinished.remove_companions(
                self._region, candidate.companions, owner=self._region.project_id
            )
            notes = "; ".join(f"with {part.name}" for part in removed)
        except DibctlError as error:
            return _not_deleted(candidate, error)
        return Verdict(candidate=candidate, outcome="deleted", reason=notes or "nobody used it")

    def _candidates(self) -> list[Candidate]:
        """Return the obsolete images of the policy's names, the newest first."""
        names = {
            either
            for name in self._policy.names
            for either in (name, image_state.obsolete_name(name, self._rule, self._policy.where))
        }
        candidates = [
            _candidate(image, self._rule)
            for image in self._region.images(properties=self._rule.properties)
            if image_state.is_obsolete(image, self._rule) and (not names or image.name in names)
        ]
        return sorted(candidates, key=lambda image: (image.since, image.created, image.id), reverse=True)

    def _reasons(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Return why images stay, by their ids, as far as the images themselves and the policy tell."""
        reasons: dict[str, str] = {}
        kept: collections.Counter[str] = collections.Counter()
        older_than, keep = self._policy.older_than, self._policy.keep
        limit = self._region.now() - older_than if older_than is not None else None
        for image in candidates:
            if image.is_snapshot:
                reasons[image.id] = "is a snapshot"
            elif image.is_test:
                reasons[image.id] = "is an image of a test run"
            elif not image.marked:
                reasons[image.id] = "may be current: nothing but the rule says that it is obsolete"
            elif not image.named:
                reasons[image.id] = "is not called like an obsolete image"
            elif image.protected:
                reasons[image.id] = "is protected"
            elif kept[image.name] < keep:
                kept[image.name] += 1
                reasons[image.id] = f"is among the {keep} newest of its name"
            elif limit is not None and image.since > limit:
                reasons[image.id] = f"is obsolete since {image.since:%Y-%m-%d %H:%M} only"
        return reasons

    def _change_since(self, candidate: Candidate) -> str | None:
        """Return why an image must stay, asked just before its deletion; None if it may still go."""
        if (user := self._region.use(candidate.id)) is not None:
            return f"used by {user} since a moment ago"
        if candidate.disk_format in KERNELS and (user := self._region.needed_by(candidate.id)) is not None:
            return user
        image = self._region.image(candidate.id)
        if not self._is_still_obsolete(image):
            return "is not obsolete any more"
        if image.protected:
            return "is protected since a moment ago"
        return None

    def _is_still_obsolete(self, image: ImageRecord) -> bool:
        """Whether an image is unchanged since it was listed: of this project, and not current."""
        return (
            image.owner == self._region.project_id
            and image_state.is_obsolete(image, self._rule)
            and image_state.is_marked(image)
            and image_state.has_obsolete_name(image, self._rule)
        )


def _candidate(image: ImageRecord, rule: Obsoleting) -> Candidate:
    return Candidate(
        id=image.id,
        name=image.name,
        size=image.size or 0,
        since=image_state.obsolete_since(image),
        created=image.created,
        is_snapshot=image.is_snapshot,
        named=image_state.has_obsolete_name(image, rule),
        marked=image_state.is_marked(image),
        is_test=TEST in image.tags,
        protected=image.protected,
        disk_format=image.disk_format,
        companions=tuple(unfinished.part_ids(image)),
    )


def _not_deleted(candidate: Candidate, error: DibctlError) -> Verdict:
    if isinstance(error, ImageNotFoundError):
        return Verdict(candidate=candidate, outcome="deleted", reason="was gone already")
    status = error.status if isinstance(error, ApiError) else None
    if status == CONFLICT:
        return Verdict(candidate=candidate, outcome="stays", reason="the store has it in use")
    if status == FORBIDDEN:
        return Verdict(candidate=candidate, outcome="stays", reason=f"may not be deleted: {error.message}")
    return Verdict(candidate=candidate, outcome="failed", reason=error.message, error=error)
