"""Which process it is, for those on other machines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_dibctl.system import host
from tests.support import claims


def test_a_living_process_is_not_over() -> None:
    token = host.process_token(os.getpid())
    assert token == host.process_token(os.getpid())
    assert not host.is_over(str(token))


def test_a_process_that_has_ended_is_over_also_before_it_is_waited_for() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        token = str(host.process_token(child.pid))
        assert not host.is_over(token)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert host.is_over(token)
        assert host.process_token(child.pid) is None
    assert host.is_over(token)


def test_an_id_that_was_given_anew_is_another_process() -> None:
    token = str(host.process_token(os.getpid()))
    head, _, began = token.rpartition("-")
    assert host.is_over(f"{head}-{int(began) + 1}")


@pytest.mark.parametrize("token", ["", "-", "None", claims.ELSEWHERE.partition("/")[0], "x" * 16 + "-1-1"])
def test_of_another_machines_process_nothing_is_known(token: str) -> None:
    assert not host.is_over(token)


def test_another_namespace_of_process_ids_is_another_machine() -> None:
    token = str(host.process_token(os.getpid()))
    code = f"from pytest_dibctl.system import host; print(host.is_over({token[:-1] + '0'!r}))"
    inside = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert inside.stdout.strip() == "False"
