"""What goes wrong for the commands that publish, in the real services: each says it, and harms nothing.

A region that is down, a token that ends midway, bytes that are damaged, a full store, another project's
images, images in use or protected, and no admin's role. ``upload``'s own cases are in ``test_publish`` too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dibctl.errors import ExitCode
from pytest_dibctl.image import manifest
from tests.openstack import proxy
from tests.openstack.cloud import names
from tests.openstack.proxy import Harm
from tests.openstack.shelf import MIB, Shelf
from tests.support.patience import shorten

NOBODY = "http://127.0.0.1:9"
"""An address at which connections are refused."""
ID, NAME = "<id>", "<name>"
"""Of the current image, in commands."""
HIDDEN = "/images.*os_hidden=true"
"""The second look of every command that looks for images."""


def said(shelf: Shelf, command: Sequence[str], image_id: str = "") -> list[str]:
    """Return a command with the image filled in."""
    return [{ID: image_id, NAME: shelf.name}.get(word, word) for word in command]


def describe_packages(shelf: Shelf) -> None:
    """Write the manifest of the built image: one package."""
    directory = shelf.site.path / "image.d" / manifest.DIRECTORY
    directory.mkdir(parents=True)
    packages = [{"package": "bash", "version": "2", "status": "ii "}]
    (directory / f"{manifest.PREFIX}image").write_text(json.dumps({"packages": packages}))


# -- a region that is down -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "words"),
    [("Glance", f"no Glance answers at {NOBODY}"), ("Keystone", "Keystone did not answer")],
    ids=["Glance", "Keystone"],
)
@pytest.mark.parametrize(
    "command",
    [
        ("upload", "web", "away"),
        ("mark-obsolete", "away", ID),
        ("list", "away"),
        ("rotate", "away", NAME),
        ("rotate-single", "web", "away"),
        ("transfer", ID, "away", "demo-two"),
        ("transfer", ID, "demo", "away"),
        ("diff", "web", "away"),
    ],
    ids=["upload", "mark-obsolete", "list", "rotate", "rotate-single", "from", "to", "diff"],
)
def test_a_region_that_is_down_is_named(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, command: Sequence[str], service: str, words: str
) -> None:
    shorten(monkeypatch, FIRST_ANSWER_TIMEOUT=3.0)
    image_id, _ = shelf.put(), shelf.put_obsolete()
    before = shelf.state()
    describe_packages(shelf)
    written = {"username": "demo", "password": "unheard", "project_name": "demo", "auth_url": f"{NOBODY}/v3"}
    away = {
        "Glance": {"keystone": {"cloud": "demo"}, "glance": {"endpoint": NOBODY}},
        "Keystone": {"keystone": written},
    }[service]
    shelf.write({"demo": {"keystone": {"cloud": "demo"}}, "away": away})
    code, _, err = shelf.run(*said(shelf, command, image_id))
    assert code == ExitCode.UNSPECIFIED
    assert words in err
    assert "(away.keystone)" in err
    assert shelf.state() == before


def test_list_shows_the_regions_that_are_not_down(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, FIRST_ANSWER_TIMEOUT=3.0)
    image_id = shelf.put()
    away = {"keystone": {"cloud": "demo-two"}, "glance": {"endpoint": NOBODY}}
    shelf.write({"away": away, "demo": {"keystone": {"cloud": "demo"}}})
    bad, good = shelf.json("list", code=int(ExitCode.UNSPECIFIED))
    assert "no Glance answers" in bad["error"]
    assert bad["images"] == []
    assert image_id in [one["image"] for one in good["images"]]


@pytest.mark.parametrize(("service", "key"), [("Nova", "compute"), ("Cinder", "block_storage")])
def test_nothing_is_deleted_where_it_cannot_be_told_who_uses_it(
    attic: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: str, key: str
) -> None:
    shorten(monkeypatch, FIRST_ANSWER_TIMEOUT=3.0)
    attic.put_obsolete("admin")
    before = attic.state()
    known = yaml.safe_load(attic.site.cloud.clouds_yaml.read_text())
    known["clouds"]["admin"][f"{key}_endpoint_override"] = NOBODY
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(known))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(changed))
    code, _, err = attic.run("rotate", "all", attic.name)
    assert code == ExitCode.UNSPECIFIED
    assert f"no {service} answers" in err
    assert attic.state() == before


# -- a token that ends midway ----------------------------------------------------------------------


def revoking(shelf: Shelf, method: str, path: str) -> Harm:
    """Make the token worthless with which a request comes, before the service sees it."""
    return Harm(method=method, path=path, before=lambda head: shelf.site.revoke(head["X-Auth-Token"]))


def refused(*ways: proxy.Proxy) -> list[str]:
    """Return what was refused for its token."""
    return [f"{one.method} {one.path}" for way in ways for one in way.seen if one.status == 401]


@pytest.mark.parametrize(
    ("command", "method", "path"),
    [
        (("mark-obsolete", "here", ID), "PATCH", "/images/"),
        (("list", "here"), "GET", HIDDEN),
        (("rotate", "here", NAME), "DELETE", "/images/"),
        (("rotate-single", "web", "here"), "DELETE", "/images/"),
        (("diff", "web", "here"), "GET", HIDDEN),
    ],
    ids=["mark-obsolete", "list", "rotate", "rotate-single", "diff"],
)
def test_a_token_that_ends_midway_is_replaced(
    shelf: Shelf, command: Sequence[str], method: str, path: str
) -> None:
    current = shelf.put("admin", dibctl_packages=manifest.packed({"bash": "1"}))
    old = shelf.put_obsolete("admin")
    describe_packages(shelf)
    with proxy.before(shelf.glance("admin")) as between:
        between.harms.append(revoking(shelf, method, path))
        shelf.write({"here": {"keystone": {"cloud": "admin"}, "glance": {"endpoint": between.url}}})
        found = shelf.json(*said(shelf, command, current))
        assert len(refused(between)) == 1
    after = {image_id: image["name"] for image_id, image in shelf.state()["admin"].items()}
    was = {current: shelf.name, old: f"Obsolete {shelf.name}"}
    match command[0]:
        case "mark-obsolete":
            assert after == {**was, current: f"Obsolete {shelf.name}"}
        case "list":
            assert {current, old} <= {one["image"] for one in found[0]["images"]}
            assert after == was
        case "rotate" | "rotate-single":
            assert [(one["image"], one["outcome"]) for one in found] == [(old, "deleted")]
            assert after == {current: shelf.name}
        case "diff":
            assert found["published"] == current
            assert [one["package"] for one in found["differences"]] == ["bash"]
            assert after == was


@contextlib.contextmanager
def ways(shelf: Shelf, *, fetched: bool = False) -> Iterator[tuple[proxy.Proxy, proxy.Proxy]]:
    """Write "here" and "there", demo's regions behind proxies.

    Unless it is to be ``fetched``, the bytes go through this machine: the destination refuses to import.
    """
    with proxy.before(shelf.glance()) as source, proxy.before(shelf.glance("demo-two")) as destination:
        if not fetched:
            destination.harms.append(Harm(method="POST", path="/import$", times=99, status=403))
        shelf.write(
            {
                "here": {"keystone": {"cloud": "demo"}, "glance": {"endpoint": source.url}},
                "there": {"keystone": {"cloud": "demo-two"}, "glance": {"endpoint": destination.url}},
            }
        )
        yield source, destination


def bytes_of(shelf: Shelf, cloud: str, image_id: str) -> bytes:
    with shelf.connected(cloud) as connection:
        return bytes(connection.image.get(f"/images/{image_id}/file").content)


CONTENT = bytes(range(256)) * 4096 * 3
"""Some MiB."""


@pytest.mark.parametrize(
    ("end", "method", "path"),
    [("source", "GET", "/file$"), ("destination", "PUT", "/file$"), ("fetching", "POST", "/import$")],
    ids=["source", "destination", "fetching"],
)
def test_a_token_of_either_end_of_a_transfer_ends_midway(
    shelf: Shelf, end: str, method: str, path: str
) -> None:
    image_id = shelf.put(content=CONTENT)
    with ways(shelf, fetched=end == "fetching") as (source, destination):
        (source if end == "source" else destination).harms.append(revoking(shelf, method, path))
        done = shelf.json("transfer", image_id, "here", "there")
        assert len(refused(source, destination)) == 1
    assert done["how"] == ("fetched" if end == "fetching" else "streamed")
    assert list(shelf.state()["admin-two"]) == [done["destination"]["image"]]
    assert bytes_of(shelf, "demo-two", done["destination"]["image"]) == CONTENT


# -- the rough way of a transfer -------------------------------------------------------------------


def test_bytes_damaged_once_on_their_way_from_the_source_are_fetched_again(shelf: Shelf) -> None:
    image_id = shelf.put(content=CONTENT, protected=True)
    with ways(shelf) as (source, destination):
        source.harms.append(Harm(method="GET", path="/file$", content=proxy.flip(2 * MIB)))
        done = shelf.json("transfer", image_id, "here", "there")
        assert source.count("GET", "/file$") == 2
        assert destination.count("PUT", "/file$") in proxy.ONCE_BROKEN
    there = shelf.state()["admin-two"]
    assert list(there) == [done["destination"]["image"]]
    assert there[done["destination"]["image"]]["protected"]
    assert bytes_of(shelf, "demo-two", done["destination"]["image"]) == CONTENT


def test_bytes_that_always_come_damaged_from_the_source_leave_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, SAFE_CALL_TIMEOUT=3.0)
    image_id = shelf.put(content=CONTENT, protected=True)
    before = shelf.state()
    with ways(shelf) as (source, _):
        source.harms.append(Harm(method="GET", path="/file$", times=99, content=proxy.flip(2 * MIB)))
        code, _, err = shelf.run("transfer", image_id, "here", "there")
    assert code == ExitCode.UNSPECIFIED
    assert f"image {image_id} came damaged from here" in err
    assert shelf.state() == before


@pytest.mark.usefixtures("small_store")
def test_the_destinations_store_is_full(shelf: Shelf) -> None:
    image_id = shelf.put(content=CONTENT * 2, protected=True)
    before = shelf.state()
    with ways(shelf) as (_, destination):
        # A transfer goes to the default store, which has no end; this one has.
        small = {"X-Image-Meta-Store": names.STORE_SMALL}
        destination.harms.append(Harm(method="PUT", path="/file$", times=99, headers=small))
        code, _, err = shelf.run("transfer", image_id, "here", "there")
        assert 413 in {one.status for one in destination.seen}
    assert code == ExitCode.UNSPECIFIED
    assert "store is full" in err
    assert shelf.state() == before


# -- another project's images ----------------------------------------------------------------------


def test_another_project_has_an_image_of_the_name_at_the_destination(shelf: Shelf) -> None:
    image_id = shelf.put(content=CONTENT)
    theirs = shelf.put("other", content=CONTENT, region=names.REGION_TWO, visibility="community")
    before = shelf.state()["admin-two"][theirs]
    done = shelf.json("transfer", image_id, "demo", "demo-two")
    made = done["destination"]["image"]
    assert made != theirs
    there = shelf.state()["admin-two"]
    assert there[theirs] == before
    assert there[made]["owner"] == shelf.project()
    assert there.keys() == {theirs, made}


def test_an_image_of_ones_own_is_not_taken_for_another_projects(shelf: Shelf) -> None:
    """The owner goes along too, and an image of the same name and bytes has another one."""
    theirs = shelf.put("other", content=CONTENT)
    mine = shelf.put("admin", content=CONTENT, region=names.REGION_TWO)
    before = shelf.state()["admin-two"][mine]
    done = shelf.json("transfer", theirs, "admin", "admin-two")
    there = shelf.state()["admin-two"]
    assert there[mine] == before
    assert there[done["destination"]["image"]]["owner"] == shelf.project("other")


def test_a_member_does_not_transfer_another_projects_image_as_that_projects(shelf: Shelf) -> None:
    theirs = shelf.put("other", visibility="community")
    before = shelf.state()
    code, _, err = shelf.run("transfer", theirs, "demo", "demo-two")
    assert code == ExitCode.NOT_IN_CONFIG
    assert "--ignore-membership" in err
    assert shelf.state() == before
    done = shelf.json("transfer", theirs, "demo", "demo-two", "--ignore-membership")
    there = shelf.state()["admin-two"][done["destination"]["image"]]
    assert there["owner"] == shelf.project()


def test_a_member_does_not_make_an_image_public_elsewhere(shelf: Shelf) -> None:
    image_id = shelf.put()
    with shelf.connected("admin") as admin:
        admin.image.update_image(image_id, visibility="public")
    before = shelf.state()
    code, _, err = shelf.run("transfer", image_id, "demo", "demo-two")
    assert code == ExitCode.UNSPECIFIED
    assert "Glance answered 403" in err
    assert shelf.state() == before


@pytest.mark.parametrize(
    ("visibility", "code", "words"),
    [
        ("community", ExitCode.UNSPECIFIED, "belongs to project"),
        ("private", ExitCode.IMAGE_NOT_FOUND, "cannot find image"),
    ],
)
def test_another_projects_image_is_not_marked(
    shelf: Shelf, visibility: str, code: ExitCode, words: str
) -> None:
    theirs, mine = shelf.put("other", visibility=visibility), shelf.put()
    before = shelf.state()["admin"]
    bad, good = shelf.json("mark-obsolete", "demo", theirs, mine, code=int(code))
    assert words in bad["error"]
    assert good["changed"]
    after = shelf.state()["admin"]
    assert after[theirs] == before[theirs]
    assert after[mine]["name"] == f"Obsolete {shelf.name}"


def test_nothing_is_marked_by_its_name(shelf: Shelf) -> None:
    shelf.put("other", visibility="community")
    shelf.put()
    before = shelf.state()
    (bad,) = shelf.json("mark-obsolete", "demo", shelf.name, code=int(ExitCode.IMAGE_NOT_FOUND))
    assert shelf.name in bad["error"]
    assert shelf.state() == before


def seen_by(shelf: Shelf, cloud: str, **said: Any) -> list[str]:
    """Return the ids of another project's images that a project sees, for every reason that there is."""
    community = shelf.put("other", visibility="community", **said)
    public = shelf.put("other", **said)
    shared = shelf.put("other", visibility="shared", **said)
    with shelf.connected("admin") as admin:
        admin.image.update_image(public, visibility="public")
    shelf.give(shared, owner="other", to=cloud)
    with shelf.connected(cloud) as connection:
        assert {public, shared} <= {image.id for image in connection.image.images()}
    return [community, public, shared]


