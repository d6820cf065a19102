"""A repository of images beside a fake cloud, for tests of the commands that publish."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dibctl.cli import main
from pytest_dibctl.system import process
from tests.support import waiting
from tests.support.fake_openstack import FakeCloud
from tests.support.warm import Begun, Warm

NAME = "Debian 12"
PATIENCE = 60.0
"""Seconds for whatever a command has to come to, on a busy machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commands:
    """``dibctl``, in this process, and what it said."""

    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run ``dibctl`` and return its exit code, its output and what it said."""
        code = main.main(arguments)
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run ``dibctl ... --json`` and return what it printed."""
        found, out, err = self.run(*arguments, "--json")
        assert found == code, out + err
        return json.loads(out)


class Child:
    """``dibctl`` in a process of its own, which signals can reach; what it says goes to files."""

    def __init__(self, folder: Path, arguments: Sequence[str], forked_from: Warm | None) -> None:
        self._out, self._err = folder / "child.out", folder / "child.err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process: subprocess.Popen[bytes] | Begun = (
                forked_from.begin(arguments, stdout=out.fileno(), stderr=err.fileno())
                if forked_from is not None
                else subprocess.Popen(
                    [sys.executable, "-m", "pytest_dibctl.cli", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )
            )

    @property
    def said(self) -> str:
        return self._err.read_text()

    @property
    def printed(self) -> str:
        return self._out.read_text()

    def interrupt(self, until: str, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal and wait until the command has said something."""
        self._process.send_signal(number)
        waiting.until(lambda: until in self.said, seconds=PATIENCE)

    def kill(self) -> None:
        """End it by force, and wait until it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        return self._process.wait(PATIENCE)


@functools.cache
def _qcow2(size: int) -> tuple[bytes, bytes]:
    """Return what qemu-img writes before and after the content of a disk without an empty cluster."""
    content = os.urandom(size)
    with tempfile.TemporaryDirectory() as directory:
        raw, file = Path(directory, "raw"), Path(directory, "qcow2")
        raw.write_bytes(content)
        process.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(file)])
        before, found, after = file.read_bytes().partition(content)
    assert found, "qemu-img has not written the content in one piece"
    return before, after


def write_qcow2(file: Path, content: bytes) -> None:
    """Write an image whose disk begins with ``content``."""
    file.write_bytes(content.join(_qcow2(len(content))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shop(Commands):
    """A working directory with an image that was built elsewhere, and what commands said."""

    path: Path
    cloud: FakeCloud
    warm: Callable[[], Warm | None]
    """Returns what children are forked from."""

    @contextlib.contextmanager
    def child(self, *arguments: str) -> Iterator[Child]:
        """Run ``dibctl`` beside the block; it is over at the end, one way or the other."""
        made = Child(self.path, arguments, self.warm())
        try:
            yield made
        finally:
            made.kill()

    def keystone(self, user: str = "demo", region: str = "RegionOne") -> dict[str, str]:
        return {
            "auth_url": self.cloud.url,
            "username": user,
            "password": "secret",
            "project_name": user,
            "region_name": region,
        }

    def write(
        self,
        environments: Mapping[str, Any] | None = None,
        *,
        glance: Mapping[str, Any] | None = None,
        **image: Any,
    ) -> None:
        """Write images.yaml, with the image "debian", and upload.yaml."""
        documents = {
            "images": {
                "debian": {"filename": "debian.qcow2", "glance": {"name": NAME, **(glance or {})}, **image}
            },
            "upload": environments or {"one": {"keystone": self.keystone()}},
        }
        for kind, document in documents.items():
            (self.path / f"{kind}.yaml").write_text(yaml.safe_dump(document))

    def images(self, region: str = "RegionOne", **like: Any) -> list[dict[str, Any]]:
        """Return the images of a region that have these values."""
        return [
            image
            for image in self.cloud.region(region).values()
            if all(image.get(key) == value for key, value in like.items())
        ]

    def fill_filesystem(self) -> None:
        """Write an image without a boot loader anew, with a kernel and an initrd beside it."""
        content = bytearray(os.urandom(1 << 20))
        content[1024:2048] = bytes(1024)  # a superblock, as far as anybody looks
        content[1080:1082] = b"\x53\xef"
        content[510:512] = bytes(2)
        self.fill(bytes(content))
        for suffix in ("vmlinuz", "initrd"):
            (self.path / f"debian.{suffix}").write_bytes(os.urandom(5000))

    def fill(self, content: bytes | None = None) -> None:
        """Write the image's file anew."""
        write_qcow2(self.path / "debian.qcow2", content if content is not None else os.urandom(1 << 20))
