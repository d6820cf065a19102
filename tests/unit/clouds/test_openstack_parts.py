"""Parts of the OpenStack engine that need no cloud: refusals in our words, bodies, ports, host keys."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import keystoneauth1.session
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keystoneauth1 import exceptions as auth_exceptions
from openstack import exceptions as sdk_exceptions

from pytest_dibctl.clouds import file_body
from pytest_dibctl.clouds.openstack import flavors, instance, networks, servers
from pytest_dibctl.clouds.openstack.api import Api
from pytest_dibctl.clouds.openstack.instance import OpenStackInstance
from pytest_dibctl.clouds.openstack.refusals import translated
from pytest_dibctl.clouds.protocols import Address, Flavor, Interface
from pytest_dibctl.clouds.regions import LateError
from pytest_dibctl.config.models.nova import Nic
from pytest_dibctl.errors import (
    ApiError,
    AuthorizationError,
    ConfigError,
    CredentialsError,
    DibctlError,
    ImageNotFoundError,
    InstanceError,
    NovaBadRequestError,
    NovaForbiddenError,
)
from pytest_dibctl.guest import boot_stage, console
from pytest_dibctl.guest.console import host_keys

# -- refusals --------------------------------------------------------------------------------------


def answered(status: int, text: str = "said so") -> sdk_exceptions.HttpException:
    """Return what the SDK raises for an answer."""
    error = sdk_exceptions.HttpException(message="generic", http_status=status, details=text)
    error.request_id = "req-1"
    return error


def test_a_service_that_is_not_reached_is_told_in_few_words() -> None:
    with socket.socket() as nobody:  # bound, and does not listen
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}/v3/auth/tokens"
        with pytest.raises(auth_exceptions.ConnectFailure) as caught:
            keystoneauth1.session.Session().get(address)
    found = translated(caught.value, "identity", "log in", where="a.keystone")
    assert found.message == (
        "cannot log in: Keystone did not answer: Unable to establish connection to "
        f"{address}: Connection refused"
    )
    assert isinstance(found, ApiError)
    assert found.undone


def test_what_libraries_add_to_a_refusal_is_not_told_twice() -> None:
    text = "Authentication is required. (HTTP 401) (Request-ID: req-1)"
    found = translated(answered(401, text), "identity", "log in", where="a.keystone")
    assert found.message.endswith("credentials: Authentication is required. (request req-1)")


@pytest.mark.parametrize(
    ("service", "status", "kind", "code", "transient"),
    [
        ("compute", 400, NovaBadRequestError, 60, False),
        ("compute", 403, NovaForbiddenError, 61, False),
        ("compute", 404, NovaBadRequestError, 60, False),
        ("compute", 503, ApiError, 1, True),
        ("network", 403, NovaForbiddenError, 61, False),
        ("network", 409, NovaBadRequestError, 60, False),
        ("image", 403, ApiError, 1, False),
        ("image", 404, ImageNotFoundError, 50, False),
        ("image", 429, ApiError, 1, True),
        ("image", 401, AuthorizationError, 20, False),
    ],
)
def test_an_answer_gets_its_class_and_says_where_and_by_which_request(
    service: Any, status: int, kind: type[DibctlError], code: int, transient: bool
) -> None:
    found = translated(answered(status), service, "do it", at="test.yaml:3:5 (a.nova)", where="test.yaml:1:1")
    assert type(found) is kind
    assert found.exit_code == code
    assert getattr(found, "transient", False) == transient
    assert "do it" in found.message
    assert "said so" in found.message
    assert "req-1" in found.message
    if kind is not ImageNotFoundError or "test.yaml" in found.message:
        assert "test.yaml:" in found.message


def test_glance_s_pages_of_html_become_a_line() -> None:
    page = "<html>\n<body><h1>413 Too Large</h1>\n Storage &lt;full&gt;<br/></body></html>"
    found = translated(answered(413, page), "image", "upload")
    assert "413 Too Large Storage <full>" in found.message
    assert "\n" not in found.message


def test_quotas_and_roles_have_hints_of_their_own() -> None:
    hints = {
        str(translated(answered(403, said), "compute", "boot").hint)
        for said in ("Quota exceeded", "not allowed", "create_port:fixed_ips is disallowed by policy")
    }
    assert len(hints) == 3


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (auth_exceptions.SSLError("self-signed"), ApiError, "ssl_ca_path"),
        (auth_exceptions.EndpointNotFound("no volume"), ConfigError, "region_name"),
        (auth_exceptions.MissingRequiredOptions([]), CredentialsError, "not enough"),
        (auth_exceptions.DiscoveryFailure("404"), ApiError, "check auth_url"),
        (auth_exceptions.ConnectFailure("refused"), ApiError, "check auth_url"),
        (
            auth_exceptions.ConnectFailure("Unable to reach http://k/v3/auth/tokens"),
            ApiError,
            "Keystone did not",
        ),
    ],
)
def test_no_answer_at_all(error: Exception, kind: type[DibctlError], said: str) -> None:
    found = translated(error, "compute", "boot", where="test.yaml:1:1 (here.keystone)")
    assert type(found) is kind
    assert said in f"{found.message} {found.hint}"
    assert "test.yaml:1:1" in f"{found.message} {found.hint}"


# -- bodies ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def body(path: Path, *, seconds: float = 60) -> Iterator[file_body.FileBody]:
    digest = hashlib.sha512(path.read_bytes()).hexdigest()
    with file_body.opened(path, sha512=digest, deadline=time.monotonic() + seconds) as made:
        yield made


def test_a_body_that_is_sent_again_is_sent_whole(tmp_path: Path) -> None:
    """A file object would be at its end after the first refusal, and Glance content with no bytes."""
    path = tmp_path / "image"
    path.write_bytes(os.urandom(3 * file_body.BLOCK + 17))
    with body(path) as made:
        assert len(made) == path.stat().st_size
        first = iter(made)
        next(first)  # the connection breaks here
        again = b"".join(made)
        assert again == path.read_bytes()
        assert made.sendings == 2


def test_a_body_ends_at_its_deadline(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(2 * file_body.BLOCK))
    with body(path, seconds=-1) as made, pytest.raises(LateError):
        list(made)


def test_a_slow_body_tells_its_progress_and_starts_anew_with_each_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_body, "TELL_EVERY", 0.0)
    path = tmp_path / "image"
    path.write_bytes(bytes(2 * file_body.BLOCK))
    lines: list[str] = []
    digest = hashlib.sha512(path.read_bytes()).hexdigest()
    with file_body.opened(path, sha512=digest, deadline=float("inf"), progress=lines.append) as made:
        for _ in range(2):
            list(made)
    percents = [line.partition(" of 2 MiB, ")[0] for line in lines]
    assert percents == ["uploading image: 50 %", "uploading image: 100 %"] * 2
    assert all(line.endswith(" MiB/s") for line in lines)


def test_the_progress_of_a_body_counts_from_the_start_of_its_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login and the making of the image, which come between, are no time of the upload."""
    now = 0.0
    monkeypatch.setattr(file_body, "time", SimpleNamespace(monotonic=lambda: now))
    path = tmp_path / "image"
    path.write_bytes(bytes(2 * file_body.BLOCK))
    lines: list[str] = []
    digest = hashlib.sha512(path.read_bytes()).hexdigest()
    with file_body.opened(path, sha512=digest, deadline=float("inf"), progress=lines.append) as made:
        now = 60.0
        blocks = iter(made)
        next(blocks)
        next(blocks)
        assert not lines
        now = 70.0
        list(blocks)
    assert lines == ["uploading image: 100 % of 2 MiB, 0 MiB/s"]


