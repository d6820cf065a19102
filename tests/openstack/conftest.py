"""For tests on the real OpenStack: the cloud, one for all workers."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_dibctl.errors import DibctlError
from tests.openstack.belongings import Belongings, looking
from tests.openstack.cloud import DevCloud, lifecycle, sessions
from tests.openstack.cloud.devcloud import close_all
from tests.openstack.cloud.layout import Layout
from tests.openstack.shelf import Shelf
from tests.openstack.site import Site, runs_left
from tests.support import leaks, micro, packages

KEEP = "DIBCTL_TEST_CLOUD"
"""The environment variable that leaves the cloud running after the tests when it says "keep"."""


@pytest.fixture(scope="session")
def devcloud(request: pytest.FixtureRequest) -> Iterator[DevCloud]:
    """The real OpenStack, started if none runs; whoever starts it here stops it at the end."""
    try:
        if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
            # The first process starts the cloud; meanwhile another one makes what will be booted there.
            packages.require()
            micro.cached()
        layout = Layout.at(None)
        with sessions.using(layout, keep=os.environ.get(KEEP) == "keep") as cloud:
            yield cloud
            close_all()
            if request.session.testsfailed:
                with FileLock(layout.run / "logs.lock"):
                    lifecycle.keep_logs(layout)
    except DibctlError as error:
        pytest.fail(f"no cloud to test with: {error}", pytrace=False)


@pytest.fixture(scope="session")
def micro_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built micro image, its kernel and initrd beside it; runs write down there what they tested."""
    packages.require()
    # A copy: what is in the cache is other tests' too.
    return Path(shutil.copytree(micro.cached(), tmp_path_factory.mktemp("micro") / "image")) / "micro.qcow2"


@pytest.fixture(scope="session")
def belongings(devcloud: DevCloud) -> Iterator[Belongings]:
    """A look at what is ours in this process's lane."""
    with looking(devcloud) as look:
        yield look


@pytest.fixture
def site(
    devcloud: DevCloud,
    belongings: Belongings,
    micro_image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """An empty repository of images; the test fails if anything of ours is in its lane after it."""
    # Unix sockets of ssh and of runs lie below it, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="dt-") as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        # One test that leaves something must not make all later ones fail.
        made = Site(
            path=tmp_path,
            cloud=devcloud,
            image=micro_image,
            belongings=belongings,
            before=frozenset(belongings.known()),
        )
        yield made
        left = leaks.settled(lambda: made.left() | set(runs_left()))
        if left:
            pytest.fail("\n".join(["the test left behind:", *sorted(left)]), pytrace=False)


@pytest.fixture
def shelf(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Shelf]:
    """A repository of an image for demo's two regions; nothing of it is in the cloud after the test."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(site.cloud.clouds_yaml))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(site.path)
    made = Shelf(site=site, name=f"shelf-{uuid.uuid4().hex[:8]}", capsys=capsys)
    made.fill()
    made.write()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def small_store(devcloud: DevCloud) -> Iterator[None]:
    """The stores that are soon full, for one test at a time: they are not divided into lanes."""
    with FileLock(Layout.at(devcloud.directory).lanes / "small-store.lock"):
        yield


@pytest.fixture
def attic(shelf: Shelf) -> Shelf:
    """A shelf whose only environment, "all", is an admin's."""
    shelf.write({"all": {"keystone": {"cloud": "admin"}}})
    return shelf


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the test that takes longest, so that no process is alone with it at the end."""
    items.sort(key=lambda item: not item.name.startswith("test_debian"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the cloud of workers that were killed, or had no time to do it."""
    if session.config.option.numprocesses:
        sessions.end_unused(Layout.at(None), keep=os.environ.get(KEEP) == "keep")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where to look for the services' side of a failure."""
    kept = Layout.at(None).failed
    if terminalreporter.stats.get("failed") and kept.exists():
        terminalreporter.write_line(f"the services' logs are in {kept}")
