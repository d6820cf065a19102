"""``dibctl list``, ``dibctl mark-obsolete`` and ``dibctl diff``: the images of an environment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_dibctl.cli.command import Arguments, add_json
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import age, error_data, mib, print_json, print_table, say_error
from pytest_dibctl.cli.regions import opened_region, published_name
from pytest_dibctl.errors import DibctlError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models import UploadEnvironment
    from pytest_dibctl.publish.listing import Listed


def add_mark_obsolete_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument("images", nargs="+", metavar="UUID", help="ids of images")
    add_json(parser)


def run_mark_obsolete(arguments: Arguments) -> int:
    """``dibctl mark-obsolete``: exits with the code of the first image that could not be marked."""
    from pytest_dibctl.publish import obsolete

    environment = load(arguments, need_images=False).upload(arguments.environment)
    with opened_region(environment) as region:
        marked = obsolete.mark(
            region, arguments.images, environment.settings.obsolete, where=environment.at("obsolete.name")
        )
    for one in marked:
        if one.error is not None:
            say_error(one.image_id, one.error)
    if arguments.json:
        print_json(
            [
                {
                    "image": one.image_id,
                    "name": one.name,
                    "changed": one.changed,
                    **error_data(one.error),
                }
                for one in marked
            ]
        )
    else:
        outcomes = [
            "FAILED" if one.error else "obsolete now" if one.changed else "was obsolete" for one in marked
        ]
        rows = [(one.image_id, outcome, one.name) for one, outcome in zip(marked, outcomes, strict=True)]
        print_table(("image", "outcome", "name"), rows)
    return next((int(one.error.exit_code) for one in marked if one.error), int(ExitCode.OK))


def add_list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "environments", nargs="*", metavar="ENV", help="labels in upload.yaml, globs; all if left out"
    )
    add_json(parser)


def run_list(arguments: Arguments) -> int:
    """``dibctl list``: exits with the code of the first environment that could not be listed."""
    catalog = load(arguments, need_images=False)
    environments = catalog.select_uploads(arguments.environments or ["all"])
    rows: list[tuple[str, ...]] = []
    data: list[dict[str, Any]] = []
    code = int(ExitCode.OK)
    for environment in environments:
        try:
            found = _listed(environment, fixed_cloud=len(environments) > 1)
        except DibctlError as error:
            say_error(environment.label, error)
            data.append({"environment": environment.label, "images": [], **error_data(error)})
            code = code or int(error.exit_code)
            continue
        rows += [_listed_row(environment.label, one) for one in found]
        images = [_listed_data(one) for one in found]
        data.append({"environment": environment.label, "images": images, **error_data(None)})
    if arguments.json:
        print_json(data)
    elif rows:
        print_table(LIST_COLUMNS, rows)
    return code


def _listed(environment: Entry[UploadEnvironment], *, fixed_cloud: bool) -> list[Listed]:
    from pytest_dibctl.publish import listing

    with opened_region(environment, fixed_cloud=fixed_cloud) as region:
        return listing.listing(region, environment.settings.obsolete)


LIST_COLUMNS = ("environment", "name", "image", "state", "seen by", "size", "age", "digest", "tested", "used")


def _listed_row(environment: str, one: Listed) -> tuple[str, ...]:
    image = one.image
    return (
        environment,
        image.name,
        image.id,
        one.state,
        image.visibility,
        mib(image.size),
        age(one.age),
        one.sha512[:12] if one.sha512 else "-",
        one.tested or "-",
        "?" if one.used is None else one.used or "no",
    )


def _listed_data(one: Listed) -> dict[str, Any]:
    image = one.image
    return {
        "name": image.name,
        "image": image.id,
        "state": one.state,
        "visibility": image.visibility,
        "protected": image.protected,
        "size": image.size,
        "created": image.created.isoformat(),
        "sha512": one.sha512,
        "tested": one.tested,
        "used": one.used,
    }


def add_diff_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="label in images.yaml")
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="compare this image file instead of `filename`"
    )
    add_json(parser)


def run_diff(arguments: Arguments) -> int:
    """``dibctl diff``: 0 whether or not anything differs."""
    from pytest_dibctl.publish import package_diff

    catalog = load(arguments)
    image, environment = catalog.image(arguments.image), catalog.upload(arguments.environment)
    name = published_name(image, environment)
    file = Path.cwd() / (arguments.input or image.settings.filename)
    with opened_region(environment, endpoint=image.settings.glance.endpoint) as region:
        found = package_diff.compare(region, name, file, environment.settings.obsolete)
    if arguments.json:
        print_json(
            {
                "published": found.published.id,
                "built": str(file),
                "differences": [
                    {"package": one.package, "what": one.kind, "published": one.before, "built": one.after}
                    for one in found.differences
                ],
            }
        )
    elif not found.differences:
        print(f"the same packages as in {found.published.id}")
    else:
        rows = [(one.package, one.kind, one.before or "-", one.after or "-") for one in found.differences]
        print_table(("package", "what", "published", "built"), rows)
    return ExitCode.OK
