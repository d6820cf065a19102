"""The way of one image through one environment: build, upload, boot, log in, and back to nothing.

Context managers, each owning what it makes, meant to be nested; the pytest fixtures and the ``dibctl``
commands are both thin over them. Leaving never raises for a removal that failed: the failure is noted in
``TargetRun.removals`` with its ledger record still in place, so that the next removal is tried all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pytest_dibctl.build import builder
from pytest_dibctl.clouds.protocols import BootRequest, Cloud, CloudImage, Instance, Progress, UploadRequest
from pytest_dibctl.config import merge
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models import Image, TestEnvironment
from pytest_dibctl.errors import (
    CredentialsError,
    DibctlError,
    InstanceError,
    NotInConfigError,
    PortTimeoutError,
)
from pytest_dibctl.guest.ssh import SshAccess, SshKey
from pytest_dibctl.image import preprocessing
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.run.ledger import Ledger, Record, all_runs
from pytest_dibctl.run.ledger import load as load_record
from pytest_dibctl.run.removal import Removal, Resource, State
from pytest_dibctl.run.run_state import RunState
from pytest_dibctl.system import process, signals

log = logging.getLogger(__name__)

SHELL_KEEPS = 42
"""Exit code of an interactive shell that asks for the instance to be kept."""

BuildPolicy = Literal["auto", "always", "never"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the person at the command line asked for; one value for a whole run.

    ``build_jobs`` is how many builds of the run may go on at once; ``logs`` is a directory that consoles and
    build logs are copied to.
    """

    build: BuildPolicy = "auto"
    input: Path | None = None
    environments: tuple[str, ...] = ()
    keep_failed_image: bool = False
    keep_failed_instance: bool = False
    shell: bool = False
    existing_image: str | None = None
    existing_instance: str | None = None
    upload_only: bool = False
    private_key_file: Path | None = None
    build_jobs: int = 1
    logs: Path | None = None
    keep_on_kill: bool = False

    @property
    def has_file(self) -> bool:
        """Whether what is tested was made of the image's file here, and not by somebody else before."""
        return self.existing_image is None and self.existing_instance is None

    @property
    def may_keep_instance(self) -> bool:
        """Whether an instance may have to outlive this process."""
        return self.keep_failed_instance or self.shell or self.keep_on_kill


@dataclasses.dataclass(kw_only=True)
class TargetRun:
    """One image on its way; the only mutable state there is, and what reports are made of.

    ``phases`` are seconds; ``failed`` becomes true once a step or a test of the image failed, and an
    interruption is not a failure; ``keep`` is set by ``exit 42``. ``told`` are seconds that other
    processes of the run spent on steps done once for all. Unless ``owns_upload``, somebody else removes the
    test image. ``wants_pristine`` says that a test will ask for the instance as it was when it first let us
    log in, ``has_pristine`` that there is a snapshot of that, ``untouched`` that the instance still is so.
    """

    image: Entry[Image]
    environment: Entry[TestEnvironment]
    options: RunOptions
    ledger: Ledger
    cwd: Path
    progress: Progress
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    failed: bool = False
    keep: bool = False
    removals: list[Removal] = dataclasses.field(default_factory=list)
    """What was kept, and what could not be removed."""
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
    key_name: str | None = None
    told: dict[str, float] = dataclasses.field(default_factory=dict)
    owns_upload: bool = True
    build_log: Path | None = None
    console_log: Path | None = None
    unopened: bool = False
    """Whether the environment could not be opened: what is wrong there is not the image's fault."""
    guard: Callable[[], None] = lambda: None
    """Called before anything is made: from then on somebody removes it even if this process is killed."""

    @property
    def label(self) -> str:
        """The image's label."""
        return self.image.label

    @property
    def run_state(self) -> RunState:
        """What this process has in common with the run's others."""
        return RunState(directory=self.ledger.directory)

    @property
    def kept(self) -> list[Removal]:
        """What was left on purpose."""
        return [removal for removal in self.removals if removal.state is State.KEPT]

    @property
    def leftovers(self) -> list[Removal]:
        """What could not be removed."""
        return [removal for removal in self.removals if removal.failed]

    @property
    def deadlines(self) -> merge.Deadlines:
        """Seconds each step of this image may take in this environment."""
        return merge.deadlines(self.image, self.environment)

    @property
    def image_endpoint(self) -> str | None:
        """The Glance that the image's files name; None for the catalog's."""
        return merge.glance(self.image, self.environment).endpoint

    def record(self, kind: str, name: str, **details: Any) -> Record:
        """Write down that something is about to be made in the test environment; raises DibctlError."""
        self.guard()
        where = {
            "image": self.label,
            "environment": self.environment.label,
            "engine": self.environment.settings.engine,
        }
        return self.ledger.record(kind, name, **where, **details)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time spent inside to ``name``, failures included."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.charge(name, time.monotonic() - started)

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
        """Note what became of a resource of this target, for the reports."""
        self.removals.append(
            Removal(
                resource=resource,
                state=state,
                reason=reason,
                image=self.label,
                environment=self.environment.label,
                login=login,
                command=cleanup_command(self.ledger) if state is State.KEPT else "",
            )
        )


