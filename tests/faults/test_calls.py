"""At every API call of a full flow, every fault; then faults by chance, many flows long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dibctl.errors import ApiError, DibctlError
from tests.faults.conftest import Table
from tests.faults.stage import Stage, fake_cloud, staged
from tests.support.fake_openstack import FakeCloud
from tests.support.fake_openstack.faults import FAULTS, Fault, Plan
from tests.support.fake_openstack.messages import Request
from tests.support.fake_openstack.proxy import upstream
from tests.support.fake_openstack.server import Server, serving_backend

pytestmark = pytest.mark.usefixtures("quick")
FLOWS, CHUNKS = 200, 8
STALL = 3.0
"""Seconds; the time that a call may take is cut down by as much as this is shorter than a minute."""


@pytest.fixture
def cloud() -> FakeCloud:
    return fake_cloud(builds=0.02)


@pytest.fixture
def server(cloud: FakeCloud) -> Iterator[Server]:
    with serving_backend(cloud.handle) as running:
        yield running


@pytest.fixture
def stage(server: Server, place: Path) -> Iterator[Stage]:
    with staged(place, server.url, create_timeout=2, keypair_timeout=2) as ready:
        yield ready


def at(number: int, fault: Fault) -> Plan:
    """Return a plan in which one request meets a fault."""
    return Plan(choose=lambda this, _request: fault if this == number else None, stall=STALL)


def calls_of_a_flow(stage: Stage, server: Server) -> list[str]:
    server.plan = Plan()
    outcome = stage.flow()
    assert outcome.error is None, outcome
    return list(server.plan.seen)


def left(stage: Stage, cloud: FakeCloud) -> set[str]:
    """Return what is left after a flow and, if it said so, one cleanup."""
    stage.sweep()
    return {*cloud.left(), *(str(path) for path in stage.base.glob("*/*.json"))}


def doubled(cloud: FakeCloud) -> list[str]:
    servers = [one for one in cloud.made if one.startswith("server ")]
    return sorted({one for one in servers if servers.count(one) > 1})


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_call(
    stage: Stage, server: Server, cloud: FakeCloud, table: Table, fault: Fault
) -> None:
    calls = calls_of_a_flow(stage, server)
    wrong = []
    for number in table.some(range(len(calls)), f"calls {fault}", least=6):
        started = time.monotonic()
        cloud.made.clear()
        server.plan = at(number, fault)
        outcome = stage.flow()
        hit = server.plan.done
        server.plan = Plan()
        remains = left(stage, cloud)
        error = outcome.error
        table.add(f"{fault} at one call", started=started, succeeded=error is None, left=len(remains))
        if error is not None and not (isinstance(error, DibctlError) and _right(fault, error, hit)):
            wrong.append(f"{hit}: {error!r}")
        if remains or doubled(cloud):
            wrong.append(f"{hit}: left {remains}, doubled {doubled(cloud)}, {outcome}")
        cloud.clear()
    assert not wrong, "\n".join(wrong)


def _right(fault: Fault, error: BaseException, hit: list[str]) -> bool:
    """Whether a flow may end like this: never by a retried fault, by a refused login only at the login."""
    at_login = all(request.endswith("/auth/tokens") for request in hit)
    return fault == "401" and at_login and "refused the credentials" in str(error)


@pytest.mark.one_in(8)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_one_fault_in_ten_calls(
    stage: Stage, server: Server, cloud: FakeCloud, table: Table, chunk: int
) -> None:
    chance = table.chance(f"random {chunk}")
    harms = [fault for fault in FAULTS if fault != "401"]

    def choose(_number: int, _request: Request) -> Fault | None:
        return chance.choice(harms) if chance.random() < 0.1 else None

    failures, wrong = [], []
    for _ in range(FLOWS // CHUNKS):
        started = time.monotonic()
        server.plan = Plan(choose=choose, stall=STALL)
        outcome = stage.flow()
        hit = server.plan.done
        server.plan = Plan()
        remains = left(stage, cloud)
        table.add("10 % of calls fail", started=started, succeeded=outcome.error is None, left=len(remains))
        if outcome.error is not None:
            failures.append(f"{outcome.error} after {hit}")
            assert isinstance(outcome.error, DibctlError)
        if remains:
            wrong.append(f"{remains} after {hit}")
            cloud.clear()
    assert not wrong, "\n".join(wrong)
    # At most one in a hundred may fail, over all chunks; none has.
    assert not failures, "\n".join(failures)


def test_a_proxy_does_the_same_harm_before_services_of_others(
    server: Server, cloud: FakeCloud, place: Path
) -> None:
    with serving_backend(upstream(server.url)) as proxy, staged(place, proxy.url) as stage:
        outcome = stage.flow()
        assert (outcome.error, cloud.left()) == (None, set())
        assert len(proxy.plan.seen) > 40
        assert len(server.plan.seen) == len(proxy.plan.seen)
        number = proxy.plan.seen.index("POST /compute/v2.1/servers")
        proxy.plan = at(number, "reset after")
        outcome = stage.flow()
        assert (outcome.error, doubled(cloud)) == (None, [])
        assert proxy.plan.done == ["reset after: POST /compute/v2.1/servers"]
        assert cloud.left() == set()


def test_a_refused_call_is_not_repeated(stage: Stage, server: Server, cloud: FakeCloud) -> None:
    calls = calls_of_a_flow(stage, server)
    number = calls.index("POST /compute/v2.1/servers")
    cloud.images.clear()
    server.plan = Plan(choose=lambda this, _request: cloud.images.clear() if this == number else None)
    outcome = stage.flow()
    assert isinstance(outcome.error, ApiError)
    assert server.plan.seen.count("POST /compute/v2.1/servers") == 1
    assert left(stage, cloud) == set()


@pytest.mark.parametrize("call", ["POST /compute/v2.1/servers", "POST /image-RegionOne/v2/images"])
def test_what_appears_late_is_removed_too(stage: Stage, server: Server, cloud: FakeCloud, call: str) -> None:
    """An interruption cuts a create call off, whose thing is only made afterwards."""
    cloud.appears = 0.3

    def interrupt(_number: int, request: Request) -> Fault | None:
        return "reset after" if f"{request.method} {request.path}" == call else None

    server.plan = Plan(choose=interrupt)
    stage.flow()
    server.plan = Plan()
    assert left(stage, cloud) == set()
