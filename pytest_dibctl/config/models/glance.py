"""The ``glance`` section, which may stand in any of the three files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.key import JOINED, LARGER, OF_ENVIRONMENT, OF_IMAGE, Key
from pytest_dibctl.config.models.section import Rule, Ruled, given
from pytest_dibctl.config.models.values import UNIQUE_ITEMS, Flag, NonEmpty, Seconds, Text, Unique, Whole


class Glance(Ruled):
    """The image's name, properties, formats and visibility in Glance; may stand in any of the three files."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["public", "visibility"]}})

    api_version: Annotated[
        Literal[1, 2] | None, Key("Accepted for dibctl's files. Version 2 is used.", merge=OF_ENVIRONMENT)
    ] = None
    name: Annotated[
        NonEmpty | None,
        Key(
            "The image's name in Glance. Older images of that name become obsolete.",
            default="the label, for test images; required for a publication",
            merge=OF_IMAGE,
            example='"Web server, Debian 12"',
        ),
    ] = None
    upload_timeout: Annotated[
        Seconds | None,
        Key(
            "The time that the upload may take.", unit="seconds", default="360", merge=LARGER, example="3600"
        ),
    ] = None
    properties: Annotated[
        dict[NonEmpty, Text],
        Key(
            "Properties of the image. Values become text, spelled as in the file.",
            default="none",
            merge="they are joined, and the environment's value counts for the same property",
            example="{hw_disk_bus: virtio}",
        ),
    ] = Field(default_factory=dict)
    container_format: Annotated[
        NonEmpty | None,
        Key("Glance's container format.", default="bare", merge=OF_ENVIRONMENT, example="bare"),
    ] = None
    disk_format: Annotated[
        NonEmpty | None,
        Key(
            "Glance's disk format. Test images and local guests have the file's own format if "
            "neither file sets it.",
            default="qcow2",
            merge=OF_ENVIRONMENT,
            example="raw",
        ),
    ] = None
    endpoint: Annotated[
        NonEmpty | None,
        Key(
            "The address of Glance, instead of the catalog's.",
            merge=OF_ENVIRONMENT,
            example="https://glance.example.com:9292",
        ),
    ] = None
    public: Annotated[
        Flag | None,
        Key(
            "Whether all projects see the image. A test image is never public. Excludes `visibility`.",
            default="false",
            merge=OF_IMAGE,
        ),
    ] = None
    min_disk: Annotated[
        Annotated[Whole, Field(ge=0)] | None,
        Key("The smallest disk of an instance.", unit="GiB", default="0", merge=LARGER, example="4"),
    ] = None
    min_ram: Annotated[
        Annotated[Whole, Field(ge=0)] | None,
        Key("The least memory of an instance.", unit="MiB", default="0", merge=LARGER, example="512"),
    ] = None
    protected: Annotated[
        Flag | None,
        Key(
            "Whether Glance refuses to delete the image. A test image is never protected.",
            default="false",
            merge="true counts",
        ),
    ] = None
    tags: Annotated[
        tuple[NonEmpty, ...], Key("Tags of the image.", default="none", merge=JOINED, example="[debian, web]")
    ] = ()
    visibility: Annotated[
        Literal["public", "private", "shared", "community"] | None,
        Key(
            "The visibility of the image in Glance. A test image is always private. Excludes `public`.",
            default="private; shared if there are `members`",
            merge=OF_IMAGE,
            example="community",
        ),
    ] = None
    members: Annotated[
        tuple[NonEmpty, ...],
        Field(json_schema_extra=UNIQUE_ITEMS),
        Unique,
        Key(
            "Ids or names of projects that a shared image is for. The upload accepts the image in"
            " their name where the login may.",
            default="none",
            merge=JOINED,
            example="[customer-a]",
        ),
    ] = ()
    import_method: Annotated[
        Literal["glance-direct", "web-download"] | None,
        Key(
            "How Glance gets the bytes: sent and then imported (`glance-direct`), or fetched by "
            "Glance from `import_uri` (`web-download`).",
            default="a plain upload",
            merge="the environment's import settings count",
            example="glance-direct",
        ),
    ] = None
    import_uri: Annotated[
        NonEmpty | None,
        Key(
            "Where Glance fetches the file for `web-download`. `%(filename)s`, `%(label)s` and "
            "`%(sha512)s` are replaced.",
            merge="the environment's import settings count",
            example='"https://files.example.com/%(sha512)s"',
        ),
    ] = None
    stores: Annotated[
        tuple[NonEmpty, ...],
        Field(json_schema_extra=UNIQUE_ITEMS),
        Unique,
        Key(
            "Glance's stores that get the image. Several need `glance-direct`, which is then used.",
            default="Glance's default store",
            merge="the environment's import settings count",
            example="[fast, archive]",
        ),
    ] = ()
    all_stores: Annotated[
        Flag,
        Key(
            "Give the image to all stores of Glance. Excludes `stores`.",
            merge="the environment's import settings count",
        ),
    ] = False
    allow_unverified: Annotated[
        Flag,
        Key(
            "Accept an image if Glance does not tell its size, or tells no digest that can be computed "
            "here. Otherwise such an image is removed again, and the upload fails.",
            merge="true counts",
        ),
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