def artifact(target_run: TargetRun) -> Artifact:
    """Return the image's file, built now if it must be, once per run; it stays when the run is over."""
    try:
        made = _once(target_run, _build_of(target_run.label), lambda: _built(target_run))
    finally:
        _keep_build_log(target_run)
    built = Artifact(**restored(Artifact, made["artifact"]))
    target_run.reused, target_run.digest, target_run.file = made["reused"], built.sha512, built.path
    return built


def _build_of(label: str) -> str:
    return f"build {label}"


def build_facts(run_state: RunState, label: str) -> dict[str, str]:
    """Return what reports tell of an image's build, whichever process of the run needed it."""
    made = run_state.known(_build_of(label))
    if made is None:
        return {}
    return {
        "digest": f"sha512:{made['artifact']['sha512']}",
        "seconds_build": f"{made['seconds']['build']:.1f}",
    }


def _built(target_run: TargetRun) -> dict[str, Any]:
    run_options, started, waits = target_run.options, time.monotonic(), target_run.phases.get("wait", 0.0)
    try:
        outcome = builder.build(
            target_run.image,
            policy="never" if run_options.input else run_options.build,
            output=run_options.input,
            cwd=target_run.cwd,
            progress=target_run.progress,
            turn=lambda: target_run.run_state.turn(
                "build", run_options.build_jobs, waiting=lambda: _waiting(target_run, "its turn to be built")
            ),
        )
    finally:
        waited = target_run.phases.get("wait", 0.0) - waits
        target_run.charge("build", time.monotonic() - started - waited)
    return {
        "artifact": plain(outcome.artifact),
        "reused": None if outcome.built else outcome.reason,
        "seconds": {"build": target_run.phases["build"]},
    }


def _once(target_run: TargetRun, step: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``make`` returned, in this process or in another of the run, and note its seconds."""
    outcome = target_run.run_state.once(step, make, waiting=lambda: _waiting(target_run, "another worker"))
    if not outcome.mine:
        target_run.told.update(outcome.value["seconds"])
    return outcome.value


@contextlib.contextmanager
def _waiting(target_run: TargetRun, what: str) -> Iterator[None]:
    target_run.progress(f"waiting for {what}")
    with target_run.phase("wait"):
        yield


def plain(value: Artifact | CloudImage) -> dict[str, Any]:
    """Return a value of ours, without what it refers to, as data that JSON can hold."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {
        name: str(found) if isinstance(found, Path) else dict(found) if isinstance(found, Mapping) else found
        for name, found in fields.items()
        if not isinstance(found, Artifact)
    }


