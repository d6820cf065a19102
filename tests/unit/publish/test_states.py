"""What may never happen to images in production, tried on random states of a cloud in memory.

``DIBCTL_STATES`` says how many states of each kind; ``tox -e states`` tries 10,000.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_dibctl.clouds.file_body import FileBody, SharedFile
from pytest_dibctl.clouds.glance_content import BootFile
from pytest_dibctl.clouds.marks import CLAIM_KEY, COMPANION, UNFINISHED
from pytest_dibctl.clouds.regions import ImageRecord, ImageSpec
from pytest_dibctl.config.models.upload import Obsoleting
from pytest_dibctl.errors import ApiError, DibctlError, NovaForbiddenError
from pytest_dibctl.publish import obsolete, rotate
from pytest_dibctl.publish.desired import SHA512, Wanted
from pytest_dibctl.publish.replace import Work, replace
from pytest_dibctl.publish.unfinished import STALE
from tests.support import claims
from tests.support.regions import START, Cloud, MemoryRegion, record

STATES = int(os.environ.get("DIBCTL_STATES", "150"))
thorough = settings(
    max_examples=STATES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
RULE = Obsoleting()
NAME = "Debian"
CONTENT = b"what was tested"
KERNEL = b"what it boots by"
TIMEOUT = 60.0


@st.composite
def images(draw: st.DrawFn) -> list[ImageRecord]:
    """Return images of two projects in all conditions, some of them kernels of others."""
    made: list[ImageRecord] = []
    for number in range(draw(st.integers(0, 7))):
        obsolete = draw(st.booleans())
        name = draw(st.sampled_from([NAME, NAME, "Other"]))
        properties: dict[str, str] = {}
        if obsolete:
            properties["obsolete"] = "true"
            name = draw(st.sampled_from([f"Obsolete {name}", f"Obsolete {name}", name]))
        if draw(st.integers(0, 5)) == 0:
            properties["image_type"] = "snapshot"
        if made and draw(st.integers(0, 3)) == 0:
            properties["kernel_id"] = draw(st.sampled_from(made)).id
        tags: frozenset[str] = frozenset()
        hidden = draw(st.integers(0, 4)) == 0
        match draw(st.integers(0, 6)):
            case 0:
                tags = frozenset({COMPANION})
            case 1:
                name, hidden, tags = f"{NAME} (kernel)", True, frozenset({COMPANION, UNFINISHED})
            case 2:
                name, hidden, tags = NAME, True, frozenset({UNFINISHED})
        when = START + dt.timedelta(hours=draw(st.integers(0, 40)))
        made.append(
            record(
                f"i{number}",
                name=name,
                owner=draw(st.sampled_from(["ours", "ours", "ours", "theirs"])),
                status=draw(st.sampled_from(["active", "active", "active", "queued", "deactivated"])),
                hidden=hidden,
                protected=draw(st.integers(0, 4)) == 0,
                disk_format=draw(st.sampled_from(["qcow2", "qcow2", "aki"])),
                tags=tags,
                properties=properties,
                created=when,
                updated=when,
            )
        )
    return made


@st.composite
def clouds(draw: st.DrawFn) -> Cloud:
    present = draw(images())
    ids = [image.id for image in present]
    some = st.sets(st.sampled_from(ids)) if ids else st.just(set())
    return Cloud(
        images={image.id: image for image in present},
        servers={one: [f"server on {one}"] for one in draw(some)},
        volumes={one: [f"volume of {one}"] for one in draw(some)},
        in_store=draw(some) if draw(st.booleans()) else set(),
    )


@st.composite
def faults(draw: st.DrawFn) -> Callable[[str], None]:
    """Return what makes chosen calls fail: some of each kind, or all from one on."""
    failing = {kind: draw(st.sets(st.integers(0, 6), max_size=3)) for kind in ("change", "delete", "image")}
    for_good = draw(st.one_of(st.none(), st.integers(0, 25)))
    counts: collections.Counter[str] = collections.Counter()

    def fails(call: str) -> None:
        number, total = counts[call], counts.total()
        counts[call] += 1
        if number in failing.get(call, ()) or (for_good is not None and total >= for_good):
            raise ApiError(f"{call} failed")

    return fails


# -- rotate ----------------------------------------------------------------------------------------


def may_go(image: ImageRecord, cloud: Cloud, policy: rotate.Policy) -> bool:
    """Say, in other words than the code's, whether an image may be deleted."""
    used = cloud.servers.get(image.id) or cloud.volumes.get(image.id) or image.id in cloud.in_store
    limit = START + dt.timedelta(days=2) - (policy.older_than or dt.timedelta())
    return (
        image.owner == "ours"
        and image.properties.get("obsolete") == "true"
        and image.name.startswith("Obsolete ")
        and image.properties.get("image_type") != "snapshot"
        and not image.protected
        and not used
        and (policy.older_than is None or image.updated <= limit)
        and (not policy.names or image.name in {f"Obsolete {name}" for name in policy.names})
    )


