"""What goes wrong between a client and the services, and when."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from tests.support.fake_openstack.messages import Answer, Refusal, Request

Fault = Literal["500", "503", "429", "401", "reset before", "reset after", "empty", "malformed", "stall"]
FAULTS: tuple[Fault, ...] = (
    *("500", "503", "429", "401"),
    *("reset before", "reset after", "empty", "malformed", "stall"),
)
REFUSING = frozenset({"500", "503", "429", "401"})


@dataclasses.dataclass(kw_only=True)
class Plan:
    """What goes wrong: ``choose`` gets each request's number, from 0, and the request."""

    choose: Callable[[int, Request], Fault | None] = lambda _number, _request: None
    stall: float = 60.0
    """Seconds until the connection of a stalled request is reset."""
    seen: list[str] = dataclasses.field(default_factory=list)
    done: list[str] = dataclasses.field(default_factory=list)
    """The requests that met a fault."""
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def fault_for(self, request: Request) -> Fault | None:
        """Return what happens to a request, and note it."""
        with self.lock:
            number = len(self.seen)
            self.seen.append(f"{request.method} {request.path}")
            fault = self.choose(number, request)
            if fault is not None:
                self.done.append(f"{fault}: {self.seen[-1]}")
        return fault


def refusal(status: str) -> Answer:
    """Return what a service, or a proxy before it, says instead of an answer."""
    document = {"error": {"code": int(status), "message": f"injected {status}"}}
    headers = {"Content-Type": "application/json", **({"Retry-After": "1"} if status == "429" else {})}
    return Answer(status=int(status), content=json.dumps(document).encode(), headers=headers)


def spoiled(answer: Answer, fault: Fault) -> Answer:
    """Return an answer that arrives empty or cut off."""
    whole = fault != "malformed" or not answer.content
    return dataclasses.replace(answer, content=b"" if whole else b'{"truncated": [')


def refuse_deletes(method: str, _path: str, _query: Mapping[str, str]) -> None:
    """Refuse everything that removes something; for ``FakeCloud.before``."""
    if method == "DELETE":
        raise Refusal(403, "Policy doesn't allow it.")
