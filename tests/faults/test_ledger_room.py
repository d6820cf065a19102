"""A ledger that cannot be written: the run is refused before anything is made."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run import ledger
from tests.faults.stage import write
from tests.faults.test_kills import Site
from tests.faults.test_secrets import site

__all__ = ["site"]


def fill(directory: Path) -> None:
    """Leave no room on the filesystem of ``directory``."""
    with contextlib.suppress(OSError), (directory / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)


@pytest.fixture
def mounted(request: pytest.FixtureRequest, place: Path) -> Iterator[Path]:
    """A temporary directory that is full, or read-only; it needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    directory = place / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)], check=True)
    try:
        (directory / f"dibctl-{os.getuid()}").mkdir(mode=0o700)
        if request.param == "full":
            fill(directory)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize("mounted", ["full", "read-only"], indirect=True)
@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["single", "xdist"])
def test_a_run_is_refused_before_anything_is_made(
    site: Site,
    mounted: Path,
    workers: tuple[str, ...],
) -> None:
    (site.path / "test_it.py").write_text("def test_it(instance): pass\n")
    write(site.path, site.server.url, tests=[{"pytest": "test_it.py"}])
    here = Site(path=site.path, temporary=mounted, cloud=site.cloud, server=site.server, marker=site.marker)
    run = here.start("pytest", "-p", "no:cacheprovider", "-s", "--dib-image=all", *workers)
    assert run.wait(90) == pytest.ExitCode.USAGE_ERROR, here.said()
    assert "cannot keep a record of the run" in here.said()
    assert "nothing was made" in here.said()
    assert site.server.plan.seen == []
    assert "Traceback" not in here.said()


@pytest.mark.parametrize("mounted", ["full"], indirect=True)
def test_a_disk_that_fills_up_later_is_noticed_before_the_thing_is_made(mounted: Path) -> None:
    (mounted / "filler").unlink()
    with ledger.opened("0123abcd", base=mounted / f"dibctl-{os.getuid()}") as run:
        fill(mounted)
        with pytest.raises(DibctlError, match="nothing was made"):
            run.record("instance", "x")
        assert run.records() == ()
