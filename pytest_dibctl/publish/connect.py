"""Opening a region of an environment: the only place of ``publish`` that knows of OpenStack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pytest_dibctl.clouds.regions import Region
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.config.credentials import VARIABLES, resolve
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.keystone import Keystone
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.errors import ConfigError, NotInConfigError


def open_region(
    environment: Entry[UploadEnvironment],
    *,
    environ: Mapping[str, str],
    endpoint: str | None = None,
    fixed_cloud: bool,
) -> Region:
    """Return the region of an environment; nothing is sent yet, and the caller closes it.

    ``endpoint`` is the Glance that an image names; with ``fixed_cloud`` an OS_AUTH_URL that leads to another
    cloud than the file's is refused. Raises ConfigError and CredentialsError.
    """
    # Lazily: openstacksdk takes a quarter of a second.
    from pytest_dibctl.clouds.openstack.login import open_api
    from pytest_dibctl.clouds.openstack.regions import OpenStackRegion

    keystone = environment.settings.keystone
    if keystone is None:
        raise ConfigError(
            f"{environment.at()}: this environment has no keystone section, so there is no login",
            hint="such an environment can only upload, with external_upload",
        )
    where = environment.at("keystone")
    credentials = resolve(keystone, environ, "publish", where=where, fixed_cloud=fixed_cloud)
    api = open_api(
        credentials,
        environment.settings,
        where=where,
        image_endpoint=environment.settings.glance.endpoint or endpoint,
        environ=environ,
    )
    return OpenStackRegion(api, name=environment.label, where=where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One end of a transfer, as the command line names it.

    ``label`` is of upload.yaml, else a name in clouds.yaml; ``given`` are values of a keystone section, which
    win over the label's.
    """

    option: str
    label: str | None = None
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)


def side_environment(catalog: Catalog, side: Side) -> Entry[UploadEnvironment]:
    """Return the environment that one end of a transfer means."""
    if side.label is not None and side.label in catalog.uploads:
        entry = catalog.uploads[side.label]
        if not side.given:
            return entry
        keystone = entry.settings.keystone or Keystone()
        known = {name: getattr(keystone, name) for name in keystone.model_fields_set}
        settings = entry.settings.model_copy(update={"keystone": Keystone(**{**known, **side.given})})
        return dataclasses.replace(entry, settings=settings)
    cloud = {"cloud": side.label} if side.label is not None else {}
    try:
        keystone = Keystone.model_validate({**cloud, **side.given})
    except ValidationError:
        raise NotInConfigError(
            f"{side.option}: there is no upload environment {side.label!r}, and beside a name in clouds.yaml "
            f"{', '.join(side.given)} cannot be given",
            hint="name an environment of upload.yaml, or leave out one of the two",
        ) from None
    label = side.label or side.option
    settings = UploadEnvironment(keystone=keystone)
    return Entry(label=label, settings=settings, path=Path(side.option), display_name=side.option)


def environ_for(environment: Entry[UploadEnvironment], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that say something the section does not.

    Of two ends of a transfer, a variable that won over the file would send both to one cloud.
    """
    keystone = environment.settings.keystone or Keystone()
    known = {
        variable
        for name, variables in VARIABLES.items()
        if getattr(keystone, name) is not None
        for variable in variables
    }
    return {name: value for name, value in environ.items() if name not in known}
