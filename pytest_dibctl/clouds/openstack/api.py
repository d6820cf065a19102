"""One login at one OpenStack, and its calls: deadlines, repetitions and waits.

An Api belongs to one thread; a second thread or region opens an Api of its own.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import openstack

from pytest_dibctl.clouds.openstack.discovery import check_versions
from pytest_dibctl.clouds.openstack.in_flight import InFlight
from pytest_dibctl.clouds.openstack.pauses import found_again, pause_before_again, pauses_between
from pytest_dibctl.clouds.openstack.quiet import no_warnings
from pytest_dibctl.clouds.openstack.refusals import (
    CONFLICT,
    NOT_FOUND,
    REFUSED,
    translated,
    whole,
)
from pytest_dibctl.clouds.openstack.services import CATALOG_TYPES, PROJECTS, Service
from pytest_dibctl.clouds.openstack.shapes import ShapeError
from pytest_dibctl.clouds.openstack.transport import AnswerError, one_call
from pytest_dibctl.clouds.regions import LateError
from pytest_dibctl.errors import ApiError, ConfigError, DibctlError
from pytest_dibctl.system.suggestions import did_you_mean

log = logging.getLogger(__name__)

T = TypeVar("T")

CALL_TIMEOUT = 60.0
"""Seconds an ordinary call may take until its answer; creating and uploading have deadlines of their own."""
SAFE_CALL_TIMEOUT = 120.0
"""Seconds for which a call that is safe to repeat is repeated while it meets transient faults."""
FIRST_ANSWER_TIMEOUT = 20.0
"""The same before a service has answered once: a wrong URL looks like a service that is down for a moment."""
LOST_ANSWER = 15.0
"""Seconds in which a resource may still appear after the answer to its creation was lost."""


class Api:
    """An opened login. The caller closes it; the resources it made stay."""

    def __init__(self, connection: openstack.connection.Connection, *, where: str) -> None:
        self.connection: Any = connection
        self._where = where
        self._session: Any = connection.session
        self._session.timeout = CALL_TIMEOUT
        self._latest = math.inf
        self.in_flight = InFlight()
        self._has: dict[Service, bool] = {}
        self._discovered: set[Service] = set()
        self._answered: set[Service] = set()

    @property
    def compute(self) -> Any:
        """Nova's proxy; like the others it may raise ApiError, so take it inside of a call."""
        self._check_versions("compute")
        return self.connection.compute

    @property
    def image(self) -> Any:
        """Glance's proxy."""
        self._check_versions("image")
        return self.connection.image

    @property
    def network(self) -> Any:
        """Neutron's proxy."""
        self._check_versions("network")
        return self.connection.network

    @property
    def volume(self) -> Any:
        """Cinder's proxy."""
        self._check_versions("volume")
        return self.connection.block_storage

    def _check_versions(self, service: Service) -> None:
        if service not in self._discovered:
            check_versions(self.connection, service, where=self._where)
            self._discovered.add(service)

    @property
    def project_id(self) -> str:
        """The id of the project logged in to; raises AuthorizationError."""
        return str(self.safely("identity", "log in", self._session.get_project_id))

    def has(self, service: Service) -> bool:
        """Whether the catalog lists the service, in this region."""
        if service not in self._has:
            name = CATALOG_TYPES.get(service, service)
            listed = self.safely("identity", "log in", lambda: self.connection.has_service(name))
            self._has[service] = bool(listed)
        return self._has[service]

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()
        self._session.close()

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
        ``timeout`` is seconds. Raises ApiError or a subclass, AuthorizationError, ImageNotFoundError.
        """
        try:
            with self._translated(service, doing, at), self._answering_within(timeout):
                answer = whole(call())
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
        """Ask for an action that may be asked for twice, like a reboot.

        If only the first answer got lost, the service refuses the second call as a conflict; that is success.
        """
        deadline = min(time.monotonic() + SAFE_CALL_TIMEOUT, self._latest)
        pauses = pauses_between()
        asked = False
        while True:
            try:
                left = max(1.0, deadline - time.monotonic())
                self.once(service, doing, call, timeout=min(CALL_TIMEOUT, left))
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
        """Create a resource, once, and return it; ``find`` finds it again if the answer gets lost.

        ``in_flight.settled`` removes it by ``name``; ``timeout`` is seconds for an answer. Raises as
        ``once``.
        """
        deadline = time.monotonic() + max(SAFE_CALL_TIMEOUT, 2 * timeout)
        pauses = pauses_between()
        while True:
            try:
                with self.in_flight.creating(name):
                    return self.once(service, doing, call, at=at, timeout=timeout)
            except ApiError as error:
                if not error.transient and error.status != CONFLICT:
                    raise
                lost = error.transient and not error.undone
                with self._no_later_than(max(deadline, time.monotonic() + LOST_ANSWER)):
                    resource = found_again(find, patience=LOST_ANSWER if lost else 0.0)
                if resource is not None:
                    return resource
                if not error.transient:
                    raise
                pause_before_again(error, pauses, deadline)

    def find(
        self, service: Service, what: str, call: Callable[[], T], *, timeout: float = SAFE_CALL_TIMEOUT
    ) -> T | None:
        """Return the result of ``call``, None if the service answers that there is no such resource."""
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
                    result = look()
            except ApiError as error:
                if not error.transient or time.monotonic() > deadline:
                    raise
                log.debug("%s; looking again", error.message)
                result = None
            if result is not None:
                return result
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(next(pauses), left))

    def renew_token(self, seconds: float) -> None:
        """Get a new token unless the present token is valid for ``seconds`` more.

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
        """Let calls inside be repeated until the deadline at most; each is made once at least."""
        before, self._latest = self._latest, min(self._latest, deadline)
        try:
            yield
        finally:
            self._latest = before

    @contextlib.contextmanager
    def _answering_within(self, seconds: float) -> Iterator[None]:
        """Let all of a call, with a login and what it asks besides, end within ``seconds``."""
        before = self._session.timeout
        self._session.timeout = seconds
        try:
            with one_call(seconds):
                yield
        finally:
            self._session.timeout = before

    @contextlib.contextmanager
    def _translated(self, service: Service, doing: str, at: str | None) -> Iterator[None]:
        try:
            with no_warnings():
                yield
        except AnswerError as error:
            raise ApiError(
                f"{self._where}: cannot {doing}: {PROJECTS[service]}: {error.message}", hint=error.hint
            ) from None
        except (DibctlError, LateError):
            raise
        except REFUSED as error:
            ours = translated(error, service, doing, at=at, where=self._where)
            if isinstance(ours, ConfigError) and (near := self._near_region()):
                ours.hint = f"check region_name; {near}"
            raise ours from None
        except Exception as error:
            log.debug("an answer of %s could not be read", PROJECTS[service], exc_info=True)
            raise self._unreadable(error, service, doing) from None

    def _near_region(self) -> str:
        """Say which regions of the catalog are near to the configured one; nothing if none is."""
        wanted = str(self.connection.config.region_name)
        with contextlib.suppress(*REFUSED, AttributeError, KeyError, TypeError):
            catalog = self._session.auth.get_access(self._session).service_catalog.catalog
            regions = {str(endpoint["region"]) for entry in catalog for endpoint in entry["endpoints"]}
            return did_you_mean(wanted, regions - {wanted})
        return ""

    def _unreadable(self, error: Exception, service: Service, doing: str) -> ApiError:
        """Return the error for an answer of another shape, or a cut-off answer: the call may work later."""
        cut_off = isinstance(error, ValueError) and not isinstance(error, ShapeError)
        last = getattr(self._session.session, "last", None)
        last_request = f" ({last})" if last is not None else ""
        reason = str(error) if isinstance(error, ShapeError) else repr(error)
        return ApiError(
            f"cannot {doing}: {PROJECTS[service]} gave an answer that cannot be read: {reason}{last_request}",
            hint=None if cut_off else f"check that {PROJECTS[service]} answers there ({self._where})",
            transient=cut_off,
        )
