"""Build, boot and test machine images: a pytest plugin and the library beneath it.

The names below are what tests and conftest files annotate with and call. Each is imported when it is first
asked for: a pytest run without ``--dib-image`` pays for none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_dibctl.artifact import Artifact
    from pytest_dibctl.clouds import (
        Address,
        Cloud,
        CloudImage,
        Endpoint,
        Flavor,
        Instance,
        Interface,
    )
    from pytest_dibctl.config.catalog import Entry
    from pytest_dibctl.config.models import Image, TestEnvironment
    from pytest_dibctl.dib import setting as dib_setting
    from pytest_dibctl.errors import DibctlError, ExitCode
    from pytest_dibctl.lifecycle import Journey as TargetRun
    from pytest_dibctl.process import Result, tool_path
    from pytest_dibctl.process import run as run_command
    from pytest_dibctl.ssh import SshAccess, SshKey
    from pytest_dibctl.tree import ImageTree
    from pytest_dibctl.tree import Item as TreeItem

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
    "Address": "pytest_dibctl.clouds",
    "Artifact": "pytest_dibctl.artifact",
    "Cloud": "pytest_dibctl.clouds",
    "CloudImage": "pytest_dibctl.clouds",
    "DibctlError": "pytest_dibctl.errors",
    "Endpoint": "pytest_dibctl.clouds",
    "Entry": "pytest_dibctl.config.catalog",
    "ExitCode": "pytest_dibctl.errors",
    "Flavor": "pytest_dibctl.clouds",
    "Image": "pytest_dibctl.config.models",
    "ImageTree": "pytest_dibctl.tree",
    "Instance": "pytest_dibctl.clouds",
    "Interface": "pytest_dibctl.clouds",
    "Result": "pytest_dibctl.process",
    "SshAccess": "pytest_dibctl.ssh",
    "SshKey": "pytest_dibctl.ssh",
    "TargetRun": "pytest_dibctl.lifecycle:Journey",
    "TestEnvironment": "pytest_dibctl.config.models",
    "TreeItem": "pytest_dibctl.tree:Item",
    "dib_setting": "pytest_dibctl.dib:setting",
    "run_command": "pytest_dibctl.process:run",
    "tool_path": "pytest_dibctl.process",
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
