"""Signals to ``dibctl upload``, ``transfer`` and ``rotate``, in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from filelock import FileLock

from pytest_dibctl.clouds import marks
from tests.support import results, waiting
from tests.support.fake_openstack import FakeCloud, Refusal
from tests.support.publishing import NAME, PATIENCE, Child, Shop

BODY = 24 << 20
"""Bytes; more than what fits into the buffers of a connection, so that a body can be cut off."""

INTERRUPTED = 128 + signal.SIGINT


class Scene:
    """What happens at certain calls to a cloud, one after the other; each is a pattern and an act."""

    def __init__(self, cloud: FakeCloud, *steps: tuple[str, Callable[[Child], None]]) -> None:
        self._steps = list(steps)
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._child: Child | None = None
        cloud.before = self._before

    @property
    def done(self) -> bool:
        return not self._steps

    def watch(self, dibctl: Child) -> Child:
        self._child = dibctl
        self._ready.set()
        return dibctl

    def _before(self, method: str, path: str, _query: Mapping[str, str]) -> None:
        with self._lock:
            if not self._steps or re.search(self._steps[0][0], f"{method} {path}") is None:
                return
            _, act = self._steps.pop(0)
        self._ready.wait(PATIENCE)
        assert self._child is not None
        act(self._child)


def rows(printed: str) -> dict[str, str]:
    """Return the lines of a table by their first word."""
    return {line.split()[0]: line for line in printed.splitlines()[1:]}


@pytest.fixture
def large(shop: Shop) -> Shop:
    shop.fill(os.urandom(BODY))
    return shop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_upload_interrupted_in_a_body_is_undone_and_the_table_says_what_is_there(
    large: Shop, number: signal.Signals
) -> None:
    regions = {"one": "RegionOne", "two": "RegionTwo"}
    large.write({label: {"keystone": large.keystone(region=region)} for label, region in regions.items()})
    old = large.cloud.add_image(NAME)
    before = dict(large.cloud.region()[old])

    def act(dibctl: Child) -> None:
        waiting.until(lambda: large.images("RegionTwo", os_hidden=False, tags=[]), seconds=PATIENCE)
        dibctl.interrupt("one", number)

    scene = Scene(large.cloud, ("^PUT /image-RegionOne/.*/file$", act))
    with large.child("upload", "debian", "one", "two") as dibctl:
        assert scene.watch(dibctl).end() == 128 + number
        table = rows(dibctl.printed)
    assert scene.done
    assert " undone " in table["one"]
    assert " uploaded " in table["two"]
    (published,) = large.images("RegionTwo")
    assert published["id"] in table["two"]
    assert f"{number.name} received; undoing what does not show yet" in dibctl.said
    assert "dibctl: interrupted" in dibctl.said
    assert large.cloud.region() == {old: before}


def test_an_upload_interrupted_between_the_new_image_and_the_old_is_finished(shop: Shop) -> None:
    old = shop.cloud.add_image(NAME)
    scene = Scene(shop.cloud, (f"^PATCH .*/{old}$", lambda dibctl: dibctl.interrupt("one")))
    with shop.child("upload", "debian", "one", "--json") as dibctl:
        assert scene.watch(dibctl).end() == INTERRUPTED
        (result,) = results.check("upload", dibctl.printed)
    assert scene.done
    assert (result["outcome"], result["obsoleted"]) == ("uploaded", [old])
    assert shop.cloud.region()[old]["name"] == f"Obsolete {NAME}"
    assert [image["id"] for image in shop.images(name=NAME, os_hidden=False)] == [result["image"]]
    assert len(shop.images()) == 2


def test_a_second_signal_hears_what_goes_on_and_breaks_nothing(large: Shop) -> None:
    scene = Scene(
        large.cloud,
        ("^PUT .*/file$", lambda dibctl: dibctl.interrupt("received; undoing")),
        ("^DELETE ", lambda dibctl: dibctl.interrupt("still undoing")),
    )
    with large.child("upload", "debian", "one") as dibctl:
        assert scene.watch(dibctl).end() == INTERRUPTED
        assert " undone " in rows(dibctl.printed)["one"]
    assert scene.done
    assert (
        "still undoing what does not show yet, and finishing what does, in one; once more to end at once"
        in (dibctl.said)
    )
    assert "guardian" not in dibctl.said
    assert "cleanup" not in dibctl.said
    assert not large.images()


def test_a_third_signal_ends_it_at_once_and_says_what_is_left(large: Shop) -> None:
    over = threading.Event()

    def hang(dibctl: Child) -> None:
        dibctl.interrupt("still undoing")
        dibctl.interrupt("ended while")
        over.wait(PATIENCE)
        raise ConnectionResetError  # it was never carried out

    scene = Scene(
        large.cloud,
        ("^PUT .*/file$", lambda dibctl: dibctl.interrupt("received; undoing")),
        ("^DELETE ", hang),
    )
    with large.child("upload", "debian", "one") as dibctl:
        try:
            assert scene.watch(dibctl).end() == INTERRUPTED  # Glance has not answered yet
        finally:
            over.set()
        assert "LEFT UNFINISHED" in rows(dibctl.printed)["one"]
    assert scene.done
    assert "Traceback" not in dibctl.said
    assert "`dibctl upload` again finishes or removes what is left" in dibctl.said
    (left,) = large.images()
    assert (left["os_hidden"], left["tags"]) == (True, [marks.UNFINISHED])
    large.cloud.before = lambda *_: None
    left["updated_at"] = "2020-01-01T00:00:00Z"
    (result,) = large.json("upload", "debian", "one")
    assert list(large.cloud.region()) == [result["image"]]


def test_a_look_at_what_is_there_is_broken_off_at_once(shop: Shop) -> None:
    over = threading.Event()

    def act(dibctl: Child) -> None:
        dibctl.interrupt("dibctl: interrupted")
        over.wait(PATIENCE)

    scene = Scene(shop.cloud, ("^GET .*/images$", act))
    with shop.child("upload", "debian", "one") as dibctl:
        try:
            assert scene.watch(dibctl).end() == INTERRUPTED
        finally:
            over.set()
        assert " not begun " in rows(dibctl.printed)["one"]
    assert scene.done


def test_a_conversion_that_is_interrupted_begins_nothing(shop: Shop) -> None:
    section = {"cmdline": "sleep 300", "output_filename": "%(input_filename)s.out"}
    glance = {"disk_format": "raw"}
    shop.write({"one": {"keystone": shop.keystone(), "glance": glance, "preprocessing": section}})
    with shop.child("upload", "debian", "one") as dibctl:
        waiting.until(lambda: "sleep 300" in dibctl.said, seconds=PATIENCE)
        dibctl.interrupt("dibctl: interrupted")
        assert dibctl.end() == INTERRUPTED
        assert " not begun " in rows(dibctl.printed)["one"]
    assert not shop.images()
    assert not (shop.path / "debian.qcow2.out").exists()


def test_waiting_for_another_run_ends_with_an_interruption(shop: Shop) -> None:
    section = {"cmdline": "true", "output_filename": "%(input_filename)s.out"}
    shop.write({"one": {"keystone": shop.keystone(), "preprocessing": section}})
    with (
        FileLock(shop.path / ".debian.qcow2.out.lock"),
        shop.child("upload", "debian", "one") as dibctl,
    ):
        waiting.until(lambda: "waiting for another run" in dibctl.said, seconds=PATIENCE)
        dibctl.interrupt("dibctl: interrupted")
        assert dibctl.end() == INTERRUPTED
        assert " not begun " in rows(dibctl.printed)["one"]
    assert not shop.images()


def test_waiting_for_an_import_ends_with_an_interruption(shop: Shop) -> None:
    shop.write(glance={"import_method": "glance-direct"})

    def forever(dibctl: Child) -> None:
        (image,) = shop.images()
        image["status"] = "importing"
        dibctl.interrupt("received; undoing")
        raise Refusal(202, "it has begun")

    scene = Scene(shop.cloud, ("^POST .*/import$", forever))
    with shop.child("upload", "debian", "one") as dibctl:
        assert scene.watch(dibctl).end() == INTERRUPTED
        assert " undone " in rows(dibctl.printed)["one"]
    assert scene.done
    assert not shop.images()


# -- transfer --------------------------------------------------------------------------------------


@pytest.fixture
def two(shop: Shop, abroad: FakeCloud) -> Shop:
    there = {"auth_url": abroad.url, "username": "demo", "password": "secret", "project_name": "demo"}
    shop.write({"here": {"keystone": shop.keystone()}, "there": {"keystone": there}})
    return shop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pattern", ["^PUT .*/file$", "^PATCH "], ids=["body", "reveal"])
def test_an_interrupted_transfer_leaves_nothing(
    two: Shop, abroad: FakeCloud, pattern: str, number: signal.Signals
) -> None:
    kernel = two.cloud.add_image("k", os_hidden=True, disk_format="aki", tags=[marks.COMPANION])
    image_id = two.cloud.add_image(NAME, kernel_id=kernel)
    said = "received; undoing the transfer"
    scene = Scene(abroad, (pattern, lambda dibctl: dibctl.interrupt(said, number)))
    with two.child("transfer", image_id, "here", "there") as dibctl:
        assert scene.watch(dibctl).end() == 128 + number
    assert scene.done
    assert "there: what the transfer made is removed again" in dibctl.said
    assert not abroad.region()


def test_a_first_signal_does_not_break_the_removal_after_a_failure(two: Shop, abroad: FakeCloud) -> None:
    kernel = two.cloud.add_image("k", os_hidden=True, disk_format="aki", tags=[marks.COMPANION])
    image_id = two.cloud.add_image(NAME, kernel_id=kernel)

    def refuse(_dibctl: Child) -> None:
        raise Refusal(403, "not visible here")

    scene = Scene(
        abroad,
        ("^PATCH ", refuse),
        ("^DELETE ", lambda dibctl: dibctl.interrupt("received; undoing the transfer")),
    )
    with two.child("transfer", image_id, "here", "there") as dibctl:
        assert scene.watch(dibctl).end() == INTERRUPTED
    assert scene.done
    assert "not visible here" in dibctl.said
    assert "Traceback" not in dibctl.said
    assert not abroad.region()


# -- rotate ----------------------------------------------------------------------------------------


@pytest.fixture
def attic(shop: Shop) -> dict[str, str]:
    shop.write({"one": {"keystone": shop.keystone("admin")}})
    usual: dict[str, Any] = {"owner": "admin-id", "obsolete": "true"}
    names = {"first": "2026-01-03T00:00:00Z", "second": "2026-01-02T00:00:00Z"}
    return {
        name: shop.cloud.add_image(f"Obsolete {name}", **usual, obsoleted_at=when)
        for name, when in names.items()
    }


def test_an_interrupted_rotation_ends_a_deletion_with_its_kernel_and_says_what_it_did(
    shop: Shop, attic: dict[str, str]
) -> None:
    first, second = attic.values()
    kernel = shop.cloud.add_image("k", owner="admin-id", os_hidden=True, tags=[marks.COMPANION])
    shop.cloud.region()[first]["kernel_id"] = kernel
    scene = Scene(
        shop.cloud, (f"^DELETE .*/{first}$", lambda dibctl: dibctl.interrupt("waiting for the deletion of"))
    )
    with shop.child("rotate", "one", "--json") as dibctl:
        assert scene.watch(dibctl).end() == INTERRUPTED
        verdicts = results.check("rotate", dibctl.printed)
        found = {one["image"]: (one["outcome"], one["reason"]) for one in verdicts}
    assert scene.done
    assert found == {first: ("deleted", "with k"), second: ("stays", "interrupted before its turn")}
    assert list(shop.cloud.region()) == [second]


def test_a_third_signal_to_a_rotation_says_which_deletion_it_left(shop: Shop, attic: dict[str, str]) -> None:
    first, second = attic.values()
    over = threading.Event()

    def act(dibctl: Child) -> None:
        for said in ("SIGINT received; waiting", "still waiting", "ended while waiting"):
            dibctl.interrupt(said)
        over.wait(PATIENCE)

    scene = Scene(shop.cloud, (f"^DELETE .*/{first}$", act))
    with shop.child("rotate", "one", "--json") as dibctl:
        try:
            assert scene.watch(dibctl).end() == INTERRUPTED
        finally:
            over.set()
        verdicts = results.check("rotate", dibctl.printed)
        found = {one["image"]: (one["outcome"], one["reason"]) for one in verdicts}
    assert found == {
        first: ("failed", "its deletion was not waited for"),
        second: ("stays", "interrupted before its turn"),
    }
