"""The credentials that count when both the file and the environment variables have some.

dibctl's rules: for tests the file counts, except that OS_PASSWORD replaces the file's password; for upload,
obsolete and rotate the environment counts. With ``cloud: NAME`` (an entry of clouds.yaml) the environment
is ignored. A section that says nothing of a login (``keystone: {}``) leaves it to the environment: OS_CLOUD
names an entry of clouds.yaml, or the other variables of an openrc file say it all. No cloud is asked here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from pytest_dibctl.config.models.keystone import IDENTITY_V2, Keystone
from pytest_dibctl.errors import ConfigError, CredentialsError
from pytest_dibctl.system import redaction

Purpose = Literal["test", "publish"]
Method = Literal["cloud", "password", "application_credential"]

DEFAULT_DOMAIN = "default"
"""The id of the domain that every Keystone starts with."""

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "auth_url": ("OS_AUTH_URL",),
    "username": ("OS_USERNAME",),
    "password": ("OS_PASSWORD",),
    "project_name": ("OS_PROJECT_NAME", "OS_TENANT_NAME", "OS_PROJECT"),
    "project_id": ("OS_PROJECT_ID", "OS_TENANT_ID"),
    "user_domain": ("OS_USER_DOMAIN",),
    "user_domain_id": ("OS_USER_DOMAIN_ID",),
    "user_domain_name": ("OS_USER_DOMAIN_NAME",),
    "project_domain": ("OS_PROJECT_DOMAIN",),
    "project_domain_id": ("OS_PROJECT_DOMAIN_ID",),
    "project_domain_name": ("OS_PROJECT_DOMAIN_NAME",),
    "region_name": ("OS_REGION_NAME",),
    "application_credential_id": ("OS_APPLICATION_CREDENTIAL_ID",),
    "application_credential_name": ("OS_APPLICATION_CREDENTIAL_NAME",),
    "application_credential_secret": ("OS_APPLICATION_CREDENTIAL_SECRET",),
}
"""The environment variables of each value; the first that is set counts."""

_GROUPS = (
    ("auth_url",),
    ("username",),
    ("password",),
    ("project_id", "project_name"),
    ("user_domain_id", "user_domain_name", "user_domain"),
    ("project_domain_id", "project_domain_name", "project_domain"),
    ("region_name",),
    ("application_credential_id", "application_credential_name"),
    ("application_credential_secret",),
)
"""Values that belong together: the first source that has one of a group decides the whole group."""

CLOUD = "OS_CLOUD"
"""The variable that names an entry of clouds.yaml."""
_SECRETS = frozenset({"password", "application_credential_secret"})
_SECRET_VARIABLES = ("OS_PASSWORD", "OS_APPLICATION_CREDENTIAL_SECRET")
_VERSION_SUFFIX = re.compile(r"/v\d+(\.\d+)?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Credentials:
    """Enough to log in. ``sources`` names the origin of each value, for messages.

    With method "cloud" only ``cloud`` and ``region_name`` are set.
    """

    method: Method
    cloud: str | None = None
    auth_url: str | None = None
    username: str | None = None
    password: SecretStr | None = None
    project_name: str | None = None
    project_id: str | None = None
    user_domain_id: str | None = None
    user_domain_name: str | None = None
    project_domain_id: str | None = None
    project_domain_name: str | None = None
    region_name: str | None = None
    application_credential_id: str | None = None
    application_credential_name: str | None = None
    application_credential_secret: SecretStr | None = None
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Value:
    """A value and its origin: a variable, or a place in the file."""

    text: str
    source: str


_Values = dict[str, _Value]


def resolve(
    keystone: Keystone,
    environ: Mapping[str, str],
    purpose: Purpose,
    *,
    where: str,
    fixed_cloud: bool = False,
) -> Credentials:
    """Return the credentials to log in with.

    ``where`` is the place of the section, for messages. With ``fixed_cloud`` an OS_AUTH_URL that leads to
    another cloud than the file's is refused: for rotate, and when several environments are named.

    Raises CredentialsError with all missing values and the searched places, ConfigError for a refused
    OS_AUTH_URL.
    """
    file, environment = _from_file(keystone, where), _from_environment(environ)
    cloud = cloud_of(keystone, environ)
    if cloud is not None:
        is_named = keystone.cloud is not None
        if not is_named:
            _refuse_two_logins(environ, where)
        regions = {} if is_named else _merged(file, environment, purpose)
        region = regions.get("region_name", file.get("region_name"))
        return Credentials(
            method="cloud",
            cloud=cloud,
            region_name=region.text if region is not None else None,
            sources={"cloud": where if is_named else CLOUD},
        )
    if fixed_cloud and purpose == "publish":
        _refuse_other_cloud(file.get("auth_url"), environment.get("auth_url"), where)
    values = _merged(file, environment, purpose)
    method = _method(file, environment, purpose)
    _refuse_incomplete(values, method, keystone, where)
    _refuse_no_url(values["auth_url"], where)
    return _credentials(values, method)


def cloud_of(keystone: Keystone, environ: Mapping[str, str]) -> str | None:
    """Return the entry of clouds.yaml to log in with, None where it is another login.

    OS_CLOUD counts only for a section that names neither a cloud nor anything of a login but its region.
    """
    if keystone.cloud is not None:
        return keystone.cloud
    says = any(getattr(keystone, name) is not None for name in VARIABLES if name != "region_name")
    return None if says else environ.get(CLOUD) or None


def _refuse_two_logins(environ: Mapping[str, str], where: str) -> None:
    other = next((name for name in ("OS_AUTH_URL", *_SECRET_VARIABLES) if environ.get(name)), None)
    if other is not None:
        raise ConfigError(
            f"{where}: the section names no login, and both {CLOUD} and {other} are set",
            hint=f"unset one of the two: {CLOUD} means an entry of clouds.yaml, {other} is of an openrc file",
        )


def _from_file(keystone: Keystone, where: str) -> _Values:
    values: _Values = {}
    for name in VARIABLES:
        setting = getattr(keystone, name)
        if setting is not None:
            text = setting.get_secret_value() if isinstance(setting, SecretStr) else setting
            _remember(name, text)
            values[name] = _Value(text=text, source=f"{where}: {keystone.key(name)}")
    return values


def _from_environment(environ: Mapping[str, str]) -> _Values:
    """Return the variables that are set; an empty one counts as unset, since openrc files leave such."""
    values: _Values = {}
    for name, variables in VARIABLES.items():
        variable = next((variable for variable in variables if environ.get(variable)), None)
        if variable:
            _remember(name, environ[variable])
            values[name] = _Value(text=environ[variable], source=variable)
    return values


def _remember(name: str, text: str) -> None:
    if name in _SECRETS:
        redaction.remember(text)


def _merged(file: _Values, environment: _Values, purpose: Purpose) -> _Values:
    merged: _Values = {}
    for group in _GROUPS:
        environment_first = purpose == "publish" or group == ("password",)
        for values in (environment, file) if environment_first else (file, environment):
            if chosen := {name: values[name] for name in group if name in values}:
                merged |= chosen
                break
    return merged


def _method(file: _Values, environment: _Values, purpose: Purpose) -> Method:
    """Return how to log in: the source of higher priority that has a secret or a user decides."""
    for values in (environment, file) if purpose == "publish" else (file, environment):
        if "application_credential_secret" in values:
            return "application_credential"
        if "username" in values:
            return "password"
    return "password"


def _refuse_other_cloud(file: _Value | None, environment: _Value | None, where: str) -> None:
    if file and environment and _without_version(file.text) != _without_version(environment.text):
        raise ConfigError(
            f"{where}: OS_AUTH_URL is {environment.text}, the file says {file.text}; "
            "it would send this to another cloud",
            hint="unset OS_AUTH_URL, or make the two agree",
        )


def _without_version(url: str) -> tuple[str, str, str]:
    """Return scheme, host and path of a Keystone's URL without its version: equal for the same Keystone."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:  # no URL at all: it equals the same text only
        return ("", "", url)
    return (parts.scheme.lower(), parts.netloc.lower(), _VERSION_SUFFIX.sub("", parts.path.rstrip("/")))


