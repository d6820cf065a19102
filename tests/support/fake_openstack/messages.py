"""Requests and answers, whether they come by HTTP or from within the process."""

from __future__ import annotations

import dataclasses
import functools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Document = dict[str, Any]
ADMIN = "admin"
"""The user who is an admin of its project, and so of the cloud."""
TOKEN = "planted-token"
"""What every token begins with; a value that must turn up in no log, report or file."""


class Refusal(Exception):  # noqa: N818 -- an answer, not an error of ours
    """An answer other than success, which the service that gives it puts into its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asked; ``path`` is without its query, ``base`` the URL that the client reached us by.

    The body is read when it is first needed: ``source`` yields it in blocks, once, each valid until the next.
    """

    method: str
    path: str
    query: Mapping[str, str]
    base: str
    source: Callable[[], Iterator[bytes | memoryview]] = lambda: iter(())
    token: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    raw_query: str = ""

    @functools.cached_property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(bytes(block) for block in self.source())

    @property
    def data(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body) if self.body else {}

    def receive(self) -> None:
        """Read the whole body now: what is done with it no longer depends on the client."""
        len(self.body)

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield the body in blocks, as it arrives."""
        if "body" in self.__dict__:
            yield self.body
        else:
            yield from self.source()

    def header(self, name: str) -> str:
        """Return a header's value, empty if there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def user(self) -> str:
        """The name of the user whose token the request has, empty without one."""
        return self._bearer()[0]

    @property
    def project(self) -> str:
        """The id of the project that the token is for, empty without one."""
        return self._bearer()[1]

    def _bearer(self) -> tuple[str, str]:
        head, *bearer = (self.token or "").split("/")
        return (bearer[0], bearer[1]) if head == TOKEN and len(bearer) == 3 else ("", "")


def new_token(user: str, project: str) -> str:
    """Return a token that tells whose it is."""
    return f"{TOKEN}/{user}/{project}/{uuid.uuid4().hex}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a service says."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def answer(status: int, document: Document | None = None, **headers: str) -> Answer:
    """Return an answer in JSON."""
    if document is None:
        return Answer(status=status, headers=headers)
    content = json.dumps(document).encode()
    return Answer(status=status, content=content, headers={"Content-Type": "application/json", **headers})
