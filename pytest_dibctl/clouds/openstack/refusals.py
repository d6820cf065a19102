"""What a service refused, or answered badly, in our words: HTTP answers become errors of our own."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import html
import re
from typing import Any, TypeVar

import keystoneauth1.exceptions as auth_exceptions
import openstack.exceptions as sdk_exceptions
import requests
import urllib3.exceptions
from openstack.resource import Resource

from pytest_dibctl.clouds.openstack.services import INSTANCES, PROJECTS, Service
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

T = TypeVar("T")

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
UNREACHED = (auth_exceptions.ConnectionError, requests.ConnectionError, requests.Timeout)
REFUSED = (sdk_exceptions.SDKException, auth_exceptions.ClientException, requests.RequestException)
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, TOO_LARGE, TOO_MANY = 401, 403, 404, 409, 413, 429
_TOO_LARGE = "its store is full, or a quota does not allow so much: Glance's log says which"
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What comes of an answer that is not what the service's documentation says: cut off, or empty."""


def translated(
    error: Exception, service: Service, doing: str, *, at: str | None = None, where: str = ""
) -> DibctlError:
    """Return what ``error``, met in ``doing`` something, is in our words.

    ``at`` is the setting that caused it where one did, ``where`` the place of the keystone section.
    """
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    if status is None:
        return _unanswered(error, service, doing, where)
    text = f"{said_by(error)}{_request_id(error)}"
    said = f"{PROJECTS[service]} answered {status}: {text}"
    if status == UNAUTHORIZED:
        return AuthorizationError(
            f"{where}: cannot {doing}: Keystone refused the credentials: {text}",
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
        retry_after=retry_after(error),
    )


def raise_for_status(response: Any) -> Any:
    """Return a raw response, or raise what the SDK raises for its status."""
    sdk_exceptions.raise_from_response(response)
    return response


def whole(found: T) -> T:
    """Return a resource of the SDK; ValueError if it holds nothing but what was asked for.

    The SDK takes an answer that it cannot read for one that says nothing.
    """
    if isinstance(found, Resource):
        said = {name for name, value in found._body.attributes.items() if value is not None}  # noqa: SLF001
        if found.id is None or said <= {"id", "name"}:
            raise ValueError("an answer without content")
    return found


def retry_after(error: Exception) -> float | None:
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


def said_by(error: Exception) -> str:
    """Return the service's own message, on one line; Glance's errors are HTML pages."""
    text = getattr(error, "details", None) or getattr(error, "message", None) or str(error)
    plain = html.unescape(re.sub(r"<[^>]+>", " ", str(text)))
    return " ".join(plain.split())[:500] or type(error).__name__


def _request_id(error: Exception) -> str:
    found = getattr(error, "request_id", None)
    return f" (request {found})" if found else ""


def _unanswered(error: Exception, service: Service, doing: str, where: str) -> DibctlError:
    # The first call to any service logs in.
    name = PROJECTS["identity" if "/auth/tokens" in said_by(error) else service]
    if isinstance(error, auth_exceptions.SSLError | requests.exceptions.SSLError):
        return ApiError(
            f"{where}: cannot {doing}: the certificate of the server is not trusted: {said_by(error)}",
            hint="name the authority's certificate in ssl_ca_path (ssl_insecure: true trusts anybody)",
        )
    if isinstance(error, auth_exceptions.EndpointNotFound | sdk_exceptions.ServiceDisabledException):
        return ConfigError(
            f"{where}: cannot {doing}: the catalog has no {name} there: {said_by(error)}",
            hint="check region_name; `openstack catalog list` shows what there is",
        )
    if isinstance(error, auth_exceptions.MissingRequiredOptions):
        return CredentialsError(f"{where}: not enough credentials: {said_by(error)}")
    if isinstance(error, auth_exceptions.DiscoveryFailure | sdk_exceptions.ServiceDiscoveryException):
        return _undiscovered(error, name, doing, where)
    if isinstance(error, UNREACHED):
        return ApiError(
            f"cannot {doing}: {name} did not answer: {said_by(error)}",
            hint=f"check auth_url ({where}) and the network",
            transient=True,
            undone=_never_sent(error),
        )
    # NotSupported is also what comes of a service that could not be asked which versions it has.
    garbled = (requests.RequestException, auth_exceptions.InvalidResponse, sdk_exceptions.NotSupported)
    return ApiError(f"cannot {doing}: {name}: {said_by(error)}", transient=isinstance(error, garbled))


def _undiscovered(error: Exception, name: str, doing: str, where: str) -> ApiError:
    if isinstance(error, auth_exceptions.DiscoveryFailure):
        return ApiError(
            f"{where}: cannot {doing}: no Keystone answers there: {said_by(error)}",
            hint="check auth_url",
        )
    return ApiError(
        f"cannot {doing}: no {name} answers at its address: {said_by(error)}",
        hint=f"check the catalog or the endpoint ({where}), and the network",
        transient=True,
        undone=True,
    )


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
