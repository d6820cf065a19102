"""Opening a region of an environment; the one place of ``publish`` that knows there is an OpenStack."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_dibctl.clouds.regions import Region
from pytest_dibctl.config.catalog import Entry
from pytest_dibctl.config.credentials import resolve
from pytest_dibctl.config.models import Keystone, UploadEnvironment
from pytest_dibctl.errors import ConfigError


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
    from pytest_dibctl.clouds.openstack.api import open_api
    from pytest_dibctl.clouds.openstack.regions import OpenStackRegion

    keystone = environment.settings.keystone
    if keystone is None:
        raise ConfigError(
            f"{environment.at()}: this environment has no keystone section, so nobody can log in there",
            hint="external_upload alone can upload, and nothing else",
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


def cloud_environment(name: str) -> Entry[UploadEnvironment]:
    """Return an environment that stands for an entry of clouds.yaml."""
    from pathlib import Path

    settings = UploadEnvironment(keystone=Keystone(cloud=name))
    return Entry(label=name, settings=settings, path=Path("clouds.yaml"), shown="clouds.yaml")
