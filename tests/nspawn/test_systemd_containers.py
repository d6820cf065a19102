"""A Debian with systemd and without cloud-init in a container: it boots whole, and harms only itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dibctl.clouds.nspawn.cloud import NspawnInstance
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from tests.nspawn.bench import Bench, altered, boot_id, groups
from tests.support import packages, small_debian

pytestmark = pytest.mark.real

Running = tuple[Bench, NspawnInstance, SshAccess]
SETTINGS = {"memory": 512, "processes": 400}


@pytest.fixture(scope="module")
def debian(_no_leftovers: Path) -> artifact.Artifact:
    """The image; never write to it."""
    try:
        packages.require()
        return artifact.inspect(small_debian.cached())
    except DibctlError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def running(debian: artifact.Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One container for all tests that do not mind each other."""
    made = Bench(tmp_path_factory.mktemp("debian") / "run", **SETTINGS)
    with made.stack:
        instance = made.boot(debian, made.request(username="debian"))
        yield made, instance, made.ready(instance, username="debian")


class TestRunningDebian:
    def test_every_unit_works(self, running: Running) -> None:
        _, _, access = running
        state = access.run("systemctl is-system-running --wait; systemctl --failed --no-legend", timeout=60)
        assert state.output.split() == ["running"]

    def test_it_is_up_in_seconds(self, running: Running) -> None:
        _, _, access = running
        said = access.run("systemd-analyze time").output
        assert "Startup finished in" in said
        assert "min" not in said

    def test_network_and_resolver_are_the_run_s(self, running: Running) -> None:
        _, instance, access = running
        assert instance.main_ip in access.run("ip -4 addr show dev eth0").output
        assert "10.0.2.3" in access.run("resolvectl dns eth0").output

    def test_the_login_user_may_use_sudo(self, running: Running) -> None:
        _, _, access = running
        assert access.run("sudo -n id -u").output.strip() == "0"

    @pytest.mark.parametrize(
        "setting",
        [
            "PrivateTmp=yes",
            "PrivateDevices=yes",
            "DynamicUser=yes",
            "ProtectSystem=strict",
            "PrivateNetwork=yes",
        ],
    )
    def test_services_are_confined_as_they_ask(self, running: Running, setting: str) -> None:
        _, _, access = running
        told = access.run(f"sudo -n systemd-run --wait --pipe -p {setting} /bin/echo works")
        assert told.output == "works\n", told.errors

    def test_devices_cannot_be_made(self, running: Running) -> None:
        _, _, access = running
        assert access.run("sudo -n mknod /root/disk b 254 0").returncode != 0


def test_it_powers_off_in_order(bench: Callable[..., Bench], debian: artifact.Artifact) -> None:
    made = bench(**SETTINGS)
    instance = made.boot(debian, made.request(username="debian"))
    access = made.ready(instance, username="debian")
    before = boot_id(access)
    access.run("touch kept")
    started = time.monotonic()
    instance.reboot()
    assert time.monotonic() - started < 20
    made.again(instance, access)
    assert boot_id(access) != before
    assert access.run("ls kept").returncode == 0
    text = access.run("sudo -n journalctl --no-pager -b -1 -o cat | tail -20").output
    assert "Reached target poweroff.target" in text


def unit(name: str, command: str, *more: str) -> str:
    """Return the shell code that gives the image a unit which runs at every boot."""
    lines = "\n".join(["[Service]", f"ExecStart={command}", *more])
    here = "etc/systemd/system"
    return (
        f"cat > {here}/{name}.service <<'END'\n{lines}\nEND\n"
        f"ln -s ../{name}.service {here}/multi-user.target.wants/\n"
    )


BOMB = "printf '#!/bin/bash\\nf() { f | f & }\\nf\\nsleep 1000\\n' > usr/bin/bomb; chmod 755 usr/bin/bomb\n"
HOSTILE = {
    "ten thousand units": unit("u1", "/bin/true")
    + "cd etc/systemd/system; for i in $(seq 2 10000); do cp u1.service u$i.service; done\n"
    + "cd multi-user.target.wants; for i in $(seq 2 10000); do ln -s ../u$i.service u$i.service; done",
    "a flood in the journal": unit("flood", '/bin/sh -c "yes flood"'),
    "a full disk": unit("fill", '/bin/sh -c "cat /dev/zero > /filler"'),
    "a fork bomb": BOMB + unit("bomb", "/usr/bin/bomb", "TasksMax=infinity"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_unit_does_to_its_container_stays_there(
    bench: Callable[..., Bench], debian: artifact.Artifact, tmp_path: Path, what: str
) -> None:
    image = altered(debian.path, tmp_path / "hostile.raw", HOSTILE[what])
    made = bench(**{**SETTINGS, "disk": 1})
    request = made.request(username="debian")
    instance = made.boot(image, request)
    access = made.access(instance, username="debian")
    end = time.monotonic() + 15
    while time.monotonic() < end:
        for group in groups(request.name):
            if (group / "pids.max").exists():
                assert int((group / "pids.current").read_text()) <= 400
        used = sum(path.stat().st_blocks * 512 for path in instance.directory.iterdir() if path.is_file())
        assert used < 1200 << 20
        time.sleep(0.2)
    access.close()
    started = time.monotonic()
    instance.delete()
    assert time.monotonic() - started < 30
    assert groups(request.name) == []
    assert not instance.directory.exists()
