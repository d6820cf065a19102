"""The ladder image, artifact, cloud_image, keypair, instance, ssh_access; operations, and script runners.

Each step is a session-scoped fixture of a few lines over a context manager of ``run``, so a
conftest can override any of them. All are parametrized through ``image``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pytest_dibctl.clouds.protocols import Cloud, CloudImage, Instance
from pytest_dibctl.config import interpolate
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.guest import scripts
from pytest_dibctl.guest.guest_script import GuestScript
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.image.tree import ImageTree
from pytest_dibctl.plugin import collection, modules, planning
from pytest_dibctl.plugin.session import KEY, DibSession
from pytest_dibctl.run import (
    booting,
    building,
    content,
    environments,
    keys,
    operations,
    readiness,
    uploading,
    variables,
    warming,
)
from pytest_dibctl.run.operations import GuestOperations
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system import signals

# -- the ladder ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Entry[Image]:
    """The image under test: ``image.label`` and ``image.settings``, its entry in images.yaml."""
    session = request.config.stash[KEY]
    session.current = request.param
    return session.target_run(request.param).image


@pytest.fixture(scope="session")
def dib_run(image: Entry[Image], request: pytest.FixtureRequest) -> TargetRun:  # noqa: ARG001 -- it sets current
    """The state of the image in this run.

    It has ``phases`` in seconds, ``digest``, ``environment`` and ``failed``.
    """
    session = request.config.stash[KEY]
    return session.target_run(session.current)


@pytest.fixture(scope="session")
def dib_journey(dib_run: TargetRun) -> TargetRun:
    """The former name of ``dib_run``, for tests that use it."""
    return dib_run


@pytest.fixture(scope="session")
def dib_later_rungs(
    dib_run: TargetRun,  # noqa: ARG001 -- the image and environment of the fixture
    request: pytest.FixtureRequest,
) -> None:
    """The test environments of the ladder's later rungs, opened once before the build."""
    session = request.config.stash[KEY]
    for rung in session.plan.later(session.current):
        if rung in session.booting:
            environments.check(session.target_run(rung))


@pytest.fixture(scope="session")
def artifact(dib_run: TargetRun, request: pytest.FixtureRequest) -> Artifact:
    """The image's file, built now unless it is up to date.

    It has ``path``, ``disk_format``, ``size``, ``virtual_size``, ``sha512``, ``kernel`` and ``initrd``.
    """
    session = request.config.stash[KEY]
    if session.current in session.booting:
        request.getfixturevalue("cloud")  # errors there are reported before a build of minutes
    request.getfixturevalue("dib_later_rungs")
    return building.artifact(dib_run)


@pytest.fixture(scope="session")
def dib_view(request: pytest.FixtureRequest) -> str:
    """The subject of the test: ``instance``, or ``tree``, the image's files, in ``image`` entries."""
    return str(request.param)


@pytest.fixture(scope="session")
def image_tree(
    dib_run: TargetRun,
    dib_view: str,  # noqa: ARG001 -- closed before the tests that look at the instance begin
    request: pytest.FixtureRequest,
) -> Iterator[ImageTree]:
    """The image's files, read-only and without a guest.

    It has ``path(name)``, ``open(name)``, ``read(name)``, ``read_bytes(name)``, ``is_file(name)``,
    ``glob(pattern)``, ``walk()``, ``device`` and ``disk``.
    """
    if not dib_run.options.has_file:
        pytest.skip("the tested image or instance exists already, and its file is not known")
    built = request.getfixturevalue("artifact")
    session = request.config.stash[KEY]
    if session.may_boot_early(dib_run):
        request.getfixturevalue("dib_early_boot")
    with content.file_tree(dib_run, built) as tree:
        yield tree


@pytest.fixture(scope="session")
def dib_early_boot(dib_run: TargetRun, request: pytest.FixtureRequest) -> Iterator[None]:
    """An instance that boots while the image's files are looked at; ``instance`` takes it over.

    The first test that needs the instance reports an error of this boot; tests of the files do not.
    """
    session = request.config.stash[KEY]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(Exception, pytest.skip.Exception, pytest.fail.Exception):
            cloud, image, key = map(request.getfixturevalue, ("cloud", "cloud_image", "keypair"))
            begun = booting.begun(dib_run, cloud, image, key)
            session.early[session.current] = stack.enter_context(begun)
        yield


