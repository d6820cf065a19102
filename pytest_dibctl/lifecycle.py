"""The way of one image through one environment: build, upload, boot, log in, and back to nothing.

Context managers, each owning what it makes, meant to be nested; the pytest fixtures and the ``dibctl``
commands are both thin over them. Leaving never raises for a removal that failed: the failure is noted in
``Journey.leftovers`` with its ledger record still in place, so that the next removal is tried all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pytest_dibctl import builder, preprocess, process, signals
from pytest_dibctl.artifact import Artifact
from pytest_dibctl.clouds import BootRequest, Cloud, CloudImage, Instance, Progress
from pytest_dibctl.config import merge
from pytest_dibctl.config.catalog import Catalog, Entry, built_in_environment
from pytest_dibctl.config.models import Image, TestEnvironment
from pytest_dibctl.errors import DibctlError, InstanceError, NotInConfigError, PortTimeoutError
from pytest_dibctl.ledger import Ledger, Record, all_runs
from pytest_dibctl.ssh import SshAccess, SshKey

log = logging.getLogger(__name__)

SHELL_KEEPS = 42
"""Exit code of an interactive shell that asks for the instance to be kept."""

BuildPolicy = Literal["auto", "always", "never"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the person at the command line asked for; one value for a whole run."""

    build: BuildPolicy = "auto"
    input: Path | None = None
    environment: str | None = None
    keep_failed_image: bool = False
    keep_failed_instance: bool = False
    shell: bool = False
    existing_instance: str | None = None
    private_key_file: Path | None = None

    @property
    def may_keep_instance(self) -> bool:
        """Whether an instance may have to outlive this process."""
        return self.keep_failed_instance or self.shell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """A thing left on purpose: what, how to reach it and which command removes it."""

    what: str
    reason: str
    reach: str | None
    remove: str


@dataclasses.dataclass(kw_only=True)
class Journey:
    """One image on its way; the only mutable state there is, and what reports are made of.

    ``phases`` are seconds; ``failed`` becomes true once a step or a test of the image failed, and an
    interruption is not a failure; ``keep`` is set by ``exit 42``. ``wants_pristine`` says that a test will
    ask for the instance as it was when it first let us log in, ``has_pristine`` that there is a snapshot of
    that, ``untouched`` that the instance still is so.
    """

    image: Entry[Image]
    environment: Entry[TestEnvironment]
    wishes: Wishes
    ledger: Ledger
    cwd: Path
    progress: Progress
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    failed: bool = False
    keep: bool = False
    kept: list[Kept] = dataclasses.field(default_factory=list)
    leftovers: list[str] = dataclasses.field(default_factory=list)
    reused: str | None = None
    digest: str | None = None
    file: Path | None = None
    instance: Instance | None = None
    instance_id: str | None = None
    wants_pristine: bool = False
    untouched: bool = False
    has_pristine: bool = False
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    reach: str | None = None

    @property
    def label(self) -> str:
        """The image's label."""
        return self.image.label

    @property
    def deadlines(self) -> merge.Deadlines:
        """Seconds each step of this image may take in this environment."""
        return merge.deadlines(self.image, self.environment)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time spent inside to ``name``, failures included."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - started

    @contextlib.contextmanager
    def removal(self, what: str, record: Record | None) -> Iterator[None]:
        """Remove something inside: its record goes if that worked, a note stays if it did not.

        The first interruption waits until it is done.
        """
        with signals.held(), self.phase("cleanup"):
            try:
                yield
            except Exception as error:  # one failed removal must never hide the next
                log.debug("removal of %s failed", what, exc_info=True)
                self.leftovers.append(f"{what}: {error}")
            else:
                if record is not None:
                    record.done()


def artifact(journey: Journey) -> Artifact:
    """Return the image's file, built now if it must be; it stays when the run is over."""
    wishes = journey.wishes
    with journey.phase("build"):
        outcome = builder.build(
            journey.image,
            policy="never" if wishes.input else wishes.build,
            output=wishes.input,
            cwd=journey.cwd,
            progress=journey.progress,
        )
    journey.reused = None if outcome.built else outcome.reason
    journey.digest = outcome.artifact.sha512
    journey.file = outcome.artifact.path
    return outcome.artifact


