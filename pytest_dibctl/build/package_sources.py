"""The state of the package sources of a Debian or Ubuntu build: digests of their signed indexes."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pytest_dibctl.build import dib, fingerprint
from pytest_dibctl.build.dib import AptSource, Recipe

TIMEOUT: Final = 10.0
"""Seconds that all indexes together may take."""
_LARGEST: Final = 8 << 20

_DEBIAN: Final = ("http://deb.debian.org/debian", "http://security.debian.org/")
_UBUNTU: Final = {
    "amd64": "http://archive.ubuntu.com/ubuntu",
    "i386": "http://archive.ubuntu.com/ubuntu",
}
_UBUNTU_PORTS: Final = "http://ports.ubuntu.com/ubuntu-ports"


def indexes(recipe: Recipe) -> tuple[str, ...]:
    """Return the addresses of the signed indexes that a recipe's packages come by; none where not known."""
    names = recipe.element_names
    variables = fingerprint.relevant_environment(recipe.environment)
    if conf := variables.get("DIB_APT_SOURCES_CONF"):
        return of_sources(
            dib.one_line_sources("\n".join(line.partition(":")[2] for line in conf.splitlines()))
        )
    release = variables.get("DIB_RELEASE")
    mirror = variables.get("DIB_DISTRIBUTION_MIRROR")
    if "debian-minimal" in names:
        release = release or "stable"
        main = variables.get("DIB_DEBIAN_DISTRIBUTION_MIRROR") or mirror or _DEBIAN[0]
        security = variables.get(dib.SECURITY_MIRROR) or _DEBIAN[1]
        found = [(main, release)]
        if release not in ("testing", "unstable"):
            subpath = variables.get("DIB_DEBIAN_SECURITY_SUBPATH", "")
            found += [(main, f"{release}-updates"), (security, f"{release}-security{subpath}")]
        return _addresses(found)
    if "ubuntu-minimal" in names and release:
        main = mirror or _UBUNTU.get(recipe.arch, _UBUNTU_PORTS)
        dists = variables.get("DIB_UBUNTU_MIRROR_DISTS", "updates,security,backports").split(",")
        return _addresses([(main, release), *((main, f"{release}-{dist}") for dist in dists if dist)])
    return ()


def of_sources(sources: Iterable[AptSource]) -> tuple[str, ...]:
    """Return the addresses of the signed indexes of apt's sources."""
    return _addresses((source.uri, source.suite) for source in sources)


def in_tree(apt: Path) -> tuple[str, ...]:
    """Return the addresses of the signed indexes of the sources below ``apt``, a tree's /etc/apt."""
    return of_sources(dib.apt_sources(apt))


def _addresses(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{uri.rstrip('/')}/dists/{suite}/InRelease" for uri, suite in pairs))


def digests(addresses: Iterable[str]) -> Mapping[str, str] | None:
    """Return the digest of each index as it is now; None where one of them cannot be fetched, or for none.

    This takes ``TIMEOUT`` seconds at most, even with a slow mirror.
    """
    addresses = list(dict.fromkeys(addresses))
    found: dict[str, str] = {}
    # These threads are never joined: a mirror that sends a byte now and then may hold them for ever.
    threads = [
        threading.Thread(target=_fetch, args=(address, found), name="dibctl-index", daemon=True)
        for address in addresses
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + TIMEOUT
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    known = {shown(address): found[address] for address in addresses if address in found}
    return known if known and len(known) == len(addresses) else None


def shown(address: str) -> str:
    """Return an address that may be shown and stored: without user and password."""
    parts = urlsplit(address)
    return f"{parts.hostname or ''}{parts.path}"


def _fetch(address: str, found: dict[str, str]) -> None:
    """Enter the digest of an index in ``found``; nothing where it cannot be fetched."""
    if urlsplit(address).scheme not in ("http", "https"):
        return
    # A build goes on with every answer of a mirror: without an index, ages decide. Imported here since urllib
    # needs half of the standard library, of which a file beside the tests may hide a part.
    with contextlib.suppress(Exception):
        import urllib.error
        import urllib.request

        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:  # noqa: S310 -- checked above
                data = answer.read(_LARGEST + 1)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            return
        if data and len(data) <= _LARGEST:
            found[address] = hashlib.sha256(data).hexdigest()
