"""One login at one OpenStack: opening it, calling it with deadlines, and its refusals in words.

Everything here belongs to one thread; a second thread or region opens an Api of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import email.utils
import html
import logging
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import keystoneauth1.exceptions as auth_exceptions
import openstack
import openstack.config
import openstack.exceptions as sdk_exceptions
import requests
import requests.adapters
import urllib3.exceptions
from keystoneauth1.discover import EndpointData
from openstack.config import loader
from openstack.resource import Resource

import pytest_dibctl
from pytest_dibctl.clouds.protocols import IN_FLIGHT
from pytest_dibctl.config.credentials import Credentials
from pytest_dibctl.config.models.site import Site
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

_TYPES: Mapping[Service, str] = {"volume": "block-storage"}
"""What catalogs call a service, where we call it otherwise."""

CALL_TIMEOUT = 60.0
"""Seconds an ordinary call may take until its answer; creating and uploading have deadlines of their own."""
SAFE_CALL_TIMEOUT = 120.0
"""Seconds for which a call that is safe to repeat is repeated while it meets transient faults."""
FIRST_ANSWER_TIMEOUT = 20.0
"""The same before a service has answered once: a wrong URL looks like a service that is down for a moment."""
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
LOOK_AGAIN = 1.0
"""Seconds between two looks for what may still appear."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 3.0
"""Seconds between two looks at something that is being waited for."""

_UNREACHED = (auth_exceptions.ConnectionError, requests.ConnectionError, requests.Timeout)
_REFUSED = (sdk_exceptions.SDKException, auth_exceptions.ClientException, requests.RequestException)
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, TOO_LARGE, TOO_MANY = 401, 403, 404, 409, 413, 429
_TOO_LARGE = "its store is full, or a quota does not allow so much: Glance's log says which"
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What comes of an answer that is not what the service's documentation says: cut off, or empty."""
LOST_ANSWER = 15.0
"""Seconds in which a thing may still appear after the answer to its making was lost."""


class _Redacted(logging.Filter):
    """Takes out of debug messages what the SDK knows nothing of: Nova answers with a password."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every message through."""
        if "adminPass" in (message := record.getMessage()):
            record.msg = re.sub(r'(adminPass\W+)[^"\']+', r"\1***", message)
            record.args = ()
        return True


for _name in ("keystoneauth.session", "keystoneauth.session.body"):
    logging.getLogger(_name).addFilter(_Redacted())


