"""Running a script by a shell that stands for the guest's: how its end is told from its output."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from pytest_dibctl.guest import guest_script
from pytest_dibctl.guest.guest_script import GuestScript
from pytest_dibctl.guest.ssh import SshAccess


class Here:
    """Runs what ssh would run in a guest, in a shell of this machine."""

    def command_line(self) -> list[str]:
        return ["sh", "-c", 'eval "$1"', "sh"]


def run(
    tmp_path: Path, text: str, limit: float | None = 30, **variables: str
) -> tuple[int | None, list[str]]:
    script = tmp_path / "script.sh"
    script.write_text(f"#!/bin/sh\n{text}")
    lines: list[str] = []
    ended = guest_script.run(
        cast("SshAccess", Here()),
        GuestScript(path=script),
        variables=variables,
        limit=limit,
        on_line=lines.append,
    )
    return ended.code, lines


OUTPUTS: dict[str, tuple[str, list[str]]] = {
    "nothing": ("", []),
    "lines": ("echo a; echo b", ["a", "b"]),
    "last line without an end": ("printf a; printf b", ["ab"]),
    "blank lines": ("echo; echo a; echo; echo", ["", "a", "", ""]),
    "only blank": ("echo", [""]),
}


@pytest.mark.parametrize(("text", "lines"), OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("code", [0, 3])
def test_output_is_the_scripts_own(tmp_path: Path, text: str, lines: list[str], code: int) -> None:
    assert run(tmp_path, f"{text}\nexit {code}\n") == (code, lines)


PRINTS: dict[str, str] = {
    "environment on one line": "env | tr '\\n' ' '; echo",
    "environment": "env",
    "variables of the shell": "set",
    "the token": 'echo "$DIBCTL_SCRIPT 0 "',
    "the token without an end": 'printf "%s 0 late" "$DIBCTL_SCRIPT"',
    "the token and no number": 'echo "$DIBCTL_SCRIPT x y"',
    "the token in a line": 'echo "before $DIBCTL_SCRIPT 0 "',
    "the name of a marker": "echo 'dibctl-end-00000000000000000000000000000000 0 '",
    "its own command line": "tr '\\0' ' ' </proc/$$/cmdline; tr '\\0' ' ' </proc/$PPID/cmdline",
}


@pytest.mark.parametrize("text", PRINTS.values(), ids=PRINTS)
def test_no_print_of_what_a_script_sees_ends_it(tmp_path: Path, text: str) -> None:
    code, lines = run(tmp_path, f"{text}\necho last\nexit 7\n", A="b")
    assert code == 7
    assert lines[-1].endswith("last")


def test_deadline_is_told_from_an_end(tmp_path: Path) -> None:
    code, lines = run(tmp_path, "env | tr '\\n' ' '\nsleep 60\n", limit=1)
    assert code is None
    assert "DIBCTL_SCRIPT" in lines[0]