@pytest.fixture(scope="session")
def cloud(dib_run: TargetRun) -> Iterator[Cloud]:
    """The test environment, opened; ``capabilities`` are those of its engine."""
    with environments.opened(dib_run) as opened:
        yield opened


@pytest.fixture(scope="session")
def cloud_image(
    dib_run: TargetRun,
    cloud: Cloud,
    request: pytest.FixtureRequest,
) -> Iterator[CloudImage | None]:
    """The image as the cloud knows it, private to this run; None with --dib-use-existing-instance."""
    content.refuse_failed_content(dib_run)
    if dib_run.options.existing_instance is not None:
        yield None
        return
    if dib_run.options.existing_image is not None:
        yield cloud.existing_image(dib_run.options.existing_image)
        return
    # Asked for only here: an instance that exists needs no build.
    with uploading.uploaded(dib_run, cloud, request.getfixturevalue("artifact")) as uploaded:
        yield uploaded


@pytest.fixture(scope="session")
def dib_upload_only(cloud_image: CloudImage | None) -> None:
    """The upload of --dib-upload-only: every test asks for this fixture, and is skipped after the upload."""
    assert cloud_image is not None
    pytest.skip(f"--dib-upload-only: {cloud_image.name} ({cloud_image.id}) is uploaded")


@pytest.fixture(scope="session")
def keypair(dib_run: TargetRun, cloud: Cloud) -> Iterator[SshKey]:
    """The ed25519 key that opens the instance; the cloud knows its public half."""
    with keys.keypair(dib_run, cloud) as key:
        yield key


@pytest.fixture(scope="session")
def instance(
    dib_run: TargetRun,
    cloud: Cloud,
    cloud_image: CloudImage | None,
    keypair: SshKey,
    request: pytest.FixtureRequest,
) -> Iterator[Instance]:
    """The machine under test, running; it may not be ready for a login yet (``ssh_access`` waits).

    It has ``name``, ``id``, ``flavor``, ``interfaces``, ``endpoint(port)``, ``stop()``, ``start()``,
    ``reboot()``, ``rebuild()``, ``snapshot(name)``, ``revert(name)``, ``console_output()`` and
    ``screenshot()``.
    """
    content.refuse_failed_content(dib_run)  # maybe found since, for the same image in another environment
    session = request.config.stash[KEY]
    early = session.early.get(session.current)
    with booting.booted(dib_run, cloud, cloud_image, keypair, early) as booted:
        yield booted


@pytest.fixture(scope="session")
def ssh_access(
    dib_run: TargetRun,
    instance: Instance,
    keypair: SshKey,
    request: pytest.FixtureRequest,
) -> Iterator[SshAccess]:
    """A login to the instance that works: ``run(command, timeout=None)``, ``command_line()``."""
    with booting.reachable(dib_run, instance, keypair) as access:
        yield access
        _offer_shell(request.config.stash[KEY], dib_run, access)


def _offer_shell(session: DibSession, target_run: TargetRun, access: SshAccess) -> None:
    """Open ``--dib-shell``'s shell if the image failed and the run is not to end."""
    if not (session.options.shell and target_run.failed) or signals.interrupted():
        return
    session.progress.announce(
        f"{target_run.label} failed; a shell in its instance (`exit {operations.SHELL_KEEPS}` keeps it)"
    )
    with session.progress.uncaptured(stdin=True):
        operations.open_shell(target_run, access)


# -- operations ------------------------------------------------------------------------------------


# A fixture of each test: tests may override `ssh_access` at a narrower scope than the session.
@pytest.fixture
def _dib_operations(dib_run: TargetRun, instance: Instance, ssh_access: SshAccess) -> GuestOperations:
    return GuestOperations(target_run=dib_run, instance=instance, access=ssh_access)


@pytest.fixture
def reboot(_dib_operations: GuestOperations) -> Callable[..., float]:
    """``reboot(hard=False, timeout=None)``: reboot, wait for the next boot's login, return the seconds."""

    def do_reboot(*, hard: bool = False, timeout: float | None = None) -> float:
        return _dib_operations.reboot(hard=hard, timeout=timeout)

    return do_reboot


