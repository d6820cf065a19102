"""Logging in: credentials, clouds.yaml and certificates become an ``Api``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keystoneauth1.exceptions as auth_exceptions
import openstack
import openstack.config
import openstack.exceptions as sdk_exceptions
from openstack.config import loader

import pytest_dibctl
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.quiet import no_warnings, without_tls_warnings
from pytest_dibctl.config.credentials import Credentials
from pytest_dibctl.config.models.site import Site
from pytest_dibctl.errors import ConfigError, CredentialsError


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
    try:
        with no_warnings():
            connection = _connection(
                credentials, arguments, os.environ if environ is None else environ, where
            )
            session = connection.session
    except sdk_exceptions.ConfigException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{where}: {reason}") from None
    except (auth_exceptions.MissingRequiredOptions, auth_exceptions.NoMatchingPlugin) as error:
        raise CredentialsError(f"{where}: not enough credentials: {error}") from None
    if site.disable_warnings:
        session.session = without_tls_warnings(session.session)
    return Api(connection, where=where)


def _connection(
    credentials: Credentials, arguments: dict[str, Any], environ: Mapping[str, str], where: str
) -> Any:
    given = {key: value for key, value in arguments.items() if value is not None}
    if credentials.method == "cloud":
        clouds_yaml = _clouds_yaml(environ)
        if credentials.cloud not in clouds_yaml.get_cloud_names():
            raise ConfigError(
                f"{where}: there is no cloud {credentials.cloud!r} in clouds.yaml",
                hint="clouds.yaml is looked for in the working directory, ~/.config/openstack and "
                "/etc/openstack, or set OS_CLIENT_CONFIG_FILE",
            )
        region = clouds_yaml.get_one(cloud=credentials.cloud, **given)
    else:
        config = openstack.config.OpenStackConfig(load_yaml_config=False, load_envvars=False)
        region = config.get_one(**_login(credentials), **given)
    return openstack.connection.Connection(
        config=region, app_name="pytest-dibctl", app_version=pytest_dibctl.__version__
    )


def _clouds_yaml(environ: Mapping[str, str]) -> Any:
    """Return clouds.yaml and secure.yaml as the openstack client finds them, without the OS_* variables."""

    def files(variable: str, usual: list[str]) -> list[str]:
        named = environ.get(variable)
        return [named, *usual] if named else list(usual)

    return openstack.config.OpenStackConfig(
        load_envvars=False,
        config_files=files("OS_CLIENT_CONFIG_FILE", loader.CONFIG_FILES),
        secure_files=files("OS_CLIENT_SECURE_FILE", loader.SECURE_FILES),
    )


def login_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of the clouds.yaml and secure.yaml there are, by the variable that names each."""
    files = {
        "OS_CLIENT_CONFIG_FILE": loader.CONFIG_FILES,
        "OS_CLIENT_SECURE_FILE": loader.SECURE_FILES,
    }
    texts = {}
    for variable, usual in files.items():
        named = environ.get(variable)
        for path in map(Path, [named, *usual] if named else usual):
            if path.exists():
                texts[variable] = path.read_text()
                break
    return texts


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
