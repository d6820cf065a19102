"""One login at one OpenStack: opening it, calling it with deadlines, and its refusals in words.

Everything here belongs to one thread; a second thread or region opens an Api of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import keystoneauth1.exceptions as auth_exceptions
import openstack
import openstack.config
import openstack.exceptions as sdk_exceptions
import requests
import requests.adapters
import urllib3.exceptions
from openstack.config import loader

import pytest_dibctl
from pytest_dibctl.config.credentials import Credentials
from pytest_dibctl.config.models import Site
from pytest_dibctl.errors import (
    ApiError,
    AuthorizationError,
    ConfigError,
    CredentialsError,
    DibctlError,
    ImageNotFoundError,
    NovaBadRequestError,
    NovaForbiddenError,
)

log = logging.getLogger(__name__)

Service = Literal["identity", "compute", "image", "network", "volume"]
T = TypeVar("T")

INSTANCES: frozenset[Service] = frozenset({"compute", "network"})
"""The services that an instance is made by: their refusals have the exit codes of Nova's."""

PROJECTS: Mapping[Service, str] = {
    "identity": "Keystone",
    "compute": "Nova",
    "image": "Glance",
    "network": "Neutron",
    "volume": "Cinder",
}
"""What people call the services."""

CALL_TIMEOUT = 60.0
"""Seconds an ordinary call may take until its answer; creating and uploading have deadlines of their own."""
SAFE_CALL_TIMEOUT = 120.0
"""Seconds for which a call that is safe to repeat is repeated while it meets transient faults."""
FIRST_ANSWER_TIMEOUT = 15.0
"""The same before anything has answered: a wrong auth_url looks like a cloud that is down for a moment."""
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 3.0
"""Seconds between two looks at something that is being waited for."""

_REFUSED = (sdk_exceptions.SDKException, auth_exceptions.ClientException, requests.RequestException)
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT = 401, 403, 404, 409


class Api:
    """An opened login. Close it when done; what it made stays."""

    def __init__(self, connection: openstack.connection.Connection, *, where: str) -> None:
        self.connection: Any = connection
        self._where = where
        self._session: Any = connection.session
        self._session.timeout = CALL_TIMEOUT
        self._answered = False

    @property
    def compute(self) -> Any:
        """Nova's proxy."""
        return self.connection.compute

    @property
    def image(self) -> Any:
        """Glance's proxy."""
        return self.connection.image

    @property
    def network(self) -> Any:
        """Neutron's proxy."""
        return self.connection.network

    @property
    def volume(self) -> Any:
        """Cinder's proxy."""
        return self.connection.block_storage

    @property
    def project_id(self) -> str:
        """The id of the project logged in to; raises AuthorizationError."""
        return str(self.safely("identity", "log in", self._session.get_project_id))

    def has(self, service: Service) -> bool:
        """Whether the catalog lists the service, in this region."""
        names = {"volume": "block-storage"}
        with self._translated("identity", "log in", None):
            return bool(self.connection.has_service(names.get(service, service)))

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()
        requests_session = getattr(self._session, "session", None)
        if requests_session is not None:
            requests_session.close()

    def once(
        self,
        service: Service,
        doing: str,
        call: Callable[[], T],
        *,
        at: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> T:
        """Make a call that must not be repeated blindly, and return its answer.

        ``doing`` completes the sentence "cannot ..."; ``at`` is the setting that would be to blame;
        ``timeout`` is seconds. Raises ApiError or one of its kind, AuthorizationError, ImageNotFoundError.
        """
        with self._translated(service, doing, at), self._answering_within(timeout):
            answer = call()
        self._answered = True
        return answer

    def safely(
        self,
        service: Service,
        doing: str,
        call: Callable[[], T],
        *,
        at: str | None = None,
        timeout: float = SAFE_CALL_TIMEOUT,
    ) -> T:
        """Make a call that may be repeated: while it meets transient faults, for ``timeout`` seconds.

        For the login, and what comes before it, that is at most ``FIRST_ANSWER_TIMEOUT``.
        """
        deadline = time.monotonic() + (timeout if self._answered else min(timeout, FIRST_ANSWER_TIMEOUT))
        pauses = _pauses()
        while True:
            left = max(1.0, deadline - time.monotonic())
            try:
                return self.once(service, doing, call, at=at, timeout=min(CALL_TIMEOUT, left))
            except ApiError as error:
                pause = next(pauses)
                if not error.transient or time.monotonic() + pause > deadline:
                    raise
                log.debug("%s; trying again in %.1f s", error.message, pause)
                time.sleep(pause)

    def find(
        self, service: Service, what: str, call: Callable[[], T], *, timeout: float = SAFE_CALL_TIMEOUT
    ) -> T | None:
        """Return what ``call`` gets, None if the service says that there is no such thing."""
        try:
            return self.safely(service, f"find {what}", call, timeout=timeout)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def wait(self, look: Callable[[], T | None], *, timeout: float) -> T | None:
        """Call ``look`` until it returns something; return None after ``timeout`` seconds.

        Transient faults of the API count as "not yet".
        """
        deadline = time.monotonic() + timeout
        pauses = _pauses()
        while True:
            try:
                found = look()
            except ApiError as error:
                if not error.transient or time.monotonic() > deadline:
                    raise
                log.debug("%s; looking again", error.message)
                found = None
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(next(pauses), left))

    def renew_token(self, seconds: float) -> None:
        """Get a new token unless the one we have is valid for ``seconds`` more.

        A token that expires under an upload makes Glance refuse the whole body after it was sent.
        """
        with self._translated("identity", "renew the token", None):
            auth = self._session.auth
            if auth.get_access(self._session).will_expire_soon(stale_duration=int(seconds) + 60):
                auth.invalidate()
                self._session.get_token()

    def forget_token(self) -> None:
        """Get a new token for the next call."""
        self._session.auth.invalidate()

    @contextlib.contextmanager
    def _answering_within(self, seconds: float) -> Iterator[None]:
        before = self._session.timeout
        self._session.timeout = seconds
        try:
            yield
        finally:
            self._session.timeout = before

    @contextlib.contextmanager
    def _translated(self, service: Service, doing: str, at: str | None) -> Iterator[None]:
        try:
            with _no_warnings():
                yield
        except _REFUSED as error:
            raise translated(error, service, doing, at=at, where=self._where) from None


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 1.5, LONGEST_PAUSE)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Leave out what openstacksdk warns itself of; where warnings are errors it would break every call."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"openstack\.")
        yield


