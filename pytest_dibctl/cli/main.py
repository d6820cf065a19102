"""``dibctl``: subcommands that parse, load the configuration and make one library call each."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest_dibctl
from pytest_dibctl.cli import completion, publish
from pytest_dibctl.cli.output import load, print_json, say
from pytest_dibctl.errors import DibctlError, ExitCode, NotInConfigError
from pytest_dibctl.system import process, signals

Arguments = argparse.Namespace
PYTEST_NOTHING_COLLECTED = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dibctl`` and return its exit code; errors are shown without traceback, unless ``--debug``."""
    parser = build_parser()
    completion.answer(parser)
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        with signals.as_keyboard_interrupt():
            code = int(arguments.run(arguments))
            sys.stdout.flush()  # a reader that has gone is noticed here, not when Python exits
            return code
    except DibctlError as error:
        if arguments.debug:
            raise
        say(f"dibctl: error: {error}")
        for note in getattr(error, "__notes__", ()):
            say(f"note: {note}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        say("dibctl: interrupted")
        return int(ExitCode.UNSPECIFIED)
    except BrokenPipeError:
        # `dibctl validate | head`: the reader has seen enough. Python would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)


# -- parser ----------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command and option."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_common(common)
    parser = argparse.ArgumentParser(
        prog="dibctl",
        description="Build, test and look after machine images (as `pytest --dib-image=LABEL` does).",
    )
    _add_common(parser)
    parser.set_defaults(
        debug=False,
        images_config=None,
        test_config=None,
        upload_config=None,
    )
    parser.add_argument("--version", action="version", version=f"dibctl {pytest_dibctl.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Arguments], int], text: str) -> argparse.ArgumentParser:
        child = commands.add_parser(name, parents=[common], help=text, description=text)
        child.set_defaults(run=run)
        return child

    _add_build(command("build", run_build, "Build an image with diskimage-builder, unless it is up to date."))
    _add_test(command("test", run_test, "Boot an image and run the tests that images.yaml lists for it."))
    _add_shell(command("shell", run_shell, "Boot an image and open a shell in the instance."))
    _add_validate(
        command("validate", run_validate, "Check the configuration and say what was read from where.")
    )
    _add_schema(command("schema", run_schema, "Print the JSON Schema of a configuration file, for editors."))
    _add_doctor(command("doctor", run_doctor, "Check whether this machine can build and boot images."))
    publish.add_commands(command)
    _add_cleanup(command("cleanup", run_cleanup, "Remove what dead or named runs left."))

    _add_completion(
        command("completion", run_completion, "Print what a shell needs to complete dibctl's command line.")
    )

    def run_help(_arguments: Arguments) -> int:
        parser.print_help()
        return ExitCode.OK

    command("help", run_help, "Show this help.")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show debug messages, and tracebacks of errors")
    parser.add_argument(
        "--images-config", type=Path, metavar="FILE", help="read this instead of searching images.yaml"
    )
    parser.add_argument(
        "--test-config",
        "--test-environments-config",
        type=Path,
        metavar="FILE",
        help="read this instead of searching test.yaml",
    )
    parser.add_argument(
        "--upload-config", type=Path, metavar="FILE", help="read this instead of searching upload.yaml"
    )


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="label in images.yaml")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write this file instead of `filename`"
    )
    parser.add_argument("--force", action="store_true", help="build even if nothing changed")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_boot_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="label in images.yaml")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="use this image file instead of `filename`"
    )
    parser.add_argument(
        "--environment",
        "--force-test-env",
        metavar="LABEL",
        help="test environment to use instead of the one the image names",
    )
    parser.add_argument(
        "--build", choices=("auto", "always", "never"), default="auto", help="when to build (auto)"
    )


