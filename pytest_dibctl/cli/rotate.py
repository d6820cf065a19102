"""``dibctl rotate`` and ``dibctl rotate-single``."""

from __future__ import annotations

import argparse
import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from pytest_dibctl.cli.command import Arguments, add_json, count
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import error_data, mib, print_json, print_table, say, say_error
from pytest_dibctl.cli.regions import opened_region, published_name

if TYPE_CHECKING:
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models import UploadEnvironment
    from pytest_dibctl.publish.rotate import Verdict


def add_rotate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of images in Glance; all if left out")
    _add_rotation_options(parser)


def add_rotate_single_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="label in images.yaml")
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    _add_rotation_options(parser)


def _add_rotation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted, and why")
    parser.add_argument(
        "--keep", type=count, default=0, metavar="N", help="keep the N newest of each name (0)"
    )
    parser.add_argument(
        "--older-than",
        type=_age,
        metavar="AGE",
        help="only what is obsolete for so long: 12h, 30d, 4w",
    )
    add_json(parser)


def _age(text: str) -> dt.timedelta:
    found = re.fullmatch(r"(\d+)([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 45m, 12h, 30d or 4w")
    unit = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[found[2]]
    return dt.timedelta(**{unit: int(found[1])})


def run_rotate(arguments: Arguments) -> int:
    """``dibctl rotate``: 61 for whoever may not see other projects' servers."""
    catalog = load(arguments, need_images=False)
    return _rotate(catalog.upload(arguments.environment), tuple(arguments.names), arguments)


def run_rotate_single(arguments: Arguments) -> int:
    """``dibctl rotate-single``: like ``rotate``, for one image of images.yaml."""
    catalog = load(arguments)
    image, environment = catalog.image(arguments.image), catalog.upload(arguments.environment)
    endpoint = image.settings.glance.endpoint
    return _rotate(environment, (published_name(image, environment),), arguments, endpoint=endpoint)


def _rotate(
    environment: Entry[UploadEnvironment],
    names: tuple[str, ...],
    arguments: Arguments,
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
    stopped: rotate.RotationInterrupted | None = None
    with opened_region(environment, endpoint=endpoint, fixed_cloud=True) as region:
        try:
            verdicts = (
                rotate.plan(region, policy) if arguments.dry_run else rotate.rotate(region, policy, tell=say)
            )
        except rotate.RotationInterrupted as error:
            stopped, verdicts = error, list(error.verdicts)
    for verdict in verdicts:
        if verdict.error is not None:
            say_error(verdict.candidate.id, verdict.error)
    if arguments.json:
        print_json([_verdict_data(verdict) for verdict in verdicts])
    elif not verdicts:
        print("no obsolete image")
    else:
        print_table(ROTATE_COLUMNS, [_verdict_row(verdict) for verdict in verdicts])
    if stopped is not None:
        raise stopped
    return rotate.exit_code(verdicts)


ROTATE_COLUMNS = ("name", "image", "outcome", "why", "obsolete since", "size")
VERDICTS = {"deleted": "deleted", "goes": "would be deleted", "stays": "stays", "failed": "FAILED"}


def _verdict_row(verdict: Verdict) -> tuple[str, ...]:
    one = verdict.candidate
    since = f"{one.since:%Y-%m-%d %H:%M}"
    return (one.name, one.id, VERDICTS[verdict.outcome], verdict.reason, since, mib(one.size))


def _verdict_data(verdict: Verdict) -> dict[str, Any]:
    one = verdict.candidate
    return {
        "name": one.name,
        "image": one.id,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "obsolete_since": one.since.isoformat(),
        "size": one.size,
        **error_data(verdict.error),
    }