def environment_of(catalog: Catalog, image: Entry[Image], wishes: Wishes) -> Entry[TestEnvironment]:
    """Return where ``image`` is tested; an instance that was kept stays in its environment.

    Raises NotInConfigError.
    """
    if wishes.environment is None and wishes.existing_instance is not None:
        with contextlib.suppress(NotInConfigError):
            _, record = find_instance(wishes.existing_instance)
            return catalog.environment(record.details["environment"])
    return catalog.environment_for(image, override=wishes.environment)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DibctlError(
            f"{error.filename or 'instance files'}: {error.strerror or error}",
            hint="files of instances lie in the temporary directory; set TMPDIR to move them",
        ) from None


@contextlib.contextmanager
def opened(journey: Journey) -> Iterator[Cloud]:
    """Open the journey's test environment."""
    directory = journey.ledger.directory
    if journey.wishes.existing_instance is not None and journey.environment.settings.qemu is not None:
        directory = find_instance(journey.wishes.existing_instance)[0].directory
    cloud = open_environment(journey.environment, directory=directory, cwd=journey.cwd)
    with contextlib.closing(cloud):
        cloud.preflight()  # before a build of minutes, not after it
        yield cloud


def open_environment(environment: Entry[TestEnvironment], *, directory: Path, cwd: Path) -> Cloud:
    """Return the Cloud of an environment; files of its instances go to ``directory``."""
    if environment.settings.qemu is not None:
        from pytest_dibctl.clouds.qemu import QemuCloud  # costs nothing until a guest is wanted

        return QemuCloud(environment, directory=directory, cwd=cwd)
    raise DibctlError(
        f"{environment.at('keystone')}: environment {environment.label} is an OpenStack one; "
        "this release boots test instances only as local QEMU guests",
        hint="name an environment with a qemu section, or `local`",
    )


@contextlib.contextmanager
def uploaded(journey: Journey, cloud: Cloud, built: Artifact) -> Iterator[CloudImage]:
    """Make the file known to the cloud as a test image, private to the run."""
    cloud.check(built)
    name = f"dibctl-{journey.ledger.run_id}-{_plain(journey.label)}"
    record = journey.ledger.record("image", name, environment=journey.environment.label)
    with journey.phase("upload"):
        try:
            with _preprocessed(journey, built) as file:
                image = cloud.upload(file, name=name, progress=journey.progress)
        except BaseException:
            record.done()  # upload removes what it began
            raise
    try:
        yield image
    finally:
        if journey.failed and journey.wishes.keep_failed_image:
            record.keep("the image failed")
            journey.kept.append(
                Kept(
                    what=f"image {image.name} ({image.id})",
                    reason="--dib-keep-failed-image",
                    reach=None,
                    remove=_cleanup_command(journey),
                ),
            )
        else:
            with journey.removal(f"image {image.name}", record):
                cloud.delete_image(image)


def _preprocessed(journey: Journey, built: Artifact) -> contextlib.AbstractContextManager[Artifact]:
    """Return what is uploaded of the image: what ``preprocessing`` makes of it, while the block lasts."""
    environment = journey.environment
    told = merge.glance(journey.image, environment)
    return preprocess.preprocessed(
        built,
        environment.settings.preprocessing,
        disk_format=told.disk_format,
        container_format=told.container_format,
        where=environment.at("preprocessing"),
        cwd=journey.cwd,
        progress=journey.progress,
    )


@contextlib.contextmanager
def keypair(journey: Journey) -> Iterator[SshKey]:
    """Make an ed25519 key for the run, or use the one that was named.

    The files go when the block ends unless the instance they open was kept.
    """
    wishes = journey.wishes
    if wishes.private_key_file is not None:
        yield SshKey.from_file(wishes.private_key_file)
        return
    if wishes.existing_instance is not None:
        _, kept = find_instance(wishes.existing_instance)
        yield SshKey.from_file(Path(kept.details["key"]))
        return
    name = f"dibctl-{journey.ledger.run_id}-{_plain(journey.label)}-{uuid.uuid4().hex[:6]}"
    directory = journey.ledger.directory / f"key-{name}"
    record = journey.ledger.record("key", name, directory=str(directory))
    try:
        with _disk_errors():
            directory.mkdir(mode=0o700)
            key = SshKey.generate(directory, comment=name)
        yield key
    finally:
        if _keeps_instance(journey):
            record.keep("its instance was kept")
        else:
            with journey.removal(f"key {name}", record):
                _remove_tree(directory)


