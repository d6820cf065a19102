"""The seed drive that configures a guest: a NoCloud seed or an OpenStack config drive, as an ISO image.

The operator's user data goes in unchanged. The ssh host key goes in as vendor data, which user data
overrides. Every document is JSON, which is YAML as well.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pytest_dibctl.guest.keys import make_key

SeedKind = Literal["nocloud", "configdrive"]

PADDED_SIZE = 512 * 1024
"""The smallest size of a seed, in bytes."""

LABELS: Mapping[SeedKind, str] = {"nocloud": "cidata", "configdrive": "config-2"}
"""Volume labels by which cloud-init finds a seed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostKey:
    """An ssh host key for a guest: the text of an OpenSSH private key file, and the public key's line."""

    private: str
    public: str

    @classmethod
    def made(cls, comment: str) -> Self:
        """Return a new key."""
        private, public = make_key(comment)
        return cls(private=private, public=public)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """The content of a seed. ``mac`` is its interface's; without ``host_key`` the guest makes its own.

    ``device`` is what the guest calls its interface, where that is known and the MAC finds it nowhere.
    """

    uuid: str
    name: str
    mac: str
    key_name: str
    public_key: str
    host_key: HostKey | None = None
    user_data: str = ""
    device: str | None = None


def documents(kind: SeedKind, identity: Identity) -> dict[str, str]:
    """Return the text of each file of a seed, by its path in the seed."""
    return _nocloud(identity) if kind == "nocloud" else _config_drive(identity)


def write(path: Path, kind: SeedKind, identity: Identity) -> None:
    """Write the seed's ISO image to a new file of mode 0600, since it may hold a private key.

    Raises FileExistsError when the file exists, OSError when it cannot be written.
    """
    image = iso(LABELS[kind], documents(kind, identity))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(image)


def iso(label: str, files: Mapping[str, str]) -> bytes:
    """Return an ISO 9660 image that holds ``files``, with Rock Ridge names, which Linux guests read."""
    import pycdlib  # slow to import, and needed only to boot a guest

    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, rock_ridge="1.09", vol_ident=label)
    try:
        iso_paths: dict[Path, str] = {Path("/"): ""}
        for number, (name, text) in enumerate(sorted(files.items())):
            path = Path("/") / name
            for parent in reversed(path.parents):
                if parent not in iso_paths:
                    iso_paths[parent] = f"{iso_paths[parent.parent]}/D{len(iso_paths)}"
                    image.add_directory(iso_paths[parent], rr_name=parent.name)
            data = text.encode()
            image.add_fp(
                io.BytesIO(data),
                len(data),
                # An ISO 9660 name allows neither lower case nor dashes; guests read the Rock Ridge name.
                f"{iso_paths[path.parent]}/F{number}.;1",
                rr_name=path.name,
            )
        sink = io.BytesIO()
        image.write_fp(sink)
    finally:
        image.close()
    # Probes for other filesystems read beyond the end of a small image; those of busybox stop at that error.
    return sink.getvalue().ljust(PADDED_SIZE, b"\0")


def vendor_config(identity: Identity) -> str:
    """Return the cloud-config of the vendor data, which sets the ssh host key if there is one."""
    settings: dict[str, object] = {}
    if identity.host_key is not None:
        settings["ssh_deletekeys"] = True
        settings["ssh_keys"] = {
            "ed25519_private": identity.host_key.private,
            # The line end is needed: cloud-init prints the file to the console as it is.
            "ed25519_public": f"{identity.host_key.public}\n",
        }
    return f"#cloud-config\n{_json(settings)}"


def _nocloud(identity: Identity) -> dict[str, str]:
    meta: dict[str, object] = {
        "instance-id": identity.uuid,
        "local-hostname": identity.name,
        "public-keys": [identity.public_key],
    }
    files = {"user-data": identity.user_data, "vendor-data": vendor_config(identity)}
    # Else cloud-init's fallback sets up DHCP on the only interface, as in a plain cloud. It looks for the
    # interface by its permanent MAC where netplan does it (Ubuntu), and a virtual pair has none.
    if identity.device is not None:
        meta["dsmode"] = "local"  # else it is too late for the network
        network = {"version": 2, "ethernets": {identity.device: {"dhcp4": True}}}
        files["network-config"] = _json(network)
    return {"meta-data": _json(meta), **files}


def _config_drive(identity: Identity) -> dict[str, str]:
    meta = {
        "uuid": identity.uuid,
        "name": identity.name,
        "hostname": identity.name,
        "launch_index": 0,
        "availability_zone": "local",
        "public_keys": {identity.key_name: identity.public_key},
        "keys": [{"name": identity.key_name, "type": "ssh", "data": identity.public_key}],
    }
    network = {
        "links": [{"id": "net0", "type": "phy", "ethernet_mac_address": identity.mac, "mtu": 1500}],
        "networks": [{"id": "network0", "link": "net0", "network_id": "user", "type": "ipv4_dhcp"}],
        "services": [],
    }
    files = {
        "meta_data.json": _json(meta),
        "network_data.json": _json(network),
        "vendor_data.json": _json({"cloud-init": vendor_config(identity)}),
    }
    if identity.user_data:
        files["user_data"] = identity.user_data
    return {f"openstack/latest/{name}": text for name, text in files.items()}


def _json(document: object) -> str:
    return json.dumps(document, indent=1) + "\n"
