"""Parts of the container engine that need no container."""

from __future__ import annotations

import ipaddress
import json
import platform
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_dibctl.clouds.nspawn import guard, limits, preflight
from pytest_dibctl.clouds.nspawn.cloud import NspawnCloud
from pytest_dibctl.clouds.nspawn.instance import NspawnInstance
from pytest_dibctl.clouds.nspawn.state import State, read_state
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import (
    ConfigError,
    ImageNotFoundError,
    InstanceError,
    NotInConfigError,
    PreflightError,
)
from pytest_dibctl.guards import dhcp
from pytest_dibctl.system import user_network
from pytest_dibctl.system.checks import Check

MAC = bytes.fromhex("525400123456")
LEASE = dhcp.Lease(
    address=ipaddress.IPv4Address(user_network.GUEST),
    network=ipaddress.IPv4Network(user_network.NETWORK),
    router=ipaddress.IPv4Address(user_network.GATEWAY),
    resolver=ipaddress.IPv4Address(user_network.RESOLVER),
)
DISCOVER, OFFER, REQUEST, ACK, NAK, RELEASE = 1, 2, 3, 5, 6, 7


def request(kind: int, options: Mapping[int, bytes] | None = None, **fields: int) -> bytes:
    """Return a packet of a DHCP client."""
    op, hardware, length = fields.get("op", 1), fields.get("hardware", 1), fields.get("length", 6)
    header = struct.pack("!BBBBIHH16x16s192x", op, hardware, length, 0, 0xDEADBEEF, 0, 0x8000, MAC)
    given_ = {53: bytes([kind]), **(options or {})}
    encoded = b"".join(bytes([code, len(value)]) + value for code, value in given_.items())
    return header + b"\x63\x82\x53\x63" + b"\0" + encoded + b"\xff"


