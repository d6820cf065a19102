"""``python -m tests.openstack.cloud up|down|status|run [--directory DIR]``."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from pytest_dibctl.errors import DibctlError
from tests.openstack.cloud import lifecycle
from tests.openstack.cloud.devcloud import DevCloud
from tests.openstack.cloud.layout import Layout

NOT_UP = 3
"""Exit code of ``status``, as service managers have it."""


def main() -> int:
    """Run a command and return the exit code."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        layout = Layout.at(arguments.directory)
        return int(COMMANDS[arguments.command](layout))
    except DibctlError as error:
        _tell(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130


def up(layout: Layout) -> int:
    """Start the cloud unless it is up; print the path of clouds.yaml."""
    print(lifecycle.up(layout, _tell).clouds_yaml)
    return 0


def down(layout: Layout) -> int:
    """Remove the cloud."""
    lifecycle.down(layout)
    return 0


def status(layout: Layout) -> int:
    """Print whether the cloud is up."""
    found = lifecycle.status(layout)
    print(found)
    return 0 if found == "up" else NOT_UP


def run(layout: Layout) -> int:
    """Have the cloud up until Ctrl-C or SIGTERM."""
    try:
        _show(lifecycle.up(layout, _tell))
        while lifecycle.status(layout) == "up":
            threading.Event().wait(10)
        _tell(f"the cloud is {lifecycle.status(layout)}; logs are in {lifecycle.keep_logs(layout)}")
    except KeyboardInterrupt:
        _tell("removing the cloud")
        return 0
    finally:
        lifecycle.down(layout)
    return 1


def _show(cloud: DevCloud) -> None:
    print(cloud.clouds_yaml.read_text())
    print(f"export OS_CLIENT_CONFIG_FILE={cloud.clouds_yaml}")
    print("openstack --os-cloud demo network list")
    print("Ctrl-C removes the cloud.", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.openstack.cloud", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("--directory", type=Path, help="where the cloud keeps its files")
    return parser


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Once: what follows removes the cloud, and is not to be interrupted.
    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


COMMANDS = {"up": up, "down": down, "status": status, "run": run}

if __name__ == "__main__":
    sys.exit(main())