@contextlib.contextmanager
def booted(journey: Journey, cloud: Cloud, image: CloudImage | None, key: SshKey) -> Iterator[Instance]:
    """Boot an instance of ``image``; it runs when the block begins, and may not be ready yet.

    Without ``image`` it is the instance that ``Wishes.existing_instance`` names, which is left alone.
    """
    if image is None:
        assert journey.wishes.existing_instance is not None
        existing = cloud.existing(journey.wishes.existing_instance)
        _note(journey, existing)
        yield existing
        return
    # A host name has at most 63 characters and no underscore; guests take theirs from here.
    name = f"dibctl-{_plain(journey.label)[:40].strip('-')}-{uuid.uuid4().hex[:8]}"
    record = journey.ledger.record(
        "instance",
        name,
        environment=journey.environment.label,
        engine=journey.environment.settings.engine,
        key=str(key.private_key_file),
    )
    request = BootRequest(
        name=name,
        key=key,
        key_name=key.name,
        deadlines=journey.deadlines,
        keepable=journey.wishes.may_keep_instance,
    )
    instance: Instance | None = None
    try:
        with journey.phase("boot"), _disk_errors():
            instance = cloud.boot(image, request, progress=journey.progress)
        _note(journey, instance)
        with contextlib.suppress(DibctlError):  # it is on record by its name already
            record = record.update(id=instance.id)
        yield instance
    finally:
        journey.instance = None
        if instance is None:
            # boot removes what it began; an interruption may have come between its end and our knowing.
            with journey.removal(f"instance {name}", record), contextlib.suppress(NotInConfigError):
                cloud.existing(name).delete()
        elif _keeps_instance(journey):
            reason = "exit 42" if journey.keep else "--dib-keep-failed-instance"
            record.keep(reason)
            journey.kept.append(
                Kept(
                    what=f"instance {instance.name} ({instance.id})",
                    reason=reason,
                    reach=journey.reach,
                    remove=_cleanup_command(journey),
                ),
            )
        else:
            with journey.removal(f"instance {name}", record):
                instance.delete()


def _note(journey: Journey, instance: Instance) -> None:
    journey.instance, journey.instance_id, journey.facts = instance, instance.id, dict(instance.facts)


@contextlib.contextmanager
def reachable(journey: Journey, instance: Instance, key: SshKey) -> Iterator[SshAccess]:
    """Wait until the instance lets us log in, and keep that way open."""
    username, port = merge.login(journey.image)
    endpoint = instance.endpoint(port)
    with _disk_errors():
        access = SshAccess(
            ip=endpoint.ip,
            port=endpoint.port,
            username=username,
            key=key,
            directory=journey.ledger.directory,
            name=instance.name,
            host_keys=instance.host_keys,
        )
    journey.reach = process.command_line(access.command_line())
    try:
        with journey.phase("ready"):
            _wait_ready(journey, instance, access)
        remember_pristine(journey, instance, access)
        yield access
    finally:
        access.close(keep_files=_keeps_instance(journey))


def _wait_ready(journey: Journey, instance: Instance, access: SshAccess) -> None:
    deadline = journey.deadlines.port
    try:
        waited = access.wait_ready(timeout=deadline, check=instance.check, progress=journey.progress)
        _wait_configured_port(journey, instance, max(0.0, deadline - waited))
    except PortTimeoutError as error:
        tail = console_tail(instance)
        raise PortTimeoutError(
            f"{journey.label}: {error.message}" + (f"\nlast lines of the console:\n{tail}" if tail else ""),
            hint=error.hint,
        ) from None


def _wait_configured_port(journey: Journey, instance: Instance, timeout: float) -> None:
    wanted = journey.image.settings.tests.wait_for_port
    _, ssh_port = merge.login(journey.image)
    if wanted is not None and wanted != ssh_port:
        wait_for_port(instance, wanted, timeout=timeout)


def wait_for_port(instance: Instance, port: int, *, timeout: float) -> float:
    """Wait until the guest's TCP ``port`` answers; return the seconds it took.

    Raises InstanceError if the instance dies meanwhile, PortTimeoutError after ``timeout`` seconds.
    """
    from pytest_dibctl.ssh import port_answers

    endpoint = instance.endpoint(port)
    started = time.monotonic()
    while True:
        if port_answers(endpoint.ip, endpoint.port):
            return time.monotonic() - started
        instance.check()
        if time.monotonic() - started > timeout:
            raise PortTimeoutError(
                f"port {port} of {instance.name} (reached as {endpoint.ip}:{endpoint.port}) gave no answer "
                f"within {timeout:g} s",
                hint="check that the service listens on all addresses, and the guest's firewall",
            )
        time.sleep(0.25)


