"""Servers in Nova: created, waited for and removed, with the ports, floating IPs and snapshots of each."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_dibctl.clouds import marks
from pytest_dibctl.clouds.openstack import images, networks
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.config.models.nova import Nova
from pytest_dibctl.errors import DibctlError, InstanceError
from pytest_dibctl.guest.console import limited

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """The parts of a server. ``groups`` are ids of security groups; ``user_data`` is plain text."""

    name: str
    image_id: str
    flavor_id: str
    key_name: str
    settings: Nova
    groups: tuple[str, ...]
    metadata: Mapping[str, str]
    user_data: str | None
    volume_size: int | None


def create(api: Api, spec: ServerSpec, *, timeout: float, at: Callable[[str], str]) -> str:
    """Make a server and return its id; it does not run yet. ``timeout`` is seconds for Nova's answer.

    ``at`` gives the place of a setting: the nova section is to blame for most refusals. If the answer gets
    lost, the server is found again by its name, which is not used twice. The caller must ``remove`` that name
    in any case. Raises ApiError and its like.
    """
    settings = spec.settings
    nets = networks.requested(
        api, settings.nics, server=spec.name, groups=spec.groups, timeout=max(timeout, 10.0), at=at
    )
    attributes = _attributes(spec, nets)
    server = api.create(
        "compute",
        f"make instance {spec.name}",
        lambda: api.compute.create_server(**attributes),
        name=spec.name,
        find=lambda: next(iter(named(api, spec.name)), None),
        timeout=timeout,
        at=at("nova"),
    )
    if api.in_flight.may_appear(spec.name):
        _remove_doubles(api, spec, str(server.id), timeout=timeout)
    return str(server.id)


def _remove_doubles(api: Api, spec: ServerSpec, server_id: str, *, timeout: float) -> None:
    """Remove servers of earlier calls whose answers were lost; any that appear later go with the instance."""
    for server in named(api, spec.name):
        if server.id != server_id and (server.metadata or {}).items() >= spec.metadata.items():
            call = functools.partial(api.compute.delete_server, server.id, ignore_missing=True)
            api.safely("compute", f"delete the double of {spec.name}", call, timeout=max(timeout, 10.0))


def _attributes(spec: ServerSpec, nets: list[dict[str, str]] | str) -> dict[str, Any]:
    settings = spec.settings
    attributes: dict[str, Any] = {
        "name": spec.name,
        "flavor_id": spec.flavor_id,
        "key_name": spec.key_name,
        "networks": nets,
        "metadata": {**settings.metadata, **spec.metadata},
    }
    if settings.config_drive:
        attributes["config_drive"] = True
    if settings.availability_zone is not None:
        attributes["availability_zone"] = settings.availability_zone
    if spec.user_data:
        attributes["user_data"] = base64.b64encode(spec.user_data.encode()).decode()
    if spec.groups:
        attributes["security_groups"] = [{"name": group} for group in spec.groups]
    if settings.hints:
        attributes["scheduler_hints"] = {
            key: list(hint) if isinstance(hint, tuple) else hint for key, hint in settings.hints.items()
        }
    if spec.volume_size is not None:
        attributes["block_device_mapping"] = [_root_volume(spec, spec.volume_size)]
    else:
        attributes["image_id"] = spec.image_id
    return attributes


def _root_volume(spec: ServerSpec, size: int) -> dict[str, Any]:
    assert spec.settings.volume is not None
    mapping = {
        "boot_index": 0,
        "source_type": "image",
        "uuid": spec.image_id,
        "destination_type": "volume",
        "volume_size": size,
        "delete_on_termination": True,
    }
    if spec.settings.volume.type is not None:
        mapping["volume_type"] = spec.settings.volume.type
    return mapping


def find(api: Api, server_id: str) -> Any | None:
    """Return a server, or None when there is none."""
    return api.find("compute", f"instance {server_id}", lambda: api.compute.get_server(server_id))


def named(api: Api, name: str) -> list[Any]:
    """Return the project's servers of exactly that name; there may be several."""
    pattern = f"^{re.escape(name)}$"
    listed = api.safely("compute", "list instances", lambda: list(api.compute.servers(name=pattern)))
    return [server for server in listed if server.name == name]


def annotate(api: Api, server: Any, metadata: Mapping[str, str]) -> None:
    """Add to a server's metadata."""
    api.safely(
        "compute",
        f"mark instance {server.name}",
        lambda: api.compute.set_server_metadata(server, **metadata),
    )


