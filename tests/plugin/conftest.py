"""A project for pytester: images that are small qcow2 files, and the in-memory cloud under the ladder."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import sampling
from tests.support.plugins import without
from tests.support.warm import Warm

ROOT = Path(__file__).parents[2]

CONFTEST = """
def pytest_configure(config):
    if config.getoption("dib_image"):
        from tests.support import memory

        # Later than the plugin's own fixtures, so that these win, for tests outside of this folder too.
        config.pluginmanager.register(memory, "memory-cloud")
        memory.install()
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Project:
    """A directory with images.yaml and tests, in which pytest is run."""

    pytester: pytest.Pytester
    log_file: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def path(self) -> Path:
        """The project's directory."""
        return self.pytester.path

    def write(self, name: str, text: str, *, executable: bool = False) -> Path:
        """Write a file, indentation taken off."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        if executable:
            path.chmod(0o755)
        return path

    def images(self, images: Mapping[str, Any]) -> None:
        """Write images.yaml: each image is given by its ``tests_list``, or by its whole entry."""
        document = {}
        for label, entry in images.items():
            whole: dict[str, Any] = (
                dict(entry) if isinstance(entry, Mapping) else {"tests": {"tests_list": entry}}
            )
            whole.setdefault("filename", f"{label}.qcow2")
            whole.setdefault("tests", {}).setdefault("ssh", {"username": "debian"})
            document[label] = whole
            path = self.path / str(whole["filename"])
            if not path.exists():
                subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
        (self.path / "images.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def faults(self, **faults: Any) -> None:
        """Make steps of the in-memory cloud fail."""
        self.monkeypatch.setenv("MEMORY_CLOUD_FAULTS", json.dumps(faults))

    def run(self, *arguments: str, images: str | None = "all", randomly: bool = False) -> pytest.RunResult:
        """Run pytest in a process of its own; ``randomly`` leaves pytest-randomly's order on.

        pytest-rerunfailures is there when one of its options is.
        """
        selection = (f"--dib-image={images}",) if images else ()
        reruns = any(argument.startswith("--reruns") for argument in arguments)
        wanted = {name for name, on in (("randomly", randomly), ("rerunfailures", reruns)) if on}
        plugins = ("-p", "no:hypothesispytest", *without(wanted))
        return self.pytester.runpytest_subprocess(*plugins, *selection, *arguments)

    def operations(self) -> list[dict[str, Any]]:
        """Return what the in-memory cloud was asked to do, in order."""
        if not self.log_file.exists():
            return []
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def counts(self) -> dict[str, int]:
        """Return how often each operation was asked for."""
        counts: dict[str, int] = {}
        for operation in self.operations():
            counts[operation["operation"]] = counts.get(operation["operation"], 0) + 1
        return counts


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm | None]:
    """What runs are forked from; None where each has an interpreter of its own."""
    if sampling.is_full():
        yield None
        return
    process = Warm.start()
    yield process
    process.close()


@pytest.fixture
def project(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    warm: Warm | None,
) -> Project:
    """An empty project on the in-memory cloud; what runs leave in the temporary directory is checked."""
    temporary = tmp_path_factory.mktemp("t")
    log_file = temporary / "operations.jsonl"
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("MEMORY_CLOUD_LOG", str(log_file))
    monkeypatch.setenv("XDG_CACHE_HOME", str(temporary / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(CONFTEST)
    if warm is not None:
        monkeypatch.setattr(pytester, "popen", warm.popen(pytester))
    return Project(pytester=pytester, log_file=log_file, monkeypatch=monkeypatch)
