"""A repository of images beside a stand-in cloud, for tests of the commands that publish."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dibctl import cli, process
from tests.support.standin import Cloud

NAME = "Debian 12"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commands:
    """``dibctl``, in this process, and what it said."""

    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run ``dibctl`` and return its exit code, its output and what it said."""
        code = cli.main(arguments)
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run ``dibctl ... --json`` and return what it printed."""
        found, out, err = self.run(*arguments, "--json")
        assert found == code, out + err
        return json.loads(out)


def write_qcow2(file: Path, content: bytes) -> None:
    """Write an image whose disk begins with ``content``."""
    raw = file.with_name("fill.raw")
    raw.write_bytes(content)
    process.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(file)])
    raw.unlink()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shop(Commands):
    """A working directory with an image that was built elsewhere, and what commands said."""

    path: Path
    cloud: Cloud

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

    def fill(self, content: bytes | None = None) -> None:
        """Write the image's file anew."""
        write_qcow2(self.path / "debian.qcow2", content if content is not None else os.urandom(1 << 20))
