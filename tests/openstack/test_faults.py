"""Whatever goes wrong with a call on its way to the real services, nothing of ours is in them after the flow.

Which calls meet a fault is drawn by a seed that a failure names: ``DIBCTL_FAULTS_SEED`` repeats it.
``DIBCTL_FAULTS_CALLS`` is how many calls each fault is tried at, 2 unless it says else; 1000 are all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_dibctl.cleanup import sweep
from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.run import booting, keys, uploading
from tests.openstack.site import Site
from tests.support.fake_openstack.faults import FAULTS, Fault, Plan
from tests.support.fake_openstack.proxy import upstream
from tests.support.fake_openstack.server import Server, serving_backend
from tests.support.patience import shorten

SEED = int(os.environ.get("DIBCTL_FAULTS_SEED") or random.SystemRandom().randrange(10**6))
CALLS = int(os.environ.get("DIBCTL_FAULTS_CALLS") or 2)
STALL = 12.0
"""Seconds; calls are given up after fewer, which a busy machine's services need now and then."""
SERVICES = ("identity", "image", "compute", "network")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter patience, by as much as the stall is shorter than a minute."""
    shorten(monkeypatch, CALL_TIMEOUT=10.0, SAFE_CALL_TIMEOUT=60.0, LOST_ANSWER=5.0, IN_FLIGHT=5.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A site whose cloud is reached through one proxy for each service."""

    site: Site
    proxies: tuple[Server, ...]

    def plan(self, plan: Plan) -> Plan:
        """Have ``plan`` decide for all services."""
        for proxy in self.proxies:
            proxy.plan = plan
        return plan

    def flow(self) -> BaseException | None:
        """Upload, make a keypair, boot, operate, remove; return what it failed with."""
        with self.site.opened("here") as bench, contextlib.ExitStack() as stack:
            try:
                bench.cloud.preflight()
                image = stack.enter_context(uploading.uploaded(bench.target_run, bench.cloud, bench.artifact))
                key = stack.enter_context(keys.keypair(bench.target_run, bench.cloud))
                instance = stack.enter_context(booting.booted(bench.target_run, bench.cloud, image, key))
                instance.check()
                instance.stop()
                instance.start()
                instance.reboot(hard=True)
            except DibctlError as error:
                return error
        return None

    def cleanup(self) -> None:
        """Do what one `dibctl cleanup` does."""
        catalog = configuration.load(cwd=self.site.path)
        swept = sweep.sweep(catalog.environment, sweep.Choice(), cwd=self.site.path)
        assert not [one for one in swept if one.failed]


@pytest.fixture
def way(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    entry = site.cloud.entry("demo")
    plan = Plan()
    with contextlib.ExitStack() as stack, site.cloud.connected("demo") as demo:
        proxies = []
        for service in SERVICES:
            found = str(demo.session.get_endpoint(service_type=service, region_name=site.cloud.region))
            real, _, path = found.removeprefix("http://").partition("/")
            proxy = stack.enter_context(serving_backend(upstream(f"http://{real}"), plan))
            proxies.append(proxy)
            entry[f"{service}_endpoint_override"] = f"{proxy.url}/{path}"
        identity = entry.pop("identity_endpoint_override")
        entry["auth"] = {**entry["auth"], "auth_url": identity}
        changed = tmp_path / "clouds.yaml"
        known = yaml.safe_load(site.cloud.clouds_yaml.read_text())
        changed.write_text(yaml.safe_dump({"clouds": {**known["clouds"], "demo": entry}}))
        # Where `dibctl cleanup` looks.
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(changed))
        through = dataclasses.replace(site, cloud=dataclasses.replace(site.cloud, clouds_yaml=changed))
        through.write({"here": through.environment(nova={"ssh_host_key": "first-seen"})})
        made = Way(site=through, proxies=tuple(proxies))
        yield made
        made.plan(Plan())


def at(number: int, fault: Fault) -> Plan:
    """Return a plan in which one request, of whatever service, meets a fault."""
    return Plan(choose=lambda this, _request: fault if this == number else None, stall=STALL)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_stays_in_the_real_services(way: Way, fault: Fault) -> None:
    plan = way.plan(Plan())
    assert way.flow() is None
    assert way.site.left_at_last() == set()
    calls = len(plan.seen)
    assert calls > 30  # all services are reached through the proxies
    wrong = []
    for number in sorted(random.Random(f"{SEED} {fault}").sample(range(calls), min(CALLS, calls))):
        plan = way.plan(at(number, fault))
        error = way.flow()
        way.plan(Plan())
        way.cleanup()
        left = way.site.left_at_last()
        if left or not (error is None or (fault == "401" and "refused the credentials" in str(error))):
            wrong.append(f"{plan.done}: {error!r}, left {left}")
    assert not wrong, "\n".join([f"DIBCTL_FAULTS_SEED={SEED}", *wrong])
