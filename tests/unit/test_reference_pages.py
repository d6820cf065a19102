"""The pages of docs/reference/ that are written by a script are those of today's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_committed_pages_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, "docs/reference.py", "--check"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
