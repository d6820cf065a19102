"""``dibctl upload`` and ``mark-obsolete``, with the real client against a fake cloud."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import fingerprint
from pytest_dibctl.clouds.file_body import BLOCK, FileBody, SharedFile
from pytest_dibctl.errors import ArtifactError, ExitCode
from pytest_dibctl.image import artifact, statements
from tests.support import claims
from tests.support.fake_openstack import Refusal
from tests.support.patience import shorten
from tests.support.publishing import NAME, Shop


def three(shop: Shop, **more: object) -> dict[str, object]:
    regions = {"one": "RegionOne", "two": "RegionTwo", "three": "RegionThree"}
    return {label: {"keystone": shop.keystone(region=region), **more} for label, region in regions.items()}


def digest(path: Path) -> str:
    return hashlib.sha512(path.read_bytes()).hexdigest()


class TestStream:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "file"
        path.write_bytes(b"".join(bytes([number]) * BLOCK for number in range(9)) + b"end")
        return path

    def test_several_senders_read_the_file_once(self, file: Path) -> None:
        stream = SharedFile(file, sha512=digest(file))
        got: dict[int, bytes] = {}

        def send(number: int) -> None:
            got[number] = b"".join(FileBody(stream, deadline=float("inf")))

        threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(got.values()) == {file.read_bytes()}
        assert stream.reads == stream.count == 10
        stream.close()

    def test_who_falls_behind_reads_for_itself_and_holds_up_nobody(self, file: Path) -> None:
        stream = SharedFile(file, sha512=digest(file), window=2)
        slow = iter(FileBody(stream, deadline=float("inf")))
        first = next(slow)
        assert b"".join(FileBody(stream, deadline=float("inf"))) == file.read_bytes()
        assert first + b"".join(slow) == file.read_bytes()
        assert stream.reads == 10 + 7
        stream.close()

    def test_a_digest_of_another_kind_is_of_a_file_that_did_not_change(self, file: Path) -> None:
        stream = SharedFile(file, sha512=digest(file))
        feed = FileBody(stream, deadline=float("inf"))
        assert feed.digest("md5") == hashlib.md5(file.read_bytes()).hexdigest()
        file.write_bytes(file.read_bytes() + b"more")
        with pytest.raises(ArtifactError, match="not the tested file"):
            feed.digest("md5")
        with pytest.raises(ArtifactError, match="not the tested file"):
            feed.refuse_changed()
        stream.close()

    def test_a_file_that_shrinks_is_an_error(self, file: Path) -> None:
        stream = SharedFile(file, sha512=digest(file))
        file.write_bytes(b"x")
        with pytest.raises(ArtifactError, match="became shorter"):
            list(FileBody(stream, deadline=float("inf")))
        stream.close()


def test_an_image_is_published_hidden_first_and_with_its_facts(shop: Shop) -> None:
    hidden: list[bool] = []

    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "PUT" and path.endswith("/file"):
            (image,) = shop.images()
            hidden.append(image["os_hidden"])

    shop.cloud.before = before
    shop.write(glance={"min_disk": 2, "min_ram": 512, "tags": ["ci"], "properties": {"os_distro": "debian"}})
    (result,) = shop.json("upload", "debian", "one")
    assert hidden == [True]
    (image,) = shop.images()
    digest = hashlib.sha512((shop.path / "debian.qcow2").read_bytes()).hexdigest()
    assert result == {
        "environment": "one",
        "outcome": "uploaded",
        "image": image["id"],
        "obsoleted": [],
        "pending": [],
        "conversion": None,
        "tested": None,
        "seconds": result["seconds"],
        "error": None,
        "exit_code": 0,
    }
    assert (image["name"], image["status"], image["os_hidden"]) == (NAME, "active", False)
    assert (image["min_disk"], image["min_ram"], image["tags"]) == (2, 512, ["ci"])
    assert image["os_hash_value"] == image["dibctl_sha512"] == digest
    assert (image["os_distro"], image["dibctl_label"]) == ("debian", "debian")
    assert shop.cloud.contents[image["id"]] == (shop.path / "debian.qcow2").read_bytes()


def test_the_older_image_becomes_obsolete_and_knows_its_successor(shop: Shop) -> None:
    shop.json("upload", "debian", "one")
    (old,) = shop.images()
    shop.fill()
    (result,) = shop.json("upload", "debian", "one")
    assert result["obsoleted"] == [old["id"]]
    assert old["name"] == f"Obsolete {NAME}"
    assert (old["obsolete"], old["obsoleted_by"]) == ("true", result["image"])
    assert old["obsoleted_at"].endswith("Z")
    assert [image["id"] for image in shop.images(name=NAME)] == [result["image"]]


def test_there_is_always_a_current_image(shop: Shop) -> None:
    shop.json("upload", "debian", "one")
    counts: list[int] = []

    def before(method: str, _path: str, _query: Mapping[str, str]) -> None:
        if method != "GET":
            counts.append(len(shop.images(name=NAME, os_hidden=False, status="active")))

    shop.cloud.before = before
    shop.fill()
    shop.json("upload", "debian", "one")
    counts.append(len(shop.images(name=NAME, os_hidden=False, status="active")))
    assert set(counts[:-2]) == {1}
    assert counts[-2:] == [2, 1]


def test_an_identical_image_is_not_uploaded_again(shop: Shop) -> None:
    shop.json("upload", "debian", "one")
    code, out, _ = shop.run("upload", "debian", "one")
    assert code == ExitCode.OK
    assert "is there already" in out
    assert len(shop.images()) == 1
    assert shop.cloud.count("PUT", "/file$") == 1


@pytest.mark.parametrize(
    "glance",
    [
        {"properties": {"a": "b"}},
        {"tags": ["new"]},
        {"min_ram": 1},
        {"protected": True},
        {"visibility": "shared"},
    ],
)
def test_other_properties_make_it_another_image(shop: Shop, glance: dict[str, object]) -> None:
    shop.json("upload", "debian", "one")
    shop.write(glance=glance)
    (result,) = shop.json("upload", "debian", "one")
    assert result["outcome"] == "uploaded"
    shop.write()
    (result,) = shop.json("upload", "debian", "one")  # a property that went makes another one too
    assert result["outcome"] == "uploaded"
    assert len(shop.images(name=NAME)) == 1


def test_no_obsolete_leaves_the_older_one(shop: Shop) -> None:
    shop.json("upload", "debian", "one")
    shop.fill()
    shop.json("upload", "debian", "one", "--no-obsolete")
    assert len(shop.images(name=NAME)) == 2


def test_images_of_other_projects_are_not_touched(shop: Shop) -> None:
    theirs = shop.cloud.add_image(NAME, owner="other-id", visibility="public")
    before = dict(shop.cloud.region()[theirs])
    shop.json("upload", "debian", "one")
    assert shop.cloud.region()[theirs] == before


def test_a_snapshot_of_that_name_is_not_touched(shop: Shop) -> None:
    snapshot = shop.cloud.add_image(NAME, image_type="snapshot")
    shop.json("upload", "debian", "one")
    assert shop.cloud.region()[snapshot]["name"] == NAME


def test_one_read_of_the_file_feeds_all_regions(shop: Shop) -> None:
    shop.write(three(shop))
    results = shop.json("upload", "debian", "--all")
    assert [result["environment"] for result in results] == ["one", "three", "two"]
    assert {result["outcome"] for result in results} == {"uploaded"}
    for region in shop.cloud.regions:
        (image,) = shop.images(region)
        assert shop.cloud.contents[image["id"]] == (shop.path / "debian.qcow2").read_bytes()


def test_globs_and_comma_lists_choose_environments(shop: Shop) -> None:
    shop.write(three(shop))
    assert [one["environment"] for one in shop.json("upload", "debian", "t*", "--dry-run")] == [
        "three",
        "two",
    ]
    assert [one["environment"] for one in shop.json("upload", "debian", "two,one", "--dry-run")] == [
        "two",
        "one",
    ]
    code, _, err = shop.run("upload", "debian")
    assert code == ExitCode.NOT_IN_CONFIG
    assert "--all" in err
    assert shop.run("upload", "debian", "tow")[0] == ExitCode.NOT_IN_CONFIG


def test_one_region_failing_spoils_no_other_and_is_resumed_alone(shop: Shop) -> None:
    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "POST" and path.startswith("/image-RegionTwo"):
            raise Refusal(413, "The store is full")

    shop.cloud.before = before
    shop.write(three(shop))
    code, out, err = shop.run("upload", "debian", "one", "two", "three")
    assert code == ExitCode.UNSPECIFIED
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert "FAILED" in lines["two"]
    assert "The store is full" in lines["two"]
    assert "uploaded" in lines["one"]
    assert "uploaded" in lines["three"]
    assert "two: error: cannot make image" in err
    shop.cloud.before = lambda *_: None
    sent = shop.cloud.count("PUT", "/file$")
    results = shop.json("upload", "debian", "--all")
    assert {one["environment"]: one["outcome"] for one in results} == {
        "one": "unchanged",
        "three": "unchanged",
        "two": "uploaded",
    }
    assert shop.cloud.count("PUT", "/file$") == sent + 1


def test_a_failure_to_obsolete_puts_everything_back(shop: Shop) -> None:
    olds = [shop.cloud.add_image(NAME, content=bytes([number])) for number in range(3)]
    before = {old: dict(shop.cloud.region()[old]) for old in olds}
    done: list[str] = []

    def refuse(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "PATCH" and path.rpartition("/")[2] in olds:
            done.append(path)
            if len(done) == 2:
                raise Refusal(403, "this one is locked")

    shop.cloud.before = refuse
    code, _, err = shop.run("upload", "debian", "one")
    assert code == ExitCode.UNSPECIFIED
    assert "this one is locked" in err
    after = {old: dict(shop.cloud.region()[old]) for old in olds}
    for image in (*before.values(), *after.values()):
        del image["updated_at"]
    assert after == before
    assert set(shop.cloud.region()) == set(olds)


def test_when_nothing_can_be_put_back_the_new_image_stays_and_it_is_said(shop: Shop) -> None:
    old = shop.cloud.add_image(NAME)
    done: list[str] = []

    def refuse(method: str, path: str, _query: Mapping[str, str]) -> None:
        if path.endswith(old) and (done or method == "PATCH"):
            if not done:  # carried out, and then nothing of this image can be reached any more
                shop.cloud.region()[old].update(name="Obsolete", obsolete="true")
            done.append(path)
            raise Refusal(403, "gone mad")

    shop.cloud.before = refuse
    code, _, err = shop.run("upload", "debian", "one")
    assert code == ExitCode.UNSPECIFIED
    assert "none of the older ones is known to be current" in err
    assert len(shop.images(name=NAME, os_hidden=False, status="active")) == 1


def test_bytes_that_are_there_already_are_not_sent_again(shop: Shop) -> None:
    """A run that was killed between its upload and the moment at which its image shows."""
    shop.json("upload", "debian", "one")
    (image,) = shop.images()
    image.update(os_hidden=True, tags=["dibctl-unfinished"], dibctl_claim=claims.of_a_dead_process())
    (result,) = shop.json("upload", "debian", "one")
    assert (result["outcome"], result["image"]) == ("uploaded", image["id"])
    assert (image["os_hidden"], image["tags"]) == (False, [])
    assert shop.cloud.count("PUT", "/file$") == 1


def test_what_a_dead_run_left_is_removed_when_it_is_old(shop: Shop) -> None:
    old: dict[str, Any] = {"os_hidden": True, "status": "saving", "tags": ["dibctl-unfinished"]}
    dead = shop.cloud.add_image(NAME, **old, updated_at="2020-01-01T00:00:00Z")
    living = shop.cloud.add_image(NAME, **old)
    shop.json("upload", "debian", "one")
    assert dead not in shop.cloud.region()
    assert living in shop.cloud.region()


def test_dry_run_changes_nothing_and_says_what_would_be_done(shop: Shop) -> None:
    shop.json("upload", "debian", "one")
    (old,) = shop.images()
    shop.fill()
    calls = len(shop.cloud.calls)
    code, out, _ = shop.run("upload", "debian", "one", "--dry-run")
    assert code == ExitCode.OK
    assert "would be uploaded" in out
    assert old["id"] in out
    assert {method for method, path in shop.cloud.calls[calls:] if "auth/tokens" not in path} == {"GET"}


def test_input_is_uploaded_instead(shop: Shop) -> None:
    (shop.path / "debian.qcow2").rename(shop.path / "mine.qcow2")
    code, _, err = shop.run("upload", "debian", "one")
    assert code == ExitCode.UNSPECIFIED
    assert "no such image file" in err
    shop.json("upload", "debian", "one", "--input", "mine.qcow2")
    (image,) = shop.images()
    assert image["dibctl_sha512"] == hashlib.sha512((shop.path / "mine.qcow2").read_bytes()).hexdigest()


def test_a_conversion_is_made_once_for_all_that_want_it(shop: Shop) -> None:
    shop.write({**three(shop, convert={"disk_format": "raw"}), "four": {"keystone": shop.keystone()}})
    code, out, err = shop.run("upload", "debian", "one", "two", "three")
    assert code == ExitCode.OK, out + err
    assert err.count("qemu-img convert") == 1
    for region in shop.cloud.regions:
        (image,) = shop.images(region)
        assert image["disk_format"] == "raw"
        assert len(shop.cloud.contents[image["id"]]) == 1 << 20
        assert image["dibctl_conversion"] == "convert: raw"
        built = hashlib.sha512((shop.path / "debian.qcow2").read_bytes()).hexdigest()
        assert image["dibctl_sha512"] == built
    assert {path.name for path in shop.path.iterdir() if not path.name.endswith(".lock")} == {
        *("debian.qcow2", "images.yaml", "upload.yaml")
    }
    code, out, err = shop.run("upload", "debian", "one", "two", "three")
    assert out.count("is there already") == 3
    assert "qemu-img" not in err


def test_zstd_makes_a_qcow2_of_it(shop: Shop) -> None:
    keystone = {"keystone": shop.keystone()}
    shop.write({"one": {**keystone, "convert": {"disk_format": "qcow2", "compression": "zstd"}}})
    (result,) = shop.json("upload", "debian", "one", "--dry-run")
    assert result["conversion"] == "convert: qcow2 zstd"
    shop.json("upload", "debian", "one")
    (image,) = shop.images()
    assert image["disk_format"] == "qcow2"
    assert shop.cloud.contents[image["id"]] != (shop.path / "debian.qcow2").read_bytes()


def test_preprocessing_makes_the_file_and_its_failure_is_18(shop: Shop) -> None:
    command = "qemu-img convert -O %(disk_format)s %(input_filename)s %(output_filename)s"
    section = {"cmdline": command, "output_filename": "%(input_filename)s.out"}
    keystone, glance = shop.keystone(), {"disk_format": "raw"}
    shop.write(
        {
            "good": {"keystone": keystone, "glance": glance, "preprocessing": section},
            "bad": {
                "keystone": shop.keystone(region="RegionTwo"),
                "glance": glance,
                "preprocessing": {**section, "cmdline": "false"},
            },
        }
    )
    good, bad = shop.json("upload", "debian", "good", "bad", code=int(ExitCode.PREPROCESSING))
    assert (good["outcome"], bad["outcome"]) == ("uploaded", "failed")
    assert "bad.preprocessing" in bad["error"]
    assert shop.images()[0]["disk_format"] == "raw"
    assert not shop.images("RegionTwo")


def test_no_test_vouches_for_a_file_from_elsewhere(shop: Shop) -> None:
    section = {"cmdline": "false", "output_filename": "other.raw", "use_existing": True}
    (shop.path / "other.raw").write_bytes(b"anything" * 1000)
    entry = {"keystone": shop.keystone(), "glance": {"disk_format": "raw"}, "preprocessing": section}
    statement(shop)
    shop.write({"one": {**entry, "require_tested": True}})
    (result,) = shop.json("upload", "debian", "one", code=int(ExitCode.TESTS_FAILED))
    assert "other.raw was made of the tested file" in result["error"]
    assert not shop.images()
    shop.write({"one": entry})
    (result,) = shop.json("upload", "debian", "one")
    assert result["tested"] is None
    (image,) = shop.images()
    assert image["dibctl_tested"].startswith("no: ")
    (result,) = shop.json("upload", "debian", "one")
    assert result["outcome"] == "unchanged"
    assert image["dibctl_tested"].startswith("no: ")


def test_an_external_command_that_changes_the_converted_file_is_told(shop: Shop) -> None:
    convert = {"disk_format": "qcow2", "compression": "zstd"}
    command = {"cmdline": "sh -c 'echo more >> \"$1\"' - %(output_filename)s"}
    shop.write({"one": {"external_upload": [command], "convert": convert}})
    (result,) = shop.json("upload", "debian", "one", code=1)
    assert "changed" in result["error"]


def test_external_upload_replaces_ours_and_gets_the_names_quoted(shop: Shop) -> None:
    script = shop.path / "send.sh"
    script.write_text('#!/bin/sh\nprintf "%s|" "$@" > sent\n')
    script.chmod(0o755)
    line = "./send.sh %(output_filename)s %(label)s '%(name)s' %(disk_format)s"
    shop.write({"one": {"external_upload": [{"cmdline": line}]}})
    (result,) = shop.json("upload", "debian", "one")
    assert result["outcome"] == "external"
    assert (shop.path / "sent").read_text() == f"{shop.path / 'debian.qcow2'}|debian|{NAME}|qcow2|"
    assert not shop.cloud.calls
    shop.write({"one": {"external_upload": [{"cmdline": "false"}]}})
    (result,) = shop.json("upload", "debian", "one", code=1)
    assert "upload.yaml" in result["error"]


@pytest.mark.parametrize("second", ["touch %(imput_filename)s", "exit 1", "touch a > b"])
def test_no_command_runs_before_all_can(shop: Shop, second: str) -> None:
    shop.write({"one": {"external_upload": [{"cmdline": "touch ran"}, {"cmdline": second}]}})
    for options in ((), ("--dry-run",)):
        (result,) = shop.json("upload", "debian", "one", *options, code=10)
        assert "one.external_upload[1].cmdline" in result["error"]
    assert not (shop.path / "ran").exists()


def test_members_by_name_or_id_accepted_where_that_is_possible(shop: Shop) -> None:
    shop.write({"one": {"keystone": shop.keystone("admin")}}, glance={"members": ["other", "demo-id"]})
    (result,) = shop.json("upload", "debian", "one")
    (image,) = shop.images()
    assert image["visibility"] == "shared"
    assert shop.cloud.members[image["id"]] == {"other-id": "accepted", "demo-id": "accepted"}
    assert result["pending"] == []


def test_members_that_have_to_accept_it_themselves_are_told(shop: Shop) -> None:
    member = "0123456789abcdef0123456789abcdef"
    shop.write(glance={"members": [member]})
    (result,) = shop.json("upload", "debian", "one")
    assert result["pending"] == [member]
    shop.write(glance={"members": ["nobody"]})
    (result,) = shop.json("upload", "debian", "one", code=int(ExitCode.NOT_IN_CONFIG))
    assert "'nobody'" in result["error"]


def test_a_role_that_may_not_publish_is_refused_before_anything_is_sent(shop: Shop) -> None:
    old = shop.cloud.add_image(NAME)
    shop.write(glance={"public": True})
    (result,) = shop.json("upload", "debian", "one", code=1)
    assert "publicize_image" in result["error"]
    assert not shop.cloud.count("PUT", "/file$")
    assert list(shop.cloud.region()) == [old]
    assert shop.cloud.region()[old]["name"] == NAME


def test_stores_are_reached_by_import(shop: Shop) -> None:
    shop.write(glance={"stores": ["fast", "slow"]})
    shop.json("upload", "debian", "one")
    (image,) = shop.images()
    assert image["status"] == "active"
    assert shop.cloud.count("PUT", "/stage$") == 1
    assert shop.cloud.count("POST", "/import$") == 1


@pytest.mark.parametrize(
    ("glance", "path", "status"),
    [({}, "/file", "saving"), ({"import_method": "glance-direct"}, "/stage", "uploading")],
    ids=["plain", "import"],
)
@pytest.mark.parametrize("first_seen", ["at once", "late"])
def test_a_body_whose_connection_broke_is_sent_again_once_glance_has_noticed(
    shop: Shop, glance: Mapping[str, str], path: str, status: str, first_seen: str
) -> None:
    """Glance may look at the broken body after the client has looked at the image, or has sent again."""
    bodies = 0

    def forgotten() -> None:
        (image,) = shop.images()
        image["status"] = "queued"

    def begun() -> None:
        (image,) = shop.images()
        image["status"] = status
        threading.Timer(1.5, forgotten).start()

    def before(method: str, where: str, _query: Mapping[str, str]) -> None:
        nonlocal bodies
        if method != "PUT" or not where.endswith(path):
            return
        bodies += 1
        if bodies == (1 if first_seen == "at once" else 2):
            begun()
        if bodies == 1:
            raise ConnectionResetError

    shop.write(glance=dict(glance))
    shop.cloud.before = before
    shop.json("upload", "debian", "one")
    (image,) = shop.images()
    assert image["status"] == "active"
    assert bodies == (2 if first_seen == "at once" else 3)


def test_a_glance_that_refuses_the_body_for_a_moment_is_asked_again_after_a_pause(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, FIRST_PAUSE=0.1, LONGEST_PAUSE=0.2)
    when: list[float] = []

    def before(method: str, where: str, _query: Mapping[str, str]) -> None:
        if method == "PUT" and where.endswith("/file"):
            when.append(time.monotonic())
            if len(when) <= 6:
                raise Refusal(503, "no server is available")

    shop.cloud.before = before
    shop.json("upload", "debian", "one")
    assert len(when) == 7
    assert all(later - earlier >= 0.1 for earlier, later in itertools.pairwise(when))
    assert [image["status"] for image in shop.images()] == ["active"]


def test_a_glance_that_goes_on_refusing_the_body_is_given_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, SAFE_CALL_TIMEOUT=1.0, FIRST_PAUSE=0.1, LONGEST_PAUSE=0.2)

    def before(method: str, where: str, _query: Mapping[str, str]) -> None:
        if method == "PUT" and where.endswith("/file"):
            raise Refusal(503, "no server is available")

    shop.cloud.before = before
    (result,) = shop.json("upload", "debian", "one", code=1)
    assert "Glance answered 503: no server is available" in result["error"]
    assert not shop.images()


def test_an_import_whose_answer_is_lost_or_refused_for_a_moment_is_asked_for_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, FIRST_PAUSE=0.1, LONGEST_PAUSE=0.2)
    asked = 0

    def before(method: str, where: str, _query: Mapping[str, str]) -> None:
        nonlocal asked
        if method == "POST" and where.endswith("/import"):
            asked += 1
            if asked == 1:
                raise Refusal(503, "no server is available")
            if asked == 2:  # it was begun, and nobody heard of it
                (image,) = shop.images()
                image["status"] = "active"
                raise ConnectionResetError

    shop.write(glance={"import_method": "glance-direct"})
    shop.cloud.before = before
    shop.json("upload", "debian", "one")
    assert asked == 3
    assert shop.cloud.count("PUT", "/stage$") == 1
    assert [image["status"] for image in shop.images()] == ["active"]


def test_an_upload_whose_time_is_up_before_the_answer_names_the_setting(shop: Shop) -> None:
    def before(method: str, where: str, _query: Mapping[str, str]) -> None:
        if method == "PUT" and where.endswith("/file"):
            time.sleep(2)

    shop.write(glance={"upload_timeout": 1})
    shop.cloud.before = before
    (result,) = shop.json("upload", "debian", "one", code=1)
    assert "was not uploaded within 1 s" in result["error"]
    assert not shop.images()


def test_a_file_that_changes_meanwhile_is_not_published(shop: Shop) -> None:
    changed: list[str] = []

    def before(method: str, path: str, _query: Mapping[str, str]) -> None:
        if method == "PUT" and not changed:
            changed.append(path)
            file = shop.path / "debian.qcow2"
            with file.open("r+b") as opened:
                opened.seek(file.stat().st_size - 4096)
                opened.write(os.urandom(4096))

    # Large enough that the end of it has not been read when the request begins.
    shop.fill(os.urandom(48 << 20))
    shop.cloud.before = before
    (result,) = shop.json("upload", "debian", "one", code=1)
    assert "not the tested file" in result["error"]
    assert not shop.images()


def test_wrong_credentials_are_20_and_none_12(shop: Shop) -> None:
    shop.write({"one": {"keystone": {**shop.keystone(), "password": "wrong"}}})
    assert shop.run("upload", "debian", "one")[0] == ExitCode.AUTHORIZATION
    shop.write({"one": {"keystone": {"auth_url": shop.cloud.url}}})
    assert shop.run("upload", "debian", "one")[0] == ExitCode.CREDENTIALS


def test_an_image_without_a_name_is_10_with_its_place(shop: Shop) -> None:
    (shop.path / "images.yaml").write_text("debian: {filename: debian.qcow2}\n")
    (result,) = shop.json("upload", "debian", "one", code=int(ExitCode.CONFIG))
    assert "images.yaml:1" in result["error"]


def test_an_auth_url_of_another_cloud_is_refused_for_several(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write(three(shop))
    monkeypatch.setenv("OS_AUTH_URL", "http://127.0.0.1:1/v3")
    results = shop.json("upload", "debian", "one", "two", code=int(ExitCode.CONFIG))
    assert all("OS_AUTH_URL" in result["error"] for result in results)


def test_mark_obsolete(shop: Shop) -> None:
    ours = shop.cloud.add_image(NAME)
    theirs = shop.cloud.add_image(NAME, owner="other-id", visibility="public")
    marked, foreign, missing = shop.json(
        "mark-obsolete", "one", ours, theirs, "00000000-0000-0000-0000-000000000000", code=1
    )
    assert (marked["changed"], marked["name"]) == (True, f"Obsolete {NAME}")
    assert "belongs to project other-id" in foreign["error"]
    assert missing["exit_code"] == ExitCode.IMAGE_NOT_FOUND
    assert shop.cloud.region()[theirs]["name"] == NAME
    (again,) = shop.json("mark-obsolete", "one", ours)
    assert not again["changed"]
    assert shop.cloud.region()[ours]["name"] == f"Obsolete {NAME}"


def test_the_pattern_of_obsolete_names_is_the_environments(shop: Shop) -> None:
    rule = {"name": "%(name)s (old)", "properties": {"lifecycle": "ended"}}
    shop.write({"one": {"keystone": shop.keystone(), "obsolete": rule}})
    shop.json("upload", "debian", "one")
    (old,) = shop.images()
    shop.fill()
    shop.json("upload", "debian", "one")
    assert (old["name"], old["lifecycle"]) == (f"{NAME} (old)", "ended")
    assert "obsolete" not in old


def built_by_us(shop: Shop, **components: str) -> None:
    """Write the record that a build leaves beside the image's file."""
    file = shop.path / "debian.qcow2"
    record = fingerprint.Record(
        salt=fingerprint.new_salt(),
        components=components,
        file=artifact.Identity.of(file),
        sha512=digest(file),
        companions={},
        finished="2026-01-01T00:00:00Z",
    )
    fingerprint.save(file, record)