def is_kernel(image: ImageRecord, present: dict[str, ImageRecord]) -> bool:
    return any(image.id == other.properties.get("kernel_id") for other in present.values())


def kept(cloud: Cloud, policy: rotate.Policy) -> set[str]:
    """Return the newest of each name that a rotation could take at all."""
    found: set[str] = set()
    takes = [
        image
        for image in cloud.images.values()
        if image.owner == "ours"
        and image.properties.get("obsolete") == "true"
        and image.name.startswith("Obsolete ")
        and image.properties.get("image_type") != "snapshot"
        and not image.protected
    ]
    for name in {image.name for image in takes}:
        same = sorted(
            (image for image in takes if image.name == name),
            key=lambda one: (one.updated, one.created, one.id),
        )
        found |= {image.id for image in same[len(same) - policy.keep :]} if policy.keep else set()
    return found


policies = st.builds(
    rotate.Policy,
    rule=st.just(RULE),
    where=st.just("upload.yaml"),
    keep=st.integers(0, 2),
    older_than=st.one_of(st.none(), st.integers(1, 40).map(lambda hours: dt.timedelta(hours=hours))),
    names=st.sampled_from([(), (NAME,), (NAME, "Other")]),
)


@thorough
@given(cloud=clouds(), policy=policies, fails=st.one_of(st.none(), faults()))
def test_rotate_deletes_only_what_may_go(
    cloud: Cloud, policy: rotate.Policy, fails: Callable[[str], None] | None
) -> None:
    before, stay = dict(cloud.images), kept(cloud, policy)
    going = {image.id for image in before.values() if may_go(image, cloud, policy) and image.id not in stay}
    broken = fails is not None
    if fails is not None:
        cloud.fails = fails
    try:
        verdicts = rotate.rotate(MemoryRegion(cloud=cloud), policy, tell=lambda _line: None)
    except DibctlError:
        assert broken
        verdicts = []
    gone = set(before) - set(cloud.images)
    parts = {
        image_id
        for image_id in gone
        if "dibctl-companion" in before[image_id].tags and is_kernel(before[image_id], before)
    }
    assert gone - parts <= going
    for image_id in parts - going:  # a kernel goes only with the last image that needed it
        assert before[image_id].owner == "ours"
        assert not is_kernel(before[image_id], cloud.images)
    assert {image_id: image for image_id, image in before.items() if image_id in cloud.images} == cloud.images
    if not broken:
        told = {verdict.candidate.id for verdict in verdicts if verdict.outcome == "deleted"}
        kernels = {one for one in going if before[one].disk_format == "aki"}
        assert going - kernels <= gone
        assert told <= gone


@thorough
@given(cloud=clouds(), policy=policies)
def test_a_plan_says_what_a_rotation_does_and_changes_nothing(cloud: Cloud, policy: rotate.Policy) -> None:
    before = dict(cloud.images)
    region = MemoryRegion(cloud=cloud)
    planned = {verdict.candidate.id: verdict.outcome for verdict in rotate.plan(region, policy)}
    assert cloud.images == before
    for verdict in rotate.rotate(region, policy, tell=lambda _line: None):
        expected = {"goes": {"deleted", "stays"}, "stays": {"stays", "failed"}}[planned[verdict.candidate.id]]
        assert verdict.outcome in expected
        if verdict.outcome == "stays" and planned[verdict.candidate.id] == "goes":
            assert verdict.reason.startswith(("the store", "image i"))


def test_without_an_admin_nothing_is_deleted() -> None:
    cloud = Cloud(images={"a": record("a", name="Obsolete Debian", properties={"obsolete": "true"})})
    policy = rotate.Policy(rule=RULE, where="")
    with pytest.raises(NovaForbiddenError) as caught:
        rotate.rotate(MemoryRegion(cloud=cloud, admin=False), policy, tell=print)
    assert caught.value.exit_code == 61
    assert "a" in cloud.images


# -- upload and obsolete ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image"
        path.write_bytes(CONTENT)
        path.with_name("kernel").write_bytes(KERNEL)
        yield path


OBSOLETE_FACTS = {"obsolete", "obsoleted_at", "obsoleted_by"}


