"""Refusals and unreadable answers of services become errors of ours."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import html
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import keystoneauth1.exceptions as auth_exceptions
import openstack.exceptions as sdk_exceptions
import requests
import urllib3.exceptions
from openstack.resource import Resource

from pytest_dibctl.clouds.openstack.services import INSTANCES, PROJECTS, Service
from pytest_dibctl.clouds.openstack.shapes import ShapeError, check_resource
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
MULTIPLE = 300
_TOO_LARGE = "its store is full, or a quota does not allow so much: Glance's log says which"


def translated(
    error: Exception, service: Service, doing: str, *, at: str | None = None, where: str = ""
) -> DibctlError:
    """Return the error of ours for ``error`` of the SDK; ``doing`` completes the sentence "cannot ...".

    ``at`` is the setting that caused it, if one did; ``where`` is the place of the keystone section.
    """
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    if status is None:
        return _unanswered(error, service, doing, where)
    text = f"{said_by(error)}{_request_id(error)}"
    answer = f"{PROJECTS[service]} answered {status}: {text}"
    if status == UNAUTHORIZED:
        return AuthorizationError(
            f"{where}: cannot {doing}: Keystone refused the credentials: {text}",
            hint="check user, password, project and their domains",
        )
    message = f"{at}: cannot {doing}: {answer}" if at else f"cannot {doing}: {answer}"
    transient = status in TRANSIENT
    if status == FORBIDDEN:
        kind = NovaForbiddenError if service in INSTANCES else ApiError
        return kind(message, status=status, hint=_forbidden_hint(answer))
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
    """Return a raw response, or raise the SDK's error for its status; ShapeError for a 3xx."""
    sdk_exceptions.raise_from_response(response)
    if response.status_code >= MULTIPLE:
        raise ShapeError(f"status {response.status_code} instead of success")
    return response


def whole(answer: T) -> T:
    """Return an answer; raises ValueError for a resource of the SDK that holds no more than the request.

    The SDK returns such a resource when it cannot read the service's answer.
    """
    if isinstance(answer, Resource):
        present = {name for name, value in answer._body.attributes.items() if value is not None}  # noqa: SLF001
        if answer.id is None or present <= {"id", "name"}:
            raise ValueError("an answer without content")
        check_resource(answer)
    elif isinstance(answer, list):
        for item in answer:
            whole(item) if isinstance(item, Resource) else None
    return answer


def retry_after(error: Exception) -> float | None:
    """Return the seconds that an answer asks to wait, in seconds or as a date."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    value = str(headers.get("Retry-After") or "")
    if value.isdecimal():
        return float(value)
    with contextlib.suppress(ValueError):
        until = email.utils.parsedate_to_datetime(value)
        now = email.utils.parsedate_to_datetime(headers["Date"]) if headers.get("Date") else None
        return max(0.0, (until - (now or dt.datetime.now(dt.UTC))).total_seconds())
    return None


def _forbidden_hint(answer: str) -> str:
    if "uota" in answer:
        return "the project's quota is used up: remove something in it, or ask for more"
    if "fixed_ips" in answer:
        return "only members of the project that owns a network may choose their address in it"
    return "the user lacks a role in the project"


def said_by(error: Exception) -> str:
    """Return the service's own message, on one line; Glance's errors are HTML pages."""
    text = getattr(error, "details", None) or getattr(error, "message", None) or str(error)
    plain = html.unescape(re.sub(r"<[^>]+>", " ", str(text)))
    # The libraries' own additions: errors here have the status and the request besides.
    plain = re.sub(r" \((?:HTTP \d+|Request-ID: [^)]*)\)", "", plain)
    return " ".join(plain.split())[:500] or type(error).__name__


def _request_id(error: Exception) -> str:
    request_id = getattr(error, "request_id", None)
    return f" (request {request_id})" if request_id else ""


def _unanswered(error: Exception, service: Service, doing: str, where: str) -> DibctlError:
    # The first call to any service logs in.
    name = PROJECTS["identity" if "/auth/tokens" in said_by(error) else service]
    if isinstance(error, auth_exceptions.SSLError | requests.exceptions.SSLError):
        return ApiError(
            f"{where}: cannot {doing}: the certificate of the server is not trusted: {said_by(error)}",
            hint="name the authority's certificate in ssl_ca_path (ssl_insecure: true accepts any "
            "certificate)",
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
            f"cannot {doing}: {name} did not answer: {_without_wrappings(error)}",
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


def _without_wrappings(error: Exception) -> str:
    """Return what the service could not be reached for: libraries put the reason into words of their own."""
    reasons = [cause.strerror for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    text = said_by(error)
    address = re.match(r"Unable to establish connection to [^\s:]+:[^\s]*(?=: )", text)
    return f"{address.group()}: {reasons[-1]}" if address and reasons else text


def _never_sent(error: BaseException | None) -> bool:
    """Whether a connection was refused, so that no service can have heard of the call."""
    refusals = (ConnectionRefusedError, urllib3.exceptions.NewConnectionError)
    return any(isinstance(cause, refusals) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it wraps in any way."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        yield cause
        seen.add(id(cause))
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
