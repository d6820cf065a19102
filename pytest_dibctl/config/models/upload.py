"""upload.yaml: where images are published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.command import Command
from pytest_dibctl.config.models.key import Key
from pytest_dibctl.config.models.section import Rule, Ruled, given
from pytest_dibctl.config.models.site import Site
from pytest_dibctl.config.models.values import EmptyIfNone, Flag, NonEmpty, Text


class Conversion(Ruled):
    """Another format of the image, made by qemu-img before its upload."""

    disk_format: Annotated[
        Literal["qcow2", "raw", "vmdk", "vdi", "vhdx"],
        Key("The format that qemu-img makes before the upload.", example="raw"),
    ]
    compression: Annotated[
        Literal["zstd", "zlib"] | None,
        Key("How a `qcow2` file is compressed.", default="not at all", example="zstd"),
    ] = None

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse compression of a format that has none."""
        if data.get("compression") is not None and data.get("disk_format") != "qcow2":
            yield "compression", "is for disk_format: qcow2"


KEYS_OF_GLANCE = {
    "name": "obsolete.name",
    "os_hidden": "obsolete.hidden",
    "visibility": "obsolete.visibility",
}
"""Names that have their own meaning in Glance, and the key that sets each on older images."""
GLANCES_OWN = frozenset(
    {
        *KEYS_OF_GLANCE,
        *("id", "status", "protected", "min_disk", "min_ram", "disk_format", "container_format", "tags"),
        *("size", "virtual_size", "checksum", "owner", "os_hash_algo", "os_hash_value", "created_at"),
        *("updated_at", "locations", "location", "stores", "direct_url", "self", "file", "schema"),
        *("deleted", "deleted_at"),
    }
)
"""Names that no image property can have."""
FACTS = ("obsoleted_at", "obsoleted_by")
"""The properties that only an obsolete image has; this tool sets them."""


class Obsoleting(Ruled):
    """How an image is changed when a newer one takes its place."""

    name: Annotated[
        NonEmpty,
        Key(
            "The new name of an older image. `%(name)s` is its former name; other text must stand beside it."
        ),
    ] = "Obsolete %(name)s"
    properties: Annotated[
        dict[NonEmpty, Text],
        Key("Properties that an older image gets, and is known by. No current image may have them all."),
    ] = Field(default_factory=lambda: {"obsolete": "true"}, min_length=1)
    hidden: Annotated[Flag, Key("Leave an older image out of Glance's lists.")] = False
    visibility: Annotated[
        Literal["public", "private", "shared", "community"] | None,
        Key("The visibility of an older image in Glance.", default="as before", example="private"),
    ] = None

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse a name that leaves images as they are called, and properties that are Glance's or ours."""
        if str(data.get("name", "")).strip() == "%(name)s":
            yield (
                "name",
                "%(name)s alone is the name of the current image; write Obsolete %(name)s, or the like",
            )
        properties = data.get("properties")
        for key in properties if isinstance(properties, Mapping) else ():
            if key in KEYS_OF_GLANCE:
                yield "properties", f"{key} is no property: Glance has its own; write {KEYS_OF_GLANCE[key]}"
            elif key in GLANCES_OWN or str(key).startswith("os_glance_"):
                yield "properties", f"{key} is no property: Glance keeps it for itself"
            elif key in FACTS or str(key).startswith("dibctl_"):
                yield "properties", f"{key} is set by dibctl itself, on other images too; choose another name"


class UploadEnvironment(Site):
    """One entry of upload.yaml: where an image is published."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["keystone"]}, {"required": ["external_upload"]}],
            "not": {"required": ["preprocessing", "convert"]},
        },
    )

    external_upload: Annotated[
        tuple[Command, ...], Key("Commands that run instead of the upload.", default="none")
    ] = ()
    convert: Annotated[
        Conversion | None,
        Key("Convert the image with qemu-img before the upload. Excludes `preprocessing`."),
    ] = None
    require_tested: Annotated[
        Flag, Key("Refuse an image that no whole and passing test run vouches for.")
    ] = False
    accept_changed_tests: Annotated[
        Flag, Key("Let a test run vouch although files of its tests have changed since.")
    ] = False
    obsolete: Annotated[
        Obsoleting, EmptyIfNone, Key("How an older image is changed when a newer one takes its place.")
    ] = Field(default_factory=Obsoleting)

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse an environment without a way to upload, and two ways to convert the file."""
        if "keystone" not in data and not data.get("external_upload"):
            yield "", "keystone is missing (only external_upload can do without)"
        if len(given(data, "preprocessing", "convert")) > 1:
            yield "convert", "excludes preprocessing: one of them makes the file that is uploaded"