class TestBuildFacts:
    def facts(self, shop: Shop) -> dict[str, Any]:
        (image,) = shop.images(name=NAME)
        keys = ("dibctl_built", "dibctl_builder", "dibctl_recipe")
        return {key: image[key] for key in keys if key in image}

    def test_an_image_says_when_by_what_and_of_what_it_was_built(self, shop: Shop) -> None:
        components = {"diskimage-builder": "3.39.0", "element:debian": "d" * 64}
        built_by_us(shop, **components)
        shop.json("upload", "debian", "one")
        assert self.facts(shop) == {
            "dibctl_built": "2026-01-01T00:00:00Z",
            "dibctl_builder": "diskimage-builder 3.39.0",
            "dibctl_recipe": fingerprint.summary(components),
        }

    def test_a_record_of_another_file_says_nothing(self, shop: Shop) -> None:
        built_by_us(shop, external_build="x")
        shop.fill()
        shop.json("upload", "debian", "one")
        assert self.facts(shop) == {}

    def test_they_make_no_other_image_and_are_added_to_one_that_has_none(self, shop: Shop) -> None:
        shop.json("upload", "debian", "one")
        built_by_us(shop, external_build="x")
        (result,) = shop.json("upload", "debian", "one")
        assert result["outcome"] == "unchanged"
        before = self.facts(shop)
        assert before == {
            "dibctl_built": "2026-01-01T00:00:00Z",
            "dibctl_recipe": fingerprint.summary({"external_build": "x"}),
        }
        built_by_us(shop, external_build="y")  # which gave the same bytes
        (result,) = shop.json("upload", "debian", "one")
        assert (result["outcome"], self.facts(shop)) == ("unchanged", before)

    def test_equal_recipes_have_equal_fingerprints_whatever_the_salt(self) -> None:
        one = fingerprint.summary({"arch": "amd64", "environment:DIB_RELEASE": "1" * 64})
        assert one == fingerprint.summary({"environment:DIB_RELEASE": "2" * 64, "arch": "amd64"})
        assert one != fingerprint.summary({"arch": "arm64", "environment:DIB_RELEASE": "1" * 64})
        assert one != fingerprint.summary({"arch": "amd64"})


