"""The goal of a transfer at the destination, and how near an image there is to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pytest_dibctl.clouds.marks import is_passing
from pytest_dibctl.clouds.regions import Change, ImageRecord, ImageSpec
from pytest_dibctl.errors import NotInConfigError
from pytest_dibctl.publish.transfer_request import Request


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """The goal for the image; ``members`` are ids of the destination's projects."""

    spec: ImageSpec
    members: tuple[str, ...]

    def is_met_by(self, image: ImageRecord) -> bool:
        """Whether an image has the goal's visibility, protection, tags and properties."""
        spec = self.spec
        return (
            (image.visibility, image.protected, image.hidden)
            == (spec.visibility, spec.protected, spec.hidden)
            and image.tags == set(spec.tags)
            and image.properties == spec.properties
        )

    def change(self, image: ImageRecord) -> Change:
        """Return the change that makes an image with the goal's bytes meet the goal."""
        spec = self.spec
        removed: dict[str, str | None] = dict.fromkeys(set(image.properties) - set(spec.properties))
        return Change(
            visibility=spec.visibility if spec.visibility != image.visibility else None,
            hidden=spec.hidden,
            protected=spec.protected,
            tags=frozenset(spec.tags),
            properties={**removed, **spec.properties},
        )


def goal(request: Request, source: ImageRecord, parts: Mapping[str, str]) -> Goal:
    """Return the goal for the copy of ``source``.

    ``parts`` maps properties that name its kernel and initrd to their ids at the destination. Raises
    NotInConfigError for a project without a counterpart at the destination.
    """
    spec = ImageSpec(
        name=source.name,
        disk_format=source.disk_format,
        container_format=source.container_format,
        allow_unverified=request.allow_unverified,
    )
    if request.meta:
        spec = dataclasses.replace(
            spec,
            visibility=source.visibility,
            protected=source.protected,
            hidden=source.hidden,
            min_disk=source.min_disk,
            min_ram=source.min_ram,
            tags=tuple(sorted(tag for tag in source.tags if not is_passing(tag))),
            properties={**source.properties, **parts},
        )
    if not request.membership:
        return Goal(spec=spec, members=())
    members = tuple(_project(request, member) for member in _members(request, source))
    if request.meta and source.visibility == "shared":
        spec = dataclasses.replace(spec, visibility="shared")
    if source.owner != request.source.project_id:
        spec = dataclasses.replace(spec, owner=_project(request, source.owner))
    return Goal(spec=spec, members=members)


def _members(request: Request, source: ImageRecord) -> list[str]:
    """Return the ids of the projects that share the image at the source."""
    if source.visibility != "shared" or not request.meta:
        return []
    return list(request.source.members(source.id))


def _project(request: Request, project_id: str) -> str:
    """Return the id of the destination's project that has the name of the source's."""
    name = request.source.project_name(project_id)
    if name is None:
        raise NotInConfigError(
            f"{request.source.name}: project {project_id} has no name that these credentials can see",
            hint="log in as a user who sees it, or leave it out with `dibctl transfer --ignore-membership`",
        )
    try:
        return request.destination.project(name)
    except NotInConfigError as error:
        raise NotInConfigError(
            error.message, hint="make the project, or leave it out with `dibctl transfer --ignore-membership`"
        ) from None