def current(cloud: Cloud) -> list[ImageRecord]:
    """Return what users find under the name."""
    return [
        image
        for image in cloud.images.values()
        if image.owner == "ours"
        and image.name == NAME
        and image.status == "active"
        and not image.hidden
        and "obsolete" not in image.properties
        and image.properties.get("image_type") != "snapshot"
        and not image.tags
    ]


def wanted(kernel: Path | None = None, members: tuple[str, ...] = ()) -> Wanted:
    part = hashlib.sha512(KERNEL).hexdigest()
    digest = hashlib.sha512(CONTENT).hexdigest()
    return Wanted(
        spec=ImageSpec(name=NAME, disk_format="raw", properties={SHA512: digest}),
        members=members,
        companions=(BootFile(key="kernel_id", path=kernel, disk_format="aki", sha512=part),)
        if kernel
        else (),
        conversion=None,
        sha512=digest,
        rule=RULE,
        rule_at="",
        properties_at="",
        timeout=TIMEOUT,
    )


def may_be_swept(image: ImageRecord, before: dict[str, ImageRecord], cloud: Cloud) -> bool:
    """Say, in other words than the code's, whether an upload of NAME may have removed an image."""
    if image.owner != "ours" or is_kernel(image, cloud.images):
        return False
    old = image.updated < START + dt.timedelta(days=2) - STALE - dt.timedelta(seconds=TIMEOUT)
    names = {NAME, f"{NAME} (kernel)", f"{NAME} (ramdisk)"}
    if UNFINISHED in image.tags and image.hidden and image.name in names and old:
        return True
    parents = [one for one in before.values() if one.properties.get("kernel_id") == image.id]
    swept = [one for one in parents if UNFINISHED in one.tags and one.owner == "ours"]
    return COMPANION in image.tags and bool(swept)


def check_others(cloud: Cloud, before: dict[str, ImageRecord], had: list[ImageRecord]) -> None:
    """Check that an upload removed only what it may, changed nothing else, and left nothing unmarked."""
    for image in before.values():
        if image.id not in cloud.images:
            assert may_be_swept(image, before, cloud)
        elif image not in had:
            assert cloud.images[image.id] == image
    shown = {one for image in current(cloud) for one in (image.id, image.properties.get("kernel_id"))}
    for image in cloud.images.values():  # whatever is left of this upload is known to be
        assert image.id in before or image.id in shown or UNFINISHED in image.tags


def made_of(cloud: Cloud, image: ImageRecord) -> list[ImageRecord]:
    """Return an image and its kernel, if it has one."""
    kernel = image.properties.get("kernel_id")
    return [image, *([cloud.images[kernel]] if kernel else [])]


@thorough
@given(
    cloud=clouds(),
    fails=st.one_of(st.none(), faults()),
    answers=st.one_of(st.none(), faults()),
    what=st.tuples(st.booleans(), st.sampled_from([(), ("theirs",)])),
)
def test_an_upload_never_leaves_no_current_image(
    cloud: Cloud,
    fails: Callable[[str], None] | None,
    answers: Callable[[str], None] | None,
    what: tuple[bool, tuple[str, ...]],
    file: Path,
) -> None:
    before, had = dict(cloud.images), current(cloud)
    with_kernel, members = what
    cloud.fails, cloud.answers = fails or cloud.fails, answers or cloud.answers
    least: list[int] = []
    cloud.changed = lambda: least.append(len(current(cloud)))
    stream = SharedFile(file, sha512=hashlib.sha512(CONTENT).hexdigest())
    work = Work(
        region=MemoryRegion(cloud=cloud),
        wanted=wanted(file.with_name("kernel") if with_kernel else None, members),
        content=lambda: FileBody(stream, deadline=float("inf")),
    )
    error: DibctlError | None = None
    try:
        done = replace(work)
    except DibctlError as failure:
        error = failure
    finally:
        stream.close()
    assert not had or min(least, default=1) >= 1
    check_others(cloud, before, had)
    if error is None:
        assert [image.id for image in current(cloud)] == [done.image.id]
        assert cloud.contents[done.image.id] == CONTENT
        made = made_of(cloud, done.image)
        assert len(made) == 1 + with_kernel
        assert all(set(cloud.members.get(image.id, ())) == set(members) for image in made)
        if fails is None and answers is None:
            assert set(cloud.images) - set(before) == {one.id for one in made}
            assert [image.tags for image in made] == [frozenset(), {COMPANION}][: len(made)]
        for image in had:
            assert cloud.images[image.id].properties["obsoleted_by"] == done.image.id
    elif not getattr(error, "__notes__", ()):
        assert {image.id for image in had} <= {image.id for image in current(cloud)}
        assert set(cloud.images) == set(before)
        for image in before.values():
            now = dataclasses.replace(cloud.images[image.id], updated=image.updated)
            assert now == image