@contextlib.contextmanager
def undoing(error: BaseException, left: str) -> Iterator[None]:
    """Let what is done inside, because of ``error``, not hide it: a failure becomes a note on it.

    ``left`` says what may still be there then.
    """
    try:
        yield
    except Exception as second:  # noqa: BLE001 -- whatever it is, the first error is what counts
        log.warning("%s: %s", left, second)
        error.add_note(f"{left}: {second}")


def raise_for_status(response: Any) -> Any:
    """Return a raw response, or raise what the SDK raises for its status."""
    sdk_exceptions.raise_from_response(response)
    return response


# -- opening ---------------------------------------------------------------------------------------


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
    arguments: dict[str, Any] = {"region_name": credentials.region_name}
    if image_endpoint is not None:
        arguments["image_endpoint_override"] = image_endpoint
    arguments |= _tls(site)
    try:
        with _no_warnings():
            connection = _connection(credentials, arguments, os.environ if environ is None else environ)
            session = connection.session
    except sdk_exceptions.ConfigException as error:
        raise _config_error(error, credentials, where) from None
    except (auth_exceptions.MissingRequiredOptions, auth_exceptions.NoMatchingPlugin) as error:
        raise CredentialsError(f"{where}: not enough credentials: {error}") from None
    if site.disable_warnings:
        session.session = _quiet(session.session)
    return Api(connection, where=where)


def _connection(credentials: Credentials, arguments: dict[str, Any], environ: Mapping[str, str]) -> Any:
    given = {key: value for key, value in arguments.items() if value is not None}
    if credentials.method == "cloud":
        region = _clouds_yaml(environ).get_one(cloud=credentials.cloud, **given)
    else:
        config = openstack.config.OpenStackConfig(load_yaml_config=False, load_envvars=False)
        region = config.get_one(**_login(credentials), **given)
    return openstack.connection.Connection(
        config=region, app_name="pytest-dibctl", app_version=pytest_dibctl.__version__
    )


def _clouds_yaml(environ: Mapping[str, str]) -> Any:
    """Return clouds.yaml and secure.yaml as the openstack client finds them, and nothing of OS_*."""

    def files(variable: str, usual: list[str]) -> list[str]:
        named = environ.get(variable)
        return [named, *usual] if named else list(usual)

    return openstack.config.OpenStackConfig(
        load_envvars=False,
        config_files=files("OS_CLIENT_CONFIG_FILE", loader.CONFIG_FILES),
        secure_files=files("OS_CLIENT_SECURE_FILE", loader.SECURE_FILES),
    )


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


