"""Claims on unfinished images: of a process that has ended, and of one that lives elsewhere."""

from __future__ import annotations

import functools
import subprocess
import sys

from pytest_dibctl.system import host

ELSEWHERE = "0123456789abcdef-1-1/00000000"
"""The claim of a process of another machine, of which nothing is known here."""


@functools.cache
def of_a_dead_process() -> str:
    """Return the claim of a process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        token = host.process_token(child.pid)
    assert token is not None
    assert host.is_over(token)
    return f"{token}/00000000"