# -- ports -----------------------------------------------------------------------------------------

ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


def port(number: str, network: str, *addresses: str, created: str = "2026-01-01") -> Any:
    fixed = [{"ip_address": address, "subnet_id": "s"} for address in addresses]
    return SimpleNamespace(id=number, network_id=network, fixed_ips=fixed, created_at=created)


def test_ports_stand_in_the_order_of_the_nics_that_asked_for_them() -> None:
    ports = [
        port("d", ONE, "10.0.0.9", created="2026-01-04"),
        port("c", TWO, "10.1.0.7"),
        port("b", ONE, "10.0.0.5", "fd00::5"),
        port("a", ONE, "10.0.0.6"),
    ]
    nics = (
        Nic(net_id=TWO),
        Nic(net_id=ONE, v4_fixed_ip="10.0.0.5", v6_fixed_ip="fd00::5"),
        Nic(net_id=ONE, port_id="d"),
    )
    assert [one.id for one in networks._in_order(ports, nics)] == ["c", "b", "d", "a"]


@settings(deadline=None)
@given(st.permutations("abcd"))
def test_without_nics_the_order_is_that_of_their_making(numbers: list[str]) -> None:
    ports = [port(number, ONE, created=f"2026-01-0{'abcd'.index(number) + 1}") for number in numbers]
    assert [one.id for one in networks._in_order(ports, ())] == list("abcd")