def test_an_images_own_endpoint_is_asked_by_every_command(shop: Shop) -> None:
    """RegionTwo's Glance stands for one that the catalog does not name."""
    own = shop.cloud.url.replace("/identity/v3", "/image-RegionTwo")
    shop.write({"one": {"keystone": shop.keystone("admin")}}, glance={"endpoint": own})
    manifests = shop.path / "debian.d/dib-manifests"
    manifests.mkdir(parents=True)
    (manifests / "dib-manifest-dpkg-debian").write_text('{"packages": []}')
    (result,) = shop.json("upload", "debian", "one")
    assert [image["id"] for image in shop.images("RegionTwo")] == [result["image"]]
    assert shop.json("diff", "debian", "one")["published"] == result["image"]
    shop.fill()
    shop.json("upload", "debian", "one")
    (verdict,) = shop.json("rotate-single", "debian", "one")
    assert (verdict["image"], verdict["outcome"]) == (result["image"], "deleted")
    assert not shop.cloud.count("GET", "^/image-RegionOne/")


def statement(shop: Shop, **more: Any) -> None:
    """Write what a test run would have written of the image's file."""
    file, test = shop.path / "debian.qcow2", shop.path / "tests" / "test_it.py"
    test.parent.mkdir(exist_ok=True)
    test.touch()
    usual = {
        "test_files": {"tests/test_it.py": hashlib.sha256(b"").hexdigest()},
        "file": file.name,
        "sha512": hashlib.sha512(file.read_bytes()).hexdigest(),
        "label": "debian",
        "environment": "local",
        "finished": "2026-01-01T00:00:00Z",
        "whole": True,
        "entries": ("pytest: tests/test_it.py",),
    }
    statements.add(file, statements.Statement(**{**usual, **more}))