def answered(packet: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Return the address that an answer gives, and its options."""
    reply = dhcp.reply(packet, LEASE)
    assert reply is not None
    assert reply[0] == 2
    assert reply[4:8] == bytes.fromhex("deadbeef")
    assert reply[28:34] == MAC
    options, rest = {}, reply[240:]
    while rest[0] != 255:
        options[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return reply[16:20], options


class TestDhcp:
    @pytest.mark.parametrize(("asked", "answer"), [(DISCOVER, OFFER), (REQUEST, ACK)])
    def test_a_client_gets_the_lease(self, asked: int, answer: int) -> None:
        address, options = answered(request(asked))
        assert address == LEASE.address.packed
        assert options[53] == bytes([answer])
        assert options[1] == bytes([255, 255, 255, 0])
        assert options[3] == options[54] == LEASE.router.packed
        assert options[6] == LEASE.resolver.packed

    def test_another_address_is_refused(self) -> None:
        address, options = answered(request(REQUEST, {50: bytes([10, 0, 2, 99])}))
        assert address == bytes(4)
        assert options[53] == bytes([NAK])
        assert 1 not in options

    @pytest.mark.parametrize(
        "packet",
        [
            b"",
            request(RELEASE),
            request(DISCOVER, op=2),
            request(DISCOVER, hardware=6),
            request(DISCOVER, length=16),
            request(DISCOVER)[:239],
            request(DISCOVER).replace(b"\x63\x82\x53\x63", b"\x63\x82\x53\x64"),
            request(DISCOVER)[:241] + b"\x35",
            request(DISCOVER)[:241] + b"\x35\x00\xff",
        ],
    )
    def test_what_is_no_request_gets_no_answer(self, packet: bytes) -> None:
        assert dhcp.reply(packet, LEASE) is None

    @settings(deadline=None)  # the machine may be busy
    @given(st.binary(max_size=400), st.integers(0, 300))
    def test_no_packet_does_any_harm(self, data: bytes, at: int) -> None:
        packet = request(DISCOVER)
        for hostile in (data, packet[:240] + data, packet[:at] + data + packet[at:]):
            reply = dhcp.reply(hostile, LEASE)
            assert reply is None or len(reply) == 300


def environment(**settings: object) -> Entry[TestEnvironment]:
    model = TestEnvironment.model_validate(settings or {"nspawn": {}})
    return Entry(label="here", settings=model, path=Path("test.yaml"))


def state(**changes: object) -> State:
    fields = {
        "id": "6f1c2b1e-7d0a-4c57-9e53-000000000001",
        "name": "dibctl-a-0",
        "environment": "here",
        "memory": 64,
        "disk": 1,
        "processes": 16,
        "limits": "",
        "mac": "52:54:00:00:00:01",
        "image": "/a.qcow2",
        "private_key_file": "/key",
        "host_keys": ("ssh-ed25519 A",),
        "first_seen": False,
        "host_loopback": False,
    }
    return State(**{**fields, **changes})  # type: ignore[arg-type]


class TestCloud:
    def test_another_engine_s_environment_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no nspawn section"):
            NspawnCloud(environment(qemu={}), directory=tmp_path, cwd=tmp_path)

    def test_it_has_no_images_and_no_instance_of_others(self, tmp_path: Path) -> None:
        cloud = NspawnCloud(environment(), directory=tmp_path, cwd=tmp_path)
        with pytest.raises(ImageNotFoundError, match="environment here is on this machine"):
            cloud.existing_image("x")
        with pytest.raises(NotInConfigError):
            cloud.existing("x")
        assert cloud.capabilities == frozenset()

    def test_user_data_that_is_not_there_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(preflight, "examine", list)
        cloud = NspawnCloud(environment(nspawn={"userdata_file": "gone"}), directory=tmp_path, cwd=tmp_path)
        with pytest.raises(ConfigError, match=r"here.nspawn.userdata_file\): .*gone: No such file"):
            cloud.preflight()

    def test_an_instance_whose_guard_is_gone_is_told(self, tmp_path: Path) -> None:
        instance = NspawnInstance(state(), tmp_path, None)
        for operation in (instance.check, instance.start, instance.rebuild):
            with pytest.raises(InstanceError, match="its guard is gone"):
                operation()
        assert instance.console_output() == ""

    def test_a_guard_that_does_not_answer_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(InstanceError, match="does not answer"):
            guard.Guard("a", tmp_path, 1).order("status")


class TestState:
    def test_it_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        state(pid=7).write(tmp_path)
        assert read_state(tmp_path) == state(pid=7)

    @pytest.mark.parametrize("change", [{"version": 2}, {"engine": "qemu"}, {"mac": None, "more": 1}])
    def test_what_another_version_or_engine_wrote_is_refused(
        self, tmp_path: Path, change: Mapping[str, object]
    ) -> None:
        state().write(tmp_path)
        path = tmp_path / "instance.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(NotInConfigError, match="not the record of a container"):
            read_state(tmp_path)

    def test_none_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NotInConfigError, match="no instance is recorded"):
            read_state(tmp_path)


class TestPreflight:
    def test_an_old_kernel_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "release", lambda: "5.15.0-91-generic")
        with pytest.raises(PreflightError, match=r"Linux 5.15.0-91-generic has none") as caught:
            preflight.require("test.yaml:1:1 (a.nspawn)")
        assert "boot Linux 5.19 or newer" in str(caught.value.hint)
        assert caught.value.message.startswith(
            "test.yaml:1:1 (a.nspawn): this machine cannot boot containers"
        )

    def test_the_summary_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = [
            Check(name="root", ok=False, detail="builds need it", fix="sudo"),
            Check(name="TUN device", ok=False, detail="none", fix="modprobe tun"),
        ]
        monkeypatch.setattr(preflight, "examine", lambda: failed)
        summary = preflight.summary()
        assert (summary.ok, summary.required) == (False, False)
        assert summary.detail == "root: builds need it; TUN device: none"

    def test_without_control_groups_it_goes_on_and_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "hierarchies", tuple)
        check = preflight.control_groups()
        assert (check.ok, check.required) == (False, False)
        assert "memory and processes" in check.detail
        monkeypatch.setattr(preflight, "examine", list)
        assert "limited by process only" in preflight.summary().detail