def interface(network: str, *addresses: str) -> Interface:
    return Interface(
        network=network,
        mac="fa:16:3e:00:00:00",
        addresses=tuple(Address(ip=address, prefix=24) for address in addresses),
    )


def test_the_main_interface_is_the_first_with_an_address_or_the_one_that_matches() -> None:
    found = [interface("empty"), interface("front", "10.0.0.1"), interface("back", "fd00::1", "10.1.0.1")]
    assert networks.main_interface(found, None, at="").network == "front"
    back = networks.main_interface(found, "^ba", at="")
    assert back.network == "back"
    assert networks.main_address(back) == "10.1.0.1"
    with pytest.raises(InstanceError, match="here: no network of the instance matches 'empty'"):
        networks.main_interface(found, "empty", at="here")
    with pytest.raises(InstanceError, match="has no address"):
        networks.main_interface(found[:1], None, at="here")
    assert ipaddress.ip_address(networks.main_address(interface("v6", "fd00::1"))).version == 6


# -- flavors ---------------------------------------------------------------------------------------

FLAVOR = Flavor(id="1", name="m1.nano", ram=128, vcpus=1, disk=1, meta={})


@pytest.mark.parametrize(
    ("needs", "disk", "said"),
    [
        ({}, 1, None),
        ({"min_disk": 1, "min_ram": 128, "virtual_size": 1 << 30}, 1, None),
        ({"min_disk": 2}, 1, "min_disk is 2 GiB, and the root disk has 1 GiB"),
        ({"min_ram": 129}, 1, "min_ram is 129 MiB, and the flavor has 128 MiB"),
        ({"virtual_size": (1 << 30) + 1}, 1, "the image's disk has 1.0 GiB"),
        # A flavor without a disk takes the image's own size.
        ({"min_disk": 20, "virtual_size": 30 << 30}, 0, None),
    ],
)
def test_whether_an_image_fits_is_counted_as_nova_does(
    needs: dict[str, int], disk: int, said: str | None
) -> None:
    given_ = {"min_disk": 0, "min_ram": 0, "virtual_size": 0, **needs}

    def check() -> None:
        flavors.check_fit(FLAVOR, disk=disk, **given_, at="test.yaml:3", image_at="images.yaml:2")

    if said is None:
        check()
        return
    with pytest.raises(NovaBadRequestError, match=said) as caught:
        check()
    assert "test.yaml:3" in caught.value.message
    assert "images.yaml:2" in caught.value.message


# -- host keys -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Block:
    """What cloud-init prints."""

    keys: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["-----BEGIN SSH HOST KEY KEYS-----", *self.keys, "-----END SSH HOST KEY KEYS-----"]
        return "\n".join(lines) + "\n"


def test_host_keys_are_those_that_were_printed_last_and_whole() -> None:
    old, new = (
        Block(("ssh-ed25519 AAAAold root@a",)),
        Block(("ssh-ed25519 AAAAnew root@a", "ssh-rsa AAAArsa x")),
    )
    keys = host_keys(f"boot\n{old}reboot\n{new}login:")
    assert [key.split()[1] for key in keys] == ["AAAAnew", "AAAArsa"]
    half = str(Block(("ssh-ed25519 AAAAhalf root@a",)))[:60]
    assert [key.split()[1] for key in host_keys(f"{old}{half}")] == ["AAAAold"]
    assert host_keys("ssh-ed25519 AAAA not in a block") == ()