def test_list_shows_nothing_of_another_project(shelf: Shelf) -> None:
    theirs, mine = seen_by(shelf, "demo"), shelf.put()
    (listed,) = shelf.json("list", "demo")
    found = [one["image"] for one in listed["images"]]
    assert mine in found
    assert not set(theirs) & set(found)


@pytest.mark.parametrize(
    "command", [("rotate", "all", NAME), ("rotate-single", "web", "all")], ids=["rotate", "rotate-single"]
)
def test_another_projects_obsolete_images_stay(attic: Shelf, command: Sequence[str]) -> None:
    theirs = seen_by(attic, "admin", name=f"Obsolete {attic.name}", obsolete="true")
    before = attic.state()["admin"]
    mine = attic.put_obsolete("admin")
    done = attic.json(*said(attic, command))
    assert [(one["image"], one["outcome"]) for one in done] == [(mine, "deleted")]
    assert attic.state()["admin"] == before
    assert set(before) == set(theirs)


def test_diff_compares_with_nothing_of_another_project(shelf: Shelf) -> None:
    describe_packages(shelf)
    seen_by(shelf, "demo", dibctl_packages=manifest.packed({"bash": "1"}))
    code, out, err = shelf.run("diff", "web", "demo")
    assert code == ExitCode.IMAGE_NOT_FOUND, out
    assert f"no image {shelf.name!r} is current there" in err