def restored(kind: type[Artifact | CloudImage], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that make a ``kind`` again from what ``plain`` made of it."""
    paths = {field.name for field in dataclasses.fields(kind) if str(field.type).startswith("Path")}
    return {
        name: Path(found)
        if name in paths and found is not None
        else tuple(found)
        if isinstance(found, list)
        else found
        for name, found in data.items()
    }


def _keep_build_log(target_run: TargetRun) -> None:
    """Copy the log of the image's build to where the run's logs are wanted."""
    log_file = builder.log_file(
        builder.target_file(target_run.image, target_run.options.input, target_run.cwd)
    )
    if target_run.options.logs is None or not log_file.exists():
        return
    target_run.build_log = _write_log(
        target_run.options.logs / f"{file_name(target_run.label)}.build.log", log_file.read_bytes
    )


def _keep_console(target_run: TargetRun, instance: Instance) -> None:
    """Write the console of an instance that is about to go to where the run's logs are wanted."""
    if target_run.options.logs is not None:
        target_run.console_log = _write_log(
            console_file(target_run.options.logs, instance.name), lambda: instance.console_output().encode()
        )


def console_file(logs: Path, instance: str) -> Path:
    """Return where the console of an instance is written."""
    return logs / f"{instance}.console.log"


def file_name(label: str) -> str:
    """Return a label as it may stand in a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", label)


def _write_log(path: Path, read: Callable[[], bytes]) -> Path | None:
    try:
        text = read()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(text)
        draft.replace(path)  # another worker may write the same log at the same time
    except Exception:  # a log that cannot be had must not keep anything from being removed
        log.warning("%s: could not be written", path, exc_info=True)
        return None
    return path


def environments_of(
    catalog: Catalog, image: Entry[Image], run_options: RunOptions
) -> tuple[Entry[TestEnvironment], ...]:
    """Return where ``image`` is tested; an instance that was kept stays in its environment.

    Raises NotInConfigError.
    """
    if run_options.environments:
        return catalog.select_environments(run_options.environments)
    if run_options.existing_instance is not None:
        with contextlib.suppress(NotInConfigError):
            _, record = find_instance(run_options.existing_instance)
            return (catalog.environment(record.details["environment"]),)
    return (catalog.environment_for(image),)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Say of an OSError that comes from below which file it is about, as a DibctlError."""
    try:
        yield
    except OSError as error:
        raise DibctlError(
            f"{error.filename or 'instance files'}: {error.strerror or error}",
            hint="files of instances lie in the temporary directory; set TMPDIR to move them",
        ) from None


@contextlib.contextmanager
def opened(target_run: TargetRun) -> Iterator[Cloud]:
    """Open the target run's test environment, and see whether it has what the image wants.

    Raises DibctlError, with this step as its origin.
    """
    with contextlib.ExitStack() as stack:
        try:
            cloud = stack.enter_context(contextlib.closing(_cloud(target_run)))
            cloud.preflight()
        except BaseException as error:  # a bug of a library too
            target_run.unopened = True
            if isinstance(error, DibctlError):
                error.origin = f"open {target_run.label} {target_run.environment.label}"
            raise
        yield cloud


def _cloud(target_run: TargetRun) -> Cloud:
    run = target_run.ledger
    if target_run.options.existing_instance is not None and target_run.environment.settings.engine == "qemu":
        run = find_instance(target_run.options.existing_instance)[0]
    return open_environment(
        target_run.environment,
        run=run,
        cwd=target_run.cwd,
        deadlines=target_run.deadlines,
        image_endpoint=target_run.image_endpoint,
        progress=target_run.progress,
    )


def open_environment(
    environment: Entry[TestEnvironment],
    *,
    run: Ledger,
    cwd: Path,
    deadlines: merge.Deadlines,
    image_endpoint: str | None,
    progress: Progress = log.info,
) -> Cloud:
    """Return the Cloud of an environment; what it makes bears ``run``'s id, or lies in its directory.

    ``image_endpoint`` is where its images are, if the image or the environment says so: whoever removes an
    image must look for it where it was uploaded.
    Raises CredentialsError when the environment lacks some.
    """
    if environment.settings.engine == "qemu":
        from pytest_dibctl.clouds.qemu.cloud import QemuCloud  # costs nothing until a guest is wanted

        return QemuCloud(environment, directory=run.directory, cwd=cwd)
    from pytest_dibctl.clouds.openstack.cloud import OpenStackCloud  # a quarter of a second, likewise

    return OpenStackCloud(
        environment,
        run_id=run.run_id,
        cwd=cwd,
        deadlines=deadlines,
        image_endpoint=image_endpoint,
        progress=progress,
    )


@contextlib.contextmanager
def uploaded(target_run: TargetRun, cloud: Cloud, built: Artifact) -> Iterator[CloudImage]:
    """Make the file known to the cloud as a test image, private to the run, which uploads it once."""
    cloud.check(built, _upload_request(target_run))
    step = upload_step(target_run.label, target_run.environment.label)
    image: CloudImage | None = None
    try:
        with target_run.run_state.in_use(step):
            made = _once(target_run, step, lambda: _uploaded(target_run, cloud, built))
            image = CloudImage(**restored(CloudImage, made["image"]), artifact=built)
            yield image
    finally:
        if image is not None and target_run.owns_upload:
            with target_run.run_state.claim(step) as made_here:
                if made_here:
                    _release(target_run, cloud, image, Path(made_here["record"]))


def upload_step(image: str, environment: str) -> str:
    """Return what the upload of an image to an environment is called among the steps of a run."""
    return f"upload {image} to {environment}"


def _upload_request(target_run: TargetRun) -> UploadRequest:
    # A name of its own for each attempt: what a worker that died began to upload is removed by its name.
    return UploadRequest(
        name=f"dibctl-{target_run.ledger.run_id}-{_plain(target_run.label)}-{uuid.uuid4().hex[:6]}",
        image=target_run.image,
        deadlines=target_run.deadlines,
    )


def _uploaded(target_run: TargetRun, cloud: Cloud, built: Artifact) -> dict[str, Any]:
    request = _upload_request(target_run)
    # Whoever removes it after us has only the environment, and it may be the image that names the endpoint.
    endpoint = target_run.image_endpoint
    record = target_run.record("image", request.name, **({"endpoint": endpoint} if endpoint else {}))
    whole = False
    try:
        with target_run.phase("upload"), _preprocessed(target_run, built) as file:
            image = cloud.upload(file, request, progress=target_run.progress)
        record = _made(record)
        whole = True
    finally:
        if not whole:
            # upload removes what it began; what it could not remove, or did not know of, is on record.
            with target_run.removal(record.resource, record):
                cloud.remove("image", request.name, record.details)
    return {
        "image": plain(image),
        "record": str(record.path),
        "seconds": {"upload": target_run.phases["upload"]},
    }


def _release(target_run: TargetRun, cloud: Cloud, image: CloudImage, path: Path) -> None:
    record = load_record(path)
    reason = keeps_image(target_run.options, failed=target_run.failed)
    if reason is not None:
        if record is not None:
            keep(cloud, record, reason)
        target_run.note(image_resource(image), State.KEPT, reason)
    else:
        with target_run.removal(image_resource(image), record):
            cloud.delete_image(image)


def keep(cloud: Cloud, record: Record, reason: str) -> None:
    """Mark a thing as kept, in the ledger and in the cloud, where other machines see it."""
    record = record.keep(reason)
    try:
        cloud.keep(record.kind, record.name, record.details)
    except DibctlError as error:
        log.warning("%s %s is kept, but does not show it in the cloud: %s", record.kind, record.name, error)


def image_resource(image: CloudImage) -> Resource:
    """Return a test image as what is on record of it."""
    return Resource(kind="image", name=image.name, id=image.id)


def keeps_image(run_options: RunOptions, *, failed: bool) -> str | None:
    """Return why a test image is to be left, if it is."""
    if run_options.upload_only and not failed:
        return "--dib-upload-only"
    return "--dib-keep-failed-image" if failed and run_options.keep_failed_image else None


def _preprocessed(target_run: TargetRun, built: Artifact) -> contextlib.AbstractContextManager[Artifact]:
    """Return what is uploaded of the image: what ``preprocessing`` makes of it, while the block lasts."""
    environment = target_run.environment
    told = merge.glance(target_run.image, environment)
    return preprocessing.preprocessed(
        built,
        environment.settings.preprocessing,
        disk_format=told.disk_format,
        container_format=told.container_format,
        where=environment.at("preprocessing"),
        cwd=target_run.cwd,
        progress=target_run.progress,
    )


@contextlib.contextmanager
def keypair(target_run: TargetRun, cloud: Cloud) -> Iterator[SshKey]:
    """Make an ed25519 key for the run and tell the cloud its public half, or use the one that was named.

    Both go when the block ends unless the instance they open was kept.
    """
    run_options = target_run.options
    if run_options.existing_instance is not None:
        yield _key_of_existing(target_run)
        return
    # Nova allows 255 characters; the label is only there for people.
    name = f"dibctl-{target_run.ledger.run_id}-{_plain(target_run.label)[:100]}-{uuid.uuid4().hex[:6]}"
    with contextlib.ExitStack() as stack:
        if run_options.private_key_file is not None:
            key = SshKey.from_file(run_options.private_key_file)
        else:
            key = stack.enter_context(_made_key(target_run, name))
        stack.enter_context(_imported(target_run, cloud, key, name))
        yield key


def _key_of_existing(target_run: TargetRun) -> SshKey:
    run_options = target_run.options
    assert run_options.existing_instance is not None
    if run_options.private_key_file is not None:
        return SshKey.from_file(run_options.private_key_file)
    try:
        _, kept = find_instance(run_options.existing_instance)
    except NotInConfigError:
        raise CredentialsError(
            f"there is no ssh key for {run_options.existing_instance}: no run on this machine made it",
            hint="name the key with --dib-private-key-file (dibctl: --private-key-file)",
        ) from None
    return SshKey.from_file(Path(kept.details["key"]))


@contextlib.contextmanager
def _made_key(target_run: TargetRun, name: str) -> Iterator[SshKey]:
    target_run.guard()
    directory = target_run.ledger.directory / f"key-{name}"
    record = target_run.ledger.record(
        "key",
        name,
        directory=str(directory),
        image=target_run.label,
        environment=target_run.environment.label,
    )
    try:
        with disk_errors():
            directory.mkdir(mode=0o700)
            key = SshKey.generate(directory, comment=name)
        yield key
    finally:
        if _keeps_instance(target_run):
            record.keep("its instance was kept")
        else:
            with target_run.removal(record.resource, record):
                remove_tree(directory)


@contextlib.contextmanager
def _imported(target_run: TargetRun, cloud: Cloud, key: SshKey, name: str) -> Iterator[None]:
    record = target_run.record("keypair", name, fingerprint=key.nova_fingerprint)
    target_run.key_name = name
    try:
        with target_run.phase("boot"):
            cloud.import_key(key, name=name)
        record = _made(record)
        yield
    finally:
        if _keeps_instance(target_run):
            keep(cloud, record, "its instance was kept")
        else:
            with target_run.removal(record.resource, record):
                cloud.delete_key(name, fingerprint=key.nova_fingerprint)


@contextlib.contextmanager
def booted(target_run: TargetRun, cloud: Cloud, image: CloudImage | None, key: SshKey) -> Iterator[Instance]:
    """Boot an instance of ``image``; it runs when the block begins, and may not be ready yet.

    Without ``image`` it is the instance that ``RunOptions.existing_instance`` names, which is left alone.
    """
    if image is None:
        assert target_run.options.existing_instance is not None
        existing = cloud.existing(target_run.options.existing_instance)
        _note(target_run, existing)
        try:
            yield existing
        finally:
            _keep_console(target_run, existing)
        return
    # A host name has at most 63 characters and no underscore; guests take theirs from here.
    name = f"dibctl-{_plain(target_run.label)[:40].strip('-')}-{uuid.uuid4().hex[:8]}"
    record = target_run.record("instance", name, key=str(key.private_key_file))

    def note(**details: Any) -> None:
        nonlocal record
        record = record.update(**details)

    request = BootRequest(
        name=name,
        key=key,
        key_name=target_run.key_name or key.name,
        deadlines=target_run.deadlines,
        keepable=target_run.options.may_keep_instance,
        note=note,
    )
    instance: Instance | None = None
    try:
        with target_run.phase("boot"), disk_errors():
            instance = cloud.boot(image, request, progress=target_run.progress)
        _note(target_run, instance)
        with contextlib.suppress(DibctlError):  # it is on record by its name already
            note(id=instance.id, made=True)
        yield instance
    finally:
        target_run.instance = None
        if instance is not None:
            _keep_console(target_run, instance)
        if instance is None:
            # boot removes what it began; an interruption may have come between its end and our knowing.
            with target_run.removal(record.resource, record):
                cloud.remove("instance", name, record.details)
        elif _keeps_instance(target_run):
            reason = "exit 42" if target_run.keep else "--dib-keep-failed-instance"
            keep(cloud, record, reason)
            resource = Resource(kind="instance", name=instance.name, id=instance.id)
            target_run.note(resource, State.KEPT, reason, login=target_run.reach)
        else:
            with target_run.removal(record.resource, record):
                instance.delete()


def _made(record: Record) -> Record:
    """Note that a thing is there: whoever removes it later need not wait for it to appear."""
    with contextlib.suppress(DibctlError):  # it is on record all the same
        return record.update(made=True)
    return record


def _note(target_run: TargetRun, instance: Instance) -> None:
    target_run.instance, target_run.instance_id, target_run.facts = (
        instance,
        instance.id,
        dict(instance.facts),
    )
    if target_run.options.logs is not None:  # its reports name the file that it will be
        target_run.console_log = console_file(target_run.options.logs, instance.name)


@contextlib.contextmanager
def reachable(target_run: TargetRun, instance: Instance, key: SshKey) -> Iterator[SshAccess]:
    """Wait until the instance lets us log in, and keep that way open."""
    username, port = merge.login(target_run.image)
    endpoint = instance.endpoint(port)
    with disk_errors():
        access = SshAccess(
            ip=endpoint.ip,
            port=endpoint.port,
            username=username,
            key=key,
            directory=target_run.ledger.directory,
            name=instance.name,
            host_keys=instance.host_keys,
        )
    target_run.reach = process.command_line(access.command_line())
    try:
        with target_run.phase("ready"):
            _wait_ready(target_run, instance, access)
        remember_pristine(target_run, instance, access)
        yield access
    finally:
        access.close(keep_files=_keeps_instance(target_run))


def _wait_ready(target_run: TargetRun, instance: Instance, access: SshAccess) -> None:
    deadline = target_run.deadlines.port
    try:
        waited = access.wait_ready(timeout=deadline, check=instance.check, progress=target_run.progress)
        _wait_configured_port(target_run, instance, max(0.0, deadline - waited))
    except PortTimeoutError as error:
        tail = console_tail(instance)
        raise PortTimeoutError(
            f"{target_run.label}: {error.message}"
            + (f"\nlast lines of the console:\n{tail}" if tail else ""),
            hint=error.hint,
        ) from None


def _wait_configured_port(target_run: TargetRun, instance: Instance, timeout: float) -> None:
    wanted = target_run.image.settings.tests.wait_for_port
    _, ssh_port = merge.login(target_run.image)
    if wanted is not None and wanted != ssh_port:
        wait_for_port(instance, wanted, timeout=timeout)


def wait_for_port(instance: Instance, port: int, *, timeout: float) -> float:
    """Wait until the guest's TCP ``port`` answers; return the seconds it took.

    Raises InstanceError if the instance dies meanwhile, PortTimeoutError after ``timeout`` seconds.
    """
    from pytest_dibctl.guest.ssh import port_answers

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
    target_run: TargetRun,
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
    return _await_boot(target_run, instance, access, after=before, started=started, timeout=timeout)


def rebuild(
    target_run: TargetRun, instance: Instance, access: SshAccess, *, timeout: float | None = None
) -> float:
    """Give the instance the image's root disk again and wait until it lets us log in; return the seconds.

    The guest need not work. Raises InstanceError, and what ``SshAccess.wait_ready`` raises.
    """
    before = _old_boot_id(access)
    started = time.monotonic()
    instance.rebuild()
    access.trust(instance.host_keys)
    return _await_boot(target_run, instance, access, after=before, started=started, timeout=timeout)


def revert(
    target_run: TargetRun, instance: Instance, access: SshAccess, name: str, *, timeout: float | None = None
) -> float:
    """Go back to a snapshot of the instance, by its name, and wait for a login; return the seconds it took.

    A guest whose memory came back gets the time of now, if its login may set the clock. Raises
    InstanceError, and what ``SshAccess.wait_ready`` raises.
    """
    before = None if instance.snapshots_memory else _old_boot_id(access)
    started = time.monotonic()
    instance.revert(name)
    access.trust(instance.host_keys)
    _await_boot(target_run, instance, access, after=before, started=started, timeout=timeout)
    if instance.snapshots_memory:
        _set_clock(target_run, access)
    return time.monotonic() - started


PRISTINE = "pristine"
"""The snapshot of an instance as it was when it first let us log in."""


def remember_pristine(target_run: TargetRun, instance: Instance, access: SshAccess) -> None:
    """Take note that the instance was ready just now, for ``pristine`` to come back to."""
    target_run.untouched = True
    target_run.has_pristine = False
    foreign = target_run.options.existing_instance is not None
    if foreign or not target_run.wants_pristine or not instance.snapshots_memory:
        return
    with target_run.phase("pristine"):
        access.disconnect()  # or the guest would come back with a connection whose other end is gone
        try:
            instance.snapshot(PRISTINE)
        except InstanceError as error:
            target_run.progress(f"instances will be rebuilt for dib_pristine tests: {error.message}")
        else:
            target_run.has_pristine = True


def pristine(target_run: TargetRun, instance: Instance, access: SshAccess) -> None:
    """Have the instance as it was when it first let us log in; quick if nothing was done to it since.

    From a snapshot where that brings memory back, else by a rebuild. Raises InstanceError, and what
    ``SshAccess.wait_ready`` raises.
    """
    if target_run.untouched:
        return
    with target_run.phase("pristine"):
        if target_run.has_pristine:
            revert(target_run, instance, access, PRISTINE)
        else:
            took = rebuild(target_run, instance, access)
            _wait_configured_port(target_run, instance, max(0.0, target_run.deadlines.port - took))
    target_run.untouched = True


def _await_boot(
    target_run: TargetRun,
    instance: Instance,
    access: SshAccess,
    *,
    after: str | None,
    started: float,
    timeout: float | None,
) -> float:
    """Wait for a login to another boot than ``after`` (None: any); return the seconds since ``started``."""
    limit = target_run.deadlines.port if timeout is None else timeout
    access.disconnect()
    while True:
        left = limit - (time.monotonic() - started)
        if left <= 0:
            raise PortTimeoutError(f"{instance.name} did not come back within {limit:g} s")
        access.wait_ready(timeout=left, check=instance.check, progress=target_run.progress)
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


def _set_clock(target_run: TargetRun, access: SshAccess) -> None:
    """Tell a guest that comes from a snapshot what time it is."""
    set_it = f"date -u -s @{time.time():.0f}"
    with contextlib.suppress(DibctlError):
        if access.run(f"sudo -n {set_it} || {set_it}", timeout=60).returncode == 0:
            return
    target_run.progress("the guest's clock still shows the time of its snapshot: this login may not set it")


def open_shell(target_run: TargetRun, access: SshAccess) -> int:
    """Give the terminal to a shell in the instance; ``exit 42`` in it keeps the instance."""
    import subprocess

    # The terminal is the point here: this one command keeps our session and process group.
    code = subprocess.call(access.command_line(), env=process.environment())
    target_run.keep = target_run.keep or code == SHELL_KEEPS
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


def keep_console_of(
    environment: Entry[TestEnvironment], name: str, *, run: Ledger, cwd: Path, logs: Path
) -> None:
    """Write the console of an instance that nobody holds any more to ``logs``, if it can be had."""
    with contextlib.suppress(DibctlError):
        cloud = open_environment(
            environment,
            run=run,
            cwd=cwd,
            deadlines=merge.environment_deadlines(environment),
            image_endpoint=environment.settings.glance.endpoint,
        )
        with contextlib.closing(cloud):
            console = cloud.existing(name).console_output()
            _write_log(console_file(logs, name), console.encode)


def _keeps_instance(target_run: TargetRun) -> bool:
    if target_run.options.existing_instance is not None:
        return False
    return target_run.keep or (target_run.failed and target_run.options.keep_failed_instance)


def cleanup_command(run: Ledger) -> str:
    """Return the command that removes what ``run`` kept."""
    return f"dibctl cleanup --run {run.run_id}"


def console_tail(instance: Instance, lines: int = 20) -> str:
    """Return the last lines of the console, or nothing when there is none to be had."""
    with contextlib.suppress(Exception):  # a report is being made: it must not fail for want of a console
        return "\n".join(instance.console_output().splitlines()[-lines:])
    return ""


def remove_tree(directory: Path) -> None:
    """Remove a directory, which may be gone already."""
    import shutil

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _plain(label: str) -> str:
    """Return a label as it may stand in a host name or a Nova keypair name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower() or "image"
