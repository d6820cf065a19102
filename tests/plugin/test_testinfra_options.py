"""testinfra's own options, beside an image under test: honoured or refused, never dropped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dibctl.plugin import host, options
from pytest_dibctl.system import process


@pytest.mark.parametrize(
    "option",
    [
        "--hosts=x",
        "--connection=ssh",
        "--ssh-config=x",
        "--ssh-extra-args=-v",
        "--ssh-identity-file=x",
        "--ansible-inventory=x",
        "--force-ansible",
    ],
)
def test_options_of_another_connection_are_refused(pytestconfig: pytest.Config, option: str) -> None:
    with pytest.raises(pytest.UsageError, match=option.partition("=")[0]):
        options.refuse_pytest_settings(parsed(pytestconfig, option), at_terminal=False)


def test_a_user_without_sudo_is_refused(pytestconfig: pytest.Config) -> None:
    with pytest.raises(pytest.UsageError, match="--sudo-user needs --sudo"):
        options.refuse_pytest_settings(parsed(pytestconfig, "--sudo-user=x"), at_terminal=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "id"),
        ({"sudo": True}, "sudo /bin/sh -c id"),
        ({"sudo": True, "sudo_user": "www-data"}, "sudo -u www-data /bin/sh -c id"),
    ],
)
def test_sudo_is_honoured_in_the_guest(tmp_path: Path, given: dict[str, Any], expected: str) -> None:
    assert host.connect(guest(tmp_path), **given).backend.get_command("id") == expected


def test_ssh_is_found_where_the_path_does_not_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setattr(process, "tool_path", lambda: str(programs))
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = host.connect(guest(tmp_path)).run("ls %s", "a b")
    assert (answer.rc, answer.stderr) == (3, "")
    assert answer.stdout.endswith("guest ls 'a b'\n")


def guest(directory: Path) -> Any:
    """Return what a testinfra host is made of: a login's name and its file."""
    (directory / "config").write_text("Host guest\n")
    return SimpleNamespace(name="guest", config_file=directory / "config")


def parsed(config: pytest.Config, *arguments: str) -> Any:
    """Return this run's configuration with the options ``arguments``."""
    option = config._parser.parse_known_args([*arguments, "-p", "no:xdist"])
    return SimpleNamespace(
        option=option,
        getoption=lambda name, default=None: getattr(option, name, default),
        pluginmanager=config.pluginmanager,
    )