# -- in use, or protected --------------------------------------------------------------------------

HELD = pytest.mark.parametrize("held_by", ["server", "protection"])


@contextlib.contextmanager
def held(shelf: Shelf, image_id: str, held_by: str) -> Iterator[None]:
    """Have a server of an admin's image, or protect it."""
    if held_by == "server":
        with shelf.server(image_id) as made:
            yield
            with shelf.connected("admin") as admin:
                server = admin.compute.get_server(made.id)
                assert (server.status, server.image.id) == ("ACTIVE", image_id)
    else:
        with shelf.connected("admin") as admin:
            admin.image.update_image(image_id, is_protected=True)
        yield
        assert shelf.state()["admin"][image_id]["protected"]


@HELD
def test_an_older_image_that_is_held_becomes_obsolete_all_the_same(attic: Shelf, held_by: str) -> None:
    old = attic.put("admin")
    with held(attic, old, held_by):
        (result,) = attic.json("upload", "web", "all")
    assert result["obsoleted"] == [old]
    after = attic.state()["admin"]
    assert (after[old]["name"], after[old]["obsolete"]) == (f"Obsolete {attic.name}", "true")
    assert after[result["image"]]["name"] == attic.name
    assert after.keys() == {old, result["image"]}


@HELD
def test_an_image_that_is_held_is_listed_so_and_marked_and_not_deleted(attic: Shelf, held_by: str) -> None:
    image_id = attic.put("admin")
    with held(attic, image_id, held_by):
        (listed,) = attic.json("list", "all")
        (found,) = [one for one in listed["images"] if one["image"] == image_id]
        user = f"server {attic.name}-server of project {attic.project('admin')}"
        assert found["used"] == (user if held_by == "server" else "")
        assert found["protected"] == (held_by == "protection")
        (marked,) = attic.json("mark-obsolete", "all", image_id)
        assert marked["changed"]
        before = attic.state()
        assert before["admin"][image_id]["name"] == f"Obsolete {attic.name}"
        (verdict,) = attic.json("rotate-single", "web", "all")
        why = f"used by {user}" if held_by == "server" else "is protected"
        assert (verdict["outcome"], verdict["reason"]) == ("stays", why)
        assert attic.state() == before


def test_what_the_store_has_in_use_stays_as_it_was(attic: Shelf) -> None:
    """A file store never says so, as Ceph's does: here the proxy answers in its place."""
    attic.put_obsolete("admin")
    before = attic.state()
    with proxy.before(attic.glance("admin")) as between:
        between.harms.append(Harm(method="DELETE", path="/images/", times=99, status=409))
        attic.write({"all": {"keystone": {"cloud": "admin"}, "glance": {"endpoint": between.url}}})
        (verdict,) = attic.json("rotate", "all", attic.name)
        assert between.count("DELETE", "/images/") == 1
        assert not between.count("PATCH", "")
    assert (verdict["outcome"], verdict["reason"]) == ("stays", "the store has it in use")
    assert attic.state() == before


def test_rotate_single_by_who_is_no_admin(shelf: Shelf) -> None:
    shelf.put_obsolete()
    before = shelf.state()
    code, _, err = shelf.run("rotate-single", "web", "demo")
    assert code == ExitCode.NOVA_FORBIDDEN
    assert "openstack role add" in err
    assert shelf.state() == before
