"""The ``nspawn`` section of test.yaml: a container on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.instance import (
    LocalHostKey,
    NovaTimeouts,
    Userdata,
    UserdataFile,
    user_data_rules,
)
from pytest_dibctl.config.models.key import Key
from pytest_dibctl.config.models.qemu import ForwardPorts, forward_rules
from pytest_dibctl.config.models.section import Rule
from pytest_dibctl.config.models.values import Flag, Whole


class Nspawn(NovaTimeouts):
    """How the test instance is made as a local container, which shares this machine's kernel."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["userdata", "userdata_file"]}})

    memory: Annotated[
        Whole,
        Field(ge=64),
        Key("Memory of the container, with the page cache of what it writes.", unit="MiB", example="2048"),
    ] = 1024
    disk: Annotated[
        Whole,
        Field(ge=1),
        Key("The size of the disk that the container writes to.", unit="GiB", example="10"),
    ] = 5
    processes: Annotated[
        Whole,
        Field(ge=16, le=100_000),
        Key("How many processes the container may have, threads included.", example="1024"),
    ] = 4096
    seed: Annotated[
        Literal["nocloud", "configdrive"],
        Key(
            "How the guest gets its name, keys and user data: as files in "
            "`/var/lib/cloud/seed/nocloud`, or `config_drive` beside it."
        ),
    ] = "nocloud"
    ssh_host_key: LocalHostKey = "injected"
    userdata: Userdata = None
    userdata_file: UserdataFile = None
    forward_ports: ForwardPorts = ()
    host_loopback: Annotated[Flag, Key("Let the container reach services of this machine, at 10.0.2.2.")] = (
        False
    )

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse two kinds of user data, and two forwards of one port of the host."""
        yield from user_data_rules(data)
        yield from forward_rules(data.get("forward_ports"))
