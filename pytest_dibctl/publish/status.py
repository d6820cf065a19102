"""The status of each image: built, tested, published, and which of these are outdated.

Nothing is built, and nothing is changed in a cloud.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pytest_dibctl.build import fingerprint
from pytest_dibctl.build.plan import is_built_here, plan_for, target_file
from pytest_dibctl.clouds.regions import UNKNOWN, ImageRecord, Region
from pytest_dibctl.config import merge
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.upload import Obsoleting, UploadEnvironment
from pytest_dibctl.errors import ApiError, DibctlError
from pytest_dibctl.image import artifact, statements
from pytest_dibctl.publish import image_state
from pytest_dibctl.publish.desired import CONVERSION, RECIPE, SHA512
from pytest_dibctl.system import text
from pytest_dibctl.system.waiting import wait_until

Opener = Callable[[Entry[UploadEnvironment], str | None], Region]
Recipe = Literal["unchanged", "outdated", "none", "elsewhere", "broken"]
Outcome = Literal["passed", "failed", "incomplete", "elsewhere", "outdated", "none"]
Place = Literal["this file", "another file", "not published", "unreachable", "external"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """The image's file; ``sha512`` is None where there is none.

    ``finished`` is the end of its build; for a file that was built elsewhere, it is the file's last change.
    ``fingerprint`` is the digest of the inputs of its build, ``today`` that of the inputs of a build now;
    None where it is not known. ``recipe`` is "none" for a file that is not built yet, and "elsewhere" for a
    file that is not built here. ``reason`` says why it is outdated, ``error`` why its recipe cannot be used
    or the file cannot be read.
    """

    file: Path
    recipe: Recipe
    sha512: str | None = None
    finished: str | None = None
    fingerprint: str | None = None
    today: str | None = None
    reason: str | None = None
    error: DibctlError | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tested:
    """The tests of the file: by the statement that vouches for it, else by the newest statement.

    Of ``outcome``, "elsewhere" is a pass in an environment that does not vouch for images, and "outdated" one
    of tests that have changed since, or of fewer than are listed now.
    """

    outcome: Outcome
    finished: str | None = None
    environment: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """The current image in one environment, the newest of ``current`` ones; None if there is none.

    ``outdated`` says whether it was built of another recipe than today's, None where that is not known;
    ``now`` is the server's time.
    """

    environment: str
    place: Place
    name: str | None = None
    image: ImageRecord | None = None
    now: dt.datetime = UNKNOWN
    current: int = 0
    outdated: bool | None = None
    error: DibctlError | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """All that is known of one image; ``published`` is in the order of the environments."""

    label: str
    built: Built
    tested: Tested
    published: tuple[Published, ...] = ()


def status(
    images: Sequence[Entry[Image]],
    environments: Sequence[Entry[UploadEnvironment]],
    *,
    cwd: Path,
    open_region: Opener,
    timeout: float,
) -> list[Status]:
    """Return the status of each image; all clouds are asked at once, for ``timeout`` seconds at most.

    ``open_region`` logs in to an environment, at the Glance that an image names, and is called in threads.
    The result names unknown values; no error is raised for them. A file whose digest is not known yet is read
    once.
    """
    # The files are read while the clouds are asked.
    visits = _visits(images, environments, open_region)
    try:
        local = [(image, built := _built(image, cwd), _tested(image, built, cwd)) for image in images]
        wait_until(lambda: all(visit.ended for visit in visits.values()), timeout=timeout, poll=0.02)
    finally:
        for visit in visits.values():
            visit.stop()
    return [
        Status(
            label=image.label,
            built=built,
            tested=tested,
            published=tuple(
                _published(image, environment, _outcome(image, environment, visits, timeout), built)
                for environment in environments
            ),
        )
        for image, built, tested in local
    ]


# -- this machine ----------------------------------------------------------------------------------


def _built(image: Entry[Image], cwd: Path) -> Built:
    file = target_file(image, None, cwd)
    known = Built(file=file, recipe="elsewhere")
    error: DibctlError | None = None
    try:
        known = _recipe(image, file, cwd) if is_built_here(image.settings) else known
    except DibctlError as broken:
        known, error = Built(file=file, recipe="broken"), broken
    identity = artifact.Identity.if_any(file)
    if identity is None:
        recipe: Recipe = "none" if known.recipe == "outdated" else known.recipe
        return dataclasses.replace(known, recipe=recipe, finished=None, fingerprint=None, error=error)
    try:
        sha512 = artifact.digest_of(file)
    except DibctlError as unreadable:
        return dataclasses.replace(known, error=error or unreadable)
    changed = dt.datetime.fromtimestamp(identity.mtime_ns // 10**9, dt.UTC)
    finished = known.finished or changed.strftime("%Y-%m-%dT%H:%M:%SZ")
    return dataclasses.replace(known, sha512=sha512, finished=finished, error=error)


def _recipe(image: Entry[Image], file: Path, cwd: Path) -> Built:
    """Return the known facts of a build without its file; raises DibctlError for a broken recipe."""
    plan = plan_for(image, file, cwd)
    reason = plan.outdated()
    return Built(
        file=file,
        recipe="outdated" if reason else "unchanged",
        reason=reason,
        today=fingerprint.summary(plan.components),
        finished=plan.record.finished or None if plan.record else None,
        fingerprint=fingerprint.summary(plan.record.components) if plan.record else None,
    )


def _tested(image: Entry[Image], built: Built, cwd: Path) -> Tested:
    if built.sha512 is None:
        return Tested(outcome="none")
    vouching = statements.vouching(image, built.file, built.sha512, cwd=cwd)
    if vouching is not None:
        return _told("passed", vouching)
    ours = [
        statement
        for statement in statements.read(built.file)
        if statement.sha512 == built.sha512 and statement.label == image.label
    ]
    newest = max(ours, key=lambda statement: statement.finished, default=None)
    if newest is None:
        return Tested(outcome="none")
    if newest.failed:
        return _told("failed", newest)
    if not newest.whole or newest.resumed:
        return _told("incomplete", newest)
    return _told("outdated" if newest.environment_vouches else "elsewhere", newest)


def _told(outcome: Outcome, statement: statements.Statement) -> Tested:
    return Tested(outcome=outcome, finished=statement.finished, environment=statement.environment)


# -- clouds ----------------------------------------------------------------------------------------

_Answer = tuple[list[ImageRecord], dt.datetime]


class _Visit:
    """One environment, asked for the images of these names by label, in a thread that outlives no process."""

    def __init__(self, names: Mapping[str, str], open_region: Callable[[], Region], rule: Obsoleting) -> None:
        self.answers: dict[str, _Answer] = {}
        self.error: DibctlError | None = None
        self._names = names
        self._open_region = open_region
        self._rule = rule
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing more is asked."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Let the thread ask nothing more; its results so far count."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            with contextlib.closing(self._open_region()) as region:
                for label, name in self._names.items():
                    self._ask(region, label, name)
        except DibctlError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 -- the other clouds' answers are shown all the same
            self.error = ApiError(f"{type(error).__name__}: {text.visible_line(str(error))}")

    def _ask(self, region: Region, label: str, name: str) -> None:
        images = []
        for image in region.images(name=name):
            if self._stopped.is_set():
                return
            # The name once more: a service may pass over a filter that it does not know.
            if image.name == name and image_state.is_current(image, self._rule):
                images.append(image)
        now = image_state.time_of(region) or dt.datetime.now(dt.UTC)
        self.answers[label] = (image_state.newest_first(images), now)


_Visits = Mapping[tuple[str, str | None], _Visit]
"""Each environment's, at each Glance that images name there."""


