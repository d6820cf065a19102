"""One GiB to four regions at once beside openstacksdk one after another; and to one region beside curl.

Each region is a fake cloud in a process of its own. It takes bytes at the rate it is throttled to, and knows
their digest beforehand: a real Glance on a small machine would measure its own hashing.

    python -m benchmarks upload -- [MiB [MiB a second]]
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import paired, standins
from benchmarks.rows import Row

MIB = 1 << 20
SIZE = 1024
RATE = 100
"""MiB a second that each throttled region takes: a gigabit line."""
REGIONS = 4
DOMAINS = {"user_domain_id": "default", "project_domain_id": "default"}
ROUNDS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A file, what it is, and the regions that take it."""

    file: Path
    sha512: str
    urls: tuple[str, ...]

    def ours(self, count: int) -> None:
        """Upload to the first ``count`` regions as ``dibctl upload`` does."""
        from pytest_dibctl.cli import output
        from pytest_dibctl.config.entry import Entry
        from pytest_dibctl.config.models.images import Image
        from pytest_dibctl.config.models.upload import UploadEnvironment
        from pytest_dibctl.image.artifact import Artifact
        from pytest_dibctl.publish import connect, upload, upload_request

        image = Image.model_validate({"filename": str(self.file), "glance": {"name": name()}})
        environments = [
            Entry(
                label=f"region{number}",
                settings=UploadEnvironment.model_validate({"keystone": standins.login(url, "demo")}),
                path=Path("upload.yaml"),
            )
            for number, url in enumerate(self.urls[:count])
        ]
        size = self.file.stat().st_size
        request = upload_request.Request(
            image=Entry(label="bench", settings=image, path=Path("images.yaml")),
            environments=environments,
            built=Artifact(
                path=self.file, disk_format="raw", size=size, virtual_size=size, sha512=self.sha512
            ),
            cwd=self.file.parent,
            open_region=lambda one: connect.open_region(one, environ={}, fixed_cloud=True),
            watch=output.Meter(),
        )
        results = upload.upload(request)
        if {result.outcome for result in results} != {"uploaded"}:
            raise SystemExit(str([result.error for result in results]))

    def theirs(self, count: int) -> None:
        """Upload with openstacksdk, one region after another."""
        import openstack

        for url in self.urls[:count]:
            auth = {**standins.login(url, "demo"), **DOMAINS}
            with (
                warnings.catch_warnings(),
                contextlib.closing(
                    openstack.connect(load_envvars=False, load_yaml_config=False, auth=auth)
                ) as connection,
            ):
                warnings.simplefilter("ignore")
                connection.image.create_image(
                    name(),
                    filename=str(self.file),
                    disk_format="raw",
                    container_format="bare",
                    validate_checksum=True,
                    wait=True,
                )

    def curl(self) -> None:
        """Send the bytes to one region, and nothing else; the image's record is made beforehand."""
        import openstack

        auth = {**standins.login(self.urls[0], "demo"), **DOMAINS}
        with contextlib.closing(
            openstack.connect(load_envvars=False, load_yaml_config=False, auth=auth)
        ) as connection:
            document = {
                "id": os.urandom(16).hex(),
                "name": "curl",
                "visibility": "private",
                "protected": False,
            }
            image: dict[str, Any] = connection.image.post("/images", json=document).json()
            url = f"{str(connection.image.get_endpoint()).rstrip('/')}/images/{image['id']}/file"
            token = f"X-Auth-Token: {connection.auth_token}"
        kind = "Content-Type: application/octet-stream"
        argv = ["curl", "-sSf", "-T", str(self.file), "-H", token, "-H", kind, "-H", "Expect:", url]
        subprocess.run(argv, check=True)


def name() -> str:
    """Return a name that no image has yet, so that nothing has to make place."""
    return f"image-{os.urandom(8).hex()}"


def rows(size: str = str(SIZE), rate: str = str(RATE)) -> Iterator[Row]:
    """Yield the rows: throttled, then as fast as this machine can."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "image.raw"
        digest = hashlib.sha512()
        with file.open("wb") as opened:
            for _ in range(int(size)):
                block = os.urandom(MIB)
                digest.update(block)
                opened.write(block)
        for limit in (int(rate), 0):
            with contextlib.ExitStack() as stack:
                serving = ("benchmarks.upload", str(limit), digest.hexdigest())
                urls = [stack.enter_context(standins.served(*serving)) for _ in range(REGIONS)]
                bench = Bench(file=file, sha512=digest.hexdigest(), urls=tuple(urls))
                yield from compare(bench, "throttled" if limit else "unthrottled")


def compare(bench: Bench, what: str) -> Iterator[Row]:
    several = paired.measure(lambda: bench.ours(REGIONS), lambda: bench.theirs(REGIONS), rounds=ROUNDS)
    yield Row.of_pair(f"{REGIONS} regions verified, {what}", several, peer="create_image one after another")
    one = paired.measure(lambda: bench.ours(1), bench.curl, rounds=ROUNDS)
    yield Row.of_pair(f"one region verified, {what}", one, peer="curl -T")


def serve(rate: int, digest: str) -> None:
    """Serve until stdin ends."""
    from tests.support.fake_openstack import FakeCloud

    cloud = FakeCloud(rate=rate * MIB, digest=digest, keep_contents=False)
    standins.serve(cloud)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
