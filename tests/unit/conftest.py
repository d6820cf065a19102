"""What unit tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dibctl.cli import main, output
from pytest_dibctl.system import process, redaction
from tests.support import results
from tests.support.fake_openstack import FakeCloud, serving
from tests.support.publishing import Shop
from tests.support.warm import Warm, on_demand


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have a cache apart from the user's: digests of test images would stay there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_secret_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with none of other tests' secrets: texts would lose what looks like one of these."""
    monkeypatch.setattr(redaction, "_known", {})
    monkeypatch.setattr(redaction, "_pattern", None)


@pytest.fixture(autouse=True)
def results_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare each JSON document that a command prints with its schema."""
    monkeypatch.setattr(main, "COMMANDS", results.COMMANDS)
    monkeypatch.setattr(output, "print_json", results.print_json)


@pytest.fixture(scope="session")
def warm_dibctl() -> Iterator[Callable[[], Warm | None]]:
    """Return what ``dibctl`` in processes of its own is forked from."""
    with on_demand("pytest_dibctl.cli") as get:
        yield get


@pytest.fixture
def shop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    warm_dibctl: Callable[[], Warm | None],
) -> Iterator[Shop]:
    """A repository of images beside a fake cloud."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with serving(FakeCloud(regions=("RegionOne", "RegionTwo", "RegionThree"))) as cloud:
        made = Shop(path=work, cloud=cloud, capsys=capsys, warm=warm_dibctl)
        made.fill()
        made.write()
        yield made


@pytest.fixture
def abroad() -> Iterator[FakeCloud]:
    """Another cloud, with nothing in it."""
    with serving(FakeCloud()) as cloud:
        yield cloud


def programs(directory: Path, *names: str) -> str:
    """A PATH with just these programs on it."""
    for name in names:
        file = directory / name
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    return str(directory)


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave only the named programs to be found."""

    def leave(*names: str) -> None:
        (tmp_path / "bin").mkdir()
        path = programs(tmp_path / "bin", *names)
        monkeypatch.setattr(process, "tool_path", lambda: path)

    return leave
