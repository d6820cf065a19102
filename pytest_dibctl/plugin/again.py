"""The command that runs a failed script again, with its commands shown and the instance within reach."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_dibctl.plugin.planning import TREE
from pytest_dibctl.system import process

_PASSED_ON = ("images-config", "test-config", "upload-config", "input", "private-key-file")
"""Options with a value that the second run needs as the first did."""


def lines(request: pytest.FixtureRequest) -> list[str]:
    """Return what a failed script's report says last: how to run it again."""
    argv, where = _command(request)
    return [f"again, {where}:", f"    {process.command_line(argv)}"]


def _command(request: pytest.FixtureRequest) -> tuple[list[str], str]:
    options: Any = request.config.option
    target = request.node.callspec.params["image"]
    argv = ["pytest", f"--dib-image={target.image.label}", f"--dib-env={target.environment.label}"]
    for name in _PASSED_ON:
        value = getattr(options, f"dib_{name.replace('-', '_')}", None)
        if value:
            argv.append(f"--dib-{name}={value}")
    where = "in a new instance that is kept when it fails"
    if request.node.callspec.params["dib_view"] == TREE:
        argv.append("--dib-build=never")
        where = "on the same image"
    elif options.dib_use_existing_instance or options.dib_keep_failed_instance:
        kept = options.dib_use_existing_instance or request.getfixturevalue("instance").name
        argv.append(f"--dib-use-existing-instance={kept}")
        where = f"in {kept}, which is kept"
    else:
        argv.append("--dib-keep-failed-instance")
    test = request.node.originalname
    file = os.path.relpath(request.node.path, request.config.invocation_params.dir)
    return [*argv, "--dib-trace", f"{file}::{test}"], where
