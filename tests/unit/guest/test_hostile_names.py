"""Names and addresses that a cloud gives to an instance, on their way to paths, arguments and files."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from pytest_dibctl.errors import CommandError
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.run import logs

NAMES = {
    "option": "-oProxyCommand=touch {proof}",
    "option without a dash in front": "x -oProxyCommand=touch {proof}",
    "parent": "../escaped",
    "deep": "x/../../../escaped",
    "absolute": "/{proof}",
    "dots": "..",
    "empty": "",
    "long": "n" * 255,
    "newline": "a\n  ProxyCommand touch {proof}",
    "token": "%h%d$(touch {proof})`touch {proof}`",
    "nul": "a\0b",
}


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs the ssh client")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_name_of_an_instance_is_no_option_and_no_path(tmp_path: Path, closed_port: int, name: str) -> None:
    proof = tmp_path / "proof"
    directory = tmp_path / "deep" / "run"
    directory.mkdir(parents=True)
    key = SshKey.generate(directory, comment="x")
    access = SshAccess(
        ip="127.0.0.1",
        port=closed_port,
        username="root",
        key=key,
        directory=directory,
        name=name.format(proof=proof),
    )
    assert access.run("true", timeout=30).returncode == 255
    assert not proof.exists()
    access.disconnect()
    assert not proof.exists()
    assert access.config_file.resolve().parent.parent == directory.resolve()
    assert not access.command_line()[-1].startswith("-")
    access.close()
    assert [path.name for path in directory.iterdir()] == [key.private_key_file.name]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_console_log_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    file = logs.console_file(tmp_path, name.format(proof="proof"))
    assert file.parent == tmp_path
    assert file.resolve().parent == tmp_path.resolve()
    file.write_text("console")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "-oProxyCommand=x",
        "192.0.2.1\n    ProxyCommand touch x",
        "fe80::1%\n    ProxyCommand touch x",
        "fe80::1%a b",
        "host.example",
        "192.0.2.1 -x",
    ],
)
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(CommandError, match="no IP address"):
        SshAccess(
            ip=address,
            port=22,
            username="root",
            key=SshKey.generate(tmp_path, comment="x"),
            directory=tmp_path,
        )


@pytest.mark.parametrize(
    ("address", "written"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("fe80::1%eth0", "fe80::1%%eth0")],
)
def test_addresses_are_written_as_ssh_reads_them(tmp_path: Path, address: str, written: str) -> None:
    access = SshAccess(
        ip=address, port=22, username="root", key=SshKey.generate(tmp_path, comment="x"), directory=tmp_path
    )
    assert f"    HostName {written}\n" in access.config_file.read_text()
