"""Logging in: credentials, clouds.yaml and certificates become an ``Api``."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openstack
import openstack.config

import pytest_dibctl
from pytest_dibctl.clouds.openstack import cloud_files, redacting
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.quiet import no_warnings, without_tls_warnings
from pytest_dibctl.clouds.openstack.transport import GuardedSession
from pytest_dibctl.config.credentials import CLOUD, Credentials
from pytest_dibctl.config.models.site import Site


def open_api(
    credentials: Credentials,
    site: Site,
    *,
    where: str,
    image_endpoint: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Api:
    """Return an Api for ``credentials``; nothing is sent yet.

    ``where`` is the place of the keystone section, for messages; ``image_endpoint`` is used for Glance
    instead of the catalog's. Of ``environ`` only OS_CLIENT_CONFIG_FILE and OS_CLIENT_SECURE_FILE count,
    and only for a cloud of clouds.yaml. Raises ConfigError when such a cloud cannot be used, and
    CredentialsError when it is incomplete.
    """
    # The SDK would repeat refused calls to Glance without regard to our deadlines or to Retry-After.
    arguments: dict[str, Any] = {"region_name": credentials.region_name, "image_status_code_retries": 0}
    if image_endpoint is not None:
        arguments["image_endpoint_override"] = image_endpoint
    arguments |= _tls(site)
    environ = os.environ if environ is None else environ
    named = f"{where}, by {CLOUD}" if credentials.sources.get("cloud") == CLOUD else where
    with cloud_files.told(where=named, cloud=credentials.cloud), no_warnings():
        connection = _connection(credentials, arguments, environ, named)
        session = connection.session
    if site.disable_warnings:
        session.session = without_tls_warnings(session.session)
    return Api(connection, where=where)


def _connection(
    credentials: Credentials, arguments: dict[str, Any], environ: Mapping[str, str], where: str
) -> Any:
    options = {key: value for key, value in arguments.items() if value is not None}
    vouched: list[str] = []
    guarded: Any = functools.partial(GuardedSession, urls=vouched)
    if credentials.method == "cloud":
        cloud = str(credentials.cloud)
        clouds_yaml = cloud_files.read(environ, cloud, where=where, session_constructor=guarded)
        file = Path(str(clouds_yaml.config_filename))
        with cloud_files.told(where=where, cloud=cloud, file=file):
            region = clouds_yaml.get_one(cloud=cloud, **options)
            cloud_files.check_complete(region.config, file, where=where, cloud=cloud)
    else:
        config = openstack.config.OpenStackConfig(
            load_yaml_config=False, load_envvars=False, session_constructor=guarded
        )
        region = config.get_one(**_login(credentials), **options)
    redacting.remember_login(region.config)
    vouched += cloud_files.urls(region.config)
    cloud_files.check_certificates(region.config, where=where)
    return openstack.connection.Connection(
        config=region, app_name="pytest-dibctl", app_version=pytest_dibctl.__version__
    )


def login_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of the clouds.yaml and secure.yaml there are, by the variable that names each."""
    return cloud_files.texts(environ)


def _login(credentials: Credentials) -> dict[str, Any]:
    plain = {
        field.name: getattr(credentials, field.name)
        for field in dataclasses.fields(credentials)
        if field.name not in {"method", "cloud", "region_name", "sources"}
    }
    auth = {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in plain.items()
        if value is not None
    }
    kind = "v3applicationcredential" if credentials.method == "application_credential" else "v3password"
    return {"auth_type": kind, "auth": auth}


def _tls(site: Site) -> dict[str, Any]:
    if site.ssl_insecure:
        return {"verify": False}
    return {"verify": True, "cacert": site.ssl_ca_path} if site.ssl_ca_path else {}
