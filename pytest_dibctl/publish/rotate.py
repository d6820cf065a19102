"""Obsolete images that nobody needs any more are deleted; everything else stays exactly as it is.

Who uses what is looked up once for all candidates, page by page, and again for each just before it goes.
Nothing is renamed, deactivated or unprotected to find out whether it could be deleted.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence

from pytest_dibctl.clouds.regions import ImageRecord, Region
from pytest_dibctl.config.models import Obsoleting
from pytest_dibctl.errors import ApiError, DibctlError, ImageNotFoundError
from pytest_dibctl.publish import image_state, unfinished
from pytest_dibctl.system import signals

CONFLICT, FORBIDDEN = 409, 403
KERNELS = frozenset({"aki", "ari"})
"""Formats of images that other images may need."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Which obsolete images may go.

    ``names`` are those that images had while they were current, or have now; none means all. The ``keep``
    newest of each name stay, and what is obsolete for less than ``older_than``.
    """

    rule: Obsoleting
    where: str
    names: tuple[str, ...] = ()
    keep: int = 0
    older_than: dt.timedelta | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An obsolete image, as far as it matters here. ``size`` is bytes."""

    id: str
    name: str
    size: int
    since: dt.datetime
    created: dt.datetime
    is_snapshot: bool
    named: bool
    protected: bool
    disk_format: str
    companions: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What becomes of a candidate and why: "deleted", "goes" in a plan, "stays" or "failed"."""

    candidate: Candidate
    outcome: str
    reason: str = ""
    error: DibctlError | None = None


STOPPING = signals.Words(
    doing="waiting for the deletion of", after="the next rotation looks whether it is still there"
)


class RotationInterrupted(KeyboardInterrupt):
    """A rotation was interrupted; ``verdicts`` say what had become of each candidate by then."""

    def __init__(self, reason: str, verdicts: Sequence[Verdict]) -> None:
        super().__init__(reason)
        self.verdicts = verdicts


def plan(region: Region, policy: Policy) -> list[Verdict]:
    """Return what a rotation would do, having changed nothing.

    Raises NovaForbiddenError for whoever may not see the servers of all projects.
    """
    candidates = _candidates(region, policy)
    reasons = _stay(candidates, policy, region)
    asked = [candidate.id for candidate in candidates if candidate.id not in reasons]
    if asked:
        reasons |= {image_id: f"used by {who}" for image_id, who in region.uses(asked).items()}
    return [
        Verdict(candidate=candidate, outcome="stays", reason=reasons[candidate.id])
        if candidate.id in reasons
        else Verdict(candidate=candidate, outcome="goes", reason="nobody uses it")
        for candidate in candidates
    ]


def rotate(region: Region, policy: Policy, *, tell: Callable[[str], None]) -> list[Verdict]:
    """Delete the obsolete images that may go, and return what became of each candidate.

    One that cannot be deleted stops no other. Raises as ``plan``, before anything is deleted; an interruption
    waits for the deletion that goes on, and is raised as RotationInterrupted.
    """
    verdicts = plan(region, policy)
    going: list[Candidate] = []
    try:
        with signals.undertaking(STOPPING, lambda: [f"{one.name} ({one.id})" for one in going]):
            for number, verdict in enumerate(verdicts):
                if verdict.outcome != "goes":
                    continue
                # Its kernel goes with it: between the two nobody would know any more whose that is.
                with signals.held():
                    going.append(verdict.candidate)
                    verdicts[number] = _delete(region, verdict.candidate, policy.rule, tell)
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


def _candidates(region: Region, policy: Policy) -> list[Candidate]:
    """Return the obsolete images in question, the newest first."""
    names = {
        called
        for name in policy.names
        for called in (name, image_state.obsolete_name(name, policy.rule, policy.where))
    }
    found = [
        _candidate(image, policy.rule)
        for image in region.images(properties=policy.rule.properties)
        if image_state.is_obsolete(image, policy.rule) and (not names or image.name in names)
    ]
    return sorted(found, key=lambda one: (one.since, one.created, one.id), reverse=True)


def _candidate(image: ImageRecord, rule: Obsoleting) -> Candidate:
    return Candidate(
        id=image.id,
        name=image.name,
        size=image.size or 0,
        since=image_state.obsolete_since(image),
        created=image.created,
        is_snapshot=image.is_snapshot,
        named=image_state.has_obsolete_name(image, rule),
        protected=image.protected,
        disk_format=image.disk_format,
        companions=tuple(unfinished.part_ids(image)),
    )


def _stay(candidates: Sequence[Candidate], policy: Policy, region: Region) -> dict[str, str]:
    """Return why images stay, as far as they tell it themselves."""
    reasons: dict[str, str] = {}
    kept: collections.Counter[str] = collections.Counter()
    limit = region.now() - policy.older_than if policy.older_than is not None else None
    for one in candidates:
        if one.is_snapshot:
            reasons[one.id] = "is a snapshot"
        elif not one.named:
            reasons[one.id] = "is not called like an obsolete image"
        elif one.protected:
            reasons[one.id] = "is protected"
        elif kept[one.name] < policy.keep:
            kept[one.name] += 1
            reasons[one.id] = f"is among the {policy.keep} newest of its name"
        elif limit is not None and one.since > limit:
            reasons[one.id] = f"is obsolete since {one.since:%Y-%m-%d %H:%M} only"
    return reasons


def _delete(region: Region, candidate: Candidate, rule: Obsoleting, tell: Callable[[str], None]) -> Verdict:
    try:
        reason = _changed(region, candidate, rule)
        if reason is not None:
            return Verdict(candidate=candidate, outcome="stays", reason=reason)
        region.delete(candidate.id)
        tell(f"deleted {candidate.name} ({candidate.id})")
        gone = unfinished.remove_companions(region, candidate.companions, owner=region.project_id)
        notes = "; ".join(f"with {part.name}" for part in gone)
    except DibctlError as error:
        return _not_deleted(candidate, error)
    return Verdict(candidate=candidate, outcome="deleted", reason=notes or "nobody used it")


def _not_deleted(candidate: Candidate, error: DibctlError) -> Verdict:
    if isinstance(error, ImageNotFoundError):
        return Verdict(candidate=candidate, outcome="deleted", reason="was gone already")
    status = error.status if isinstance(error, ApiError) else None
    if status == CONFLICT:
        return Verdict(candidate=candidate, outcome="stays", reason="the store has it in use")
    if status == FORBIDDEN:
        return Verdict(candidate=candidate, outcome="stays", reason=f"may not be deleted: {error.message}")
    return Verdict(candidate=candidate, outcome="failed", reason=error.message, error=error)


def _changed(region: Region, candidate: Candidate, rule: Obsoleting) -> str | None:
    """Return why an image must stay after all, at the last moment; None if it may still go."""
    if (who := region.use(candidate.id)) is not None:
        return f"used by {who} since a moment ago"
    if candidate.disk_format in KERNELS and (who := region.needed_by(candidate.id)) is not None:
        return who
    image = region.image(candidate.id)
    if not image_state.is_obsolete(image, rule) or image.owner != region.project_id:
        return "is not obsolete any more"
    if image.protected:
        return "is protected since a moment ago"
    return None
