"""Common parts of instances on this machine: a record, a console, and ports on loopback."""

from __future__ import annotations

import abc
import shutil
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pytest_dibctl.clouds.console import Console
from pytest_dibctl.clouds.protocols import Address, Endpoint, Flavor, Interface
from pytest_dibctl.errors import InstanceError
from pytest_dibctl.guest.causes import Cause
from pytest_dibctl.guest.console import LAST_LINES
from pytest_dibctl.guest.login import HostKeyPolicy
from pytest_dibctl.system import user_network


class LocalState(Protocol):
    """The record of an instance, the same for every engine: ``memory`` in MiB, ``disk`` in GiB."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def environment(self) -> str: ...
    @property
    def memory(self) -> int: ...
    @property
    def disk(self) -> int: ...
    @property
    def mac(self) -> str: ...
    @property
    def private_key_file(self) -> str: ...
    @property
    def host_keys(self) -> tuple[str, ...]: ...
    @property
    def first_seen(self) -> bool: ...


StateT = TypeVar("StateT", bound=LocalState)


class LocalInstance(abc.ABC, Generic[StateT]):
    """The part of ``Instance`` that every engine on this machine has.

    ``directory`` holds all files of the instance, ``console`` among them; the instance owns it until it is
    deleted.
    """

    def __init__(self, state: StateT, directory: Path, *, vcpus: int, console: str) -> None:
        self.directory = directory
        self._state = state
        self._vcpus = vcpus
        self._console = Console(directory / console)
        self._forwards: dict[int, int] = {}
        self._stopped = False

    @abc.abstractmethod
    def _published(self) -> dict[int, int]:
        """Return the loopback port of each forwarded port; raises InstanceError without an answer."""

    @abc.abstractmethod
    def _publish(self, port: int, host: int) -> None:
        """Forward the loopback port ``host`` (0: a free one) to a port; raises InstanceError."""

    @property
    def id(self) -> str:
        """The uuid, which the instance sees as its instance-id and system uuid."""
        return self._state.id

    @property
    def name(self) -> str:
        """The name, which is also the hostname and the name of the directory."""
        return self._state.name

    @property
    def flavor(self) -> Flavor:
        """The size, named like the test environment: ``ram`` in MiB, ``disk`` in GiB."""
        state = self._state
        return Flavor(
            id=state.environment,
            name=state.environment,
            ram=state.memory,
            vcpus=self._vcpus,
            disk=state.disk,
        )

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The only interface, in a user-mode network."""
        return (interface(self._state.mac),)

    @property
    def main_ip(self) -> str:
        """The address in the instance's own network; this machine reaches it only through ``endpoint``."""
        return user_network.GUEST

    @property
    def host_keys(self) -> HostKeyPolicy:
        """The host key that the seed gave; without one, the first key seen is accepted."""
        return HostKeyPolicy(known=self._state.host_keys, first_seen=self._state.first_seen)

    @property
    def private_key_file(self) -> Path:
        """The private half of the ssh key that the instance accepts."""
        return Path(self._state.private_key_file)

    def endpoint(self, port: int) -> Endpoint:
        """Return the address and port on loopback that lead to the instance's TCP port.

        A free port is picked unless the configuration sets one. Raises InstanceError when the port cannot be
        forwarded.
        """
        if port not in self._forwards:
            self._forwards = self._published()
        if port not in self._forwards:
            self.publish(port)
        return Endpoint(ip=user_network.LOOPBACK, port=self._forwards[port])

    def publish(self, port: int, host: int = 0) -> None:
        """Make a port of the instance reachable on loopback, at the port ``host`` or a free one.

        Raises InstanceError when that is not possible.
        """
        try:
            self._publish(port, host)
            self._forwards = self._published()
        except InstanceError as error:
            raise InstanceError(f"{self.name}: {error.message}", hint=error.hint) from None

    def console_output(self) -> str:
        """Return the console's whole output so far, without escape sequences."""
        return self._console.text()

    def recent_console(self) -> str:
        """Return the end of the console."""
        return self._console.end()

    def _failure(self, cause: str, hint: str, *, symptom: str | None = None) -> InstanceError:
        return InstanceError(f"{self.name}: {cause}{self._tail()}", hint=hint, symptom=symptom)

    def _hopeless(self, cause: Cause) -> InstanceError:
        """Return the error for a guest whose console names why it will never be ready."""
        error = InstanceError(f"{self.name}: {cause.lead}{self._tail(cause.line)}", hint=cause.hint)
        error.cause, error.console_line = cause.id, cause.line
        return error

    def _tail(self, around: int | None = None) -> str:
        excerpt = self._console.excerpt(around=around)
        return f"{LAST_LINES}{indented(excerpt)}" if excerpt else "\nthe console is empty"


def interface(mac: str) -> Interface:
    """Return the only interface of an instance, as its network is configured."""
    prefix = int(user_network.NETWORK.split("/")[1])
    address = Address(ip=user_network.GUEST, prefix=prefix, gateway=user_network.GATEWAY)
    return Interface(network="user", mac=mac, addresses=(address,), dns=(user_network.RESOLVER,))


def indented(text: str) -> str:
    """Return lines as the continuation of a message."""
    return "".join(f"\n  {line}" for line in text.splitlines())


def remove_directory(name: str, directory: Path) -> None:
    """Remove the directory of the instance ``name``; do nothing when it is gone.

    Raises InstanceError when it cannot be removed.
    """
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InstanceError(f"{name}: {directory} cannot be removed: {error}") from None
