"""Instances on the real Nova, Neutron and Cinder: made of what, good for what, and gone without a rest."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dibctl.clouds.openstack.cloud import OpenStackInstance
from pytest_dibctl.errors import (
    DibctlError,
    InstanceError,
    NotInConfigError,
    NovaBadRequestError,
    NovaForbiddenError,
    PortTimeoutError,
)
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.run import booting, keys, uploading
from pytest_dibctl.run.operations import GuestOperations
from pytest_dibctl.system import process
from tests.openstack import proxy
from tests.openstack.cloud.config import HOST_LIVE
from tests.openstack.cloud.layout import Layout
from tests.openstack.site import READY, Bench, Site, line_of
from tests.support import leaks, micro

NOWHERE = "11111111-2222-3333-4444-555555555555"
"""The uuid of nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest that lets one log in; ``demo`` is a connection of its project."""

    bench: Bench
    instance: OpenStackInstance
    access: SshAccess
    demo: Any

    def sh(self, command: str) -> str:
        """Run a command in the guest and return what it printed; it must succeed."""
        return self.access.run(command, check=True, timeout=60).output.strip()

    @property
    def operations(self) -> GuestOperations:
        """What the library does to it."""
        return GuestOperations(target_run=self.bench.target_run, instance=self.instance, access=self.access)

    @property
    def server(self) -> Any:
        """The server as Nova shows it now."""
        return self.demo.compute.get_server(self.instance.id)


@contextlib.contextmanager
def opened(site: Site, environment: Mapping[str, Any], **image: Any) -> Iterator[Bench]:
    site.write({"here": environment}, image=image)
    with site.opened("here") as bench:
        bench.cloud.preflight()
        yield bench
    assert not bench.target_run.leftovers


@contextlib.contextmanager
def instance_in(bench: Bench) -> Iterator[tuple[OpenStackInstance, Any]]:
    """Upload, make a keypair and boot; the instance may not be ready."""
    target_run, cloud = bench.target_run, bench.cloud
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(uploading.uploaded(target_run, cloud, bench.artifact))
        key = stack.enter_context(keys.keypair(target_run, cloud))
        instance = stack.enter_context(booting.booted(target_run, cloud, image, key))
        assert isinstance(instance, OpenStackInstance)
        yield instance, key


@contextlib.contextmanager
def guest(site: Site, *, user: str = "demo", **nova: Any) -> Iterator[Guest]:
    """Boot a guest that really runs, and log in to it."""
    environment = {**site.live(**nova), "keystone": {"cloud": user}}
    with (
        opened(site, environment) as bench,
        site.cloud.connected("demo") as demo,
        instance_in(bench) as (instance, key),
        booting.reachable(bench.target_run, instance, key) as access,
    ):
        yield Guest(bench=bench, instance=instance, access=access, demo=demo)


@contextlib.contextmanager
def record(site: Site, **nova: Any) -> Iterator[tuple[Bench, OpenStackInstance, Any]]:
    """Make an instance that exists only in Nova's records; yield Nova's view of it too."""
    with (
        opened(site, site.environment(nova=nova)) as bench,
        instance_in(bench) as (instance, _),
        site.cloud.connected("demo") as demo,
    ):
        yield bench, instance, demo.compute.get_server(instance.id)


@pytest.fixture
def group(site: Site) -> Iterator[Any]:
    """A security group of demo that lets everything in."""
    with site.cloud.connected("demo") as demo:
        made = demo.network.create_security_group(name=f"open-{uuid.uuid4().hex[:6]}")
        for ethertype in ("IPv4", "IPv6"):
            demo.network.create_security_group_rule(
                security_group_id=made.id, direction="ingress", ethertype=ethertype
            )
        yield made
        demo.network.delete_security_group(made)


# -- what they are made of -------------------------------------------------------------------------


def test_two_nics_a_fixed_address_of_each_family_and_everything_else_there_is(site: Site, group: Any) -> None:
    """One guest with every setting at once, since each guest takes its time."""
    (site.path / "setup.sh").write_text("#!/bin/sh\necho 'made by user data' > /etc/made\n")
    v4, v6 = (site.cloud.inner_address(version, "77") for version in (4, 6))
    nics = [
        {"net_id": site.network(site.cloud.network_ext), "tag": "front"},
        {"net_id": site.network(site.cloud.network_inner), "v4_fixed_ip": v4, "v6_fixed_ip": v6},
    ]
    with guest(
        site,
        nics=nics,
        main_nic_regexp="^inn",
        userdata_file="setup.sh",
        metadata={"team": "images"},
        security_groups=[group.name],
        config_drive=True,
    ) as booted:
        instance, server = booted.instance, booted.server
        first, second = instance.interfaces
        assert (first.network, second.network) == ("ext", "inner")
        assert {address.ip: address.prefix for address in second.addresses} == {v4: 24, v6: 64}
        assert instance.main_ip == instance.endpoint(22).ip == booted.access.ip == v4
        assert booted.sh(f"ip -o addr | grep -c -e {v4}/24 -e {v6}/64") == "2"
        for number, interface in enumerate((first, second)):
            assert booted.sh(f"cat /sys/class/net/eth{number}/address") == interface.mac
        assert booted.sh("cat /etc/made") == "made by user data"
        assert server.metadata["team"] == "images"
        assert server.has_config_drive
        ports = list(booted.demo.network.ports(device_id=instance.id))
        assert {tuple(port.security_group_ids) for port in ports} == {(group.id,)}
        [own] = [port for port in ports if port.name]
        assert own.description == f"dibctl test instance {instance.name}"


def test_a_port_that_was_there_before_is_used_and_left(site: Site) -> None:
    with site.cloud.connected("demo") as demo:
        port = demo.network.create_port(network_id=site.network(), name=f"mine-{uuid.uuid4().hex[:6]}")
        try:
            with record(site, nics=[{"net_id": site.network(), "port_id": port.id}]) as (
                _,
                instance,
                _server,
            ):
                assert instance.main_ip == port.fixed_ips[0]["ip_address"]
                assert instance.interfaces[0].mac == port.mac_address
            assert demo.network.find_port(port.id) is not None
        finally:
            demo.network.delete_port(port)


def test_a_fixed_address_of_one_family(site: Site) -> None:
    chosen = site.cloud.inner_address(6, "66")
    nics = [{"net_id": site.network(site.cloud.network_inner), "v6_fixed_ip": chosen}]
    with record(site, nics=nics) as (_, instance, _server):
        assert [address.ip for address in instance.interfaces[0].addresses] == [chosen]
        assert instance.main_ip == chosen


def test_an_address_that_is_taken_is_told_at_once_with_its_place(site: Site) -> None:
    network = site.network(site.cloud.network_inner)
    address = site.cloud.inner_address(4, "88")
    with site.cloud.connected("demo") as demo:
        taken = demo.network.create_port(network_id=network, fixed_ips=[{"ip_address": address}])
        try:
            nics = [{"net_id": network, "v4_fixed_ip": address}]
            with (
                pytest.raises(NovaBadRequestError, match=re.escape(address)) as caught,
                record(site, nics=nics),
            ):
                pytest.fail("two have one address")
        finally:
            demo.network.delete_port(taken)
    assert f"test.yaml:{line_of(site.path / 'test.yaml', '- net_id')}:" in caught.value.message
    assert "request req-" in caught.value.message


def test_an_address_in_a_network_of_somebody_else(site: Site) -> None:
    nics = [{"net_id": site.network(), "v4_fixed_ip": "192.168.222.251"}]
    with pytest.raises(NovaForbiddenError) as caught, record(site, nics=nics):
        pytest.fail("it was allowed")
    assert "only members of the project that owns a network" in str(caught.value.hint)


def test_hints_reach_the_scheduler(site: Site) -> None:
    with site.cloud.connected("demo") as demo:
        made = demo.compute.create_server_group(name=f"apart-{uuid.uuid4().hex[:6]}", policy="anti-affinity")
        try:
            with record(site, hints={"group": made.id}) as (_, instance, _server):
                assert instance.id in demo.compute.get_server_group(made.id).member_ids
        finally:
            demo.compute.delete_server_group(made)


def test_a_flavor_is_found_by_id_before_name(site: Site) -> None:
    """A flavor whose name is another one's id is not taken for it."""
    with site.cloud.connected("admin") as admin:
        nano = admin.compute.find_flavor(site.cloud.flavor_nano, ignore_missing=False)
        confusing = admin.compute.create_flavor(name=nano.id, ram=192, vcpus=1, disk=1)
        try:
            for nova in ({"flavor": nano.id}, {"flavor_id": nano.id}, {}):
                with opened(site, site.environment(nova=nova)) as bench:
                    found = bench.cloud._resolved().flavor
                    assert (found.name, found.ram) == (nano.name, 128), nova
        finally:
            admin.compute.delete_flavor(confusing)


