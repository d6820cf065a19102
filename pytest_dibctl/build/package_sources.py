"""The state of the package sources of a Debian or Ubuntu build: digests of their signed indexes."""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pytest_dibctl.build import dib, fingerprint
from pytest_dibctl.build.dib import AptSource, Recipe

TIMEOUT: Final = 10.0
"""Seconds that one index may take."""
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
    """Return the digest of each index as it is now; None where one of them cannot be fetched, or for none."""
    addresses = list(addresses)
    if not addresses:
        return None
    with concurrent.futures.ThreadPoolExecutor(len(addresses)) as pool:
        found = dict(zip(addresses, pool.map(_digest, addresses), strict=True))
    known = {shown(address): digest for address, digest in found.items() if digest is not None}
    return known if len(known) == len(found) else None


def shown(address: str) -> str:
    """Return an address that may be shown and stored: without user and password."""
    parts = urlsplit(address)
    return f"{parts.hostname or ''}{parts.path}"


def _digest(address: str) -> str | None:
    if urlsplit(address).scheme not in ("http", "https"):
        return None
    try:
        # Here: it imports half of the standard library, of which a file beside the tests may hide a part.
        import urllib.request

        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:  # noqa: S310 -- checked above
            data = answer.read(_LARGEST + 1)
    except (OSError, ValueError, ImportError):
        return None
    return hashlib.sha256(data).hexdigest() if data and len(data) <= _LARGEST else None