def wait_for(
    api: Api, server_id: str, wanted: str, *, timeout: float, tell: Callable[[str], None], name: str
) -> Any:
    """Return the server once its status is ``wanted`` and no task is under way.

    Raises InstanceError, with Nova's fault, when it goes to ERROR, disappears, or ``timeout`` seconds
    have passed.
    """
    states: list[str] = []

    def look() -> Any | None:
        server = find(api, server_id)
        if server is None:
            raise InstanceError(f"{name} ({server_id}) was deleted during the wait, and not by this run")
        state = server.status + (f", {server.task_state}" if server.task_state else "")
        if state not in states[-1:]:
            states.append(state)
            tell(f"instance is {state}")
        if server.status == wanted and not server.task_state:
            return server
        if server.status == "ERROR":
            raise error_of(server)
        return None

    found = api.wait(look, timeout=timeout)
    if found is None:
        state = states[-1] if states else "not visible"
        raise InstanceError(
            f"{name} ({server_id}) did not become {wanted} within {timeout:g} s; it is {state}",
            hint="raise nova.active_timeout if the cloud is that slow",
        )
    return found


def error_of(server: Any) -> InstanceError:
    """Return the error for a server in ERROR; Nova does not always say why."""
    fault = server.fault or {}
    reason = str(fault.get("message") or "Nova gives no reason").strip()
    code = f" (code {fault['code']})" if fault.get("code") else ""
    hint = None
    if "No valid host" in reason:
        hint = "no hypervisor has room for this flavor in this availability zone, or fits the hints"
    return InstanceError(f"{server.name} ({server.id}) went to ERROR: {reason}{code}", hint=hint)


def console_output(api: Api, server_id: str, *, lines: int | None = None) -> str:
    """Return the console output, the end of a huge one; raises ApiError where the cloud gives none.

    With ``lines`` it is that many lines of its end.
    """
    answer = api.safely(
        "compute",
        f"read the console of {server_id}",
        lambda: api.compute.get_server_console_output(server_id, length=lines),
        timeout=20,
    )
    return limited(str((answer or {}).get("output") or ""))


# -- removal ---------------------------------------------------------------------------------------


def remove(api: Api, name: str, *, run_id: str, timeout: float, snapshots: tuple[str, ...] = ()) -> None:
    """Remove the run's instance called ``name`` and all that was made for it, as far as it is there.

    ``timeout`` is seconds for each step. A step that fails does not stop the next; the first failure is
    raised at the end, as a DibctlError. ``snapshots`` are names of images that were made of it.
    """
    api.in_flight.settled(
        name, lambda: _remove(api, name, run_id=run_id, timeout=timeout, snapshots=snapshots)
    )


def _remove(api: Api, name: str, *, run_id: str, timeout: float, snapshots: tuple[str, ...]) -> None:
    failures: list[DibctlError] = []
    with_network = api.has("network")
    if with_network:
        with _collected(failures):
            networks.remove_floating_ips(api, name, timeout=timeout)
    with _collected(failures):
        for server in named(api, name):
            with _collected(failures):
                _delete(api, server, run_id, timeout=timeout)
    if with_network:
        with _collected(failures):
            networks.remove_ports(api, name, timeout=timeout)
    with _collected(failures):
        images.remove_named(api, snapshots, (), timeout=timeout)
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _collected(failures: list[DibctlError]) -> Iterator[None]:
    try:
        yield
    except DibctlError as error:
        failures.append(error)


def _delete(api: Api, server: Any, run_id: str, *, timeout: float) -> None:
    if (server.metadata or {}).get(marks.RUN_KEY) != run_id:
        raise InstanceError(
            f"{server.name} ({server.id}) does not bear this project's mark of run {run_id}, "
            "so it is left alone"
        )
    volumes = [volume.id for volume in server.attached_volumes or () if _goes_along(volume)]
    api.safely(
        "compute",
        f"delete instance {server.name}",
        lambda: api.compute.delete_server(server.id, ignore_missing=True),
        timeout=timeout,
    )
    if not api.wait(lambda: _is_gone(find(api, server.id)), timeout=timeout):
        raise InstanceError(f"{server.name} ({server.id}) is still there {timeout:g} s after it was deleted")
    for volume in volumes:
        _await_volume_gone(api, volume, timeout=timeout)


def _is_gone(server: Any | None) -> bool | None:
    # Clouds that can undo a deletion keep the server for a while.
    return True if server is None or server.status in {"DELETED", "SOFT_DELETED"} else None


def _goes_along(volume: Any) -> bool:
    return bool(volume.delete_on_termination)


def _await_volume_gone(api: Api, volume_id: str, *, timeout: float) -> None:
    def look() -> bool | None:
        volume = api.safely(
            "volume",
            f"find volume {volume_id}",
            lambda: api.volume.find_volume(volume_id, ignore_missing=True),
        )
        return True if volume is None else None

    if not api.wait(look, timeout=timeout):
        raise InstanceError(f"volume {volume_id} is still there {timeout:g} s after its instance was deleted")