@pytest.mark.parametrize(
    ("nova", "key", "said"),
    [
        ({"nics": [{"net_id": "NET", "port_id": NOWHERE}]}, "- net_id", f"there is no port {NOWHERE}"),
        ({"security_groups": ["default", "defualt"]}, "- defualt", "there is no security group 'defualt'"),
        ({"floating_network": "pubic"}, "floating_network", "there is no network 'pubic'"),
    ],
    ids=["port", "group", "floating-network"],
)
def test_what_is_not_there_is_told_before_anything_is_made(
    site: Site, nova: dict[str, Any], key: str, said: str
) -> None:
    if "nics" in nova:
        nova = {"nics": [{**nova["nics"][0], "net_id": site.network()}]}
    environment = site.environment(nova=nova)
    with pytest.raises(NovaBadRequestError) as caught, opened(site, environment):
        pytest.fail("it was found")
    assert f"test.yaml:{line_of(site.path / 'test.yaml', key)}:" in str(caught.value.message)
    assert said in caught.value.message
    if "pubic" in said:
        assert "public" in str(caught.value.hint)


def test_no_network_matches_the_main_one(site: Site) -> None:
    with (
        pytest.raises(InstanceError, match="no network of the instance matches 'inner'"),
        record(site, main_nic_regexp="inner"),
    ):
        pytest.fail("it matched")