def reboot(
    journey: Journey,
    instance: Instance,
    access: SshAccess,
    *,
    hard: bool = False,
    timeout: float | None = None,
) -> float:
    """Reboot the instance and wait until its *next* boot lets us log in; return the seconds it took.

    The kernel's boot id tells the old boot from the new one: a guest that is still shutting down answers
    ssh perfectly well. Raises what ``SshAccess.wait_ready`` raises.
    """
    before = _boot_id(access)
    started = time.monotonic()
    instance.reboot(hard=hard)
    return _await_boot(journey, instance, access, after=before, started=started, timeout=timeout)


def rebuild(
    journey: Journey, instance: Instance, access: SshAccess, *, timeout: float | None = None
) -> float:
    """Give the instance the image's root disk again and wait until it lets us log in; return the seconds.

    The guest need not work. Raises InstanceError, and what ``SshAccess.wait_ready`` raises.
    """
    before = _old_boot_id(access)
    started = time.monotonic()
    instance.rebuild()
    access.trust(instance.host_keys)
    return _await_boot(journey, instance, access, after=before, started=started, timeout=timeout)


def revert(
    journey: Journey, instance: Instance, access: SshAccess, name: str, *, timeout: float | None = None
) -> float:
    """Go back to a snapshot of the instance, by its name, and wait for a login; return the seconds it took.

    A guest whose memory came back gets the time of now, if its login may set the clock. Raises
    InstanceError, and what ``SshAccess.wait_ready`` raises.
    """
    before = None if instance.snapshots_memory else _old_boot_id(access)
    started = time.monotonic()
    instance.revert(name)
    access.trust(instance.host_keys)
    _await_boot(journey, instance, access, after=before, started=started, timeout=timeout)
    if instance.snapshots_memory:
        _set_clock(journey, access)
    return time.monotonic() - started


PRISTINE = "pristine"
"""The snapshot of an instance as it was when it first let us log in."""


def remember_pristine(journey: Journey, instance: Instance, access: SshAccess) -> None:
    """Take note that the instance was ready just now, for ``pristine`` to come back to."""
    journey.untouched = True
    journey.has_pristine = False
    foreign = journey.wishes.existing_instance is not None
    if foreign or not journey.wants_pristine or not instance.snapshots_memory:
        return
    with journey.phase("pristine"):
        access.disconnect()  # or the guest would come back with a connection whose other end is gone
        try:
            instance.snapshot(PRISTINE)
        except InstanceError as error:
            journey.progress(f"instances will be rebuilt for dib_pristine tests: {error.message}")
        else:
            journey.has_pristine = True


def pristine(journey: Journey, instance: Instance, access: SshAccess) -> None:
    """Have the instance as it was when it first let us log in; quick if nothing was done to it since.

    From a snapshot where that brings memory back, else by a rebuild. Raises InstanceError, and what
    ``SshAccess.wait_ready`` raises.
    """
    if journey.untouched:
        return
    with journey.phase("pristine"):
        if journey.has_pristine:
            revert(journey, instance, access, PRISTINE)
        else:
            took = rebuild(journey, instance, access)
            _wait_configured_port(journey, instance, max(0.0, journey.deadlines.port - took))
    journey.untouched = True


def _await_boot(
    journey: Journey,
    instance: Instance,
    access: SshAccess,
    *,
    after: str | None,
    started: float,
    timeout: float | None,
) -> float:
    """Wait for a login to another boot than ``after`` (None: any); return the seconds since ``started``."""
    limit = journey.deadlines.port if timeout is None else timeout
    access.disconnect()
    while True:
        left = limit - (time.monotonic() - started)
        if left <= 0:
            raise PortTimeoutError(f"{instance.name} did not come back within {limit:g} s")
        access.wait_ready(timeout=left, check=instance.check, progress=journey.progress)
        with contextlib.suppress(DibctlError):
            if after is None or _boot_id(access) != after:
                return time.monotonic() - started
        access.disconnect()
        time.sleep(0.5)


OLD_BOOT_PATIENCE = 20.0
"""Seconds a guest that is about to be thrown away has to tell its boot id; it may be broken."""


def _old_boot_id(access: SshAccess) -> str | None:
    with contextlib.suppress(DibctlError):
        return _boot_id(access, timeout=OLD_BOOT_PATIENCE)
    return None


def _boot_id(access: SshAccess, *, timeout: float = 60) -> str:
    return access.run("cat /proc/sys/kernel/random/boot_id", timeout=timeout, check=True).output.strip()


def _set_clock(journey: Journey, access: SshAccess) -> None:
    """Tell a guest that comes from a snapshot what time it is."""
    set_it = f"date -u -s @{time.time():.0f}"
    with contextlib.suppress(DibctlError):
        if access.run(f"sudo -n {set_it} || {set_it}", timeout=60).returncode == 0:
            return
    journey.progress("the guest's clock still shows the time of its snapshot: this login may not set it")


