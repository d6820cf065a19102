"""The run of one target, an image in an environment: its context, and its results so far.

The steps, modules of this room, are context managers over it. Each owns its resources, and they are nested.
pytest's fixtures and the ``dibctl`` commands are both thin over them. Leaving a step never raises for a
removal that failed, so the next removal is tried all the same. The failure is noted in
``TargetRun.removals``, and its ledger record stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_dibctl.clouds.protocols import Cloud, Instance, Progress
from pytest_dibctl.config import merge
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.run.ledger import Ledger, Record
from pytest_dibctl.run.options import RunOptions
from pytest_dibctl.run.removal import Removal, Resource, State, cleanup_command
from pytest_dibctl.run.run_state import RunState
from pytest_dibctl.system import signals

log = logging.getLogger(__name__)

STEP_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "build": "building",
        "upload": "uploading",
        "boot": "booting",
        "ready": "waiting for a login",
        "tree": "opening the image's files",
        "pristine": "going back to the first-booted state",
        "wait": "waiting",
        "cleanup": "removing",
        "aftermath": "looking back at the boot and the journal",
        "warm": "keeping the ready state",
    }
)
"""The words for a running step."""


@dataclasses.dataclass(kw_only=True)
class Built:
    """The image's file as this run has it; all None until the build step is over.

    ``reused`` says why nothing had to be built, ``digest`` is the file's SHA-512, ``log`` the copy of the
    build's log among the run's logs. ``phases`` are the seconds of a build that was made in this run.
    """

    reused: str | None = None
    digest: str | None = None
    file: Path | None = None
    log: Path | None = None
    phases: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class Pristine:
    """The state of an instance when it first let us log in, which ``dib_pristine`` tests ask for.

    ``wanted`` says that a test of the run asks for it, ``snapshot`` that the instance can be reverted to it,
    ``untouched`` that the instance is still in it.
    """

    wanted: bool = False
    snapshot: bool = False
    untouched: bool = False


@dataclasses.dataclass(kw_only=True)
class Guest:
    """The instance under test.

    ``first_boot_wanted`` says that a test of the run needs an instance that boots for the first time in it.

    ``instance`` is None before it runs and after it is removed; ``id``, ``facts`` and ``login`` (the command
    that opens it) stay for the reports. ``key_name`` is the keypair's in the cloud, ``console_log`` the file
    its console is written to when it goes. ``cause`` is the named cause of a failed boot, wait or login,
    ``console_line`` the number of the line that names it. ``access`` is the way in while it is open.
    ``troubles`` and ``boot`` are lines for the summary: troubles in the guest, and the time of the boot;
    ``boot_stages`` are the seconds of its stages, ``boot_seconds`` the time until its login.
    ``console_since`` is where in the console the boot begins that is on. ``screen`` is the picture of a
    failed boot. ``booted_early`` says that an instance began to boot before the image's files were looked at.
    """

    instance: Instance | None = None
    id: str | None = None
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    login: str | None = None
    key_name: str | None = None
    console_log: Path | None = None
    cause: str | None = None
    console_line: int | None = None
    access: SshAccess | None = None
    troubles: list[str] = dataclasses.field(default_factory=list)
    boot: str | None = None
    boot_stages: dict[str, float] = dataclasses.field(default_factory=dict)
    boot_seconds: float = 0.0
    console_since: int = 0
    screen: Path | None = None
    first_boot_wanted: bool = False
    booted_early: bool = False
    pristine: Pristine = dataclasses.field(default_factory=Pristine)

    def begin(self, instance: Instance) -> None:
        """Take a new instance; notes about a former instance are not about it."""
        self.instance, self.id, self.facts = instance, instance.id, dict(instance.facts)
        self.is_well()
        self.troubles, self.boot, self.boot_stages, self.console_since = [], None, {}, 0

    def is_well(self) -> None:
        """Forget why the guest accepted no login: it does now."""
        self.cause = self.console_line = self.screen = None


@dataclasses.dataclass(kw_only=True)
class TargetRun:
    """One target on its way: its context, which never changes, and the state that its steps leave.

    ``cwd`` is the base of relative paths. Unless ``owns_upload``, another process of the run removes the test
    image. ``guard`` is called before the first resource is made: from then on a guardian removes resources
    even if this process is killed. ``on_step`` is told in words which step begins, and "" when none is on any
    more.

    ``phases`` are seconds by step; ``seconds_elsewhere`` those that other processes of the run spent on steps
    done once for all. ``failed`` becomes true once a step or a test of the target fails; an interruption is
    not a failure. ``keep`` is set by ``exit 42`` in a shell. ``removals`` are the kept resources, and those
    that could not be removed.
    """

    image: Entry[Image]
    environment: Entry[TestEnvironment]
    options: RunOptions
    ledger: Ledger
    cwd: Path
    progress: Progress
    owns_upload: bool = True
    guard: Callable[[], None] = lambda: None
    on_step: Callable[[str], None] = lambda _words: None
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds_elsewhere: dict[str, float] = dataclasses.field(default_factory=dict)
    failed: bool = False
    keep: bool = False
    removals: list[Removal] = dataclasses.field(default_factory=list)
    built: Built = dataclasses.field(default_factory=Built)
    guest: Guest = dataclasses.field(default_factory=Guest)
    steps: list[str] = dataclasses.field(default_factory=list)
    """The steps that are on, the innermost last."""
    spans: list[tuple[str, float, float]] = dataclasses.field(default_factory=list)
    """The steps that are over, each with its begin and its end in seconds since the epoch."""

    def __repr__(self) -> str:
        """Short: tracebacks show what tests got."""
        return f"<run of {self.image.label}@{self.environment.label}>"

    @property
    def label(self) -> str:
        """The image's label."""
        return self.image.label

    @property
    def digest(self) -> str | None:
        """The SHA-512 of the image's file, None before it is known."""
        return self.built.digest

    @property
    def run_state(self) -> RunState:
        """The state that the processes of the run share."""
        return RunState(directory=self.ledger.directory)

    @property
    def kept(self) -> list[Removal]:
        """The resources that were left on purpose."""
        return [removal for removal in self.removals if removal.state is State.KEPT]

    @property
    def leftovers(self) -> list[Removal]:
        """The resources that could not be removed."""
        return [removal for removal in self.removals if removal.failed]

    @property
    def deadlines(self) -> merge.Deadlines:
        """Seconds each step of this image may take in this environment."""
        return merge.deadlines(self.image, self.environment)

    @property
    def image_endpoint(self) -> str | None:
        """The Glance that the image's files name; None for the catalog's."""
        return merge.glance(self.image, self.environment).endpoint

    def record(self, cloud: Cloud, kind: str, name: str, **details: Any) -> Record:
        """Write down that a resource is about to be made in ``cloud``; raises DibctlError.

        The label of an environment may come to mean another cloud, so the record holds the cloud's identity.
        """
        identity, engine = dict(cloud.identity()), self.environment.settings.engine
        return self.record_local(kind, name, engine=engine, cloud=identity, **details)

    def record_local(self, kind: str, name: str, **details: Any) -> Record:
        """Write down that a resource is about to be made on this machine; raises DibctlError."""
        self.guard()
        where = {"image": self.label, "environment": self.environment.label}
        return self.ledger.record(kind, name, **where, **details)

    def once(self, step: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of ``make``, from this process or another one of the run.

        ``make`` returns plain data with ``seconds`` in it, a mapping from phases. Raises the DibctlError that
        ``make`` raised, in this process or another one.
        """
        outcome = self.run_state.once(step, make, waiting=lambda: self.waiting("another worker"))
        if not outcome.mine:
            self.seconds_elsewhere.update(outcome.value["seconds"])
        return outcome.value

    @contextlib.contextmanager
    def waiting(self, awaited: str) -> Iterator[None]:
        """Tell that another process is waited for, and charge the time to the phase ``wait``."""
        self.progress(f"waiting for {awaited}")
        with self.phase("wait"):
            yield

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time spent inside to ``name``, failures included."""
        started = time.monotonic()
        try:
            with self.step(name):
                yield
        finally:
            self.charge(name, time.monotonic() - started)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Tell that a step is on inside."""
        started, began = time.time(), time.monotonic()  # the clock of the day may be set meanwhile
        self.steps.append(name)
        self.on_step(STEP_WORDS.get(name, name))
        try:
            yield
        finally:
            self.steps.pop()
            self.spans.append((name, started, started + time.monotonic() - began))
            outer = self.steps[-1] if self.steps else ""
            self.on_step(STEP_WORDS.get(outer, outer))

    def charge(self, name: str, seconds: float) -> None:
        """Add to the time of a phase."""
        self.phases[name] = self.phases.get(name, 0.0) + seconds

    @contextlib.contextmanager
    def removal(self, resource: Resource, record: Record | None) -> Iterator[None]:
        """Remove ``resource`` inside: its record goes if that worked, a note stays if it did not.

        The first interruption waits until it is done.
        """
        with signals.held(), self.phase("cleanup"):
            try:
                yield
            except Exception as error:  # one failed removal must never hide the next
                log.debug("removal of %s failed", resource, exc_info=True)
                self.note(resource, State.LEFT, str(error))
            else:
                if record is not None:
                    record.done()

    def note(self, resource: Resource, state: State, reason: str, *, login: str | None = None) -> None:
        """Note the outcome for a resource of this target, for the reports."""
        self.removals.append(
            Removal(
                resource=resource,
                state=state,
                reason=reason,
                image=self.label,
                environment=self.environment.label,
                login=login,
                command=cleanup_command(self.ledger.run_id) if state is State.KEPT else "",
            )
        )


def confirmed(record: Record) -> Record:
    """Note that a resource is there: its removal need not wait for it to appear. Returns the record."""
    with contextlib.suppress(DibctlError):  # it is on record all the same
        return record.update(made=True)
    return record


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Raise an OSError of the block as a DibctlError that names the file."""
    try:
        yield
    except OSError as error:
        raise DibctlError(
            f"{error.filename or 'instance files'}: {error.strerror or error}",
            hint="files of instances lie in the temporary directory; set TMPDIR to move them",
        ) from None


def host_name(label: str) -> str:
    """Return a label as it may stand in a host name or a Nova keypair name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower() or "image"


def remove_directory(directory: Path) -> None:
    """Remove a directory, which may be gone already; raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
