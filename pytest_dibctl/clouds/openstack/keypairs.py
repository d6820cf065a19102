"""Keypairs in Nova, which holds the public halves of the runs' keys."""

from __future__ import annotations

from typing import Any

from pytest_dibctl.clouds.openstack.api import SAFE_CALL_TIMEOUT, Api
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guest.keys import SshKey


def find(api: Api, name: str, *, timeout: float = SAFE_CALL_TIMEOUT) -> Any | None:
    """Return the user's keypair of that name, None if there is none; ``timeout`` is seconds.

    Raises ApiError.
    """
    return api.find("compute", f"keypair {name}", lambda: api.compute.get_keypair(name), timeout=timeout)


def create(api: Api, key: SshKey, *, name: str, timeout: float) -> None:
    """Give Nova the public half of ``key`` under ``name``; the caller must ``delete`` it.

    ``timeout`` is seconds for Nova's answer; an answer that got lost is made up for by the fingerprint.
    Raises ApiError.
    """

    def ours() -> Any | None:
        keypair = find(api, name)
        return keypair if keypair is not None and keypair.fingerprint == key.nova_fingerprint else None

    # Its comment is the only mark that a keypair can bear; the key may be the user's own.
    public = " ".join([*key.public_key.split()[:2], name])
    api.create(
        "compute",
        f"import the ssh key {name}",
        lambda: api.compute.create_keypair(name=name, public_key=public, type="ssh"),
        name=name,
        find=ours,
        timeout=timeout,
    )


def delete(api: Api, name: str, *, fingerprint: str, timeout: float) -> None:
    """Remove the keypair if its fingerprint (MD5) is ours: a keypair bears no other mark.

    ``timeout`` is seconds for each call. Nothing happens when it is gone. Raises InstanceError when the name
    holds another key, ApiError.
    """
    api.in_flight.settled(name, lambda: _delete(api, name, fingerprint, timeout=timeout))


def _delete(api: Api, name: str, fingerprint: str, *, timeout: float) -> None:
    keypair = find(api, name, timeout=timeout)
    if keypair is None:
        return
    if keypair.fingerprint != fingerprint:
        raise InstanceError(f"keypair {name} holds another key than this run's, so it is left alone")
    remove(api, name, timeout=timeout)


def remove(api: Api, name: str, *, timeout: float) -> None:
    """Remove the keypair of that name, without a look at its key; nothing happens when it is gone."""
    api.safely(
        "compute",
        f"remove keypair {name}",
        lambda: api.compute.delete_keypair(name, ignore_missing=True),
        timeout=timeout,
    )
