"""The services of a cloud: how catalogs and people call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Service = Literal["identity", "compute", "image", "network", "volume"]

INSTANCES: frozenset[Service] = frozenset({"compute", "network"})
"""The services that an instance is made by: their refusals have the exit codes of Nova's."""

PROJECTS: Mapping[Service, str] = {
    "identity": "Keystone",
    "compute": "Nova",
    "image": "Glance",
    "network": "Neutron",
    "volume": "Cinder",
}
"""The services' usual names."""

CATALOG_TYPES: Mapping[Service, str] = {"volume": "block-storage"}
"""Names of a service in catalogs, where they differ from the names here."""