@thorough
@given(cloud=clouds(), fails=st.one_of(st.none(), faults()), data=st.data())
def test_marking_changes_only_what_is_named_and_ours(
    cloud: Cloud, fails: Callable[[str], None] | None, data: st.DataObject
) -> None:
    before = dict(cloud.images)
    chosen = data.draw(st.lists(st.sampled_from([*before, "nowhere"]), unique=True))
    cloud.fails = fails or cloud.fails
    marked = {one.image_id: one for one in obsolete.mark(MemoryRegion(cloud=cloud), chosen, RULE, where="")}
    assert list(marked) == chosen
    for image in before.values():
        now = cloud.images[image.id]
        one = marked.get(image.id)
        if one is None or not one.changed:
            assert now == image
            assert one is None or one.error or image.properties.get("obsolete") == "true"
        else:
            assert image.owner == "ours"
            assert (now.name, now.properties["obsolete"]) == (f"Obsolete {image.name}", "true")
            kept = {key: value for key, value in now.properties.items() if key not in OBSOLETE_FACTS}
            assert kept == image.properties
            assert (
                dataclasses.replace(now, name=image.name, properties=image.properties, updated=image.updated)
                == image
            )
    cloud.fails = lambda _call: None
    after = dict(cloud.images)
    again = [one for one in marked.values() if one.changed]
    assert not any(
        one.changed
        for one in obsolete.mark(MemoryRegion(cloud=cloud), [one.image_id for one in again], RULE, where="")
    )
    assert cloud.images == after


@thorough
@given(cloud=clouds(), name=st.sampled_from(["%(name)s", "Obsolete %(name)s", "D%(name)s"]), data=st.data())
def test_a_rotation_never_deletes_a_current_image_whatever_the_rule(
    cloud: Cloud, name: str, data: st.DataObject
) -> None:
    """A rule that current images fulfil, on images that this tool published or replaced, or did not make."""
    for image in list(cloud.images.values()):
        facts = data.draw(st.sampled_from([{}, {SHA512: "0"}, {SHA512: "0", "obsoleted_at": "2025-01-01"}]))
        properties = {key: value for key, value in image.properties.items() if key != "obsolete"}
        cloud.images[image.id] = dataclasses.replace(image, properties={**properties, "os": "x", **facts})
    before = dict(cloud.images)
    rule = Obsoleting.model_construct(name=name, properties={"os": "x"})
    rotate.rotate(MemoryRegion(cloud=cloud), rotate.Policy(rule=rule, where=""), tell=lambda _line: None)
    for image in before.values():
        is_part = COMPANION in image.tags and is_kernel(image, before)
        if "obsoleted_at" not in image.properties and not is_part:
            assert cloud.images[image.id] == image


@thorough
@given(cloud=clouds(), step=st.integers(0, 8), fails=st.one_of(st.none(), faults()), second=st.booleans())
def test_two_uploads_at_a_time_leave_one_current_image(
    cloud: Cloud, step: int, fails: Callable[[str], None] | None, second: bool, file: Path
) -> None:
    """The second upload runs between two changes of the first; one of them meets faults."""
    had = current(cloud)
    least: list[int] = []
    ended: list[DibctlError | None] = []
    changes = 0

    def upload(label: str) -> None:
        stream = SharedFile(file, sha512=hashlib.sha512(CONTENT).hexdigest())
        image = wanted()  # with another property it is another image, which no other upload takes up
        spec = dataclasses.replace(image.spec, properties={**image.spec.properties, "by": label})
        work = Work(
            region=MemoryRegion(cloud=cloud),
            wanted=dataclasses.replace(image, spec=spec),
            content=lambda: FileBody(stream, deadline=float("inf")),
        )
        try:
            replace(work)
        except DibctlError as error:
            ended.append(error)
        else:
            ended.append(None)
        finally:
            stream.close()

    def changed() -> None:
        nonlocal changes
        least.append(len(current(cloud)))
        changes += 1
        if changes == step + 1:
            before, cloud.fails = cloud.fails, (fails or cloud.fails) if second else lambda _call: None
            upload("second")
            cloud.fails = before

    cloud.changed = changed
    if fails is not None and not second:
        cloud.fails = fails
    upload("first")
    cloud.fails = lambda _call: None
    assert not had or min(least, default=1) >= 1
    if None in ended:
        assert current(cloud)
    if not any(ended):
        assert len(current(cloud)) == 1
    if not [note for error in ended if error for note in getattr(error, "__notes__", ())]:
        cloud.changed = lambda: None
        upload("first")  # the next command repairs what is left
        assert len(current(cloud)) == 1


