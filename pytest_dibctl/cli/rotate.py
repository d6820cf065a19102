"""``dibctl rotate`` and ``dibctl rotate-single``: obsolete images that are not in use are deleted."""

from __future__ import annotations

import argparse
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_dibctl.cli import regions, tables
from pytest_dibctl.cli.command import Arguments, Command, add_format, count, first_exit_code
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import error_data, print_result, say, say_error
from pytest_dibctl.cli.tables import Cell, Column, Table

if TYPE_CHECKING:
    from pytest_dibctl.cli.results import images
    from pytest_dibctl.cli.tables import Tone
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.upload import UploadEnvironment
    from pytest_dibctl.publish.rotate import Verdict

COLUMNS = (
    Column(name="name"),
    Column(name="image"),
    Column(name="outcome"),
    Column(name="why"),
    Column(name="obsolete since", spare=1),
    Column(name="size", spare=2),
)
TONES: Mapping[str, Tone] = {"deleted": "good", "goes": "fair", "failed": "bad"}
OUTCOMES = {"deleted": "deleted", "goes": "would be deleted", "stays": "stays", "failed": "FAILED"}
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _add_rotate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of images in Glance; all if left out")
    _add_common_options(parser)


def _add_rotate_single_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="label in images.yaml")
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    _add_common_options(parser)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted, and why")
    parser.add_argument(
        "--keep", type=count, default=0, metavar="N", help="keep the N newest of each name (0)"
    )
    parser.add_argument(
        "--older-than",
        type=_age,
        metavar="AGE",
        help="only images that are obsolete for at least AGE: 12h, 30d, 4w",
    )
    add_format(parser, COLUMNS)


def _age(text: str) -> dt.timedelta:
    match = re.fullmatch(r"(\d+)([mhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 45m, 12h, 30d or 4w")
    return dt.timedelta(**{UNITS[match[2]]: int(match[1])})


def _run_rotate(arguments: Arguments) -> int:
    """Delete obsolete images; the exit code is 61 for a user who may not see other projects' servers."""
    catalog = load(arguments, need_images=False)
    return _rotate(arguments, catalog.upload(arguments.environment), tuple(arguments.names))


def _run_rotate_single(arguments: Arguments) -> int:
    """Delete the obsolete images of one image of images.yaml."""
    catalog = load(arguments)
    image, environment = catalog.image(arguments.image), catalog.upload(arguments.environment)
    name = regions.published_name(image, environment)
    return _rotate(arguments, environment, (name,), endpoint=image.settings.glance.endpoint)


def _rotate(
    arguments: Arguments,
    environment: Entry[UploadEnvironment],
    names: tuple[str, ...],
    *,
    endpoint: str | None = None,
) -> int:
    from pytest_dibctl.publish import rotate

    policy = rotate.Policy(
        rule=environment.settings.obsolete,
        where=environment.at("obsolete.name"),
        names=names,
        keep=arguments.keep,
        older_than=arguments.older_than,
    )
    try:
        with regions.opened(environment, endpoint=endpoint, fixed_cloud=True) as region:
            if arguments.dry_run:
                verdicts = rotate.plan(region, policy)
            else:
                verdicts = rotate.rotate(region, policy, tell=say)
    except rotate.RotationInterrupted as interruption:
        _print(arguments, interruption.verdicts)
        raise
    _print(arguments, verdicts)
    return first_exit_code(verdict.error for verdict in verdicts)


def _print(arguments: Arguments, verdicts: Sequence[Verdict]) -> None:
    now = dt.datetime.now(dt.UTC)
    table = Table(
        columns=COLUMNS, rows=[_row(verdict, now) for verdict in verdicts], empty="no obsolete image"
    )
    print_result(arguments, [_data(verdict) for verdict in verdicts], table)
    for verdict in verdicts:
        if verdict.error is not None:
            say_error(verdict.candidate.id, verdict.error)


def _row(verdict: Verdict, now: dt.datetime) -> tuple[Cell | str | None, ...]:
    image = verdict.candidate
    return (
        image.name,
        tables.ident(image.id),
        tables.state(OUTCOMES[verdict.outcome], TONES.get(verdict.outcome, "")),
        verdict.reason,
        tables.moment(image.since, now),
        tables.size(image.size),
    )


def _data(verdict: Verdict) -> images.RotatedImage:
    image = verdict.candidate
    return {
        "name": image.name,
        "image": image.id,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "obsolete_since": image.since.isoformat(),
        "size": image.size,
        **error_data(verdict.error),
    }


ROTATE = Command(
    name="rotate",
    help="Delete the unused obsolete images of an environment (needs an admin's login).",
    add_options=_add_rotate_options,
    run=_run_rotate,
    examples=(
        "dibctl rotate public-one --dry-run",
        "dibctl rotate public-one 'Debian 12' --keep 2 --older-than 30d",
    ),
)
ROTATE_SINGLE = Command(
    name="rotate-single",
    help="Delete the unused obsolete images of one image's name.",
    add_options=_add_rotate_single_options,
    run=_run_rotate_single,
    examples=("dibctl rotate-single debian public-one --dry-run",),
)
