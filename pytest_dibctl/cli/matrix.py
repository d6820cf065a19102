"""``dibctl matrix``: images and environments as the jobs of a CI service."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, count
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import print_result, say, say_error
from pytest_dibctl.errors import DibctlError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.cli.results.repository import Job as JobData
    from pytest_dibctl.config.catalog import Catalog
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.images import Image
    from pytest_dibctl.repository.matrix import Job, Seconds

FORMATS = ("json", "github", "gitlab", "zuul")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="labels in images.yaml, globs; all if left out"
    )
    parser.add_argument(
        "--environment",
        action="append",
        default=[],
        metavar="LABEL",
        help="a test environment, or glob; each image is tested in each of them (default: the environment "
        "that the image names)",
    )
    parser.add_argument("--format", choices=FORMATS, default="json", help="the format of the jobs (json)")
    parser.add_argument(
        "--changed-since",
        metavar="REVISION",
        help="only images whose recipe, elements, tests or environment differ from that git revision; "
        "`A...` is the merge base of A and HEAD; all images if REVISION is empty or all zeros",
    )
    parser.add_argument(
        "--shards",
        type=count,
        metavar="N",
        help="put the images into N jobs of about equal time; all tests of one image are in one job",
    )
    parser.add_argument(
        "--times",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a JUnit file of an earlier run, or a folder of them, to take expected times from",
    )


def _run(arguments: Arguments) -> int:
    """Print the jobs, none if no image has changed; the exit code is 10 if one of their images is broken."""
    from pytest_dibctl.repository import matrix

    if arguments.shards == 0:
        raise DibctlError("--shards: there is no job in 0 shards", hint="give at least 1")
    catalog = load(arguments)
    images: Sequence[Entry[Image]] = catalog.select_images(arguments.images or ["all"])
    environments = catalog.select_environments(arguments.environment) if arguments.environment else ()
    if arguments.format in matrix.FORMATS:
        matrix.check_labels([*images, *environments])
    labels = [environment.label for environment in environments]
    images, reasons = _changed(arguments, images, labels)
    seconds = _seconds(arguments, images)
    jobs = matrix.jobs([image.label for image in images], labels, seconds, reasons)
    if arguments.shards is not None:
        _tell_of_times(jobs)
        jobs = matrix.shards(jobs, arguments.shards)
    written = matrix.FORMATS[arguments.format](jobs) if arguments.format in matrix.FORMATS else ""
    print_result(arguments, [_data(job) for job in jobs], written.splitlines())
    _tell(catalog, jobs)
    return _check(images)


def _check(images: Sequence[Entry[Image]]) -> int:
    """Say which images cannot be built; the exit code is 10 if one cannot.

    They have jobs all the same: what a recipe lacks here may be there where the job runs.
    """
    from pytest_dibctl.build import builder

    code = ExitCode.OK
    for image in images:
        try:
            builder.check_recipe(image, Path.cwd())
        except DibctlError as error:
            say_error(image.label, error)
            code = ExitCode.CONFIG
    return code


def _data(job: Job) -> JobData:
    return {
        "id": job.id,
        "name": job.name,
        "images": list(job.images),
        "environments": list(job.environments),
        "seconds": None if job.seconds is None else round(job.seconds),
        "reasons": {label: list(said) for label, said in job.reasons.items()},
    }


def _changed(
    arguments: Arguments, images: Sequence[Entry[Image]], environments: Sequence[str]
) -> tuple[Sequence[Entry[Image]], dict[str, tuple[str, ...]]]:
    """Return the images that have changed, with the reasons."""
    from pytest_dibctl.repository import changes

    revision: str | None = arguments.changed_since
    if revision is None:
        return images, {}
    if not revision.strip("0"):
        # The revision that CI services pass where there is no earlier revision.
        return images, {image.label: ("there is no earlier revision",) for image in images}
    reasons = changes.reasons(
        images,
        environments,
        revision,
        cwd=Path.cwd(),
        explicit={
            "images": arguments.images_config,
            "test": arguments.test_config,
            "upload": arguments.upload_config,
        },
    )
    return [image for image in images if image.label in reasons], reasons


def _seconds(arguments: Arguments, images: Sequence[Entry[Image]]) -> Seconds:
    from pytest_dibctl.repository import junit, matrix

    parts = junit.parts(arguments.times) if arguments.times else []
    for part in parts:
        if part.problem:
            say(f"dibctl: warning: {part.path}: {part.problem}")
    measured = matrix.seconds_of([case for part in parts for case in part.cases])
    return measured or matrix.seconds_here(images, Path.cwd())


def _tell_of_times(made: Sequence[Job]) -> None:
    unknown = [job.name for job in made if job.seconds is None]
    if made and len(unknown) == len(made):
        say("dibctl: no earlier run has measured these images (--times): all count as equally long")
    elif unknown:
        say(f"dibctl: no earlier run has measured {', '.join(unknown)}: they count as the mean of the others")


def _tell(catalog: Catalog, made: Sequence[Job]) -> None:
    """Say, beside the result, why each image is in it."""
    for job in made:
        for label, reasons in job.reasons.items():
            say(f"dibctl: {label}: {'; '.join(reasons)}")
    if not made and catalog.images:
        say("dibctl: no image has changed")


COMMAND = Command(
    name="matrix",
    help="Print the jobs with which a CI service tests the images, all or the changed ones.",
    add_options=_add_options,
    run=_run,
    examples=(
        "dibctl matrix --format github",
        "dibctl matrix 'debian-*' --changed-since origin/main --shards 3",
    ),
)
