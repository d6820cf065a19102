"""``dibctl status``: which images are built, tested and published, and which of these are outdated."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dibctl.cli import regions, tables
from pytest_dibctl.cli.command import Arguments, Command, add_format, count, first_exit_code
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import error_data, print_result, say_error
from pytest_dibctl.cli.tables import Cell, Column, Table
from pytest_dibctl.errors import ConfigError

if TYPE_CHECKING:
    from pytest_dibctl.cli.results import images
    from pytest_dibctl.cli.tables import Tone
    from pytest_dibctl.publish.status import Built, Published, Status, Tested

COLUMNS = (
    Column(name="image"),
    Column(name="built", spare=2),
    Column(name="recipe"),
    Column(name="fingerprint", spare=7),
    Column(name="tested"),
    Column(name="when", spare=5),
    Column(name="in", spare=6),
    Column(name="environment"),
    Column(name="published"),
    Column(name="id", spare=4),
    Column(name="age", spare=1),
    Column(name="notes", spare=3),
)
RECIPES: Mapping[str, Tone] = {"unchanged": "good", "outdated": "fair", "broken": "bad"}
OUTCOMES: Mapping[str, Tone] = {"passed": "good", "failed": "bad"}
PLACES: Mapping[str, Tone] = {"this file": "good", "unreachable": "bad", "external": ""}
NOT_ASKED = "not asked"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="labels in images.yaml, globs; all if left out"
    )
    parser.add_argument(
        "--environment",
        dest="environments",
        action="append",
        metavar="ENV",
        help="only these environments of upload.yaml: labels, globs; repeatable",
    )
    parser.add_argument("--offline", action="store_true", help="ask no cloud")
    parser.add_argument(
        "--timeout", type=count, default=30, metavar="SECONDS", help="time for the answers of all clouds (30)"
    )
    add_format(parser, COLUMNS)


def _run(arguments: Arguments) -> int:
    """Show the status of images; the exit code is that of the first recipe or cloud that cannot be read."""
    from pytest_dibctl.publish import status

    if arguments.offline and arguments.environments:
        raise ConfigError(
            "--offline asks no cloud, so it excludes --environment, which selects the clouds to ask"
        )
    catalog = load(arguments)
    environments = (
        ()
        if arguments.offline or not catalog.uploads
        else catalog.select_uploads(arguments.environments or ["all"])
    )
    found = status.status(
        catalog.select_images(arguments.images or ["all"]) if catalog.images else (),
        environments,
        cwd=Path.cwd(),
        open_region=lambda environment, endpoint: regions.open_region(
            environment, endpoint=endpoint, fixed_cloud=len(environments) > 1
        ),
        timeout=arguments.timeout,
    )
    rows = [row for image in found for row in _rows(image, offline=arguments.offline)]
    table = Table(columns=COLUMNS, rows=rows, empty="there is no image", shared=7)
    print_result(arguments, [_data(image) for image in found], table)
    errors = _errors(found)
    for subject, error in errors:
        say_error(subject, error)
    return first_exit_code(error for _, error in errors)


def _errors(found: Sequence[Status]) -> list[tuple[str, Any]]:
    """Return the unreadable recipes and environments with their errors; each environment once."""
    errors = [(image.label, image.built.error) for image in found if image.built.error is not None]
    clouds = {
        (published.environment, published.error.message): published.error
        for image in found
        for published in image.published
        if published.error is not None
    }
    return [*errors, *((environment, error) for (environment, _), error in clouds.items())]


def _rows(image: Status, *, offline: bool) -> list[tuple[Cell | str | None, ...]]:
    now = dt.datetime.now(dt.UTC)
    built, tested = image.built, image.tested
    shared = (
        image.label,
        tables.moment(_time(built.finished), now) if built.sha512 else tables.state("no", "fair"),
        None if built.recipe == "none" else tables.state(built.recipe, RECIPES.get(built.recipe, "")),
        tables.digest(built.fingerprint),
        None
        if tested.outcome == "none"
        else tables.state(tested.outcome, OUTCOMES.get(tested.outcome, "fair")),
        tables.moment(_time(tested.finished), now),
        tested.environment,
    )
    if not image.published:
        asked = NOT_ASKED if offline else None
        return [(*shared, None, asked, None, None, tables.note(_trouble(built)))]
    return [(*shared, *_cells(published, built)) for published in image.published]


def _cells(published: Published, built: Built) -> tuple[Cell | str | None, ...]:
    image = published.image
    notes = [
        *([published.error.message] if published.error else []),
        *(["of another recipe than today's"] if published.outdated else []),
        *([f"{published.current} are current"] if published.current > 1 else []),
        *([trouble] if (trouble := _trouble(built)) else []),
    ]
    return (
        published.environment,
        tables.state(published.place, PLACES.get(published.place, "fair")),
        tables.ident(image.id if image else None),
        tables.moment(image.created if image else None, published.now),
        tables.note("; ".join(notes)),
    )


def _trouble(built: Built) -> str | None:
    return built.error.message if built.error is not None else built.reason


def _time(written: str | None) -> dt.datetime | None:
    """Return a time of a file, None for a text that is no time."""
    try:
        moment = dt.datetime.fromisoformat(written or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


# -- JSON ------------------------------------------------------------------------------------------


def _data(image: Status) -> images.Status:
    return {
        "image": image.label,
        "built": _built_data(image.built),
        "tested": _tested_data(image.tested),
        "published": [_published_data(published) for published in image.published],
    }


def _built_data(built: Built) -> images.BuiltFile:
    return {
        "file": str(built.file),
        "exists": built.sha512 is not None,
        "sha512": built.sha512,
        "finished": built.finished,
        "recipe": built.recipe,
        "reason": built.reason,
        "fingerprint": built.fingerprint,
        "fingerprint_today": built.today,
        **error_data(built.error),
    }


def _tested_data(tested: Tested) -> images.TestedFile:
    return {
        "outcome": tested.outcome,
        "finished": tested.finished,
        "environment": tested.environment,
    }


def _published_data(published: Published) -> images.PublishedImage:
    image = published.image
    return {
        "environment": published.environment,
        "state": published.place,
        "name": published.name,
        "image": image.id if image else None,
        "created": image.created.isoformat() if image else None,
        "current": published.current,
        "outdated": published.outdated,
        **error_data(published.error),
    }


COMMAND = Command(
    name="status",
    help="Show which images are built, tested and published, and which of these are outdated.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl status",
        "dibctl status --offline",
        "dibctl status 'debian-*' --environment public-one --json",
    ),
)
