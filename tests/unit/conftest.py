"""What unit tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import standin
from tests.support.publishing import Shop


@pytest.fixture
def shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shop]:
    """A repository of images beside a stand-in cloud."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with standin.serving(standin.Cloud(regions=("RegionOne", "RegionTwo", "RegionThree"))) as cloud:
        made = Shop(path=work, cloud=cloud, capsys=capsys)
        made.fill()
        made.write()
        yield made


@pytest.fixture
def abroad() -> Iterator[standin.Cloud]:
    """Another cloud, with nothing in it."""
    with standin.serving(standin.Cloud()) as cloud:
        yield cloud
