"""The micro image boots under a hand-written QEMU command line and does what the cloud's seed says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_dibctl.system import process
from tests.support import guest, micro

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> guest.Keys:
    return guest.Keys.generate(tmp_path_factory.mktemp("keys"))


def nocloud(directory: Path, keys: guest.Keys, **files: str) -> Path:
    meta = {"instance-id": "i-1", "local-hostname": "micro-one", "public-keys": [keys.user_public]}
    vendor = "#cloud-config\nssh_keys:\n  ed25519_private: |\n" + "".join(
        f"    {line}\n" for line in keys.host_private.splitlines()
    )
    contents = {"meta-data": json.dumps(meta), "vendor-data": vendor, "user-data": "", **files}
    return guest.iso(directory / "seed.iso", label="cidata", files=contents)


def config_drive(directory: Path, keys: guest.Keys, network: object, user_data: str = "") -> Path:
    meta = {"uuid": "i-2", "hostname": "micro-two.example.org", "public_keys": {"mine": keys.user_public}}
    vendor = {
        "cloud-init": "#cloud-config\n" + json.dumps({"ssh_keys": {"ed25519_private": keys.host_private}})
    }
    latest = "openstack/latest/"
    contents = {
        f"{latest}meta_data.json": json.dumps(meta),
        f"{latest}vendor_data.json": json.dumps(vendor),
        f"{latest}network_data.json": json.dumps(network),
        f"{latest}user_data": user_data,
    }
    return guest.iso(directory / "seed.iso", label="config-2", files=contents)


def boot(files: Path, directory: Path, seed: Path | None, **more: str) -> Iterator[guest.Guest]:
    with guest.running(
        directory,
        disk=files / "micro.qcow2",
        seed=seed,
        kernel=files / "micro.vmlinuz",
        initrd=files / "micro.initrd",
        **more,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def nocloud_guest(
    micro_files: Path, keys: guest.Keys, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[guest.Guest]:
    directory = tmp_path_factory.mktemp("nocloud")
    seed = nocloud(directory, keys, **{"user-data": "#!/bin/sh\necho ran >> /root/user-data-ran\n"})
    # The command line that the project's qemu section has by default.
    for running in boot(micro_files, directory, seed, append="root=/dev/vda rw console=ttyS0"):
        running.wait_for_banner()
        yield running


class TestNoCloud:
    """These share one guest, in this order: the last ones reboot it and switch it off."""

    @pytest.mark.parametrize("username", micro.USERNAMES)
    def test_login(self, nocloud_guest: guest.Guest, keys: guest.Keys, username: str) -> None:
        answer = nocloud_guest.ssh(keys, "id -un; hostname", username=username).output
        assert answer.split() == [username, "micro-one"]

    def test_other_key_is_refused(self, nocloud_guest: guest.Guest, keys: guest.Keys, tmp_path: Path) -> None:
        stranger = guest.Keys.generate(tmp_path)
        (tmp_path / "host.pub").write_text((keys.directory / "host.pub").read_text())
        refused = nocloud_guest.ssh(stranger, "true", check=False)
        assert refused.returncode == 255
        assert "Permission denied" in refused.errors

    def test_console_shows_host_key(self, nocloud_guest: guest.Guest, keys: guest.Keys) -> None:
        begin, end = "-----BEGIN SSH HOST KEY KEYS-----", "-----END SSH HOST KEY KEYS-----"
        shown = nocloud_guest.console.partition(begin)[2].partition(end)[0]
        assert shown.split()[:2] == keys.host_public.split()

    def test_root_filesystem_fills_the_disk(self, nocloud_guest: guest.Guest, keys: guest.Keys) -> None:
        size = nocloud_guest.ssh(keys, "df -m / | tail -n 1").output.split()[1]
        assert int(size) > 900

    def test_network_by_dhcp(self, nocloud_guest: guest.Guest, keys: guest.Keys) -> None:
        answer = nocloud_guest.ssh(keys, "ip -4 addr show eth0; ip route; cat /etc/resolv.conf").output
        assert "inet 10.0.2.15/24" in answer
        assert "default via 10.0.2.2" in answer
        assert "nameserver 10.0.2.3" in answer

    def test_reboot_keeps_host_key_and_runs_user_data_once(
        self, nocloud_guest: guest.Guest, keys: guest.Keys
    ) -> None:
        nocloud_guest.wait_for_console("user data exited with 0")
        nocloud_guest.ssh(keys, "reboot")
        nocloud_guest.wait_for_console("micro: micro-one ready", times=2)
        nocloud_guest.wait_for_banner()
        assert nocloud_guest.ssh(keys, "cat /root/user-data-ran").output == "ran\n"

    def test_power_button(self, nocloud_guest: guest.Guest) -> None:
        nocloud_guest.qmp("system_powerdown")
        assert nocloud_guest.wait_for_end() == 0
        assert "micro: power button" in nocloud_guest.console


def test_config_drive_with_fixed_address(micro_files: Path, keys: guest.Keys, tmp_path: Path) -> None:
    network = {
        "links": [
            {"id": "tap-other", "ethernet_mac_address": "52:54:00:99:99:99", "mtu": 1500},
            {"id": "tap1", "ethernet_mac_address": "52:54:00:12:34:56", "mtu": 1400, "type": "ovs"},
        ],
        "networks": [
            {
                "id": "network0",
                "link": "tap1",
                "type": "ipv4",
                "ip_address": "10.0.2.77",
                "netmask": "255.255.255.0",
                "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.2.2"}],
            },
            {"link": "tap1", "type": "ipv6", "ip_address": "fd00::77", "netmask": "64", "routes": []},
        ],
        "services": [{"type": "dns", "address": "10.0.2.3"}],
    }
    # QEMU forwards ports to the address that its DHCP would have given, so the guest itself has to tell.
    report = "#!/bin/sh\nip address show eth0; ip route; cat /etc/resolv.conf\n"
    for running in boot(micro_files, tmp_path, config_drive(tmp_path, keys, network, report)):
        running.wait_for_console("user data exited with")
        assert "micro: micro-two ready" in running.console
        for said in ("mtu 1400", "inet 10.0.2.77/24", "inet6 fd00::77/64"):
            assert said in running.console
        assert "default via 10.0.2.2" in running.console
        assert "nameserver 10.0.2.3" in running.console


def test_config_drive_with_dhcp(micro_files: Path, keys: guest.Keys, tmp_path: Path) -> None:
    network = {
        "links": [{"id": "tap1", "ethernet_mac_address": "52:54:00:12:34:56", "type": "ovs", "mtu": None}],
        "networks": [{"id": "network0", "link": "tap1", "type": "ipv4_dhcp"}],
        "services": [],
    }
    for running in boot(micro_files, tmp_path, config_drive(tmp_path, keys, network)):
        running.wait_for_banner()
        assert running.ssh(keys, "hostname; id -un", username="debian").output.split() == [
            "micro-two",
            "debian",
        ]


def test_panic(micro_variant: Callable[[str], Path], tmp_path: Path) -> None:
    for running in boot(micro_variant("panic"), tmp_path, None):
        running.wait_for_console("Kernel panic - not syncing")


def test_no_sshd(micro_variant: Callable[[str], Path], keys: guest.Keys, tmp_path: Path) -> None:
    for running in boot(micro_variant("no-sshd"), tmp_path, nocloud(tmp_path, keys)):
        running.wait_for_console("micro: micro-one ready")
        with pytest.raises(AssertionError, match="sshd never answered"):
            running.wait_for_banner(timeout=2)


def test_without_seed_host_key_is_made_and_shown(micro_files: Path, tmp_path: Path) -> None:
    for running in boot(micro_files, tmp_path, None):
        running.wait_for_console("-----END SSH HOST KEY KEYS-----")
        shown = running.console.partition("-----BEGIN SSH HOST KEY KEYS-----")[2]
        assert shown.split()[0] == "ssh-ed25519"
        running.wait_for_banner()


def test_whole_disk(whole: micro.WholeDisk, keys: guest.Keys, tmp_path: Path) -> None:
    process.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(whole.raw), str(whole.qcow2)])
    with guest.running(tmp_path, disk=whole.qcow2, seed=nocloud(tmp_path, keys)) as running:
        running.wait_for_banner()
        assert running.ssh(keys, "awk '$2 == \"/\" { print $1 }' /proc/mounts").output == "/dev/vda2\n"


@pytest.fixture(scope="module")
def whole(micro_files: Path, tmp_path_factory: pytest.TempPathFactory) -> micro.WholeDisk:
    return micro.whole_disk(
        tmp_path_factory.mktemp("whole"),
        vmlinuz=micro_files / "micro.vmlinuz",
        initrd=micro_files / "micro.initrd",
        root=micro_files / "micro.qcow2",
    )
