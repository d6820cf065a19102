"""The ``nspawn`` section of test.yaml: a container on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.instance import NovaTimeouts, user_data_rules
from pytest_dibctl.config.models.qemu import Forward, forward_rules
from pytest_dibctl.config.models.section import Rule
from pytest_dibctl.config.models.values import Flag, NonEmpty, Text, Whole


class Nspawn(NovaTimeouts):
    """How the test instance is made as a local container, which shares this machine's kernel."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["userdata", "userdata_file"]}})

    memory: Annotated[Whole, Field(ge=64, description="MiB")] = 1024
    disk: Annotated[Whole, Field(ge=1, description="GiB that the container may write")] = 5
    processes: Annotated[Whole, Field(ge=16, le=100_000, description="at most, threads included")] = 4096
    seed: Literal["nocloud", "configdrive"] = "nocloud"
    ssh_host_key: Literal["injected", "first-seen"] = "injected"
    userdata: Text | None = None
    userdata_file: NonEmpty | None = None
    forward_ports: tuple[Forward, ...] = ()
    host_loopback: Annotated[
        Flag, Field(description="let the container reach services on this machine, at 10.0.2.2")
    ] = False

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse two kinds of user data, and two forwards of one port of the host."""
        yield from user_data_rules(data)
        yield from forward_rules(data.get("forward_ports"))
