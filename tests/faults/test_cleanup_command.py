"""``dibctl cleanup`` and its options, on what killed runs left."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest
import yaml

from tests.faults import stage
from tests.faults.test_kills import PATIENCE, Site, add_foreign, configure, until
from tests.faults.test_secrets import site

__all__ = ["site"]


@pytest.fixture
def killed(site: Site) -> set[str]:
    """Return what is foreign; a run was killed while it tested, and its guardian was not wished for."""
    foreign = add_foreign(site.cloud)
    reached = configure(site, "test")
    document = yaml.safe_load((site.path / "test.yaml").read_text())
    document["other"] = stage.environment(site.server.url)
    (site.path / "test.yaml").write_text(yaml.safe_dump(document))
    run = site.start("pytest", "-p", "no:cacheprovider", "--dib-image=all", "--dib-keep-on-kill")
    assert until(reached, PATIENCE), site.said()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert site.cloud.left() > foreign
    return foreign


def cleanup(site: Site, *options: str) -> str:
    """Return what a cleanup said that came to its end."""
    before = len(site.said())
    assert site.start("pytest_dibctl.cli.main", "cleanup", *options).wait(PATIENCE) == 0, site.said()
    return site.said()[before:]


def test_one_environment_only(site: Site, killed: set[str]) -> None:
    assert "nothing to remove" in cleanup(site, "--env", "other")
    assert site.cloud.left() > killed
    assert site.start("pytest_dibctl.cli.main", "cleanup", "--env", "othr").wait(PATIENCE) == 11
    assert "othr" in site.said()
    cleanup(site, "--env", "cloud")
    assert site.cloud.left() == killed


def test_what_a_lost_machine_left_goes_when_its_time_is_over(site: Site, killed: set[str]) -> None:
    [run] = site.temporary.glob("dibctl-*/*")
    shutil.rmtree(run.parent)  # the machine is gone, and its ledger
    site.cloud.clock = lambda: time.time() + 23 * 3600
    assert "nothing to remove" in cleanup(site, "--expired")
    site.cloud.clock = lambda: time.time() + 25 * 3600
    assert "nothing to remove" in cleanup(site)
    foreseen = cleanup(site, "--expired", "--dry-run", "--env", "cloud")
    assert site.cloud.left() > killed
    for kind in ("instance", "image", "keypair"):
        assert f"{run.name}  {kind} dibctl-" in foreseen
    assert "would be removed (made 25 hours ago)" in foreseen
    removed = cleanup(site, "--expired", "--env", "cloud")
    assert "removed (made 25 hours ago)" in removed
    # What hangs on an instance that is gone by now is told from what hangs on one that is not.
    cleanup(site, "--expired")
    assert site.cloud.left() == killed


def test_a_cloud_that_does_not_answer_hides_no_other(site: Site, killed: set[str]) -> None:
    document = yaml.safe_load((site.path / "test.yaml").read_text())
    document = {"absent": stage.environment("http://127.0.0.1:9"), **document}
    (site.path / "test.yaml").write_text(yaml.safe_dump(document))
    [run] = site.temporary.glob("dibctl-*/*")
    shutil.rmtree(run.parent)
    site.cloud.clock = lambda: time.time() + 25 * 3600
    assert site.start("pytest_dibctl.cli.main", "cleanup", "--expired").wait(PATIENCE) == 1
    assert "what is in absent: could not be removed: " in site.said()
    assert "Traceback" not in site.said()
    assert not any(name.startswith("server") for name in site.cloud.left() - killed)