def test_a_server_whose_answer_was_lost_is_not_made_twice(site: Site, tmp_path: Path) -> None:
    with site.cloud.connected("demo") as demo:
        nova = str(demo.session.get_endpoint(service_type="compute", region_name=site.cloud.region))
        with proxy.before(nova) as between:
            between.harms.append(proxy.Harm(method="POST", path="/servers$", lose_answer=True))
            entry = {**site.cloud.entry("demo"), "compute_endpoint_override": between.url}
            changed = tmp_path / "clouds.yaml"
            changed.write_text(yaml.safe_dump({"clouds": {"demo": entry}}))
            through = dataclasses.replace(site, cloud=dataclasses.replace(site.cloud, clouds_yaml=changed))
            with record(through) as (_, instance, _server):
                assert [server.id for server in demo.compute.servers(name=instance.name)] == [instance.id]
            assert between.count("POST", "/servers$") == 1


# -- volumes ---------------------------------------------------------------------------------------


def test_a_root_disk_in_cinder_goes_with_the_guest(site: Site) -> None:
    with guest(site, volume={"size": 2}) as booted:
        [attached] = booted.server.attached_volumes
        volume = booted.demo.block_storage.get_volume(attached.id)
        assert (volume.size, volume.is_bootable, volume.status) == (2, True, "in-use")
        assert int(booted.sh("df -m / | tail -n 1 | awk '{ print $2 }'")) > 1500
        assert not dict(booted.server.image or {}).get("id")
        with pytest.raises(InstanceError, match="booted from a volume"):
            booted.instance.rebuild()
        booted.operations.reboot(hard=True)
        assert booted.sh("hostname") == booted.instance.name
    with site.cloud.connected("demo") as demo:
        assert demo.block_storage.find_volume(volume.id) is None


def test_a_volume_has_the_size_of_the_image_unless_one_is_said(site: Site) -> None:
    with (
        opened(site, site.environment(nova={"volume": {}}), glance={"min_disk": 3}) as bench,
        instance_in(bench) as (instance, _),
        site.cloud.connected("demo") as demo,
    ):
        [attached] = demo.compute.get_server(instance.id).attached_volumes
        assert demo.block_storage.get_volume(attached.id).size == 3


def test_a_volume_smaller_than_the_image_asks_for(site: Site) -> None:
    environment = site.environment(nova={"volume": {"size": 1}})
    site.write({"here": environment}, image={"glance": {"min_disk": 3}})
    refused = site.dibctl("test", "micro")
    assert refused.returncode == 60, refused.stdout
    assert "min_disk is 3 GiB" in refused.stdout
    assert "uploading" not in refused.stdout


def test_a_volume_type_that_cinder_does_not_have(site: Site) -> None:
    with pytest.raises(NovaBadRequestError, match="gold") as caught, record(site, volume={"type": "gold"}):
        pytest.fail("it was found")
    assert f"test.yaml:{line_of(site.path / 'test.yaml', 'nova:')}:" in caught.value.message


# -- floating IPs ----------------------------------------------------------------------------------