@st.composite
def left_bytes(draw: st.DrawFn) -> ImageRecord | None:
    """Return what an upload of the same bytes has left, if there was one."""
    kind = draw(st.sampled_from([None, "dead", "elsewhere", "stale"]))
    if kind is None:
        return None
    claim = claims.of_a_dead_process() if kind == "dead" else claims.ELSEWHERE
    return record(
        "left",
        name=NAME,
        hidden=True,
        tags=frozenset({UNFINISHED}),
        disk_format="raw",
        properties={SHA512: hashlib.sha512(CONTENT).hexdigest(), CLAIM_KEY: claim},
        hash_value=hashlib.sha512(CONTENT).hexdigest(),
        created=START + dt.timedelta(days=1, hours=20),
        updated=START if kind == "stale" else START + dt.timedelta(days=2),
    )


def upload_same(cloud: Cloud, file: Path) -> DibctlError | None:
    """Upload the bytes to be tested; return the error."""
    stream = SharedFile(file, sha512=hashlib.sha512(CONTENT).hexdigest())
    content = functools.partial(FileBody, stream, deadline=float("inf"))
    try:
        replace(Work(region=MemoryRegion(cloud=cloud), wanted=wanted(), content=content))
    except DibctlError as error:
        return error
    finally:
        stream.close()
    return None


@thorough
@given(
    cloud=clouds(),
    step=st.integers(0, 8),
    faulty=st.tuples(st.one_of(st.none(), faults()), st.booleans()),
    left=left_bytes(),
)
def test_two_uploads_of_the_same_bytes_never_undo_each_other(
    cloud: Cloud,
    step: int,
    faulty: tuple[Callable[[str], None] | None, bool],
    left: ImageRecord | None,
    file: Path,
) -> None:
    """As above, and an upload that was cut off may have left these bytes before."""
    fails, second = faulty
    if left is not None:
        cloud.images[left.id], cloud.contents[left.id] = left, CONTENT
    had, errors, least = current(cloud), [], list[int]()

    def changed() -> None:
        least.append(len(current(cloud)))
        if len(least) == step + 1:
            before, cloud.fails = cloud.fails, (fails or cloud.fails) if second else lambda _call: None
            errors.append(upload_same(cloud, file))
            cloud.fails = before

    cloud.changed = changed
    if fails is not None and not second:
        cloud.fails = fails
    errors.append(upload_same(cloud, file))
    cloud.fails, cloud.changed = lambda _call: None, lambda: None
    assert not had or min(least, default=1) >= 1
    if None in errors:
        assert current(cloud)
    if errors[-1] is None:  # the last one to end
        digest = hashlib.sha512(CONTENT).hexdigest()
        assert [image.hash_value for image in current(cloud)] == [digest]
    assert upload_same(cloud, file) is None
    assert len(current(cloud)) == 1


def test_an_image_that_another_upload_took_up_and_published_stays(file: Path) -> None:
    """Both found it left unfinished; the second comes when the first is about to publish it."""
    cloud = Cloud()
    digest = hashlib.sha512(CONTENT).hexdigest()
    properties = {SHA512: digest, CLAIM_KEY: claims.of_a_dead_process()}
    cloud.images["left"] = record(
        "left",
        disk_format="raw",
        hidden=True,
        tags=frozenset({UNFINISHED}),
        properties=properties,
        hash_value=digest,
    )
    stream = SharedFile(file, sha512=digest)
    work = Work(
        region=MemoryRegion(cloud=cloud),
        wanted=wanted(),
        content=lambda: FileBody(stream, deadline=float("inf")),
    )

    def changed() -> None:
        cloud.changed = lambda: None
        image = cloud.images["left"]
        stale = {**image.properties, CLAIM_KEY: claims.of_a_dead_process()}
        cloud.images["left"] = dataclasses.replace(image, properties=stale)
        replace(work)
        failing = iter([True])

        def fails(call: str) -> None:
            if call == "change" and next(failing, False):
                raise ApiError("change failed")

        cloud.fails = fails

    cloud.changed = changed
    with contextlib.suppress(ApiError):
        replace(work)
    stream.close()
    assert len(current(cloud)) == 1