def _refuse_incomplete(values: _Values, method: Method, keystone: Keystone, where: str) -> None:
    missing = [names[0] for names in _needed(method, values) if not any(name in values for name in names)]
    if not missing:
        return
    listed = "; ".join(
        f"{name} (looked for the key {keystone.key(name)} and the variable {' or '.join(VARIABLES[name])})"
        for name in missing
    )
    raise CredentialsError(
        f"{where}: not enough credentials, missing {listed}",
        hint="there are three ways: `cloud: NAME` in the section, an entry of clouds.yaml (the variable "
        f"{CLOUD} names one for a section without keys); the variables of an openrc file; the keys in the "
        "section",
    )


def _refuse_no_url(auth_url: _Value, where: str) -> None:
    if auth_url.text.strip().lower().startswith(("http://", "https://")):
        return
    raise ConfigError(
        f"{where}: auth_url is {auth_url.text!r} (from {auth_url.source}), which is no http or https address",
        hint=f"write the scheme too: https://{auth_url.text.strip().lstrip('/')}",
    )


def _needed(method: Method, values: _Values) -> Iterator[tuple[str, ...]]:
    """Yield the values that ``method`` needs, each as names of which one is enough."""
    yield ("auth_url",)
    if method == "application_credential":
        yield ("application_credential_id", "application_credential_name")
        yield ("application_credential_secret",)
        if "application_credential_id" not in values:
            yield ("username",)
        return
    yield ("username",)
    yield ("password",)
    yield ("project_name", "project_id")


