"""Secrets of a login and of the services' answers, entered so that texts lose them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import requests

from pytest_dibctl.system.redaction import remember

TOKEN_HEADERS: Final = ("X-Auth-Token", "X-Subject-Token", "X-Service-Token", "Authorization")
_SECRET_KEY: Final = re.compile(r"(?i)(.*_)?(password|secret|token|passcode)")
_PASSWORD: Final = re.compile(rb'"adminPass"\s*:\s*("(?:[^"\\]|\\.)*")')


def remember_login(config: Any) -> None:
    """Enter the secrets of a configuration of openstacksdk, with all that is nested in it."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if _SECRET_KEY.fullmatch(str(key)) and isinstance(value, str | int):
                remember(str(value))
            remember_login(value)
    elif isinstance(config, list | tuple):
        for value in config:
            remember_login(value)


def remember_request(request: requests.PreparedRequest) -> None:
    """Enter the tokens that a request is about to carry."""
    _remember_headers(request.headers)


def remember_answer(response: requests.Response, *, streamed: bool) -> None:
    """Enter the token that Keystone issued, and a server's password; bytes that are streamed stay unread."""
    _remember_headers(response.headers)
    if not streamed and (match := _PASSWORD.search(response.content)):
        remember(str(json.loads(match[1])))


def _remember_headers(headers: Mapping[str, Any]) -> None:
    for name in TOKEN_HEADERS:
        # An Authorization has a scheme before its value.
        remember(_last_word(headers.get(name)))


def _last_word(value: str | bytes | None) -> str | bytes | None:
    words = value.split() if value else []
    return words[-1] if words else None
