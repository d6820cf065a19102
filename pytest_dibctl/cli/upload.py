"""``dibctl upload``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dibctl.cli.command import Arguments, add_json
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import Meter, error_data, print_json, print_table, say, say_error
from pytest_dibctl.cli.regions import environments_of, opened

if TYPE_CHECKING:
    from pytest_dibctl.publish.upload import Result


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", help="label in images.yaml")
    parser.add_argument(
        "environments", nargs="*", metavar="ENV", help="labels in upload.yaml, globs, comma lists"
    )
    parser.add_argument("--all", action="store_true", help="to all environments of upload.yaml")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="upload this image file instead of `filename`"
    )
    parser.add_argument("--no-obsolete", action="store_true", help="leave older images of this name current")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done where")
    add_json(parser)


def run(arguments: Arguments) -> int:
    """``dibctl upload``: exits with the code of the first environment that failed."""
    from pytest_dibctl.publish import upload

    catalog = load(arguments)
    image = catalog.image(arguments.image)
    environments = environments_of(catalog, arguments)
    built = upload.file_of(image, arguments.input, Path.cwd())
    endpoint = image.settings.glance.endpoint
    stopped: upload.UploadInterrupted | None = None
    with Meter() as meter:
        request = upload.Request(
            image=image,
            environments=environments,
            built=built,
            cwd=Path.cwd(),
            obsolete=not arguments.no_obsolete,
            open_region=lambda one: opened(one, endpoint=endpoint, fixed_cloud=len(environments) > 1),
            watch=meter,
        )
        try:
            results = upload.plan(request) if arguments.dry_run else upload.upload(request)
        except upload.UploadInterrupted as error:
            stopped, results = error, list(error.results)
    for result in results:
        if result.error is not None:
            say_error(result.environment, result.error)
    if any(result.outcome in DONE and result.tested is None for result in results):
        say(f"dibctl: warning: no whole and passing test run vouches for {built.path}")
    if arguments.json:
        print_json([_result_data(result) for result in results])
    else:
        print_table(UPLOAD_COLUMNS, [_result_row(result, plan=arguments.dry_run) for result in results])
    if stopped is not None:
        raise stopped
    return upload.exit_code(results)


UPLOAD_COLUMNS = ("environment", "outcome", "image", "seconds", "tested", "obsolete now", "notes")
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


def _result_row(result: Result, *, plan: bool) -> tuple[str, ...]:
    notes = [result.error.message.splitlines()[0]] if result.error is not None else []
    if result.conversion:
        notes.append(f"converted: {result.conversion}")
    if result.pending:
        notes.append(f"not accepted yet by {', '.join(result.pending)}")
    return (
        result.environment,
        (PLANNED if plan else {**DONE, **NOT_DONE})[result.outcome],
        result.image_id or "-",
        "-" if plan else f"{result.seconds:.1f}",
        result.tested or "-",
        ", ".join(result.obsoleted) or "-",
        "; ".join(notes),
    )


def _result_data(result: Result) -> dict[str, Any]:
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
