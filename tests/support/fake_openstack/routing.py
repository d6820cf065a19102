"""What the services have in common: their calls, found by method and path."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Callable

from tests.support.fake_openstack.messages import Answer, Refusal, Request
from tests.support.fake_openstack.state import State

Handler = Callable[..., Answer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call of an API. One that is ``public`` needs no token; one that ``streams`` locks for itself."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler
    public: bool
    streams: bool


class Service:
    """The calls of one API, and the words in which it refuses them: ``refused`` makes a refusal an answer."""

    def __init__(self, refused: Callable[[int, str], Answer], *, request_id: str) -> None:
        self.refused = refused
        self._request_id = request_id
        self._calls: list[Call] = []

    def call(
        self, method: str, pattern: str, *, public: bool = False, streams: bool = False
    ) -> Callable[[Handler], Handler]:
        """Have a function answer calls whose path matches ``pattern``; its groups are arguments."""

        def add(handler: Handler) -> Handler:
            compiled = re.compile(pattern)
            self._calls.append(
                Call(method=method, pattern=compiled, handler=handler, public=public, streams=streams)
            )
            return handler

        return add

    def handle(self, cloud: State, request: Request, path: str) -> Answer:
        """Return the answer to a request; refusals are answers too."""
        try:
            cloud.before(request.method, path, request.query)
            answer = self._answer(cloud, request, path)
        except Refusal as refusal:
            answer = self.refused(refusal.status, str(refusal))
        return dataclasses.replace(
            answer, headers={**answer.headers, self._request_id: f"req-{uuid.uuid4()}"}
        )

    def _answer(self, cloud: State, request: Request, path: str) -> Answer:
        for call in self._calls:
            if call.method == request.method and (match := call.pattern.fullmatch(path)):
                if not (call.public or request.user):
                    raise Refusal(401, "The request you have made requires authentication.")
                if call.streams:
                    return call.handler(cloud, request, *match.groups())
                request.receive()  # before the lock: a client may be slow
                with cloud.lock:
                    return call.handler(cloud, request, *match.groups())
        raise Refusal(404, f"nothing at {request.method} {path}")
