"""Glance's documents of images: made of specs and changes, and read into records."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_dibctl.clouds.protocols import CloudImage
from pytest_dibctl.clouds.regions import UNKNOWN, Change, ImageRecord, ImageSpec
from pytest_dibctl.errors import ConfigError
from pytest_dibctl.image.artifact import Artifact

RESERVED = frozenset(
    {
        *("id", "name", "status", "visibility", "protected", "min_disk", "min_ram", "disk_format"),
        *("container_format", "tags", "size", "checksum", "owner", "os_hidden", "os_hash_algo"),
        *("os_hash_value", "virtual_size", "created_at", "updated_at", "locations", "stores"),
    }
)
"""Names that a property cannot have: Glance has its own meaning for them."""
OWN = frozenset(
    {
        *RESERVED,
        *("self", "file", "schema", "direct_url"),
    }
)
"""Attributes that Glance shows of an image and that are no properties."""
_LINKS = frozenset({"self", "file", "schema"})


def document(spec: ImageSpec, properties_at: str) -> dict[str, Any]:
    """Return the document that makes an image; raises ConfigError for properties that Glance reserves.

    ``properties_at`` is the setting that holds the properties.
    """
    if reserved := sorted(RESERVED.intersection(spec.properties)):
        raise ConfigError(
            f"{properties_at}: {', '.join(reserved)} cannot be image properties: Glance has its own",
            hint="name, min_disk, min_ram, tags and the formats are keys of the glance section itself",
        )
    return {
        **spec.properties,
        **({"os_hidden": True} if spec.hidden else {}),
        **({"owner": spec.owner} if spec.owner is not None else {}),
        "name": spec.name,
        "disk_format": spec.disk_format,
        "container_format": spec.container_format,
        "visibility": spec.visibility,
        "protected": spec.protected,
        "min_disk": spec.min_disk,
        "min_ram": spec.min_ram,
        "tags": list(spec.tags),
    }


def record(image: Mapping[str, Any]) -> ImageRecord:
    """Return the record of an image that Glance describes as ``image``."""
    return ImageRecord(
        id=str(image["id"]),
        name=str(image.get("name") or ""),
        owner=str(image.get("owner") or ""),
        status=str(image.get("status")),
        visibility=str(image.get("visibility")),
        hidden=bool(image.get("os_hidden")),
        protected=bool(image.get("protected")),
        disk_format=str(image.get("disk_format")),
        container_format=str(image.get("container_format")),
        size=image.get("size"),
        min_disk=int(image.get("min_disk") or 0),
        min_ram=int(image.get("min_ram") or 0),
        tags=frozenset(image.get("tags") or ()),
        properties={key: str(value) for key, value in image.items() if _is_property(key, value)},
        hash_algorithm=image.get("os_hash_algo"),
        hash_value=image.get("os_hash_value"),
        checksum=image.get("checksum"),
        created=_time(image.get("created_at")),
        updated=_time(image.get("updated_at")),
    )


def _is_property(key: str, value: Any) -> bool:
    return value is not None and key not in OWN and not key.startswith("os_glance_")


def _time(text: Any) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return UNKNOWN
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)


def patch(present: Mapping[str, Any], change: Change) -> Iterator[dict[str, Any]]:
    """Yield the JSON patch that applies ``change`` to ``present``."""
    wanted = {
        "name": change.name,
        "visibility": change.visibility,
        "os_hidden": change.hidden,
        "protected": change.protected,
        "tags": None if change.tags is None else sorted(change.tags),
    }
    for key, value in wanted.items():
        if value is not None and value != present.get(key):
            yield {"op": "replace" if key in present else "add", "path": f"/{key}", "value": value}
    for key, text in change.properties.items():
        path = "/" + key.replace("~", "~0").replace("/", "~1")
        if text is None:
            if key in present:
                yield {"op": "remove", "path": path}
        elif present.get(key) != text:
            yield {"op": "replace" if key in present else "add", "path": path, "value": text}


def cloud_image(
    image: Mapping[str, Any], artifact: Artifact | None, companions: tuple[str, ...] = ()
) -> CloudImage:
    """Return the bootable image that Glance describes as ``image``; ``artifact`` is its file, if known.

    ``companions`` are the ids of its kernel and initrd, if they go with it.
    """
    digest = str(image.get("os_hash_value") or "") if image.get("os_hash_algo") == "sha512" else ""
    return CloudImage(
        id=str(image["id"]),
        name=str(image.get("name") or ""),
        disk_format=str(image.get("disk_format") or ""),
        sha512=artifact.sha512 if artifact is not None else digest,
        properties={
            key: value
            for key, value in image.items()
            if isinstance(value, str) and key not in RESERVED and key not in _LINKS
        },
        artifact=artifact,
        companions=companions,
        details=dict(image),
    )
