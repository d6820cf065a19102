"""Flavors: which one an environment means, and whether an image fits into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.protocols import Flavor
from pytest_dibctl.errors import ApiError, NovaBadRequestError
from pytest_dibctl.system.suggestions import suggestion

GIB = 1 << 30


def find(api: Api, *, flavor: str | None, flavor_id: str | None, at: str) -> Flavor:
    """Return the flavor with ``flavor_id``, or the flavor whose id or else name is ``flavor``.

    ``at`` is the setting. Raises NovaBadRequestError when there is none, or several of that name.
    """
    if flavor_id is not None:
        if (known := _by_id(api, flavor_id)) is not None:
            return known
        raise NovaBadRequestError(
            f"{at}: there is no flavor with the id {flavor_id!r}", hint=_known(api, flavor_id)
        )
    assert flavor is not None
    if (known := _by_id(api, flavor)) is not None:
        return known
    matching = [sdk_flavor for sdk_flavor in _all(api) if sdk_flavor.name == flavor]
    if not matching:
        raise NovaBadRequestError(f"{at}: there is no flavor {flavor!r}", hint=_known(api, flavor))
    if len(matching) > 1:
        ids = ", ".join(sdk_flavor.id for sdk_flavor in matching)
        raise NovaBadRequestError(
            f"{at}: several flavors are called {flavor!r}", hint=f"use flavor_id: {ids}"
        )
    return _flavor(api, matching[0])


def _all(api: Api) -> list[Any]:
    return api.safely("compute", "list flavors", lambda: list(api.compute.flavors()))


def _known(api: Api, wrong: str) -> str | None:
    return suggestion(wrong, [sdk_flavor.name for sdk_flavor in _all(api)], listed="there are") or None


def _by_id(api: Api, identity: str) -> Flavor | None:
    sdk_flavor = api.find("compute", f"flavor {identity}", lambda: api.compute.get_flavor(identity))
    return None if sdk_flavor is None else _flavor(api, sdk_flavor)


def _flavor(api: Api, sdk_flavor: Any) -> Flavor:
    return Flavor(
        id=str(sdk_flavor.id),
        name=str(sdk_flavor.name),
        ram=int(sdk_flavor.ram or 0),
        vcpus=int(sdk_flavor.vcpus or 0),
        disk=int(sdk_flavor.disk or 0),
        meta=_extra_specs(api, sdk_flavor),
    )


def _extra_specs(api: Api, sdk_flavor: Any) -> Mapping[str, str]:
    if sdk_flavor.extra_specs:
        return {str(key): str(value) for key, value in sdk_flavor.extra_specs.items()}
    try:
        full = api.safely(
            "compute",
            f"read flavor {sdk_flavor.name}",
            lambda: api.compute.fetch_flavor_extra_specs(sdk_flavor),
        )
    except ApiError:  # many clouds show them to administrators only
        return {}
    return {str(key): str(value) for key, value in (full.extra_specs or {}).items()}


def of_server(api: Api, server: Any) -> Flavor:
    """Return the flavor a server was made with; it may have been removed since."""
    embedded = server.flavor
    name = str(embedded.original_name or embedded.name or embedded.id)
    matching = [sdk_flavor for sdk_flavor in _all(api) if sdk_flavor.name == name]
    return Flavor(
        id=str(matching[0].id) if matching else str(embedded.id or name),
        name=name,
        ram=int(embedded.ram or 0),
        vcpus=int(embedded.vcpus or 0),
        disk=int(embedded.disk or 0),
        meta={str(key): str(value) for key, value in (embedded.extra_specs or {}).items()},
    )


def check_fit(
    flavor: Flavor, *, disk: int, min_disk: int, min_ram: int, virtual_size: int, at: str, image_at: str
) -> None:
    """Raise NovaBadRequestError unless an image fits, in the numbers that Nova would refuse it by.

    ``disk`` is the size of the root disk in GiB (the flavor's, or the volume's), ``min_disk`` is GiB,
    ``min_ram`` MiB, ``virtual_size`` bytes; ``at`` is the place of the flavor, ``image_at`` the image's.
    """
    problems = []
    if disk and min_disk > disk:
        problems.append(f"min_disk is {min_disk} GiB, and the root disk has {disk} GiB")
    if min_ram > flavor.ram:
        problems.append(f"min_ram is {min_ram} MiB, and the flavor has {flavor.ram} MiB")
    if disk and virtual_size > disk * GIB:
        problems.append(f"the image's disk has {virtual_size / GIB:.1f} GiB, and the root disk {disk} GiB")
    if problems:
        raise NovaBadRequestError(
            f"{at}: flavor {flavor.name} is too small for the image ({image_at}): {'; '.join(problems)}",
            hint="name a larger flavor",
        )
