"""A Debian with systemd and without cloud-init in a container: it boots whole, and harms only itself."""

from __future__ import annotations

import dataclasses
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
LIMIT = 400
"""Processes."""
MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hostile:
    """What is in the image, and how many processes, or MiB on this machine, show that it is at its worst."""

    script: str
    processes: int = 0
    written: int = 0
    longer: float = 3.0
    """Seconds for which it is watched then."""


HOSTILE = {
    "ten thousand units": Hostile(
        script=unit("u1", "/bin/true")
        + "cd etc/systemd/system; unit=$(cat u1.service)\n"
        + 'for i in $(seq 2 10000); do echo "$unit" > u$i.service; done\n'
        + "ln -s -t multi-user.target.wants $(seq -f ../u%.0f.service 2 10000)",
        processes=40,
    ),
    "a flood in the journal": Hostile(
        script=unit("flood", '/bin/sh -c "yes flood"', "LogRateLimitIntervalSec=0"),
        # The journal keeps itself small, so nothing outside shows the flood.
        longer=15.0,
    ),
    "a full disk": Hostile(script=unit("fill", '/bin/sh -c "cat /dev/zero > /filler"'), written=900),
    "a fork bomb": Hostile(
        script=BOMB + unit("bomb", "/usr/bin/bomb", "TasksMax=infinity"), processes=LIMIT - 20
    ),
}
WORST = 60.0
"""Seconds in which each has to come to that; it takes 1 to 15."""


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_unit_does_to_its_container_stays_there(
    bench: Callable[..., Bench], debian: artifact.Artifact, tmp_path: Path, what: str
) -> None:
    hostile = HOSTILE[what]
    image = altered(debian.path, tmp_path / "hostile.raw", hostile.script)
    made = bench(**{**SETTINGS, "disk": 1})
    request = made.request(username="debian")
    instance = made.boot(image, request)
    access = made.access(instance, username="debian")
    most = written = 0
    end = time.monotonic() + WORST
    is_worst = False
    while time.monotonic() < end:
        for group in groups(request.name):
            if (group / "pids.max").exists():
                most = max(most, int((group / "pids.current").read_text()))
        used = sum(path.stat().st_blocks * 512 for path in instance.directory.iterdir() if path.is_file())
        written = max(written, used // MIB)
        assert most <= LIMIT
        assert written < 1200
        if not is_worst and most >= hostile.processes and written >= hostile.written:
            is_worst, end = True, time.monotonic() + hostile.longer
        time.sleep(0.05)
    assert is_worst, f"{most} processes, {written} MiB"
    access.close()
    started = time.monotonic()
    instance.delete()
    assert time.monotonic() - started < 30
    assert groups(request.name) == []
    assert not instance.directory.exists()
