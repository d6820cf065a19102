"""The tables of docs/boot-failures.md are those of today's causes and of the recorded boots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_committed_tables_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, "docs/boot_failures.py", "--check"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
