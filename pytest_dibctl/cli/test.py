"""``dibctl test``: an image's tests, by pytest as a child process."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pytest_dibctl.cli.command import Arguments, Command, add_boot_options
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.system import process, signals

PYTEST_INTERRUPTED, PYTEST_NOTHING_COLLECTED = 2, 5


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_boot_options(parser)
    parser.add_argument(
        "--keep-failed-image", action="store_true", help="keep the test image if a test fails"
    )
    parser.add_argument(
        "--keep-failed-instance", action="store_true", help="keep the instance if a test fails"
    )
    parser.add_argument(
        "--warm",
        action="store_true",
        help="resume local guests from a saved ready state instead of booting them",
    )
    parser.add_argument(
        "--trace", action="store_true", help="make shell scripts show each command before they run it (sh -x)"
    )
    parser.add_argument("--shell", action="store_true", help="open a shell in the instance if a test fails")
    parser.add_argument(
        "--continue-on-fail", action="store_true", help="go on with the next entry after a failed one"
    )
    parser.add_argument("--upload-only", action="store_true", help="upload the test image, keep it, and stop")
    parser.add_argument(
        "--use-existing-image", metavar="UUID", help="boot this image of Glance; it is not removed"
    )
    parser.add_argument(
        "--use-existing-instance", metavar="ID", help="test this running instance; it is not removed"
    )
    parser.add_argument("--private-key-file", type=Path, metavar="FILE", help="ssh key of that instance")
    # Without a default, argparse calls these "required" in the error for a missing image.
    parser.add_argument(
        "pytest_args", nargs="*", default=[], metavar="-- PYTEST_ARG", help="passed on to pytest"
    )


def _run(arguments: Arguments) -> int:
    """Run pytest as a child; the exit code is that of its first error."""
    # The file is in memory and reached through this process: nothing is left of it, even after a SIGKILL.
    with os.fdopen(os.memfd_create("dibctl-result")) as memory:
        result_file = Path(f"/proc/{os.getpid()}/fd/{memory.fileno()}")
        argv = pytest_argv(arguments, result_file)
        code, number = _call_forwarding_signals(argv)
        if number is not None and (code == PYTEST_INTERRUPTED or code < 0):
            return signals.exit_code(number)
        return exit_code_of(code, result_file)


def pytest_argv(arguments: Arguments, result_file: Path) -> list[str]:
    """Return the pytest command line that ``dibctl test`` stands for."""
    argv = [
        process.interpreter(),
        "-P",  # not the working directory, whose files may be called like modules; `pytest` does so too
        "-m",
        "pytest",
        f"--dib-image={arguments.image}",
        f"--dib-result-file={result_file}",
    ]
    values = {
        "input": arguments.input,
        "env": arguments.environment,
        "build": arguments.build,
        "use-existing-image": arguments.use_existing_image,
        "use-existing-instance": arguments.use_existing_instance,
        "private-key-file": arguments.private_key_file,
        "images-config": arguments.images_config,
        "test-config": arguments.test_config,
        "upload-config": arguments.upload_config,
    }
    argv += [f"--dib-{name}={value}" for name, value in values.items() if value is not None]
    switches = ("keep_failed_image", "keep_failed_instance", "shell", "trace", "upload_only", "warm")
    argv += [f"--dib-{name.replace('_', '-')}" for name in switches if getattr(arguments, name)]
    argv.append("--dib-continue-on-fail" if arguments.continue_on_fail else "--dib-stop-on-fail")
    return [*argv, *arguments.pytest_args]


def exit_code_of(pytest_code: int, result_file: Path) -> int:
    """Return dibctl's exit code for pytest's: that of the first error where the plugin wrote it down."""
    with contextlib.suppress(OSError, ValueError):
        written = int(json.loads(result_file.read_text())["exit_code"])
        if written != ExitCode.OK:
            return written
    if pytest_code in {0, PYTEST_NOTHING_COLLECTED}:
        return pytest_code if pytest_code == 0 else ExitCode.TESTS_FAILED
    return ExitCode.TESTS_FAILED if pytest_code == 1 else ExitCode.UNSPECIFIED


def _call_forwarding_signals(argv: Sequence[str]) -> tuple[int, int | None]:
    """Run a child in the foreground and return its exit code, and the first signal that came meanwhile.

    The child decides what a signal means, so this process passes signals on and waits.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []
    received: list[int] = []

    def forward(number: int, _frame: object) -> None:
        received.append(number)
        if not children:
            early.append(number)
        # The terminal itself sends Ctrl-C to the child: both are in its foreground process group.
        elif number != signal.SIGINT or not _in_foreground():
            children[0].send_signal(number)

    former = {number: signal.signal(number, forward) for number in signals.STOPPING}
    try:
        children.append(subprocess.Popen(list(argv), env=process.environment(credentials=True)))
        for number in early:
            children[0].send_signal(number)
        return children[0].wait(), next(iter(received), None)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


COMMAND = Command(
    name="test",
    help="Boot an image and run the tests that images.yaml lists for it.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl test debian",
        "dibctl test debian --environment local --keep-failed-instance",
        "dibctl test debian -- -k login -x",
    ),
)
