"""The ``qemu`` section of test.yaml: a guest on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pytest_dibctl.config.models.instance import NovaTimeouts, user_data_rules
from pytest_dibctl.config.models.section import Rule, Section
from pytest_dibctl.config.models.values import Flag, NonEmpty, Port, Text, Whole


class Forward(Section):
    """A port of the guest made reachable on loopback; ``host`` is chosen freely when left out."""

    guest: Port
    host: Port | None = None


class Qemu(NovaTimeouts):
    """How the test instance is made as a local QEMU guest."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["userdata", "userdata_file"]}})

    memory: Annotated[Whole, Field(ge=64, description="MiB")] = 1024
    vcpus: Annotated[Whole, Field(ge=1, le=64)] = 2
    disk: Annotated[
        Whole, Field(ge=1, description="GiB; size of the root disk, never less than the image's")
    ] = 5
    arch: Literal["x86_64", "aarch64"] | None = None
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    seed: Literal["nocloud", "configdrive"] = "nocloud"
    ssh_host_key: Literal["injected", "first-seen"] = "injected"
    kernel_cmdline: NonEmpty = "root=/dev/vda rw console=ttyS0"
    userdata: Text | None = None
    userdata_file: NonEmpty | None = None
    forward_ports: tuple[Forward, ...] = ()
    host_loopback: Annotated[
        Flag, Field(description="let the guest reach services on this machine, at 10.0.2.2")
    ] = False

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse two kinds of user data, and two forwards of one port of the host."""
        yield from user_data_rules(data)
        yield from forward_rules(data.get("forward_ports"))


def forward_rules(forwards: Any) -> Iterator[Rule]:
    """Refuse a port of this machine that two forwards name.

    What is no list, no mapping or no whole number is passed over: validation reports its type.
    """
    index_of_port: dict[int, int] = {}
    for index, forward in enumerate(forwards if isinstance(forwards, list | tuple) else ()):
        port = forward.get("host") if isinstance(forward, Mapping) else None
        if not isinstance(port, int) or isinstance(port, bool):
            continue
        first = index_of_port.setdefault(port, index)
        if first != index:
            message = f"port {port} of this machine is taken by forward_ports[{first}]"
            yield f"forward_ports[{index}].host", message