def test_a_floating_ip_is_made_used_and_removed(site: Site) -> None:
    environment = site.live(floating_network=site.cloud.network_public)
    with opened(site, environment) as bench, instance_in(bench) as (instance, key):
        endpoint = instance.endpoint(22)
        with site.cloud.connected("demo") as demo:
            [made] = demo.network.ips()
            assert made.floating_ip_address == endpoint.ip == instance.facts["address"]
            assert made.fixed_ip_address == instance.main_ip
        with (
            site.cloud.floating_ip_reaches(endpoint.ip, instance.main_ip),
            booting.reachable(bench.target_run, instance, key) as access,
        ):
            assert access.run("hostname", check=True).output.strip() == instance.name
            again = bench.cloud.existing(instance.id)
            assert again.endpoint(22) == endpoint


# -- host keys -------------------------------------------------------------------------------------

NEW_KEY = (
    "rm /etc/dropbear/dropbear_ed25519_host_key;"
    "dropbearkey -t ed25519 -f /etc/dropbear/dropbear_ed25519_host_key > /dev/null 2>&1;"
    "sync; (sleep 1; killall dropbear) > /dev/null 2>&1 < /dev/null &"
)


def test_the_key_on_the_console_is_pinned_and_another_one_refused(site: Site) -> None:
    with guest(site) as booted:
        printed = [
            line for line in booted.instance.console_output().splitlines() if line.startswith("ssh-ed25519")
        ]
        pinned = booted.access.known_hosts.read_text()
        assert printed[0].split()[1] in pinned
        booted.sh(NEW_KEY)
        booted.access.disconnect()
        await_other_key(booted.access.ip, printed[0].split()[1])
        with pytest.raises(PortTimeoutError, match="host key"):
            booted.access.wait_ready(
                timeout=60, check=booted.instance.check, progress=booted.bench.told.append
            )
        assert booted.access.known_hosts.read_text() == pinned


def await_other_key(ip: str, key: str) -> None:
    """Return once the server there shows another key than this one."""
    deadline = time.monotonic() + READY
    scan = ["ssh-keyscan", "-T", "20", "-t", "ed25519", ip]
    # Nothing is shown while dropbear is down.
    while not (shown := process.run(scan, check=False).output.split()) or key in shown:
        assert time.monotonic() < deadline, f"{ip} still shows {shown}"
        time.sleep(0.5)


def test_without_a_console_the_first_key_is_trusted_and_it_is_said(site: Site) -> None:
    with guest(site, user="demo-mute") as booted:
        assert booted.sh("hostname") == booted.instance.name
        assert booted.instance.console_output() == ""
        assert any("trusted at first sight" in line for line in booted.bench.told)


def test_first_seen_asks_for_no_console(site: Site) -> None:
    with guest(site, ssh_host_key="first-seen") as booted:
        assert booted.sh("hostname") == booted.instance.name
        assert not any("trusted at first sight" in line for line in booted.bench.told)


# -- what is done to them --------------------------------------------------------------------------


def test_the_life_of_a_guest(site: Site) -> None:
    """Stop, start, snapshot, rebuild, revert, one after the other in one guest."""
    with guest(site) as booted:
        instance, access = booted.instance, booted.access
        address, boot = instance.main_ip, booted.sh("cat /proc/sys/kernel/random/boot_id")
        instance.stop()
        assert booted.server.status == "SHUTOFF"
        with pytest.raises(InstanceError, match="is SHUTOFF: it was stopped"):
            instance.check()
        instance.start()
        access.wait_ready(timeout=READY, check=instance.check, progress=booted.bench.told.append)
        assert booted.sh("cat /proc/sys/kernel/random/boot_id") != boot

        booted.sh("echo kept > /root/kept; sync")
        image_id = instance.snapshot("first")
        taken = booted.demo.image.get_image(image_id)
        assert taken.status == "active"
        assert taken.name.startswith(f"{instance.name}-first-")
        assert taken.properties.get("image_type", taken.get("image_type")) == "snapshot"
        with pytest.raises(InstanceError, match="no snapshot 'frist'; there are first"):
            instance.revert("frist")

        assert booted.operations.rebuild() > 0
        assert access.run("test -e /root/kept").returncode == 1
        assert booted.operations.revert("first") > 0
        assert booted.sh("cat /root/kept") == "kept"
        assert instance.main_ip == address
        assert booted.sh(f"ip -o addr | grep -c {address}/") == "1"
        assert booted.sh("hostname") == instance.name
        assert booted.demo.image.find_image(image_id) is not None

        booted.sh("echo off > /root/kept; sync")
        instance.stop()
        off = instance.snapshot("off")
        assert booted.server.status == "SHUTOFF"
        instance.revert("off")
        access.wait_ready(timeout=READY, check=instance.check, progress=booted.bench.told.append)
        assert booted.sh("cat /root/kept") == "off"
    with site.cloud.connected("demo") as demo:
        assert not [image for image in (image_id, off) if demo.image.find_image(image)]