class Api:
    """An opened login. Close it when done; what it made stays."""

    def __init__(self, connection: openstack.connection.Connection, *, where: str) -> None:
        self.connection: Any = connection
        self._where = where
        self._session: Any = connection.session
        self._session.timeout = CALL_TIMEOUT
        self._latest = math.inf
        self._in_flight: dict[str, float] = {}
        self._has: dict[Service, bool] = {}
        self._discovered: set[Service] = set()
        self._answered: set[Service] = set()

    @property
    def compute(self) -> Any:
        """Nova's proxy; like the others it may raise ApiError, so take it inside of a call."""
        self._discover("compute")
        return self.connection.compute

    @property
    def image(self) -> Any:
        """Glance's proxy."""
        self._discover("image")
        return self.connection.image

    @property
    def network(self) -> Any:
        """Neutron's proxy."""
        self._discover("network")
        return self.connection.network

    @property
    def volume(self) -> Any:
        """Cinder's proxy."""
        self._discover("volume")
        return self.connection.block_storage

    def _discover(self, service: Service) -> None:
        """See that a service tells its versions, once, if the configured endpoint names none.

        The SDK asks the service then. If that fails it goes on with the URL that it has, below which there
        is nothing, for as long as the connection lives. Where a URL from the catalog fails it says so.
        """
        if service in self._discovered:
            return
        config, name = self.connection.config, _TYPES.get(service, service)
        given = config.get_endpoint(name)
        if given is not None and EndpointData(catalog_url=given).api_version is None:
            found = config.get_session_client(name).get_endpoint_data()
            if found is None or found.api_version is None:
                raise self._versionless(service, given)
        self._discovered.add(service)

    def _versionless(self, service: Service, url: str) -> ApiError:
        """Return what is wrong with a service that did not tell its versions, as far as it says."""
        message = f"{PROJECTS[service]} at {url} does not tell the versions of its API"
        after: float | None = None
        try:
            self._session.get(url, authenticated=False)
        except _UNREACHED as error:
            message = f"no {PROJECTS[service]} answers at {url}: {_said(error)}"
        except auth_exceptions.HttpError as error:
            # Not in the error's own class: a 404 of this document says nothing of what was looked for.
            message, after = (
                f"{message}: it answered {error.http_status}: {_said(error)}",
                _retry_after(error),
            )
        return ApiError(
            message,
            hint=f"check the endpoint ({self._where}), and the network",
            transient=True,
            undone=True,
            retry_after=after,
        )

    @property
    def project_id(self) -> str:
        """The id of the project logged in to; raises AuthorizationError."""
        return str(self.safely("identity", "log in", self._session.get_project_id))

    def has(self, service: Service) -> bool:
        """Whether the catalog lists the service, in this region."""
        if service not in self._has:
            name = _TYPES.get(service, service)
            found = self.safely("identity", "log in", lambda: self.connection.has_service(name))
            self._has[service] = bool(found)
        return self._has[service]

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
        try:
            with self._translated(service, doing, at), self._answering_within(timeout):
                answer = _whole(call())
        except ApiError as error:
            if error.status is not None:
                self._answered.add(service)
            raise
        self._answered.add(service)
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

        For the login, and what comes before it, that is at most ``FIRST_ANSWER_TIMEOUT``; for a service
        that cannot be reached, and never could, as well.
        """
        now = time.monotonic()
        limit = timeout if self._answered else min(timeout, FIRST_ANSWER_TIMEOUT)
        deadline = min(now + limit, self._latest)
        patience = min(now + FIRST_ANSWER_TIMEOUT, deadline)
        pauses = pauses_between()
        while True:
            left = max(1.0, deadline - time.monotonic())
            try:
                return self.once(service, doing, call, at=at, timeout=min(CALL_TIMEOUT, left))
            except ApiError as error:
                if not error.transient:
                    raise
                nowhere = error.undone and error.status is None and service not in self._answered
                pause_before_again(error, pauses, patience if nowhere else deadline)

    def repeat(self, service: Service, doing: str, call: Callable[[], object]) -> None:
        """Ask for something to be done that may be asked for twice, like a reboot.

        What is under way already, since only the answer got lost, is refused as a conflict, and well.
        """
        deadline = min(time.monotonic() + SAFE_CALL_TIMEOUT, self._latest)
        pauses = pauses_between()
        asked = False
        while True:
            try:
                self.once(service, doing, call)
            except ApiError as error:
                if asked and error.status == CONFLICT:
                    return
                if not error.transient:
                    raise
                asked = asked or not error.undone
                pause_before_again(error, pauses, deadline)
            else:
                return

    def create(
        self,
        service: Service,
        doing: str,
        call: Callable[[], T],
        *,
        name: str,
        find: Callable[[], T | None],
        timeout: float,
        at: str | None = None,
    ) -> T:
        """Make a thing, once, and return it; ``find`` finds it again if the answer gets lost.

        ``name`` is what it is removed by (``settled``); ``timeout`` is seconds for an answer.
        """
        deadline = time.monotonic() + max(SAFE_CALL_TIMEOUT, 2 * timeout)
        pauses = pauses_between()
        while True:
            try:
                with self.creating(name):
                    return self.once(service, doing, call, at=at, timeout=timeout)
            except ApiError as error:
                if not error.transient and error.status != CONFLICT:
                    raise
                lost = error.transient and not error.undone
                found = _found_again(find, patience=LOST_ANSWER if lost else 0.0)
                if found is not None:
                    return found
                if not error.transient:
                    raise
                pause_before_again(error, pauses, deadline)

    @contextlib.contextmanager
    def creating(self, name: str) -> Iterator[None]:
        """Make a thing inside; note that it may still appear when its making was cut off or not answered."""
        before = self._in_flight.get(name, 0.0)
        try:
            yield
        except ApiError as error:
            if error.transient and not error.undone:
                before = time.monotonic() + IN_FLIGHT
            raise
        except BaseException:
            before = time.monotonic() + IN_FLIGHT
            raise
        finally:
            self._in_flight[name] = before

    def may_appear(self, name: str) -> bool:
        """Whether a thing of that name may still appear besides the one that is known."""
        return self._in_flight.get(name, 0.0) > time.monotonic()

    def settled(self, name: str, remove: Callable[[], None]) -> None:
        """Call ``remove``, and again as long as a thing of that name may still appear."""
        while True:
            remove()
            left = self._in_flight.get(name, 0.0) - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(LOOK_AGAIN, left))

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
        pauses = pauses_between()
        while True:
            try:
                with self._no_later_than(deadline):
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

        def renew() -> None:
            auth = self._session.auth
            if auth.get_access(self._session).will_expire_soon(stale_duration=int(seconds) + 60):
                auth.invalidate()
                self._session.get_token()

        self.safely("identity", "renew the token", renew)

    def forget_token(self) -> None:
        """Get a new token for the next call."""
        self._session.auth.invalidate()

    @contextlib.contextmanager
    def _no_later_than(self, deadline: float) -> Iterator[None]:
        """Have calls inside be repeated only so long; one at least is made."""
        before, self._latest = self._latest, min(self._latest, deadline)
        try:
            yield
        finally:
            self._latest = before

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
        except _UNREADABLE as error:
            log.debug("an answer of %s could not be read", PROJECTS[service], exc_info=True)
            raise ApiError(
                f"cannot {doing}: {PROJECTS[service]} gave an answer that cannot be read: {error!r}",
                transient=True,
            ) from None


def pauses_between() -> Iterator[float]:
    """Yield seconds to wait between two tries or looks, longer and longer."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _found_again(find: Callable[[], T | None], *, patience: float) -> T | None:
    """Look once at least, and for ``patience`` seconds; a look that meets faults takes its own time."""
    until = time.monotonic() + patience
    pauses = pauses_between()
    while True:
        found = find()
        if found is not None or time.monotonic() >= until:
            return found
        time.sleep(next(pauses))


