"""``dibctl list``, ``dibctl mark-obsolete`` and ``dibctl diff``: the images that an environment has."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli import regions, tables
from pytest_dibctl.cli.command import Arguments, Command, add_format, first_exit_code
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import error_data, print_result, say_error
from pytest_dibctl.cli.tables import Cell, Column, Table
from pytest_dibctl.errors import DibctlError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.cli.results.images import Comparison as ComparisonData
    from pytest_dibctl.cli.results.images import ListedImage, Listing, MarkedImage
    from pytest_dibctl.cli.tables import Tone
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.upload import UploadEnvironment
    from pytest_dibctl.publish.listing import Listed
    from pytest_dibctl.publish.obsolete import Marked
    from pytest_dibctl.publish.package_diff import Comparison

LIST_COLUMNS = (
    Column(name="environment"),
    Column(name="name"),
    Column(name="image"),
    Column(name="state"),
    Column(name="seen by", spare=3),
    Column(name="size", spare=4),
    Column(name="age", spare=1),
    Column(name="digest", spare=6),
    Column(name="tested", spare=2),
    Column(name="used", spare=5),
)
MARK_COLUMNS = (Column(name="image"), Column(name="outcome"), Column(name="name"))
DIFF_COLUMNS = (Column(name="package"), Column(name="what"), Column(name="published"), Column(name="built"))
TONES: Mapping[str, Tone] = {"current": "good", "obsolete": "fair", "hidden": "fair", "unfinished": "fair"}
"""Of states of images; every other one is Glance's word for an image that cannot be used."""


# -- list ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Listing:
    """The images of an environment, none if it could not be listed: ``error`` says why."""

    environment: str
    images: Sequence[Listed] = ()
    error: DibctlError | None = None


def _add_list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "environments", nargs="*", metavar="ENV", help="labels in upload.yaml, globs; all if left out"
    )
    add_format(parser, LIST_COLUMNS)


def _list(arguments: Arguments) -> int:
    """List images; the exit code is that of the first environment that could not be listed."""
    catalog = load(arguments, need_images=False)
    environments = catalog.select_uploads(arguments.environments or ["all"])
    listings = [_listing(environment, fixed_cloud=len(environments) > 1) for environment in environments]
    rows = [_list_row(listing.environment, image) for listing in listings for image in listing.images]
    table = Table(columns=LIST_COLUMNS, rows=rows, shared=1)
    print_result(arguments, [_list_data(listing) for listing in listings], table)
    for listing in listings:
        if listing.error is not None:
            say_error(listing.environment, listing.error)
    return first_exit_code(listing.error for listing in listings)


def _listing(environment: Entry[UploadEnvironment], *, fixed_cloud: bool) -> _Listing:
    from pytest_dibctl.publish import listing

    try:
        with regions.opened(environment, fixed_cloud=fixed_cloud) as region:
            images = listing.listing(region, environment.settings.obsolete)
    except DibctlError as error:
        return _Listing(environment=environment.label, error=error)
    return _Listing(environment=environment.label, images=images)


def _list_row(environment: str, listed: Listed) -> tuple[Cell | str | None, ...]:
    image = listed.image
    return (
        environment,
        image.name,
        tables.ident(image.id),
        tables.state(listed.state, TONES.get(listed.state, "bad")),
        image.visibility,
        tables.size(image.size),
        tables.moment(image.created, listed.now),
        tables.digest(listed.sha512),
        listed.tested,
        Cell(shown="?" if listed.used is None else listed.used or "no", data=listed.used),
    )


def _list_data(listing: _Listing) -> Listing:
    return {
        "environment": listing.environment,
        "images": [_image_data(listed) for listed in listing.images],
        **error_data(listing.error),
    }


def _image_data(listed: Listed) -> ListedImage:
    image = listed.image
    return {
        "name": image.name,
        "image": image.id,
        "state": listed.state,
        "visibility": image.visibility,
        "protected": image.protected,
        "size": image.size,
        "created": image.created.isoformat(),
        "sha512": listed.sha512,
        "tested": listed.tested,
        "used": listed.used,
    }


# -- mark-obsolete ---------------------------------------------------------------------------------


def _add_mark_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument("images", nargs="+", metavar="UUID", help="ids of images")
    add_format(parser, MARK_COLUMNS)


def _mark(arguments: Arguments) -> int:
    """Make images obsolete; the exit code is that of the first image that could not be marked."""
    from pytest_dibctl.publish import obsolete

    environment = load(arguments, need_images=False).upload(arguments.environment)
    with regions.opened(environment) as region:
        marked = obsolete.mark(
            region, arguments.images, environment.settings.obsolete, where=environment.at("obsolete.name")
        )
    table = Table(columns=MARK_COLUMNS, rows=[_mark_row(image) for image in marked])
    print_result(arguments, [_mark_data(image) for image in marked], table)
    for image in marked:
        if image.error is not None:
            say_error(image.image_id, image.error)
    return first_exit_code(image.error for image in marked)


def _mark_row(image: Marked) -> tuple[Cell | str | None, ...]:
    outcome = "FAILED" if image.error else "obsolete now" if image.changed else "was obsolete"
    tone: Tone = "bad" if image.error else "good"
    return (tables.ident(image.image_id), tables.state(outcome, tone), image.name)


def _mark_data(image: Marked) -> MarkedImage:
    return {
        "image": image.image_id,
        "name": image.name,
        "changed": image.changed,
        **error_data(image.error),
    }


# -- diff ------------------------------------------------------------------------------------------


def _add_diff_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="label in images.yaml")
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="compare this image file instead of `filename`"
    )
    add_format(parser, DIFF_COLUMNS)


def _diff(arguments: Arguments) -> int:
    """Compare packages; the exit code is 0 whether or not any differs."""
    from pytest_dibctl.publish import package_diff

    catalog = load(arguments)
    image, environment = catalog.image(arguments.image), catalog.upload(arguments.environment)
    name = regions.published_name(image, environment)
    file = Path.cwd() / (arguments.input or image.settings.filename)
    with regions.opened(environment, endpoint=image.settings.glance.endpoint) as region:
        comparison = package_diff.compare(region, name, file, environment.settings.obsolete)
    rows = [
        (package.package, package.kind, package.before, package.after) for package in comparison.differences
    ]
    same = f"the same packages as in {comparison.published.id}"
    table = Table(columns=DIFF_COLUMNS, rows=rows, empty=same)
    print_result(arguments, _diff_data(comparison, file), table)
    return ExitCode.OK


def _diff_data(comparison: Comparison, file: Path) -> ComparisonData:
    return {
        "published": comparison.published.id,
        "built": str(file),
        "differences": [
            {
                "package": package.package,
                "what": package.kind,
                "published": package.before,
                "built": package.after,
            }
            for package in comparison.differences
        ],
    }


LIST = Command(
    name="list",
    help="List the images of the projects of upload environments.",
    add_options=_add_list_options,
    run=_list,
    examples=(
        "dibctl list",
        "dibctl list 'public-*' -f value -c image",
        "dibctl list public-one --json",
    ),
)
MARK_OBSOLETE = Command(
    name="mark-obsolete",
    help="Make images obsolete: rename and mark them.",
    add_options=_add_mark_options,
    run=_mark,
    examples=("dibctl mark-obsolete public-one 8d3e5b6e-24a8-4f0f-8c4c-9f1f1c1f8a10",),
)
DIFF = Command(
    name="diff",
    help="Compare the packages of a built image with those of the published one.",
    add_options=_add_diff_options,
    run=_diff,
    examples=(
        "dibctl diff debian public-one",
        "dibctl diff debian public-one -f csv",
    ),
)
