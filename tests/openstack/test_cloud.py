"""The test cloud itself: what it promises to those who test with it."""

from __future__ import annotations

import contextlib
import dataclasses
import stat
from typing import Any

import pytest

from pytest_dibctl.system import process
from tests.openstack.cloud import DevCloud, lanes, leftovers, lifecycle, names
from tests.openstack.cloud import layout as ports
from tests.openstack.cloud.layout import Layout


def test_it_is_up_and_all_of_it_would_be_seen_if_it_stayed(devcloud: DevCloud) -> None:
    layout = Layout.at(devcloud.directory)
    assert lifecycle.status(layout) == "up"
    found = leftovers.found(layout)
    for what in ("process", "link", "port", "file"):
        assert any(line.startswith(what) for line in found), what


def test_only_this_machine_can_reach_it(devcloud: DevCloud) -> None:
    listening = process.run(["ss", "--no-header", "--listening", "--tcp", "--numeric"]).output
    places = [line.split()[3].rpartition(":") for line in listening.splitlines()]
    ours = {int(port): host for host, _, port in places if int(port) in ports.PORTS}
    assert ours.keys() == set(ports.PORTS)
    assert set(ours.values()) <= {"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"}


def test_passwords_are_for_its_owner_s_eyes(devcloud: DevCloud) -> None:
    assert stat.S_IMODE(devcloud.clouds_yaml.stat().st_mode) == 0o600


@pytest.mark.parametrize("entry", [*(user.name for user in names.USERS), names.APPLICATION_CREDENTIAL])
def test_every_entry_of_clouds_yaml_logs_in_to_its_project(devcloud: DevCloud, entry: str) -> None:
    project = devcloud.name_of(next((user.project for user in names.USERS if user.name == entry), "demo"))
    with (
        contextlib.closing(devcloud.connect("admin")) as admin,
        contextlib.closing(devcloud.connect(entry)) as connection,
    ):
        identity: Any = admin.identity
        assert connection.current_project_id == identity.find_project(project, ignore_missing=False).id


def test_an_image_of_one_region_is_not_in_the_other(devcloud: DevCloud) -> None:
    with (
        contextlib.closing(devcloud.connect("demo")) as one,
        contextlib.closing(devcloud.connect("demo-two")) as two,
    ):
        made: Any = one.image.create_image(
            name="only-here", data=b"x", disk_format="raw", container_format="bare"
        )
        try:
            assert two.image.find_image(made.id) is None
            assert one.image.find_image(made.id) is not None
        finally:
            one.image.delete_image(made)


def test_both_zones_have_a_host_and_volumes_a_back_end(devcloud: DevCloud) -> None:
    with contextlib.closing(devcloud.connect("admin")) as admin:
        zones = {zone.name for zone in admin.compute.availability_zones() if zone.state["available"]}
        assert {devcloud.zone_live, devcloud.zone_fake} <= zones
        services = {service.binary: service.state for service in admin.block_storage.services()}
    assert services == {"cinder-scheduler": "up", "cinder-volume": "up"}


def test_lanes_do_not_see_each_other(devcloud: DevCloud) -> None:
    layout = Layout.at(devcloud.directory)
    with lanes.claimed(layout) as lane:
        assert lane != devcloud.lane
        other = dataclasses.replace(devcloud, lane=lane, clouds_yaml=lanes.clouds_yaml(layout, lane))
        with (
            contextlib.closing(devcloud.connect("demo")) as ours,
            contextlib.closing(other.connect("demo")) as theirs,
        ):
            assert ours.current_project_id != theirs.current_project_id
            [inner], [their_inner] = (
                list(demo.network.networks(name=devcloud.network_inner)) for demo in (ours, theirs)
            )
            assert inner.id != their_inner.id
            made: Any = theirs.image.create_image(
                name="only-theirs", data=b"x", disk_format="raw", container_format="bare"
            )
            try:
                assert ours.image.find_image(made.id) is None
            finally:
                theirs.image.delete_image(made)
