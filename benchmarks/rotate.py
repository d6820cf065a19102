"""Finding what may be deleted among 10,000 images and 100,000 servers, beside listing everything.

The services are a fake that pages as they do, 1,000 at a time, in a process of its own. Each way runs in
a fresh process: what counts is calls, seconds, and the memory it needs beyond its imports.

    python -m benchmarks rotate -- [ROUNDS]
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import resource
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from benchmarks import standins
from benchmarks.rows import Row

IMAGES, SERVERS = 10_000, 100_000
CURRENT = 1_000
"""Images that are not obsolete; most servers run the others."""
ROUNDS = 1
"""Calls and memory are the same each time, and listing everything takes minutes."""
MIB = 1 << 20


def rows(times: str = str(ROUNDS)) -> Iterator[Row]:
    """Yield calls, seconds and memory of both ways."""
    with standins.served("benchmarks.rotate", "serve") as url:
        rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "naive": []}
        for _ in range(int(times)):
            for way, results in rounds.items():
                results.append(measured(way, url))
    if len({one["unused"] for results in rounds.values() for one in results}) != 1:
        raise SystemExit("the two ways find different images")
    for what, unit, scale in (("calls", "calls", 1), ("seconds", "s", 1), ("memory", "MiB", MIB)):
        ours, theirs = (tuple(one[what] / scale for one in rounds[way]) for way in ("ours", "naive"))
        figure = f"unused of {IMAGES:,} images, {what}"
        yield Row(figure=figure, ours=ours, peer="listing everything", theirs=theirs, unit=unit)


def measured(way: str, url: str) -> dict[str, Any]:
    """Run one way in a fresh process, and return what it cost."""
    calls = url.replace("/identity/v3", "/calls")
    urllib.request.urlopen(calls).read()
    argv = [sys.executable, "-m", "benchmarks.rotate", way, url]
    done = subprocess.run(argv, cwd=standins.ROOT, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    result["calls"] = len(json.loads(urllib.request.urlopen(calls).read()))
    return result


# -- the two ways ----------------------------------------------------------------------------------


def ours(url: str) -> int:
    """Return how many images a plan would delete."""
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.upload import UploadEnvironment
    from pytest_dibctl.publish import connect, rotate

    settings = UploadEnvironment.model_validate({"keystone": standins.login(url, "admin")})
    environment = Entry(label="bench", settings=settings, path=Path("upload.yaml"))
    policy = rotate.Policy(rule=settings.obsolete, where="")
    with contextlib.closing(connect.open_region(environment, environ={}, fixed_cloud=True)) as region:
        return sum(verdict.outcome == "goes" for verdict in rotate.plan(region, policy))


def naive(url: str) -> int:
    """Return how many images are unused, everything having been listed."""
    import openstack

    auth = {**standins.login(url, "admin"), "user_domain_id": "default", "project_domain_id": "default"}
    with contextlib.closing(
        openstack.connect(load_envvars=False, load_yaml_config=False, auth=auth)
    ) as connection:
        images = list(connection.image.images())
        servers = list(connection.compute.servers(details=True, all_projects=True))
    used = {server.image.id for server in servers if server.image}
    return sum(
        (image.properties or {}).get("obsolete") == "true" and not image.is_protected and image.id not in used
        for image in images
    )


def run(way: str, url: str) -> None:
    """Print what one way found and cost."""
    import time

    import pytest_dibctl.clouds.openstack.regions
    import pytest_dibctl.publish.rotate  # noqa: F401

    before, started = memory(), time.perf_counter()
    unused = {"ours": ours, "naive": naive}[way](url)
    seconds = time.perf_counter() - started
    print(json.dumps({"unused": unused, "seconds": seconds, "memory": memory() - before}))


def memory() -> int:
    """Return the most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -- the fake cloud --------------------------------------------------------------------------------


class Servers(Sequence[dict[str, Any]]):
    """Servers as Nova describes them, made as they are asked for; two in three run an image of ours."""

    def __init__(self, images: list[str]) -> None:
        self._images = images

    def __len__(self) -> int:
        return SERVERS

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self._server(number) for number in range(*place.indices(SERVERS))]
        return self._server(place)

    @staticmethod
    def place(marker: str) -> int:
        return int(marker[-12:])

    def _server(self, number: int) -> dict[str, Any]:
        image = self._images[number % len(self._images)] if number % 3 else f"elsewhere-{number}"
        address = {"addr": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "version": 4}
        return {
            "id": f"00000000-0000-0000-0000-{number:012d}",
            "name": f"server-{number}",
            "status": "ACTIVE",
            "tenant_id": f"{number % 500:032x}",
            "user_id": f"{number % 900:032x}",
            "image": {"id": image, "links": [{"rel": "bookmark", "href": f"http://glance/{image}"}]},
            "flavor": {"vcpus": 2, "ram": 4096, "disk": 20, "ephemeral": 0, "swap": 0, "original_name": "m"},
            "addresses": {"net": [{**address, "OS-EXT-IPS:type": "fixed"}]},
            "metadata": {f"key{key}": "value" * 4 for key in range(5)},
            "created": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z",
            "OS-EXT-SRV-ATTR:host": f"compute-{number % 300}",
            "OS-EXT-AZ:availability_zone": "nova",
            "OS-EXT-STS:vm_state": "active",
            "hostId": f"{number % 300:056x}",
            "key_name": "key",
            "config_drive": "True",
            "security_groups": [{"name": "default"}],
            "os-extended-volumes:volumes_attached": [],
        }


def serve() -> None:
    """Serve until stdin ends."""
    from tests.support.fake_openstack import FakeCloud, stamp

    cloud = FakeCloud(keep_contents=False)
    when = stamp(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    obsolete: list[str] = []
    for number in range(IMAGES):
        more: dict[str, Any] = {"owner": "admin-id", "hw_disk_bus": "virtio", "os_distro": "debian"}
        if number < CURRENT:
            cloud.add_image(f"Image {number}", **more)
        else:
            more |= {"obsolete": "true", "obsoleted_at": when}
            obsolete.append(cloud.add_image(f"Obsolete Image {number % CURRENT}", **more))
    cloud.other_servers = Servers(obsolete[: len(obsolete) * 2 // 3])
    standins.serve(cloud)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        run(*sys.argv[1:])
