"""``dibctl``: subcommands that parse, load the configuration and make one library call each."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest_dibctl
from pytest_dibctl.cli import (
    build,
    cleanup,
    completion,
    configuration,
    doctor,
    images,
    rotate,
    shell,
    test,
    transfer,
    upload,
)
from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.cli.output import say
from pytest_dibctl.errors import DibctlError, ExitCode
from pytest_dibctl.system import signals


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

    build.add_options(
        command("build", build.run, "Build an image with diskimage-builder, unless it is up to date.")
    )
    test.add_options(
        command("test", test.run, "Boot an image and run the tests that images.yaml lists for it.")
    )
    shell.add_options(command("shell", shell.run, "Boot an image and open a shell in the instance."))
    configuration.add_validate_options(
        command(
            "validate",
            configuration.run_validate,
            "Check the configuration and say what was read from where.",
        )
    )
    configuration.add_schema_options(
        command(
            "schema",
            configuration.run_schema,
            "Print the JSON Schema of a configuration file, for editors.",
        )
    )
    doctor.add_options(command("doctor", doctor.run, "Check whether this machine can build and boot images."))
    upload.add_options(
        command("upload", upload.run, "Publish an image in one or many environments of upload.yaml.")
    )
    images.add_mark_obsolete_options(
        command("mark-obsolete", images.run_mark_obsolete, "Make images obsolete: rename and mark them.")
    )
    rotate.add_rotate_options(
        command(
            "rotate",
            rotate.run_rotate,
            "Delete the obsolete images that nobody uses (needs an admin's eyes).",
        )
    )
    rotate.add_rotate_single_options(
        command(
            "rotate-single",
            rotate.run_rotate_single,
            "Delete the unused obsolete images of one image's name.",
        )
    )
    images.add_list_options(
        command("list", images.run_list, "List the images of the projects of upload environments.")
    )
    transfer.add_options(
        command("transfer", transfer.run, "Copy an image from one cloud or region to another.")
    )
    images.add_diff_options(
        command("diff", images.run_diff, "Compare the packages of a built image with the published one's.")
    )
    cleanup.add_options(command("cleanup", cleanup.run, "Remove what dead or named runs left."))
    completion.add_options(
        command("completion", completion.run, "Print what a shell needs to complete dibctl's command line.")
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


if __name__ == "__main__":
    sys.exit(main())
