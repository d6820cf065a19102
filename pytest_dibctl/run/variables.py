"""The ``DIBCTL_*`` variables that scripts and commands see; names and meaning are dibctl's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pytest_dibctl.clouds.protocols import Instance, Interface
from pytest_dibctl.config import merge
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.config.tests_list import EXTERNAL_NAMES
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.image.tree import ImageTree
from pytest_dibctl.system import process


def for_tests(instance: Instance, access: SshAccess, extra: Mapping[str, str]) -> dict[str, str]:
    """Return every variable a shell test gets on top of its caller's environment.

    ``extra`` are the ``environment_variables`` of the image and its environment, merged, without prefix.
    """
    command = process.command_line(access.command_line())
    flavor = instance.flavor
    found = {
        "INSTANCE_UUID": instance.id,
        "INSTANCE_NAME": instance.name,
        "FLAVOR_ID": flavor.id,
        "FLAVOR_NAME": flavor.name,
        "FLAVOR_RAM": str(flavor.ram),
        "FLAVOR_VCPUS": str(flavor.vcpus),
        "FLAVOR_DISK": str(flavor.disk),
        "MAIN_IP": instance.main_ip,
        "SSH_IP": access.ip,
        "SSH_USERNAME": access.username,
        "SSH_PORT": str(access.port),
        "SSH_CONFIG": str(access.config_file),
        "SSH_PRIVATE_KEY": str(access.key.private_key_file),
        "SSH": command,
    }
    found |= {f"FLAVOR_META_{_name(key)}": value for key, value in flavor.meta.items()}
    found |= {f"IP_{number}": ip for number, ip in enumerate(addresses(instance), start=1)}
    found |= {
        f"IFACE_{number}_INFO": json.dumps(describe(interface))
        for number, interface in enumerate(instance.interfaces, start=1)
    }
    found |= extra
    # No variable can hold the character that ends one; a flavor's extra spec may.
    return {f"DIBCTL_{key}": value.replace("\0", "") for key, value in found.items()} | {"ssh": command}


def for_image(tree: ImageTree, image: Entry[Image], extra: Mapping[str, str]) -> dict[str, str]:
    """Return every variable that a script of an ``image`` entry gets on top of its caller's environment.

    ``extra`` are the ``environment_variables`` of the image and its environment, merged, without prefix.
    """
    artifact = tree.artifact
    found = {
        "IMAGE_LABEL": image.label,
        "IMAGE_ROOT": str(tree.scripts_root),
        "IMAGE_CHROOT": str(tree.enter),
        "IMAGE_FILE": str(artifact.path),
        "IMAGE_FORMAT": artifact.disk_format,
        "IMAGE_SIZE": str(artifact.size),
        "IMAGE_VIRTUAL_SIZE": str(artifact.virtual_size),
        "IMAGE_SHA512": artifact.sha512,
        "IMAGE_LAYOUT": artifact.layout,
        "IMAGE_DEVICE": str(tree.device),
        "IMAGE_FILESYSTEM": tree.filesystem,
        "IMAGE_KERNEL": str(artifact.kernel or ""),
        "IMAGE_INITRD": str(artifact.initrd or ""),
    }
    return {f"DIBCTL_{key}": value for key, value in {**found, **extra}.items()}


def for_command(
    image: Entry[Image],
    environment: Entry[TestEnvironment],
    file: Path,
    built: Artifact | None,
    facts: Mapping[str, str],
) -> dict[str, str]:
    """Return the values of ``%(name)s`` in ``external_tests``; ``facts`` are the result of ``for_tests``.

    ``built`` is None in a run that has only the name of the ``file``.
    """
    glance = merge.glance(image, environment)
    kind = glance.disk_format
    here, there = image.settings.glance, environment.settings.glance
    told = environment.settings.engine == "openstack" and (there.disk_format or here.disk_format)
    if built is not None and not told:
        kind = built.disk_format
    known = {
        "label": image.label,
        "filename": str(file),
        "input_filename": str(file),
        "disk_format": kind,
        "container_format": glance.container_format,
    }
    rest = (name for name in EXTERNAL_NAMES if name not in known)
    return known | {name: facts[f"DIBCTL_{name.upper()}"] for name in rest}


def addresses(instance: Instance, version: int | None = None) -> list[str]:
    """Return the fixed addresses of all interfaces, of one IP version or of both."""
    return [
        address.ip
        for interface in instance.interfaces
        for address in interface.addresses
        if version in {None, address.version}
    ]


def describe(interface: Interface) -> dict[str, object]:
    """Return an interface as plain data, for JSON and for tests written against dibctl."""
    return {
        "network": interface.network,
        "mac_address": interface.mac,
        "fixed_ips": [
            {"ip_address": address.ip, "prefixlen": address.prefix, "gateway_ip": address.gateway}
            for address in interface.addresses
        ],
        "dns_nameservers": list(interface.dns),
    }


def _name(key: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", key.upper())
