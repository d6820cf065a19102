"""testinfra's own options, beside an image under test: honoured or refused, never dropped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dibctl.plugin import host, options


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
def test_sudo_is_honoured_in_the_guest(tmp_path: Any, given: dict[str, Any], expected: str) -> None:
    (tmp_path / "config").write_text("Host guest\n")
    access: Any = SimpleNamespace(name="guest", config_file=tmp_path / "config")
    assert host.connect(access, **given).backend.get_command("id") == expected


def parsed(config: pytest.Config, *arguments: str) -> Any:
    """Return this run's configuration with the options ``arguments``."""
    option = config._parser.parse_known_args([*arguments, "-p", "no:xdist"])
    return SimpleNamespace(
        option=option,
        getoption=lambda name, default=None: getattr(option, name, default),
        pluginmanager=config.pluginmanager,
    )
