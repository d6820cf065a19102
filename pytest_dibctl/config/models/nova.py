"""The ``nova`` section of test.yaml: an instance in OpenStack."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.instance import NovaTimeouts, Userdata, UserdataFile, user_data_rules
from pytest_dibctl.config.models.key import Key
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

    net_id: Annotated[Uuid, Key("The id of the network.", example="6f70656e-7374-4163-8b20-696d61676573")]
    v4_fixed_ip: Annotated[
        NonEmpty | None,
        Key(
            "A fixed IPv4 address. The interface then gets a port of its own, which is removed "
            "with the instance; Neutron allows this to members of the project that owns the "
            "network.",
            example="10.1.2.3",
        ),
    ] = None
    v6_fixed_ip: Annotated[
        NonEmpty | None, Key("A fixed IPv6 address, likewise.", example='"2001:db8::5"')
    ] = None
    port_id: Annotated[
        NonEmpty | None,
        Key("The id of a port that exists already.", example="1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"),
    ] = None
    tag: Annotated[
        NonEmpty | None,
        Key("The tag of the interface, which the guest reads from its metadata.", example="front"),
    ] = None


class Volume(Section):
    """A root disk in Cinder, made from the image and removed with the instance."""

    size: Annotated[
        Annotated[Whole, Field(ge=1)] | None,
        Key(
            "The size of the volume.",
            unit="GiB",
            default="the flavor's disk, or the least that the image needs",
            example="20",
        ),
    ] = None
    type: Annotated[NonEmpty | None, Key("Cinder's volume type.", default="Cinder's own", example="ssd")] = (
        None
    )


Hint = Text | tuple[Text, ...]


class Nova(NovaTimeouts):
    """How the test instance is made in OpenStack."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["flavor"]}, {"required": ["flavor_id"]}],
            "not": {"required": ["userdata", "userdata_file"]},
        },
    )

    flavor: Annotated[
        NonEmpty | None,
        Key(
            "The size of the instance, tried as an id and then as a name. Excludes `flavor_id`.",
            example="m1.small",
        ),
    ] = None
    flavor_id: Annotated[
        NonEmpty | None, Key("The size of the instance, by its id. Excludes `flavor`.", example='"42"')
    ] = None
    nics: Annotated[
        tuple[Nic, ...], Key("The network interfaces of the instance.", default="Nova chooses the network")
    ] = ()
    main_nic_regexp: Annotated[
        NonEmpty | None,
        Key(
            "A regular expression for the name of the network that holds the main address.",
            default="the first interface",
            example="internal",
        ),
    ] = None
    config_drive: Annotated[Flag, Key("Whether the instance gets a config drive.")] = False
    availability_zone: Annotated[
        NonEmpty | None, Key("The availability zone.", default="Nova's own choice", example="az1")
    ] = None
    userdata: Userdata = None
    userdata_file: UserdataFile = None
    security_groups: Annotated[
        tuple[NonEmpty, ...],
        Field(json_schema_extra=UNIQUE_ITEMS),
        Unique,
        Key(
            "Security groups, by id or name. They must let ssh in.",
            default="the project's default group",
            example="[ssh-from-ci]",
        ),
    ] = ()
    hints: Annotated[
        dict[NonEmpty, Hint],
        Key("Scheduler hints. Values are text or lists.", default="none", example="{group: 7a2d1c9e}"),
    ] = Field(default_factory=dict)
    metadata: Annotated[
        dict[NonEmpty, Text],
        Key(
            "Metadata of the server, beside the marks that a removal relies on.",
            default="none",
            example="{owner: image-team}",
        ),
    ] = Field(default_factory=dict)
    volume: Annotated[
        Volume | None,
        EmptyIfNone,
        Key("Boot from a Cinder volume that is made of the image.", default="boot from the image itself"),
    ] = None
    floating_network: Annotated[
        NonEmpty | None,
        Key(
            "The id or name of an external network. The instance gets a floating address of it.",
            default="no floating address",
            example="public",
        ),
    ] = None
    ssh_host_key: Annotated[
        Literal["console", "first-seen"],
        Key(
            "Which host key is trusted. `console`: only a key that cloud-init printed on the "
            "console; where the cloud does not let the login read the console, the first key "
            "shown, and the run says so. `first-seen`: the first key shown, for images that print"
            " none."
        ),
    ] = "console"

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