def test_a_console_beyond_the_limit_is_cut_at_its_start_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LIMIT", 10)
    assert console.limited("0123456789") == "0123456789"
    first, rest = console.limited("a0123456789").split("\n")
    assert "has 11 characters" in first
    assert rest == "0123456789"


PANIC = "[    1.3] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> OpenStackInstance:
    """A server that is ACTIVE whatever its guest does."""
    active = SimpleNamespace(status="ACTIVE", task_state=None)
    monkeypatch.setattr(servers, "find", lambda *_: active)
    monkeypatch.setattr(instance, "SUSPICIOUS_INTERVAL", 0.0)
    monkeypatch.setattr(instance, "STATUS_INTERVAL", 0.0)
    monkeypatch.setattr(instance, "CONSOLE_INTERVAL", 0.0)
    known = instance.Known(
        id="1",
        name="dibctl-web-1",
        flavor=Flavor(id="1", name="m1", ram=1, vcpus=1, disk=1),
        interfaces=(),
        main=Interface(network="n", mac="", addresses=()),
        floating_ip="192.0.2.1",
        image_id=None,
        region="r",
        first_seen=True,
        active_timeout=1,
        cleanup_timeout=1,
        run_id="run",
    )
    return OpenStackInstance(cast("Api", None), known, note=lambda **_: None, tell=print)


def test_a_panic_is_told_once_the_console_is_silent(
    server: OpenStackInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "console_output", lambda *_, **__: PANIC)
    server.check()
    time.sleep(0.7)
    with pytest.raises(InstanceError, match=r"panicked \[kernel-panic\]") as caught:
        server.check()
    assert (caught.value.cause, caught.value.console_line) == ("kernel-panic", 1)


def test_a_server_that_goes_on_after_a_panic_s_words_lives(
    server: OpenStackInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = iter([PANIC, PANIC + "".join(f"started service {number}\n" for number in range(20))])
    last = [""]

    def output(*_: object, lines: int | None = None) -> str:
        last[0] = next(texts, last[0])
        return last[0]

    monkeypatch.setattr(servers, "console_output", output)
    server.check()
    for _ in range(3):
        server.check()
        time.sleep(0.4)


def test_the_end_of_the_console_is_looked_at_more_often_than_the_status(
    server: OpenStackInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [100.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(instance, "STATUS_INTERVAL", 3.0)
    monkeypatch.setattr(instance, "CONSOLE_INTERVAL", 1.0)
    found = servers.find(cast("Api", None), "1")

    def find(*_: object) -> object:
        asked.append("status")
        return found

    monkeypatch.setattr(servers, "find", find)

    def output(*_: object, lines: int | None = None) -> str:
        asked.append(f"{lines} lines")
        return f"[    {now[0]:.1f}] usb 1-1: new device\n"

    monkeypatch.setattr(servers, "console_output", output)
    for _ in range(12):
        server.check()
        now[0] += 0.25
    assert asked == ["status", "200 lines", "200 lines", "200 lines"]
    assert server.recent_console() == "[    102.0] usb 1-1: new device\n"
    assert len(asked) == 4  # that asked nobody
    assert boot_stage.of(server.recent_console) == "kernel, 102 s after its start"


@pytest.mark.parametrize("status", [503, 429])
def test_a_service_that_has_trouble_is_asked_more_rarely(
    server: OpenStackInstance, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    now, asked = [100.0], list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(instance, "STATUS_INTERVAL", 3.0)

    def busy(*_: object) -> object:
        asked.append(now[0])
        raise ApiError("compute is busy", status=status, transient=True)

    monkeypatch.setattr(servers, "find", busy)
    for _ in range(24):
        server.check()
        now[0] += 0.25
    assert asked == [100.0, 103.0]
