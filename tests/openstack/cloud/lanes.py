"""Users, projects and a network for each of several test processes, so that they can share one cloud.

The first lane's are there from the beginning, for whoever uses the cloud by hand too; those of another
are made when it is first claimed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from tests.openstack.cloud import accounts, bootstrap, names
from tests.openstack.cloud.layout import Layout
from tests.openstack.cloud.services import CloudError


@contextlib.contextmanager
def claimed(layout: Layout) -> Iterator[int]:
    """Have the first free lane for the time of the block; raises CloudError when there is none."""
    layout.lanes.mkdir(exist_ok=True)
    for lane in range(names.LANES):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(FileLock(layout.lanes / f"{lane}.lock", blocking=False))
            except Timeout:
                continue
            if _made(layout, lane):
                yield lane
                return
    raise CloudError(f"the cloud has {names.LANES} lanes, and all are in use")


def clouds_yaml(layout: Layout, lane: int) -> Path:
    """Return the clients' configuration for a lane."""
    return layout.lanes / f"clouds-{lane}.yaml" if lane else layout.clouds_yaml


def _made(layout: Layout, lane: int) -> bool:
    """Tell whether a lane can be used, made now at its first use; one that was half made cannot."""
    if clouds_yaml(layout, lane).exists():
        return True
    try:
        (layout.lanes / f"{lane}.begun").touch(exist_ok=False)
    except FileExistsError:
        return False
    own = accounts.Accounts.random(lane)
    admin = yaml.safe_load(layout.clouds_yaml.read_text())["clouds"]["admin"]
    with accounts.connect(admin["auth"]) as cloud:
        own.make(cloud)
        bootstrap.fill_lane(cloud, lane)
    accounts.write_clouds(clouds_yaml(layout, lane), own.clouds())
    return True