@pytest.fixture
def rebuild(_dib_operations: GuestOperations) -> Callable[..., float]:
    """``rebuild(timeout=None)``: give it the image's disk again, wait for a login, return the seconds."""

    def do_rebuild(*, timeout: float | None = None) -> float:
        return _dib_operations.rebuild(timeout=timeout)

    return do_rebuild


@pytest.fixture
def revert(_dib_operations: GuestOperations) -> Callable[..., float]:
    """``revert(name, timeout=None)``: go back to a snapshot of the instance, wait for a login."""

    def do_revert(name: str, *, timeout: float | None = None) -> float:
        return _dib_operations.revert(name, timeout=timeout)

    return do_revert


@pytest.fixture(autouse=True)
def _dib_pristine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give ``dib_first_boot`` and ``dib_pristine`` tests the instance they need; note its use."""
    target = modules.target_of(request.node)
    if target is None:
        yield
        return
    target_run = request.config.stash[KEY].target_run(target)
    wants_first_boot = target_run.options.warm and collection.needs_first_boot(request.node)
    # Log in only where it is needed: such a test may be about a guest that accepts no login.
    if wants_first_boot and warming.is_resumed(request.getfixturevalue("instance")):
        request.getfixturevalue("_dib_operations").require_first_boot()
    if request.node.get_closest_marker(collection.PRISTINE_MARK):
        if target_run.options.existing_instance is not None:
            pytest.skip(
                "--dib-use-existing-instance: the run did not make the instance, so it is not put back to "
                "its first state"
            )
        request.getfixturevalue("_dib_operations").restore_pristine()
    yield
    # Asked only now: a test may get the instance in the middle of its body. `host` got it maybe long before.
    at_instance = modules.view_of(request.node) == planning.INSTANCE
    if at_instance and {"instance", "host"} & set(request.fixturenames):
        target_run.guest.pristine.untouched = False


@pytest.fixture
def wait_for_port(dib_run: TargetRun, instance: Instance) -> Callable[..., float]:
    """``wait_for_port(port, timeout=...)``: wait until the guest's port answers; return the seconds."""

    def wait(port: int, timeout: float | None = None) -> float:
        limit = dib_run.deadlines.port if timeout is None else timeout
        return readiness.wait_for_port(instance, port, timeout=limit)

    return wait


@pytest.fixture
def console_output(instance: Instance) -> str:
    """All of the instance's serial console up to now."""
    return instance.console_output()


# -- what runs scripts and commands ----------------------------------------------------------------


@pytest.fixture
def dib_runner(
    image: Entry[Image],
    environment_variables: Mapping[str, str],
    request: pytest.FixtureRequest,
) -> scripts.Runner:
    """The runner of the test's script or command, with the settings of its entry."""
    item, get = request.node, request.getfixturevalue
    entry = item.stash[modules.ENTRY]
    cwd = request.config.invocation_params.dir
    kind = modules.kind_of(item)
    trace: bool = request.config.option.dib_trace
    if kind == "image":
        tree = get("image_tree")
        test_variables = variables.for_image(tree, image, environment_variables)
        argv = modules.script_argv(item.path, trace=trace)
        return scripts.Here(argv=argv, variables=test_variables, cwd=cwd, tree=tree)
    test_variables = get("dib_variables")
    if kind == "ssh":
        script = GuestScript(
            path=item.path,
            interpreter=scripts.interpreter(item.path, trace=trace),
            folder=entry.folder,
            sudo=entry.sudo,
        )
        return scripts.InGuest(script=script, access=get("ssh_access"), variables=test_variables)
    if kind == "external":
        target_run = get("dib_run")
        built = get("artifact") if target_run.options.has_file else None
        file = built.path if built else planning.absolute(Path(image.settings.filename), cwd)
        names = variables.for_command(image, target_run.environment, file, built, test_variables)
        argv = interpolate.command(entry.written, names, image.at(entry.place))
        return scripts.Here(argv=argv, variables=test_variables, cwd=cwd)
    return scripts.Here(argv=modules.script_argv(item.path, trace=trace), variables=test_variables, cwd=cwd)