def _whole(found: T) -> T:
    """Return a resource of the SDK; ValueError if it holds nothing but what was asked for.

    The SDK takes an answer that it cannot read for one that says nothing.
    """
    if isinstance(found, Resource):
        said = {name for name, value in found._body.attributes.items() if value is not None}  # noqa: SLF001
        if found.id is None or said <= {"id", "name"}:
            raise ValueError("an answer without content")
    return found


def pause_before_again(error: ApiError, pauses: Iterator[float], deadline: float) -> None:
    """Wait before a call is repeated, as long as the service wants; raise ``error`` if that is too long."""
    pause = max(next(pauses), error.retry_after or 0.0)
    if time.monotonic() + pause > deadline:
        raise error
    log.debug("%s; trying again in %.1f s", error.message, pause)
    time.sleep(pause)


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


def _never_sent(error: BaseException | None) -> bool:
    """Whether a connection was refused, so that no service can have heard of the call."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        if isinstance(one, ConnectionRefusedError | urllib3.exceptions.NewConnectionError):
            return True
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return False


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
    # The SDK's own repeating of what Glance refuses knows of no deadline, and not what it was asked to wait.
    arguments: dict[str, Any] = {"region_name": credentials.region_name, "image_status_code_retries": 0}
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
    return ApiError(
        message,
        hint=_TOO_LARGE if service == "image" and status == TOO_LARGE else None,
        status=status,
        transient=transient,
        undone=status == TOO_MANY,
        retry_after=_retry_after(error),
    )


def _retry_after(error: Exception) -> float | None:
    """Return the seconds that an answer asks to wait, in seconds or as a date."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    said = str(headers.get("Retry-After") or "")
    if said.isdecimal():
        return float(said)
    with contextlib.suppress(ValueError):
        until = email.utils.parsedate_to_datetime(said)
        now = email.utils.parsedate_to_datetime(headers["Date"]) if headers.get("Date") else None
        return max(0.0, (until - (now or dt.datetime.now(dt.UTC))).total_seconds())
    return None


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
    # The first call to any service logs in.
    name = PROJECTS["identity" if "/auth/tokens" in _said(error) else service]
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
    if isinstance(error, auth_exceptions.DiscoveryFailure | sdk_exceptions.ServiceDiscoveryException):
        return _undiscovered(error, name, doing, where)
    if isinstance(error, _UNREACHED):
        return ApiError(
            f"cannot {doing}: {name} did not answer: {_said(error)}",
            hint=f"check auth_url ({where}) and the network",
            transient=True,
            undone=_never_sent(error),
        )
    # NotSupported is also what comes of a service that could not be asked which versions it has.
    garbled = (requests.RequestException, auth_exceptions.InvalidResponse, sdk_exceptions.NotSupported)
    return ApiError(f"cannot {doing}: {name}: {_said(error)}", transient=isinstance(error, garbled))


def _undiscovered(error: Exception, name: str, doing: str, where: str) -> ApiError:
    if isinstance(error, auth_exceptions.DiscoveryFailure):
        return ApiError(
            f"{where}: cannot {doing}: no Keystone answers there: {_said(error)}",
            hint="check auth_url",
        )
    return ApiError(
        f"cannot {doing}: no {name} answers at its address: {_said(error)}",
        hint=f"check the catalog or the endpoint ({where}), and the network",
        transient=True,
        undone=True,
    )
