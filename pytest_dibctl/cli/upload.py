"""``dibctl upload``: an image to environments of upload.yaml."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli import regions, tables
from pytest_dibctl.cli.command import Arguments, Command, add_format, first_exit_code
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import Meter, error_data, print_result, say, say_error
from pytest_dibctl.cli.tables import Cell, Column, Table
from pytest_dibctl.errors import NotInConfigError

if TYPE_CHECKING:
    from pytest_dibctl.cli.results import images
    from pytest_dibctl.config.catalog import Catalog
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.upload import UploadEnvironment
    from pytest_dibctl.publish.upload_request import Result

COLUMNS = (
    Column(name="environment"),
    Column(name="outcome"),
    Column(name="image"),
    Column(name="seconds", spare=3),
    Column(name="tested", spare=2),
    Column(name="obsolete now", spare=1),
    Column(name="notes"),
)
PLANNED = {
    "uploaded": "would be uploaded",
    "unchanged": "is there already",
    "external": "would run external_upload",
    "failed": "cannot be done",
}
DONE = {
    "uploaded": "uploaded",
    "unchanged": "is there already",
    "external": "external_upload ran",
}
NOT_DONE = {
    "failed": "FAILED",
    "undone": "undone",
    "not begun": "not begun",
    "left": "LEFT UNFINISHED",
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="label in images.yaml")
    parser.add_argument(
        "environments", nargs="*", metavar="ENV", help="labels in upload.yaml, globs, comma lists"
    )
    parser.add_argument("--all", action="store_true", help="upload to all environments of upload.yaml")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="upload this image file instead of `filename`"
    )
    parser.add_argument("--no-obsolete", action="store_true", help="leave older images of this name current")
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be done in each environment"
    )
    add_format(parser, COLUMNS)


def _run(arguments: Arguments) -> int:
    """Upload an image; the exit code is that of the first environment that failed."""
    from pytest_dibctl.publish import upload, upload_request

    catalog = load(arguments)
    image = catalog.image(arguments.image)
    environments = _selected(catalog, arguments)
    built = upload.file_of(image, arguments.input, Path.cwd())
    try:
        with Meter() as meter:
            request = upload_request.Request(
                image=image,
                environments=environments,
                built=built,
                cwd=Path.cwd(),
                obsolete=not arguments.no_obsolete,
                open_region=lambda environment: regions.open_region(
                    environment,
                    endpoint=image.settings.glance.endpoint,
                    fixed_cloud=len(environments) > 1,
                ),
                watch=meter,
            )
            results = upload.plan(request) if arguments.dry_run else upload.upload(request)
    except upload.UploadInterrupted as interruption:
        _print(arguments, interruption.results, built.path)
        raise
    _print(arguments, results, built.path)
    return first_exit_code(result.error for result in results)


def _selected(catalog: Catalog, arguments: Arguments) -> tuple[Entry[UploadEnvironment], ...]:
    if arguments.all:
        return catalog.select_uploads(["all", *arguments.environments])
    if not arguments.environments:
        raise NotInConfigError(
            "no upload environment is named",
            hint="name environments, or give --all; `dibctl validate` lists them",
        )
    return catalog.select_uploads(arguments.environments)


def _print(arguments: Arguments, results: Sequence[Result], file: Path) -> None:
    table = Table(columns=COLUMNS, rows=[_row(result, plan=arguments.dry_run) for result in results])
    print_result(arguments, [_data(result) for result in results], table)
    for result in results:
        if result.error is not None:
            say_error(result.environment, result.error)
    if any(result.outcome in DONE and result.tested is None for result in results):
        say(f"dibctl: warning: no whole and passing test run vouches for {file}")


def _row(result: Result, *, plan: bool) -> tuple[Cell | str | None, ...]:
    notes = [result.error.message] if result.error is not None else []
    if result.conversion:
        notes.append(f"converted: {result.conversion}")
    if result.pending:
        notes.append(f"not accepted yet by {', '.join(result.pending)}")
    return (
        result.environment,
        tables.state(
            (PLANNED if plan else {**DONE, **NOT_DONE})[result.outcome],
            "bad" if result.outcome in {"failed", "left"} else "good" if result.outcome in DONE else "fair",
        ),
        tables.ident(result.image_id),
        tables.seconds(None if plan else result.seconds, 1),
        result.tested,
        tables.idents(result.obsoleted),
        tables.note("; ".join(notes)),
    )


def _data(result: Result) -> images.Upload:
    return {
        "environment": result.environment,
        "outcome": result.outcome,
        "image": result.image_id,
        "obsoleted": list(result.obsoleted),
        "pending": list(result.pending),
        "conversion": result.conversion,
        "tested": result.tested,
        "seconds": round(result.seconds, 1),
        **error_data(result.error),
    }


COMMAND = Command(
    name="upload",
    help="Publish an image in one or many environments of upload.yaml.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl upload debian public-one --dry-run",
        "dibctl upload debian 'public-*'",
        "dibctl upload debian --all -f csv",
    ),
)
