"""What openstacksdk says of itself, and shall not: secrets, and warnings that are no news to us."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import requests
import requests.adapters
import urllib3.exceptions


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


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Leave out what openstacksdk warns itself of; where warnings are errors it would break every call."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"openstack\.")
        yield


class _QuietAdapter(requests.adapters.HTTPAdapter):
    """An adapter that does not warn about unverified certificates: the operator said to."""

    def send(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            return super().send(*args, **kwargs)


def without_tls_warnings(session: requests.Session | None) -> requests.Session:
    session = session or requests.Session()
    session.mount("https://", _QuietAdapter())
    return session