def _add_test(parser: argparse.ArgumentParser) -> None:
    _add_boot_options(parser)
    parser.add_argument(
        "--keep-failed-image", action="store_true", help="keep the test image if a test fails"
    )
    parser.add_argument(
        "--keep-failed-instance", action="store_true", help="keep the instance if a test fails"
    )
    parser.add_argument("--shell", action="store_true", help="open a shell in the instance if a test fails")
    parser.add_argument(
        "--continue-on-fail", action="store_true", help="go on with the list after a failed entry"
    )
    parser.add_argument("--upload-only", action="store_true", help="upload the test image, keep it, and stop")
    parser.add_argument(
        "--use-existing-image", metavar="UUID", help="boot this image of Glance; it is left alone"
    )
    parser.add_argument("--use-existing-instance", metavar="ID", help="test this instance; it is left alone")
    parser.add_argument("--private-key-file", type=Path, metavar="FILE", help="ssh key of that instance")
    parser.add_argument("pytest_args", nargs="*", metavar="-- PYTEST_ARG", help="passed on to pytest")


def _add_shell(parser: argparse.ArgumentParser) -> None:
    _add_boot_options(parser)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("images", "test", "upload"))


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--install", action="store_true", help="install the missing Debian packages (needs root)"
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def _add_cleanup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--run", dest="run_id", metavar="ID", help="this run only, what it kept included")
    parser.add_argument(
        "--env", dest="environment", metavar="LABEL", help="what is in this test environment only"
    )
    parser.add_argument(
        "--expired",
        action="store_true",
        help="also what runs of any machine left in the OpenStack environments more than 24 hours ago",
    )
    parser.add_argument("--json", action="store_true", help="print what became of each thing as JSON")


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=completion.SHELLS)


# -- commands --------------------------------------------------------------------------------------


def run_build(arguments: Arguments) -> int:
    """``dibctl build``: exits with disk-image-create's own code when that fails."""
    from pytest_dibctl.build import builder

    image = load(arguments).image(arguments.image)
    outcome = builder.build(
        image,
        policy="always" if arguments.force else "auto",
        output=arguments.output,
        cwd=Path.cwd(),
        progress=lambda line: say(f"{image.label}: {line}"),
    )
    if arguments.json:
        print_json(
            {
                "image": image.label,
                "file": str(outcome.artifact.path),
                "size": outcome.artifact.size,
                "sha512": outcome.artifact.sha512,
                "built": outcome.built,
                "reason": outcome.reason,
                "seconds": round(outcome.seconds, 1),
                "phases": {name: round(seconds, 1) for name, seconds in outcome.phases.items()},
            },
        )
        return ExitCode.OK
    verb = f"built in {outcome.seconds:.0f} s" if outcome.built else "up to date"
    print(f"{outcome.artifact.path}: {verb} ({outcome.reason})")
    return ExitCode.OK


def run_test(arguments: Arguments) -> int:
    """``dibctl test``: pytest as a child, its outcome as dibctl's exit code."""
    # In memory, and reached through us: nothing has to be removed, however we end.
    with os.fdopen(os.memfd_create("dibctl-result")) as memory:
        result_file = Path(f"/proc/{os.getpid()}/fd/{memory.fileno()}")
        argv = pytest_argv(arguments, result_file)
        code = _call_forwarding_signals(argv)
        return exit_code_of(code, result_file)


def pytest_argv(arguments: Arguments, result_file: Path) -> list[str]:
    """Return the pytest command line that ``dibctl test`` stands for."""
    argv = [
        process.interpreter(),
        "-m",
        "pytest",
        f"--dib-image={arguments.image}",
        f"--dib-result-file={result_file}",
    ]
    values = {
        "input": arguments.input,
        "env": arguments.environment,
        "build": arguments.build,
        "use-existing-image": arguments.use_existing_image,
        "use-existing-instance": arguments.use_existing_instance,
        "private-key-file": arguments.private_key_file,
        "images-config": arguments.images_config,
        "test-config": arguments.test_config,
        "upload-config": arguments.upload_config,
    }
    argv += [f"--dib-{name}={value}" for name, value in values.items() if value is not None]
    switches = ("keep_failed_image", "keep_failed_instance", "shell", "upload_only")
    argv += [f"--dib-{name.replace('_', '-')}" for name in switches if getattr(arguments, name)]
    argv.append("--dib-continue-on-fail" if arguments.continue_on_fail else "--dib-stop-on-fail")
    return [*argv, *arguments.pytest_args]


