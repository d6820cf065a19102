"""``dibctl list``, ``dibctl mark-obsolete`` and ``dibctl diff``: the images that an environment has."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dibctl.cli import regions
from pytest_dibctl.cli.command import Arguments, Command, add_json, first_exit_code
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import Table, age, error_data, mib, print_result, say_error
from pytest_dibctl.errors import DibctlError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.upload import UploadEnvironment
    from pytest_dibctl.publish.listing import Listed
    from pytest_dibctl.publish.obsolete import Marked
    from pytest_dibctl.publish.package_diff import Comparison

LIST_COLUMNS = ("environment", "name", "image", "state", "seen by", "size", "age", "digest", "tested", "used")
MARK_COLUMNS = ("image", "outcome", "name")
DIFF_COLUMNS = ("package", "what", "published", "built")


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
    add_json(parser)


def _list(arguments: Arguments) -> int:
    """List images; the exit code is that of the first environment that could not be listed."""
    catalog = load(arguments, need_images=False)
    environments = catalog.select_uploads(arguments.environments or ["all"])
    listings = [_listing(environment, fixed_cloud=len(environments) > 1) for environment in environments]
    rows = [_list_row(listing.environment, image) for listing in listings for image in listing.images]
    print_result(
        arguments, [_list_data(listing) for listing in listings], Table(LIST_COLUMNS, rows) if rows else []
    )
    return first_exit_code(listing.error for listing in listings)


def _listing(environment: Entry[UploadEnvironment], *, fixed_cloud: bool) -> _Listing:
    from pytest_dibctl.publish import listing

    try:
        with regions.opened(environment, fixed_cloud=fixed_cloud) as region:
            images = listing.listing(region, environment.settings.obsolete)
    except DibctlError as error:
        say_error(environment.label, error)
        return _Listing(environment=environment.label, error=error)
    return _Listing(environment=environment.label, images=images)


def _list_row(environment: str, listed: Listed) -> tuple[str, ...]:
    image = listed.image
    return (
        environment,
        image.name,
        image.id,
        listed.state,
        image.visibility,
        mib(image.size),
        age(listed.age),
        listed.sha512[:12] if listed.sha512 else "-",
        listed.tested or "-",
        "?" if listed.used is None else listed.used or "no",
    )


def _list_data(listing: _Listing) -> dict[str, Any]:
    return {
        "environment": listing.environment,
        "images": [_image_data(listed) for listed in listing.images],
        **error_data(listing.error),
    }


def _image_data(listed: Listed) -> dict[str, Any]:
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
    add_json(parser)


def _mark(arguments: Arguments) -> int:
    """Make images obsolete; the exit code is that of the first one that could not be marked."""
    from pytest_dibctl.publish import obsolete

    environment = load(arguments, need_images=False).upload(arguments.environment)
    with regions.opened(environment) as region:
        marked = obsolete.mark(
            region, arguments.images, environment.settings.obsolete, where=environment.at("obsolete.name")
        )
    for image in marked:
        if image.error is not None:
            say_error(image.image_id, image.error)
    rows = [_mark_row(image) for image in marked]
    print_result(arguments, [_mark_data(image) for image in marked], Table(MARK_COLUMNS, rows))
    return first_exit_code(image.error for image in marked)


def _mark_row(image: Marked) -> tuple[str, ...]:
    outcome = "FAILED" if image.error else "obsolete now" if image.changed else "was obsolete"
    return (image.image_id, outcome, image.name)


def _mark_data(image: Marked) -> dict[str, Any]:
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
    add_json(parser)


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
        (package.package, package.kind, package.before or "-", package.after or "-")
        for package in comparison.differences
    ]
    same = f"the same packages as in {comparison.published.id}"
    print_result(arguments, _diff_data(comparison, file), Table(DIFF_COLUMNS, rows) if rows else [same])
    return ExitCode.OK


def _diff_data(comparison: Comparison, file: Path) -> dict[str, Any]:
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
)
MARK_OBSOLETE = Command(
    name="mark-obsolete",
    help="Make images obsolete: rename and mark them.",
    add_options=_add_mark_options,
    run=_mark,
)
DIFF = Command(
    name="diff",
    help="Compare the packages of a built image with those of the published one.",
    add_options=_add_diff_options,
    run=_diff,
)
