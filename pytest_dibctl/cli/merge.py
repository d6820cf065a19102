"""``dibctl merge``: the results of several jobs as one JUnit file and one HTML report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json
from pytest_dibctl.cli.output import print_result
from pytest_dibctl.errors import DibctlError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.cli.results.repository import Merge


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "parts",
        nargs="+",
        type=Path,
        metavar="PART",
        help="a JUnit file, or a folder of them; a report NAME.html beside NAME.xml is included",
    )
    parser.add_argument("--junit-xml", type=Path, metavar="FILE", help="write the merged JUnit file there")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the merged HTML report there")
    parser.add_argument(
        "--expect",
        default="",
        metavar="TARGETS",
        help="images that must have a result, as IMAGE or IMAGE@ENVIRONMENT, with commas between them",
    )
    add_json(parser)


def _run(arguments: Arguments) -> int:
    """Merge results; the exit code is 80 when a test failed or a result is missing."""
    from pytest_dibctl.repository import junit, merged_page

    expected = [target.strip() for target in arguments.expect.split(",") if target.strip()]
    merged = junit.merge(junit.parts(arguments.parts), expected)
    if arguments.junit_xml is not None:
        _write(arguments.junit_xml, junit.render(merged))
    if arguments.report is not None:
        _write(arguments.report, merged_page.report(merged, "Tests of images"))
    bad = [(part.name, case.name) for part in merged.parts for case in part.cases if case.is_bad]
    data: Merge = {
        "parts": [part.name for part in merged.parts],
        "tests": sum(1 for _ in merged.cases),
        "failed": [{"part": part, "test": test} for part, test in bad],
        "problems": [{"part": name, "problem": problem} for name, problem in merged.problems],
    }
    lines = [
        *(f"FAILED {test} ({part})" for part, test in bad),
        *(f"FAILED {name}: {problem}" for name, problem in merged.problems),
        f"{data['tests']} tests in {len(merged.parts)} parts, {merged.failures} failures",
    ]
    print_result(arguments, data, lines)
    return ExitCode.TESTS_FAILED if merged.failures else ExitCode.OK


def _write(path: Path, content: str | bytes) -> None:
    from pytest_dibctl.system import files

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content, mode=0o644)
    except OSError as error:
        raise DibctlError(f"{path}: cannot be written: {error.strerror}") from None


COMMAND = Command(
    name="merge",
    help="Merge the results of several jobs into one JUnit file and one HTML report.",
    add_options=_add_options,
    run=_run,
    examples=("dibctl merge results/ --junit-xml junit.xml --report report.html",),
)