class TestTested:
    @pytest.fixture(autouse=True)
    def _required(self, shop: Shop) -> None:
        tests = {"tests_list": [{"pytest": "tests/test_it.py"}]}
        shop.write({"one": {"keystone": shop.keystone(), "require_tested": True}}, tests=tests)

    def test_what_passed_is_published_and_says_so(self, shop: Shop) -> None:
        statement(shop)
        code, out, err = shop.run("upload", "debian", "one")
        assert code == ExitCode.OK
        assert "warning" not in err
        assert "2026-01-01T00:00:00Z in local" in out
        assert shop.images()[0]["dibctl_tested"] == "2026-01-01T00:00:00Z in local"

    @pytest.mark.parametrize(
        "more",
        [
            {"whole": False},
            {"failed": ("t::a",)},
            {"sha512": "0" * 128},
            {"label": "other"},
            {"entries": ("pytest: tests/another.py",)},
            {"test_files": None},
            {"test_files": {}},
            {"test_files": {"tests/test_it.py": hashlib.sha256(b"changed").hexdigest()}},
            {"test_files": {"tests/gone.py": hashlib.sha256(b"").hexdigest()}},
        ],
    )
    def test_anything_less_is_refused_before_a_call(self, shop: Shop, more: dict[str, Any]) -> None:
        statement(shop, **more)
        (result,) = shop.json("upload", "debian", "one", code=int(ExitCode.TESTS_FAILED))
        assert "require_tested" in result["error"]
        assert not shop.cloud.calls

    def test_parts_of_an_image_s_tests_do_not_add_up(self, shop: Shop) -> None:
        statement(shop, whole=False, environment="local", passed=("t::a",))
        statement(shop, whole=False, environment="roomy", passed=("t::b",))
        code, out, err = shop.run("upload", "debian", "one")
        told = " ".join((out + err).split())
        assert code == ExitCode.TESTS_FAILED
        assert "of 2 that passed, each left tests out, and parts do not add up" in told
        assert not shop.cloud.calls

    def test_tests_that_passed_in_a_container_alone_do_not_vouch(self, shop: Shop) -> None:
        statement(shop, environment="container", environment_vouches=False)
        code, out, err = shop.run("upload", "debian", "one")
        told = " ".join((out + err).split())
        assert code == ExitCode.TESTS_FAILED
        assert "it passed on 2026-01-01T00:00:00Z in container, but container does not vouch" in told
        assert "`pytest --dib-image=debian --dib-ladder=container,local`" in told
        assert not shop.cloud.calls

    def test_a_ladder_that_ends_in_a_machine_vouches_and_is_told(self, shop: Shop) -> None:
        statement(shop, ladder=("container", "local"))
        assert shop.run("upload", "debian", "one")[0] == ExitCode.OK
        assert shop.images()[0]["dibctl_tested"] == "2026-01-01T00:00:00Z in container and local"

    def test_changed_tests_vouch_where_the_environment_says_so(self, shop: Shop) -> None:
        one = {"keystone": shop.keystone(), "require_tested": True, "accept_changed_tests": True}
        shop.write({"one": one}, tests={"tests_list": [{"pytest": "tests/test_it.py"}]})
        statement(shop, test_files={"tests/test_it.py": hashlib.sha256(b"changed").hexdigest()})
        assert shop.run("upload", "debian", "one")[0] == ExitCode.OK

    @pytest.mark.parametrize("name", ["test_new.py", "deep/new_test.py"])
    def test_a_test_that_came_into_a_listed_folder_since_does_not_vouch(self, shop: Shop, name: str) -> None:
        tests = {"tests_list": [{"pytest": "tests"}]}
        shop.write({"one": {"keystone": shop.keystone(), "require_tested": True}}, tests=tests)
        statement(shop, entries=("pytest: tests",))
        (shop.path / "tests" / name).parent.mkdir(exist_ok=True)
        (shop.path / "tests" / name).touch()
        assert shop.run("upload", "debian", "one")[0] == ExitCode.TESTS_FAILED
        (shop.path / "tests" / name).unlink()
        assert shop.run("upload", "debian", "one")[0] == ExitCode.OK

    def test_external_tests_have_to_be_among_them(self, shop: Shop) -> None:
        environments = {"one": {"keystone": shop.keystone(), "require_tested": True}}
        shop.write(environments, external_tests=[{"cmdline": "true"}])
        statement(shop, entries=("pytest: generic:login",))
        assert shop.run("upload", "debian", "one")[0] == ExitCode.TESTS_FAILED
        statement(shop, entries=("external: true", "pytest: generic:login"))
        assert shop.run("upload", "debian", "one")[0] == ExitCode.OK

    def test_a_whole_run_that_failed_takes_its_environments_word_back(self, shop: Shop) -> None:
        statement(shop)
        statement(shop, failed=("t::a",), finished="2026-01-02T00:00:00Z")
        assert shop.run("upload", "debian", "one")[0] == ExitCode.TESTS_FAILED
        statement(shop, environment="elsewhere")
        assert shop.run("upload", "debian", "one")[0] == ExitCode.OK

    def test_a_part_of_the_tests_does_not_take_it_back(self, shop: Shop) -> None:
        statement(shop)
        statement(shop, whole=False, failed=("t::a",))
        assert shop.run("upload", "debian", "one")[0] == ExitCode.OK

    def test_elsewhere_it_is_a_warning(self, shop: Shop) -> None:
        shop.write()
        code, _, err = shop.run("upload", "debian", "one")
        assert code == ExitCode.OK
        assert "vouches for" in err

    def test_an_image_that_is_there_is_told_when_it_was_tested(self, shop: Shop) -> None:
        tests = {"tests_list": [{"pytest": "tests/test_it.py"}]}
        shop.write(tests=tests)
        shop.json("upload", "debian", "one")
        statement(shop)
        (result,) = shop.json("upload", "debian", "one")
        assert result["outcome"] == "unchanged"
        assert shop.images()[0]["dibctl_tested"] == "2026-01-01T00:00:00Z in local"

    def test_lines_that_are_no_statements_are_left_out(self, shop: Shop) -> None:
        statement(shop)
        file = statements.file_of(shop.path / "debian.qcow2")
        file.write_text(
            "garbage\n[]\n{}\n" + file.read_text().replace('"PASSED"', '"FAILED"') + file.read_text()
        )
        assert shop.run("upload", "debian", "one")[0] == ExitCode.OK
        assert len(statements.read(shop.path / "debian.qcow2")) == 2
