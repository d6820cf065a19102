"""What a target's run notes of its steps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from pytest_dibctl.config import catalog
from pytest_dibctl.run import ledger
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.target_run import TargetRun


def test_a_step_lasts_as_long_when_the_clock_of_the_day_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images.yaml").write_text(yaml.safe_dump({"web": {"filename": "web.qcow2"}}))
    loaded = catalog.load(cwd=tmp_path, images=tmp_path / "images.yaml", system=tmp_path / "none")
    with ledger.opened("run-1", base=tmp_path) as book:
        image = loaded.image("web")
        environment = loaded.environment_for(image)
        target_run = TargetRun(
            image=image,
            environment=environment,
            options=RunOptions(),
            ledger=book,
            cwd=tmp_path,
            progress=print,
        )
        with monkeypatch.context() as patched, target_run.step("boot"):
            patched.setattr(time, "time", lambda: 0.0)
    [(name, start, end)] = target_run.spans
    assert name == "boot"
    assert 0 <= end - start < 60