def _config_error(error: Exception, credentials: Credentials, where: str) -> DibctlError:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if credentials.cloud is not None and "was not found" in said:
        return ConfigError(
            f"{where}: there is no cloud {credentials.cloud!r} in clouds.yaml",
            hint="clouds.yaml is looked for in the working directory, ~/.config/openstack and "
            "/etc/openstack, or set OS_CLIENT_CONFIG_FILE",
        )
    return ConfigError(f"{where}: {said}")


class _QuietAdapter(requests.adapters.HTTPAdapter):
    """An adapter that does not warn about unverified certificates: the operator said to."""

    def send(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            return super().send(*args, **kwargs)


def _quiet(session: requests.Session | None) -> requests.Session:
    session = session or requests.Session()
    session.mount("https://", _QuietAdapter())
    return session


# -- refusals --------------------------------------------------------------------------------------


def translated(
    error: Exception, service: Service, doing: str, *, at: str | None = None, where: str = ""
) -> DibctlError:
    """Return what ``error``, met in ``doing`` something, is in our words.

    ``at`` is the setting that caused it where one did, ``where`` the place of the keystone section.
    """
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    if status is None:
        return _unanswered(error, service, doing, where)
    said = f"{PROJECTS[service]} answered {status}: {_said(error)}{_request_id(error)}"
    if status == UNAUTHORIZED:
        return AuthorizationError(
            f"{where}: cannot {doing}: Keystone refused the credentials: {_said(error)}{_request_id(error)}",
            hint="check user, password, project and their domains",
        )
    message = f"{at}: cannot {doing}: {said}" if at else f"cannot {doing}: {said}"
    transient = status in TRANSIENT
    if status == FORBIDDEN:
        kind = NovaForbiddenError if service in INSTANCES else ApiError
        return kind(message, status=status, hint=_forbidden_hint(said))
    if service in INSTANCES and not transient:
        return NovaBadRequestError(message, status=status)
    if service == "image" and status == NOT_FOUND:
        return ImageNotFoundError(message)
    return ApiError(message, status=status, transient=transient)


def _forbidden_hint(said: str) -> str:
    if "uota" in said:
        return "the project's quota is used up: remove something in it, or ask for more"
    if "fixed_ips" in said:
        return "only members of the project that owns a network may choose their address in it"
    return "the user lacks a role in the project"


def _said(error: Exception) -> str:
    """Return the service's own message, on one line; Glance's errors are HTML pages."""
    text = getattr(error, "details", None) or getattr(error, "message", None) or str(error)
    plain = html.unescape(re.sub(r"<[^>]+>", " ", str(text)))
    return " ".join(plain.split())[:500] or type(error).__name__


def _request_id(error: Exception) -> str:
    found = getattr(error, "request_id", None)
    return f" (request {found})" if found else ""


def _unanswered(error: Exception, service: Service, doing: str, where: str) -> DibctlError:
    name = PROJECTS[service]
    if isinstance(error, auth_exceptions.SSLError | requests.exceptions.SSLError):
        return ApiError(
            f"{where}: cannot {doing}: the certificate of the server is not trusted: {_said(error)}",
            hint="name the authority's certificate in ssl_ca_path (ssl_insecure: true trusts anybody)",
        )
    if isinstance(error, auth_exceptions.EndpointNotFound | sdk_exceptions.ServiceDisabledException):
        return ConfigError(
            f"{where}: cannot {doing}: the catalog has no {name} there: {_said(error)}",
            hint="check region_name; `openstack catalog list` shows what there is",
        )
    if isinstance(error, auth_exceptions.MissingRequiredOptions):
        return CredentialsError(f"{where}: not enough credentials: {_said(error)}")
    if isinstance(error, auth_exceptions.DiscoveryFailure):
        return ApiError(
            f"{where}: cannot {doing}: no Keystone answers there: {_said(error)}",
            hint="check auth_url",
        )
    connection = (auth_exceptions.ConnectionError, requests.ConnectionError, requests.Timeout)
    if isinstance(error, connection):
        return ApiError(
            f"cannot {doing}: {name} did not answer: {_said(error)}",
            hint=f"check auth_url ({where}) and the network",
            transient=True,
        )
    return ApiError(
        f"cannot {doing}: {name}: {_said(error)}", transient=isinstance(error, requests.RequestException)
    )
