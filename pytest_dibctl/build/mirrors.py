"""The apt mirrors of this machine: images are built with them, and leave with the distribution's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from pytest_dibctl.build.elements import SHIPPED, Element, setting
from pytest_dibctl.config.models.dib import Dib

MAIN_MIRROR: Final = "DIB_DISTRIBUTION_MIRROR"
SECURITY_MIRROR: Final = "DIB_DEBIAN_SECURITY_MIRROR"

ELEMENT: Final = "dibctl-distribution-mirrors"
"""Of this package: puts the distribution's mirrors in the place of those that came from this machine."""

_HOST_VARIABLES: Final = {
    MAIN_MIRROR: "DIB_DIBCTL_HOST_MIRROR",
    SECURITY_MIRROR: "DIB_DIBCTL_HOST_SECURITY_MIRROR",
}
"""By which the element is told what to replace."""
_OVERRIDES: Final = {MAIN_MIRROR: "DIB_DEBIAN_DISTRIBUTION_MIRROR"}
"""Variables that win over a mirror variable in diskimage-builder's elements."""
_SOURCES: Final = "DIB_APT_SOURCES_CONF"
"""The whole of the image's sources: where it is set, no mirror gets into them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """The mirrors that a build takes from this machine's apt: variables, undoing element, messages."""

    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    element: Element | None = None
    warnings: tuple[str, ...] = ()


def use(dib: Dib, host: Mapping[str, str]) -> Use:
    """Return the mirrors of ``host`` that a build by ``dib`` takes: those that are not set otherwise."""
    taken = {
        name: uri
        for name, uri in host.items()
        if setting(dib, name) is None and not setting(dib, _OVERRIDES.get(name, name))
    }
    if not taken:
        return Use()
    addresses = " and ".join(dict.fromkeys(taken.values()))
    origin = f"built with {addresses}, from this machine's apt sources"
    if setting(dib, _SOURCES):
        return Use(environment=taken, warnings=(f"{origin}; the image's own are those of {_SOURCES}",))
    if dib.keep_host_mirror:
        return Use(environment=taken, warnings=(f"{origin}; they stay in the image (dib.keep_host_mirror)",))
    variables = {_HOST_VARIABLES[name]: uri for name, uri in taken.items()}
    return Use(
        environment={**taken, **variables},
        element=Element(name=ELEMENT, path=SHIPPED / ELEMENT),
        warnings=(f"{origin}; the image gets the distribution's own (dib.keep_host_mirror keeps these)",),
    )
