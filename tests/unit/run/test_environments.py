"""Opening a test environment: what a run will need there is looked at before anything is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_dibctl.config import catalog
from pytest_dibctl.errors import PreflightError
from pytest_dibctl.run import environments, ledger
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import process
from tests.support import memory


@pytest.fixture
def target_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TargetRun]:
    """A target on the cloud in memory, on a machine without any program."""
    monkeypatch.setenv("MEMORY_CLOUD_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(environments, "open_environment", environments.open_environment)  # put back later
    memory.install()
    monkeypatch.setattr(process, "tool_path", lambda: str(tmp_path))
    (tmp_path / "images.yaml").write_text(yaml.safe_dump({"web": {"filename": "web.qcow2"}}))
    loaded = catalog.load(cwd=tmp_path, system=tmp_path / "none")
    with ledger.opened("0123abcd", base=tmp_path) as book:
        yield TargetRun(
            image=loaded.image("web"),
            environment=loaded.environment("local"),
            options=RunOptions(),
            ledger=book,
            cwd=tmp_path,
            progress=print,
        )


def test_a_machine_that_cannot_log_in_is_refused_before_the_build(target_run: TargetRun) -> None:
    with (
        pytest.raises(
            PreflightError, match=r"web: this machine cannot log in to instances:\n  ssh: not found"
        ),
        environments.opened(target_run),
    ):
        pass
    assert memory.operations()[-1]["operation"] == "close"


def test_an_upload_alone_needs_no_login(target_run: TargetRun) -> None:
    only = dataclasses.replace(target_run, options=RunOptions(upload_only=True))
    with environments.opened(only) as cloud:
        assert cloud.name == "local"
