"""The entry of ``dibctl``: the parser of all commands, and the handling of their errors."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest_dibctl
from pytest_dibctl.cli import (
    build,
    cache,
    cleanup,
    completion,
    configuration,
    doctor,
    images,
    init,
    matrix,
    merge,
    rotate,
    shell,
    status,
    test,
    transfer,
    upload,
)
from pytest_dibctl.cli.command import Arguments, Command
from pytest_dibctl.cli.output import say
from pytest_dibctl.cli.parser import Parser, parse
from pytest_dibctl.errors import DibctlError, ExitCode
from pytest_dibctl.system import signals, text

COMMANDS = (
    init.COMMAND,
    build.COMMAND,
    test.COMMAND,
    shell.COMMAND,
    status.COMMAND,
    configuration.VALIDATE,
    configuration.SCHEMA,
    doctor.COMMAND,
    upload.COMMAND,
    images.MARK_OBSOLETE,
    rotate.ROTATE,
    rotate.ROTATE_SINGLE,
    images.LIST,
    transfer.COMMAND,
    images.DIFF,
    matrix.COMMAND,
    merge.COMMAND,
    cleanup.COMMAND,
    cache.COMMAND,
    completion.COMMAND,
)
"""In the order of ``dibctl --help``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dibctl`` and return its exit code; without ``--debug`` errors are shown without traceback."""
    words = sys.argv[1:] if argv is None else argv
    parser = build_parser(None if completion.is_asked() else words)
    completion.answer(parser)
    arguments = parse(parser, words)
    _prepare_output(debug=arguments.debug)
    interruption: signals.Interruption | None = None
    try:
        with signals.as_keyboard_interrupt() as interruption:
            code = int(arguments.run(arguments))
            sys.stdout.flush()  # a closed pipe raises here, not when Python exits
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
        return signals.exit_code(interruption.first if interruption is not None else None)
    except BrokenPipeError:
        # `dibctl validate | head` is no error. Python flushes again on exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)


def _prepare_output(*, debug: bool) -> None:
    """Have only our own words shown, and of libraries errors; ``debug`` shows what they say, and warnings.

    A character that the terminal's encoding lacks is shown as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(text.VisibleFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s")))
    if not debug:
        handler.addFilter(_is_ours_or_an_error)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)


def _is_ours_or_an_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or record.name.partition(".")[0] == pytest_dibctl.__name__


def build_parser(words: Collection[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of every command and option.

    With the ``words`` of a command line, only commands among them get their options: those of all others
    would take longer to add than the line takes to parse.
    """
    parser = Parser(
        prog="dibctl",
        description="Build, test, publish and clean up machine images. "
        "`pytest --dib-image=LABEL` builds and tests too.",
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

    def run_help(_arguments: Arguments) -> int:
        parser.print_help()
        return ExitCode.OK

    show_help = Command(name="help", help="Show this help.", add_options=lambda _parser: None, run=run_help)
    for command in (*COMMANDS, show_help):
        child = commands.add_parser(
            command.name,
            add_help=False,
            help=command.help,
            description=command.help,
            epilog="\n  ".join(["examples:", *command.examples]) if command.examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if words is not None and command.name not in words:
            continue
        command.add_options(child)
        common = child.add_argument_group("options of every command")
        common.add_argument("-h", "--help", action="help", help="show this help message and exit")
        _add_common(common)
        child.set_defaults(run=command.run, parser=child)
    return parser


def _add_common(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options that stand before or after the command: an absent one says nothing there."""
    absent = argparse.SUPPRESS
    parser.add_argument(
        "--debug",
        action="store_true",
        default=absent,
        help="show debug messages, and tracebacks of errors",
    )
    parser.add_argument(
        "--images-config",
        default=absent,
        type=Path,
        metavar="FILE",
        help="read this file instead of searching for images.yaml",
    )
    parser.add_argument(
        "--test-config",
        "--test-environments-config",
        default=absent,
        type=Path,
        metavar="FILE",
        help="read this file instead of searching for test.yaml",
    )
    parser.add_argument(
        "--upload-config",
        default=absent,
        type=Path,
        metavar="FILE",
        help="read this file instead of searching for upload.yaml",
    )


if __name__ == "__main__":
    sys.exit(main())
