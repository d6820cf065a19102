"""Build, boot and test machine images: a pytest plugin and the library beneath it.

The names below are what tests and conftest files annotate with and call. Each is imported when it is first
asked for: a pytest run without ``--dib-image`` pays for none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_dibctl.build.elements import setting as dib_setting
    from pytest_dibctl.clouds.protocols import (
        Address,
        Cloud,
        CloudImage,
        Endpoint,
        Flavor,
        Instance,
        Interface,
    )
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.images import Image
    from pytest_dibctl.config.models.test import TestEnvironment
    from pytest_dibctl.errors import DibctlError, ExitCode
    from pytest_dibctl.guest.keys import SshKey
    from pytest_dibctl.guest.ssh import SshAccess
    from pytest_dibctl.image.artifact import Artifact
    from pytest_dibctl.image.tree import ImageTree, TreeItem
    from pytest_dibctl.run.target_run import TargetRun
    from pytest_dibctl.system.process import Result, tool_path
    from pytest_dibctl.system.process import run as run_command

__version__ = "0.1.0"

__all__ = [
    "Address",
    "Artifact",
    "Cloud",
    "CloudImage",
    "DibctlError",
    "Endpoint",
    "Entry",
    "ExitCode",
    "Flavor",
    "Image",
    "ImageTree",
    "Instance",
    "Interface",
    "Result",
    "SshAccess",
    "SshKey",
    "TargetRun",
    "TestEnvironment",
    "TreeItem",
    "dib_setting",
    "run_command",
    "tool_path",
]

_HOMES = {
    "Address": "pytest_dibctl.clouds.protocols",
    "Artifact": "pytest_dibctl.image.artifact",
    "Cloud": "pytest_dibctl.clouds.protocols",
    "CloudImage": "pytest_dibctl.clouds.protocols",
    "DibctlError": "pytest_dibctl.errors",
    "Endpoint": "pytest_dibctl.clouds.protocols",
    "Entry": "pytest_dibctl.config.entry",
    "ExitCode": "pytest_dibctl.errors",
    "Flavor": "pytest_dibctl.clouds.protocols",
    "Image": "pytest_dibctl.config.models.images",
    "ImageTree": "pytest_dibctl.image.tree",
    "Instance": "pytest_dibctl.clouds.protocols",
    "Interface": "pytest_dibctl.clouds.protocols",
    "Result": "pytest_dibctl.system.process",
    "SshAccess": "pytest_dibctl.guest.ssh",
    "SshKey": "pytest_dibctl.guest.keys",
    "TargetRun": "pytest_dibctl.run.target_run",
    "TestEnvironment": "pytest_dibctl.config.models.test",
    "TreeItem": "pytest_dibctl.image.tree",
    "dib_setting": "pytest_dibctl.build.elements:setting",
    "run_command": "pytest_dibctl.system.process:run",
    "tool_path": "pytest_dibctl.system.process",
}
"""Where each public name is defined: its module, and after a colon its name there if that differs."""


def __getattr__(name: str) -> object:
    try:
        module, _, attribute = _HOMES[name].partition(":")
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