def _credentials(values: _Values, method: Method) -> Credentials:
    used = {name: value for name, value in values.items() if name in _used_by(method, values)}
    plain = {name: value.text for name, value in used.items()}
    plain["auth_url"] = IDENTITY_V2.sub("/v3", plain["auth_url"])
    if "username" in plain:
        plain |= _domain("user", plain)
    if method == "password":
        plain |= _domain("project", plain)
    arguments: dict[str, Any] = {
        name: SecretStr(text) if name in _SECRETS else text
        for name, text in plain.items()
        if name not in {"user_domain", "project_domain"}
    }
    sources = {name: value.source for name, value in used.items()}
    return Credentials(method=method, **arguments, sources=sources)


def _used_by(method: Method, values: _Values) -> set[str]:
    """Return the values that ``method`` logs in with; with any other, Keystone would refuse the login."""
    user = {"username", "user_domain", "user_domain_id", "user_domain_name"}
    common = {"auth_url", "region_name"}
    if method == "password":
        return set(VARIABLES) - {name for name in VARIABLES if name.startswith("application_")}
    if "application_credential_id" in values:
        return common | {"application_credential_id", "application_credential_secret"}
    return common | user | {"application_credential_name", "application_credential_secret"}


def _domain(owner: str, plain: Mapping[str, str]) -> dict[str, str]:
    """Return the domain of the user or project (``owner``), unless its id or name is given.

    dibctl's key without ``_id`` or ``_name`` holds an id if it is "default", which every Keystone has, and
    otherwise a name. Without any key the domain is the default one.
    """
    if f"{owner}_domain_id" in plain or f"{owner}_domain_name" in plain:
        return {}
    bare = plain.get(f"{owner}_domain", DEFAULT_DOMAIN)
    return {f"{owner}_domain_id" if bare == DEFAULT_DOMAIN else f"{owner}_domain_name": bare}
