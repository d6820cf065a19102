"""The ``nova`` section of test.yaml: an instance in OpenStack."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.instance import NovaTimeouts, user_data_rules
from pytest_dibctl.config.models.section import Rule, Section, given
from pytest_dibctl.config.models.values import (
    UNIQUE_ITEMS,
    EmptyIfNone,
    Flag,
    NonEmpty,
    Text,
    Unique,
    Uuid,
    Whole,
)
from pytest_dibctl.config.yaml.scalars import as_text


class Nic(Section):
    """One network interface of the test instance."""

    net_id: Uuid
    v4_fixed_ip: NonEmpty | None = None
    v6_fixed_ip: NonEmpty | None = None
    port_id: NonEmpty | None = None
    tag: NonEmpty | None = None


class Volume(Section):
    """A root disk in Cinder, made from the image and removed with the instance."""

    size: Annotated[Whole, Field(ge=1, description="GiB")] | None = None
    type: NonEmpty | None = None


Hint = Text | tuple[Text, ...]


class Nova(NovaTimeouts):
    """How the test instance is made in OpenStack."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["flavor"]}, {"required": ["flavor_id"]}],
            "not": {"required": ["userdata", "userdata_file"]},
        },
    )

    flavor: Annotated[NonEmpty, Field(description="tried as an id, then as a name")] | None = None
    flavor_id: NonEmpty | None = None
    nics: tuple[Nic, ...] = ()
    main_nic_regexp: NonEmpty | None = None
    config_drive: Flag = False
    availability_zone: NonEmpty | None = None
    userdata: Text | None = None
    userdata_file: NonEmpty | None = None
    security_groups: Annotated[tuple[NonEmpty, ...], Field(json_schema_extra=UNIQUE_ITEMS), Unique] = ()
    hints: dict[NonEmpty, Hint] = Field(default_factory=dict)
    metadata: dict[NonEmpty, Text] = Field(default_factory=dict)
    volume: Annotated[Volume | None, EmptyIfNone] = None
    floating_network: Annotated[NonEmpty, Field(description="id or name of an external network")] | None = (
        None
    )
    ssh_host_key: Literal["console", "first-seen"] = "console"

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse no flavor, two flavors, two kinds of user data, and a broken regular expression."""
        flavors = given(data, "flavor", "flavor_id")
        if len(flavors) != 1:
            number = "both are" if flavors else "neither is"
            message = f"exactly one of flavor and flavor_id is needed; {number} given"
            yield "flavor_id" if flavors else "", message
        yield from user_data_rules(data)
        try:
            re.compile(str(as_text(data.get("main_nic_regexp", ""))))
        except re.error as error:
            yield "main_nic_regexp", f"is not a regular expression: {error}"