def open_shell(journey: Journey, access: SshAccess) -> int:
    """Give the terminal to a shell in the instance; ``exit 42`` in it keeps the instance."""
    import subprocess

    # The terminal is the point here: this one command keeps our session and process group.
    code = subprocess.call(access.command_line(), env=process.environment())
    journey.keep = journey.keep or code == SHELL_KEEPS
    return code


def find_instance(instance_id: str) -> tuple[Ledger, Record]:
    """Return the run that made a local instance, with its record; raises NotInConfigError if none did."""
    for run in all_runs():
        for record in run.records():
            if record.kind == "instance" and instance_id in {record.name, record.details.get("id")}:
                return run, record
    raise NotInConfigError(
        f"no instance {instance_id} was kept on this machine",
        hint="`dibctl cleanup --dry-run` lists what earlier runs left",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swept:
    """What became of one record of a dead run: removed, kept, would be removed, or an error."""

    run_id: str
    what: str
    outcome: str


def sweep(
    load: Callable[[], Catalog], *, cwd: Path, run_id: str | None = None, dry_run: bool = False
) -> tuple[Swept, ...]:
    """Remove what dead runs left on this machine; what was kept goes only when its run is named.

    Local instances need no configuration; ``load`` is called for others. Living runs are never touched.
    Raises NotInConfigError for a ``run_id`` there is no trace of.
    """
    runs = [run for run in all_runs() if run_id in {None, run.run_id}]
    if run_id is not None and not runs:
        raise NotInConfigError(f"run {run_id} left nothing on this machine")
    swept: list[Swept] = []
    for run in runs:
        if run.is_alive():
            if run_id is not None:
                raise DibctlError(f"run {run_id} is still going on; nothing was removed")
            continue
        # Instances first: keys and images are of no use without them, but not the other way round.
        order = {"instance": 0, "image": 1, "key": 2}
        stuck = False
        for record in sorted(run.records(), key=lambda record: order.get(record.kind, 3)):
            if record.kind == "key" and stuck:
                outcome = "left, for the instance that could not be removed"
            else:
                outcome = _sweep_record(load, run, record, cwd=cwd, named=run_id is not None, dry_run=dry_run)
            stuck = stuck or outcome.startswith(FAILED_REMOVAL)
            swept.append(Swept(run_id=run.run_id, what=f"{record.kind} {record.name}", outcome=outcome))
        if not dry_run:
            run.remove_if_empty()
    return tuple(swept)


FAILED_REMOVAL = "could not be removed"


def _sweep_record(
    load: Callable[[], Catalog],
    run: Ledger,
    record: Record,
    *,
    cwd: Path,
    named: bool,
    dry_run: bool,
) -> str:
    if record.kept is not None and not named:
        return f"kept ({record.kept}); `dibctl cleanup --run {run.run_id}` removes it"
    if dry_run:
        return "would be removed"
    try:
        if record.kind == "instance":
            local = record.details.get("engine") == "qemu"
            environment = (
                built_in_environment() if local else load().environment(record.details["environment"])
            )
            cloud = open_environment(environment, directory=run.directory, cwd=cwd)
            with contextlib.closing(cloud), contextlib.suppress(NotInConfigError):
                cloud.existing(record.name).delete()
        elif record.kind == "key":
            _remove_tree(Path(record.details["directory"]))
        # A local test image is the built file itself: nothing was made for it.
    except DibctlError as error:
        return f"{FAILED_REMOVAL}: {error.message}"
    except (OSError, KeyError) as error:
        return f"{FAILED_REMOVAL}: {error}"
    record.done()
    return "removed"


def _keeps_instance(journey: Journey) -> bool:
    if journey.wishes.existing_instance is not None:
        return False
    return journey.keep or (journey.failed and journey.wishes.keep_failed_instance)


def _cleanup_command(journey: Journey) -> str:
    return f"dibctl cleanup --run {journey.ledger.run_id}"


def console_tail(instance: Instance, lines: int = 20) -> str:
    """Return the last lines of the console, or nothing when there is none to be had."""
    with contextlib.suppress(Exception):  # a report is being made: it must not fail for want of a console
        return "\n".join(instance.console_output().splitlines()[-lines:])
    return ""


def _remove_tree(directory: Path) -> None:
    import shutil

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _plain(label: str) -> str:
    """Return a label as it may stand in a host name or a Nova keypair name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower() or "image"
