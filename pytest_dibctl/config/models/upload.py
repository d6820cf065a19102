"""upload.yaml: where images are published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.command import Command
from pytest_dibctl.config.models.section import Rule, Ruled, Section, given
from pytest_dibctl.config.models.site import Site
from pytest_dibctl.config.models.values import EmptyIfNone, Flag, NonEmpty, Text


class Conversion(Ruled):
    """Another format of the image, made by qemu-img before its upload."""

    disk_format: Literal["qcow2", "raw", "vmdk", "vdi", "vhdx"]
    compression: Annotated[Literal["zstd", "zlib"], Field(description="of qcow2")] | None = None

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse compression of a format that has none."""
        if data.get("compression") is not None and data.get("disk_format") != "qcow2":
            yield "compression", "is for disk_format: qcow2"


class Obsoleting(Section):
    """What becomes of an image when a newer one takes its place."""

    name: Annotated[NonEmpty, Field(description="%(name)s is the image's name")] = "Obsolete %(name)s"
    properties: dict[NonEmpty, Text] = Field(default_factory=lambda: {"obsolete": "true"}, min_length=1)


class UploadEnvironment(Site):
    """One entry of upload.yaml: where an image is published."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["keystone"]}, {"required": ["external_upload"]}],
            "not": {"required": ["preprocessing", "convert"]},
        },
    )

    external_upload: tuple[Command, ...] = ()
    convert: Conversion | None = None
    require_tested: Flag = False
    accept_changed_tests: Flag = False
    obsolete: Annotated[Obsoleting, EmptyIfNone] = Field(default_factory=Obsoleting)

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse an environment without a way to upload, and two ways to convert the file."""
        if "keystone" not in data and not data.get("external_upload"):
            yield "", "keystone is missing (only external_upload can do without)"
        if len(given(data, "preprocessing", "convert")) > 1:
            yield "convert", "excludes preprocessing: one of them makes the file that is uploaded"
