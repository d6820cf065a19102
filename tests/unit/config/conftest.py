from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.unit.config.support import Place

# The same examples in every run: a test that fails for others must fail here too.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "work").mkdir()
    (tmp_path / "etc").mkdir()
    return Place(cwd=tmp_path / "work", system=tmp_path / "etc")
