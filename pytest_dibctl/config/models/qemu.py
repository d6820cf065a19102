"""The ``qemu`` section of test.yaml: a guest on this machine."""

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
from pytest_dibctl.config.models.section import Rule, Section
from pytest_dibctl.config.models.values import Flag, NonEmpty, Port, Whole


class Forward(Section):
    """A port of the guest made reachable on loopback; ``host`` is chosen freely when left out."""

    guest: Annotated[Port, Key("The port of the guest.", example="80")]
    host: Annotated[
        Port | None, Key("The port on this machine's loopback.", default="a free one", example="8080")
    ] = None


ForwardPorts = Annotated[
    tuple[Forward, ...],
    Key(
        "Ports of the guest that are reached through this machine's loopback.",
        default="none; ssh is always reached",
    ),
]


class Qemu(NovaTimeouts):
    """How the test instance is made as a local QEMU guest."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["userdata", "userdata_file"]}})

    memory: Annotated[Whole, Field(ge=64), Key("Memory of the guest.", unit="MiB", example="2048")] = 1024
    vcpus: Annotated[Whole, Field(ge=1, le=64), Key("The number of processors.", example="4")] = 2
    disk: Annotated[
        Whole,
        Field(ge=1),
        Key("The size of the root disk. It is never less than the image's.", unit="GiB", example="10"),
    ] = 5
    arch: Annotated[
        Literal["x86_64", "aarch64"] | None,
        Key("The architecture of the guest.", default="this machine's", example="aarch64"),
    ] = None
    accelerator: Annotated[
        Literal["auto", "kvm", "tcg"],
        Key(
            "The accelerator. `auto` takes KVM if a small guest runs with it, else `tcg`, which emulates "
            "the processor."
        ),
    ] = "auto"
    seed: Annotated[
        Literal["nocloud", "configdrive"],
        Key(
            "How the guest gets its name, keys and user data: a NoCloud disk, or a config drive "
            "as in OpenStack."
        ),
    ] = "nocloud"
    ssh_host_key: LocalHostKey = "injected"
    kernel_cmdline: Annotated[
        NonEmpty, Key("The kernel's command line, for images with a kernel beside them.")
    ] = "root=/dev/vda rw console=ttyS0"
    userdata: Userdata = None
    userdata_file: UserdataFile = None
    forward_ports: ForwardPorts = ()
    host_loopback: Annotated[Flag, Key("Let the guest reach services of this machine, at 10.0.2.2.")] = False

    @classmethod
    def broken_rules(cls, data: Mapping[str, Any]) -> Iterator[Rule]:
        """Refuse two kinds of user data, and two forwards of one port of the host."""
        yield from user_data_rules(data)
        yield from forward_rules(data.get("forward_ports"))


def forward_rules(forwards: Any) -> Iterator[Rule]:
    """Refuse a port of this machine that two forwards name.

    Values of another type than a list, a mapping or a whole number are skipped: validation reports them.
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
