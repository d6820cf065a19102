"""The ``glance`` section, which may stand in any of the three files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.section import Rule, Ruled, given
from pytest_dibctl.config.models.values import UNIQUE_ITEMS, Flag, NonEmpty, Seconds, Text, Unique, Whole


class Glance(Ruled):
    """What Glance is told of the image; may stand in any of the three files."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["public", "visibility"]}})

    api_version: Annotated[Literal[1, 2], Field(description="accepted; version 2 is what is used")] | None = (
        None
    )
    name: NonEmpty | None = None
    upload_timeout: Seconds | None = None
    properties: dict[NonEmpty, Text] = Field(default_factory=dict)
    container_format: NonEmpty | None = None
    disk_format: NonEmpty | None = None
    endpoint: NonEmpty | None = None
    public: Flag | None = None
    min_disk: Annotated[Whole, Field(ge=0, description="GiB")] | None = None
    min_ram: Annotated[Whole, Field(ge=0, description="MiB")] | None = None
    protected: Flag | None = None
    tags: tuple[NonEmpty, ...] = ()
    visibility: Literal["public", "private", "shared", "community"] | None = None
    members: Annotated[
        tuple[NonEmpty, ...],
        Field(description="ids or names of projects", json_schema_extra=UNIQUE_ITEMS),
        Unique,
    ] = ()
    import_method: Literal["glance-direct", "web-download"] | None = None
    import_uri: NonEmpty | None = None
    stores: Annotated[tuple[NonEmpty, ...], Field(json_schema_extra=UNIQUE_ITEMS), Unique] = ()
    all_stores: Flag = False
    allow_unverified: Annotated[
        Flag, Field(description="accept an image whose size or digest Glance does not tell")
    ] = False

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse keys that exclude each other, and an import that cannot work."""
        if len(given(data, "public", "visibility")) > 1:
            yield "visibility", "says the same as public; leave one of them out"
        if data.get("members") and data.get("visibility") not in {None, "shared"}:
            yield "members", f"are for shared images, and visibility is {data.get('visibility')}"
        is_download = data.get("import_method") == "web-download"
        if is_download != (data.get("import_uri") is not None):
            yield "import_uri", "goes with import_method: web-download, and with that only"
        if data.get("stores") and data.get("all_stores"):
            yield "all_stores", "leaves nothing for stores to say"