def test_a_stopped_guest_is_rebuilt_into_a_running_one(site: Site) -> None:
    with record(site) as (_, instance, _server):
        instance.stop()
        instance.rebuild()
        instance.check()


def test_pristine_tests_have_the_disk_of_the_image(site: Site) -> None:
    (site.path / "test_it.py").write_text(
        "import pytest\n"
        "def test_spoil(host):\n"
        "    host.check_output('touch /root/spoilt; sync')\n"
        "@pytest.mark.dib_pristine\n"
        "def test_clean(host, instance):\n"
        "    assert not host.file('/root/spoilt').exists\n"
        "    assert host.check_output('hostname') == instance.name\n"
    )
    site.write({"here": site.live()}, [{"pytest": "test_it.py"}])
    run = site.pytest()
    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout


def test_a_snapshot_goes_with_a_run_that_was_killed(site: Site) -> None:
    (site.path / "test_it.py").write_text(
        "import os, signal\n"
        "def test_it(instance):\n"
        "    instance.snapshot('mine')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    site.write({"here": site.live()}, [{"pytest": "test_it.py"}])
    killed = site.pytest("--dib-keep-on-kill")
    assert killed.returncode == -9, killed.stdout
    left = site.left()
    assert any(re.search(r"-mine-[0-9a-f]{8} \(active\)$", line) for line in left), left
    cleaned = site.dibctl("cleanup")
    assert cleaned.returncode == 0, cleaned.stdout
    assert leaks.settled(site.left) == set()


def test_a_snapshot_that_a_user_made_of_our_server_stays(site: Site) -> None:
    with site.cloud.connected("demo") as demo:
        with opened(site, site.live()) as bench, instance_in(bench) as (instance, _):
            theirs = demo.compute.create_server_image(
                instance.id, name=f"theirs-{uuid.uuid4().hex[:6]}", wait=True, timeout=60
            )
        try:
            assert demo.image.get_image(theirs.id).status == "active"
            assert demo.image.get_image(theirs.id).tags == []
        finally:
            demo.image.delete_image(theirs.id)


def test_a_server_that_somebody_deletes(site: Site) -> None:
    with (
        site.cloud.connected("demo") as demo,
        record(site) as (_, instance, server),
    ):
        demo.compute.delete_server(server)
        demo.compute.wait_for_delete(server, interval=0.3, wait=60)
        with pytest.raises(InstanceError, match="was deleted, and not by this run"):
            instance.check()
        with pytest.raises(DibctlError):
            instance.reboot()


def test_waiting_for_a_guest_ends_when_somebody_stops_it(site: Site) -> None:
    # A server that exists only in Nova's records never answers, and is off at once.
    with opened(site, site.environment()) as bench, instance_in(bench) as (instance, key):
        stopper = threading.Timer(1.0, lambda: _stop(site, instance.id))
        stopper.start()
        try:
            with (
                pytest.raises(InstanceError, match="is SHUTOFF: it stopped by itself"),
                booting.reachable(bench.target_run, instance, key),
            ):
                pytest.fail("it is off")
        finally:
            stopper.join()


def test_a_panic_ends_the_wait_within_seconds(site: Site) -> None:
    """Nova calls the server ACTIVE for ever: its console alone tells."""
    panicking = dataclasses.replace(site, image=micro.cached("panic") / "micro.qcow2")
    seen: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for file in Layout.at(None).run.glob(f"nova-{HOST_LIVE}/instances/{instance.id}/console.log"):
                if b"Kernel panic - not syncing" in file.read_bytes():
                    seen.append(time.monotonic())
                    return

    with opened(panicking, site.live()) as bench, instance_in(bench) as (instance, key):
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with (
                pytest.raises(InstanceError, match=r"panicked \[kernel-panic\]"),
                booting.reachable(bench.target_run, instance, key),
            ):
                pytest.fail("it panicked")
            reported = time.monotonic()
        finally:
            over.set()
            watcher.join()
        assert instance.recent_console()
    # Two on an idle machine; other tests compute beside this one, and so does the cloud.
    assert reported - seen[0] < 6.0


def _stop(site: Site, server_id: str) -> None:
    with site.cloud.connected("demo") as demo:
        demo.compute.stop_server(server_id)


def test_an_unknown_instance(site: Site) -> None:
    with (
        opened(site, site.environment()) as bench,
        pytest.raises(NotInConfigError, match="there is no instance nobody"),
    ):
        bench.cloud.existing("nobody")