def _visits(
    images: Sequence[Entry[Image]], environments: Sequence[Entry[UploadEnvironment]], open_region: Opener
) -> _Visits:
    visits: dict[tuple[str, str | None], _Visit] = {}
    for environment in environments:
        if environment.settings.external_upload:
            continue
        names: dict[str | None, dict[str, str]] = {}
        for image in images:
            glance = merge.glance(image, environment)
            if glance.name is not None:
                names.setdefault(glance.endpoint, {})[image.label] = glance.name
        for endpoint, named in names.items():
            opener = functools.partial(open_region, environment, endpoint)
            visits[environment.label, endpoint] = _Visit(named, opener, environment.settings.obsolete)
    return visits


def _outcome(
    image: Entry[Image], environment: Entry[UploadEnvironment], visits: _Visits, timeout: float
) -> _Answer | DibctlError | None:
    """Return the current images of an image's name and the server's time, or why these are not known.

    None of an image that this tool does not publish there.
    """
    glance = merge.glance(image, environment)
    visit = visits.get((environment.label, glance.endpoint))
    if visit is None or glance.name is None:
        return None
    late = ApiError(f"no answer within {timeout:g} s", hint="`dibctl status --timeout SECONDS` waits longer")
    return visit.answers.get(image.label) or visit.error or late


def _published(
    image: Entry[Image],
    environment: Entry[UploadEnvironment],
    outcome: _Answer | DibctlError | None,
    built: Built,
) -> Published:
    name = merge.glance(image, environment).name
    if outcome is None:
        place: Place = "external" if environment.settings.external_upload else "not published"
        return Published(environment=environment.label, place=place, name=name)
    if isinstance(outcome, DibctlError):
        return Published(environment=environment.label, place="unreachable", name=name, error=outcome)
    current, now = outcome
    if not current:
        return Published(environment=environment.label, place="not published", name=name, now=now)
    newest = current[0]
    recipe = newest.properties.get(RECIPE)
    return Published(
        environment=environment.label,
        place="this file" if _has_bytes(newest, built.sha512) else "another file",
        name=name,
        image=newest,
        now=now,
        current=len(current),
        outdated=None if recipe is None or built.today is None else recipe != built.today,
    )


def _has_bytes(image: ImageRecord, sha512: str | None) -> bool:
    """Whether an image was made of the file with this digest.

    The property says so, which can be set by hand; where the file was not converted Glance's own digest has
    to agree, if it is of the same kind.
    """
    properties: Mapping[str, str] = image.properties
    if sha512 is None or properties.get(SHA512, image.hash_value) != sha512:
        return False
    return CONVERSION in properties or image.hash_algorithm != "sha512" or image.hash_value == sha512
