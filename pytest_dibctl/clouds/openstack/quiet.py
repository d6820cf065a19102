"""Kept out of logs and output: a secret that openstacksdk would log, and warnings that help no user."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import requests
import urllib3.exceptions

from pytest_dibctl.clouds.openstack.transport import BoundedAdapter


class _Redacted(logging.Filter):
    """Removes the server's password, which Nova answers with, from debug messages: the SDK does not."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every message through."""
        if "adminPass" in (message := record.getMessage()):
            record.msg = re.sub(r'(adminPass\W+)[^"\']+', r"\1***", message)
            record.args = ()
        return True


for _name in ("keystoneauth.session", "keystoneauth.session.body"):
    logging.getLogger(_name).addFilter(_Redacted())


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Ignore openstacksdk's warnings about itself: where warnings are errors they would break every call."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"openstack\.")
        yield


class _QuietAdapter(BoundedAdapter):
    """An adapter that does not warn about unverified certificates: the operator said to."""

    def send(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            return super().send(*args, **kwargs)


def without_tls_warnings(session: requests.Session | None) -> requests.Session:
    """Return ``session``, or a new one, without warnings about certificates that are not verified."""
    session = session or requests.Session()
    session.mount("https://", _QuietAdapter())
    return session