def exit_code_of(pytest_code: int, result_file: Path) -> int:
    """Return dibctl's exit code for how pytest ended."""
    with contextlib.suppress(OSError, ValueError):
        written = int(json.loads(result_file.read_text())["exit_code"])
        if written != ExitCode.OK:
            return written
    if pytest_code in {0, PYTEST_NOTHING_COLLECTED}:
        return pytest_code if pytest_code == 0 else ExitCode.TESTS_FAILED
    return ExitCode.TESTS_FAILED if pytest_code == 1 else ExitCode.UNSPECIFIED


def _call_forwarding_signals(argv: Sequence[str]) -> int:
    """Run a child in the foreground; it alone decides what an interrupt means, we wait for it."""
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if not children:
            early.append(number)
        # A Ctrl-C reaches the child by itself: it is in the terminal's foreground process group, as we are.
        elif number != signal.SIGINT or not _in_foreground():
            children[0].send_signal(number)

    former = {number: signal.signal(number, forward) for number in signals.STOPPING}
    try:
        children.append(subprocess.Popen(list(argv), env=process.environment(credentials=True)))
        for number in early:
            children[0].send_signal(number)
        return children[0].wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def run_shell(arguments: Arguments) -> int:
    """``dibctl shell``: the image's instance until the shell ends; ``exit 42`` keeps it."""
    from pytest_dibctl.config import merge
    from pytest_dibctl.run import booting, building, environments, keys, operations, uploading
    from pytest_dibctl.run.options import RunOptions
    from pytest_dibctl.run.target_run import TargetRun

    catalog = load(arguments)
    image = catalog.image(arguments.image)
    merge.login(image)  # before a build of minutes, not after it
    with _guarded_run(catalog, arguments) as (book, guard):
        target_run = TargetRun(
            image=image,
            environment=catalog.environment_for(image, override=arguments.environment),
            options=RunOptions(  # noqa: S604 -- `shell` is our option, no process is started here
                build=arguments.build,
                input=arguments.input,
                shell=True,
            ),
            ledger=book,
            cwd=Path.cwd(),
            progress=lambda line: say(f"{image.label}: {line}"),
            guard=guard,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(_tell, target_run)
            cloud = stack.enter_context(environments.opened(target_run))
            built = building.artifact(target_run)
            uploaded = stack.enter_context(uploading.uploaded(target_run, cloud, built))
            key = stack.enter_context(keys.keypair(target_run, cloud))
            instance = stack.enter_context(booting.booted(target_run, cloud, uploaded, key))
            access = stack.enter_context(booting.reachable(target_run, instance, key))
            say(f"{instance.name} is ready; `exit {operations.SHELL_KEEPS}` keeps it when the shell ends")
            operations.open_shell(target_run, access)
    return ExitCode.UNSPECIFIED if target_run.leftovers else ExitCode.OK


@contextlib.contextmanager
def _guarded_run(catalog: Any, arguments: Arguments) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Open a new run's ledger; yield it with what gives the run a guardian."""
    from pytest_dibctl.cleanup import guardian
    from pytest_dibctl.run import ledger

    environments = [catalog.environment_for(catalog.image(arguments.image), override=arguments.environment)]
    with contextlib.ExitStack() as stack:
        directory = ledger.base_directory() / ledger.new_run_id()
        guard = guardian.of_run(directory, environments, cwd=Path.cwd())
        stack.callback(guard.reap)  # last of all: it waits for the ledger to be let go
        book = stack.enter_context(ledger.opened(directory.name))
        stack.enter_context(process.marked(book.run_id))
        signals.guarded()
        try:
            yield book, guard.ensure
        finally:
            if not signals.abandoned():
                book.finish()


def _tell(target_run: Any) -> None:
    for kept in target_run.kept:
        print(f"kept {kept.resource}")
        print(f"    log in:  {kept.login}")
        print(f"    remove:  {kept.command}")
    for leftover in target_run.leftovers:
        say(f"NOT REMOVED: {leftover.resource}: {leftover.reason}; `dibctl cleanup` tries again")


def run_validate(arguments: Arguments) -> int:
    """``dibctl validate``: exits 10 when anything is wrong."""
    from pytest_dibctl.build import builder
    from pytest_dibctl.config import report

    found = report.validate(
        cwd=Path.cwd(),
        images=arguments.images_config,
        test=arguments.test_config,
        upload=arguments.upload_config,
        checks=[builder.check_recipe],
    )
    if arguments.json:
        print_json(found.as_dict())
    else:
        for line in found.lines():
            print(line)
    return ExitCode.OK if found.ok else ExitCode.CONFIG


def run_schema(arguments: Arguments) -> int:
    """``dibctl schema``: JSON on stdout."""
    from pytest_dibctl.config import schema

    print_json(schema.schema(arguments.kind))
    return ExitCode.OK


def run_completion(arguments: Arguments) -> int:
    """``dibctl completion``: shell code on stdout."""
    print(completion.shell_code(arguments.shell))
    return ExitCode.OK


def run_doctor(arguments: Arguments) -> int:
    """``dibctl doctor``: exits 1 while something needed is missing."""
    from pytest_dibctl.run import doctor
    from pytest_dibctl.system import packages
    from pytest_dibctl.system.checks import missing_packages

    checks = doctor.examine()
    if arguments.install:
        missing = missing_packages(checks)
        if missing:
            packages.install(missing, progress=say)
            checks = doctor.examine()
    if arguments.json:
        print_json([check.as_dict() for check in checks])
    else:
        _print_checks(checks)
    return ExitCode.OK if all(check.ok or not check.required for check in checks) else ExitCode.UNSPECIFIED


def _print_checks(checks: Sequence[Any]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.required else "no"
        print(f"{mark:<8} {check.name:<{width}}  {check.detail}")
        if check.fix and not check.ok:
            print(f"{'':<8} {'':<{width}}  -> {check.fix}")


def run_cleanup(arguments: Arguments) -> int:
    """``dibctl cleanup``: exits 1 when something could not be removed."""
    from pytest_dibctl.cleanup import sweep
    from pytest_dibctl.config.catalog import LOCAL

    catalog = functools.cache(lambda: load(arguments, need_images=False))
    if arguments.environment is not None and arguments.environment != LOCAL:
        catalog().environment(arguments.environment)  # a label that is not there is said to be so
    choice = sweep.Choice(run_id=arguments.run_id, environment=arguments.environment)
    swept: list[sweep.Swept] = []

    def tell(found: Iterable[sweep.Swept]) -> None:
        for item in found:
            swept.append(item)
            if not arguments.json:
                print(f"{item.run_id}  {item.what}: {item.outcome}", flush=True)

    try:
        _clean_up(arguments, choice, catalog, tell)
    finally:
        if arguments.json:
            print_json([item.as_data() for item in swept])
    if not swept and not arguments.json:
        print("nothing to remove")
    return ExitCode.UNSPECIFIED if any(item.failed for item in swept) else ExitCode.OK


def _clean_up(
    arguments: Arguments,
    choice: Any,
    catalog: Callable[[], Any],
    tell: Callable[[Iterable[Any]], None],
) -> None:
    from pytest_dibctl.cleanup import sweep

    with contextlib.suppress(*([NotInConfigError] if arguments.expired else [])):
        tell(
            sweep.sweep(
                lambda label: catalog().environment(label),
                choice,
                cwd=Path.cwd(),
                dry_run=arguments.dry_run,
            )
        )
    if arguments.expired:
        environments = catalog().environments.values()
        tell(sweep.sweep_expired(environments, choice, cwd=Path.cwd(), dry_run=arguments.dry_run))


if __name__ == "__main__":
    sys.exit(main())
