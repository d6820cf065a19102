"""``dibctl``'s commands for images in production: parse, load the configuration, one library call, print."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_dibctl.cli.output import Meter, age, load, mib, print_json, print_table, say
from pytest_dibctl.errors import ConfigError, DibctlError, ExitCode, NotInConfigError
from pytest_dibctl.system import signals

if TYPE_CHECKING:
    from pytest_dibctl.clouds.regions import Region
    from pytest_dibctl.config.catalog import Catalog
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.images import Image
    from pytest_dibctl.config.models.upload import Obsoleting, UploadEnvironment
    from pytest_dibctl.publish.connect import Side
    from pytest_dibctl.publish.listing import Listed
    from pytest_dibctl.publish.rotate import Verdict
    from pytest_dibctl.publish.upload import Result

Arguments = argparse.Namespace


class AddCommand(Protocol):
    """Adds a subcommand and returns its parser."""

    def __call__(self, name: str, run: Callable[[Arguments], int], text: str) -> argparse.ArgumentParser: ...


def add_commands(command: AddCommand) -> None:
    """Add every command of this module."""
    _add_upload(command("upload", run_upload, "Publish an image in one or many environments of upload.yaml."))
    _add_mark_obsolete(
        command("mark-obsolete", run_mark_obsolete, "Make images obsolete: rename and mark them.")
    )
    _add_rotate(
        command("rotate", run_rotate, "Delete the obsolete images that nobody uses (needs an admin's eyes).")
    )
    _add_rotate_single(
        command("rotate-single", run_rotate_single, "Delete the unused obsolete images of one image's name.")
    )
    _add_list(command("list", run_list, "List the images of the projects of upload environments."))
    _add_transfer(command("transfer", run_transfer, "Copy an image from one cloud or region to another."))
    _add_diff(command("diff", run_diff, "Compare the packages of a built image with the published one's."))


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_upload(parser: argparse.ArgumentParser) -> None:
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
    _add_json(parser)


def _add_mark_obsolete(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument("images", nargs="+", metavar="UUID", help="ids of images")
    _add_json(parser)


def _add_rotate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of images in Glance; all if left out")
    _add_rotation_options(parser)


def _add_rotate_single(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="label in images.yaml")
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    _add_rotation_options(parser)


def _add_rotation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted, and why")
    parser.add_argument(
        "--keep", type=_count, default=0, metavar="N", help="keep the N newest of each name (0)"
    )
    parser.add_argument(
        "--older-than",
        type=_age,
        metavar="AGE",
        help="only what is obsolete for so long: 12h, 30d, 4w",
    )
    _add_json(parser)


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "environments", nargs="*", metavar="ENV", help="labels in upload.yaml, globs; all if left out"
    )
    _add_json(parser)


def _add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="label in images.yaml")
    parser.add_argument("environment", metavar="ENV", help="label in upload.yaml")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="compare this image file instead of `filename`"
    )
    _add_json(parser)


SIDES = {
    "auth-url": ("auth_url", "address of Keystone"),
    "tenant-name": ("project_name", "project"),
    "username": ("username", "user"),
    "password": ("password", "password; OS_PASSWORD is not seen by others"),
    "region-name": ("region_name", "region"),
}
"""What ``--src-...`` and ``--dst-...`` say: the key of a keystone section, and a help text."""


def _add_transfer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uuid", metavar="IMAGE", help="id of an image, or the name of a current one")
    for option, metavar in (("src", "SOURCE"), ("dst", "DESTINATION")):
        parser.add_argument(
            option, nargs="?", metavar=metavar, help="label in upload.yaml, or a name in clouds.yaml"
        )
        for key, (_, text) in SIDES.items():
            parser.add_argument(f"--{option}-{key}", metavar="VALUE", help=f"{metavar.lower()}: {text}")
    parser.add_argument("--ignore-meta", action="store_true", help="only the name, the formats and the bytes")
    parser.add_argument("--ignore-membership", action="store_true", help="neither owner nor members")
    parser.add_argument(
        "--timeout", type=_count, default=3600, metavar="SECONDS", help="time for the bytes (3600)"
    )
    _add_json(parser)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _age(text: str) -> dt.timedelta:
    found = re.fullmatch(r"(\d+)([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 45m, 12h, 30d or 4w")
    unit = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[found[2]]
    return dt.timedelta(**{unit: int(found[1])})


# -- commands --------------------------------------------------------------------------------------


def run_upload(arguments: Arguments) -> int:
    """``dibctl upload``: exits with the code of the first environment that failed."""
    from pytest_dibctl.publish import upload

    catalog = load(arguments)
    image = catalog.image(arguments.image)
    environments = _environments(catalog, arguments)
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
            open_region=lambda one: _opened(one, endpoint=endpoint, fixed_cloud=len(environments) > 1),
            watch=meter,
        )
        try:
            results = upload.plan(request) if arguments.dry_run else upload.upload(request)
        except upload.UploadInterrupted as error:
            stopped, results = error, list(error.results)
    for result in results:
        if result.error is not None:
            _say_error(result.environment, result.error)
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
        **_error_data(result.error),
    }


def run_mark_obsolete(arguments: Arguments) -> int:
    """``dibctl mark-obsolete``: exits with the code of the first image that could not be marked."""
    from pytest_dibctl.publish import obsolete

    environment = load(arguments, need_images=False).upload(arguments.environment)
    with _region(environment) as region:
        marked = obsolete.mark(
            region, arguments.images, environment.settings.obsolete, where=environment.at("obsolete.name")
        )
    for one in marked:
        if one.error is not None:
            _say_error(one.image_id, one.error)
    if arguments.json:
        print_json(
            [
                {
                    "image": one.image_id,
                    "name": one.name,
                    "changed": one.changed,
                    **_error_data(one.error),
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


def run_rotate(arguments: Arguments) -> int:
    """``dibctl rotate``: 61 for whoever may not see other projects' servers."""
    catalog = load(arguments, need_images=False)
    return _rotate(catalog.upload(arguments.environment), tuple(arguments.names), arguments)


def run_rotate_single(arguments: Arguments) -> int:
    """``dibctl rotate-single``: like ``rotate``, for one image of images.yaml."""
    catalog = load(arguments)
    image, environment = catalog.image(arguments.image), catalog.upload(arguments.environment)
    endpoint = image.settings.glance.endpoint
    return _rotate(environment, (_published_name(image, environment),), arguments, endpoint=endpoint)


def _published_name(image: Entry[Image], environment: Entry[UploadEnvironment]) -> str:
    from pytest_dibctl.config import merge

    name = merge.glance(image, environment).name
    if name is None:
        raise ConfigError(f"{image.at('glance.name')}: is missing, so there is nothing to look for")
    return name


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
    with _region(environment, endpoint=endpoint, fixed_cloud=True) as region:
        try:
            verdicts = (
                rotate.plan(region, policy) if arguments.dry_run else rotate.rotate(region, policy, tell=say)
            )
        except rotate.RotationInterrupted as error:
            stopped, verdicts = error, list(error.verdicts)
    for verdict in verdicts:
        if verdict.error is not None:
            _say_error(verdict.candidate.id, verdict.error)
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
        **_error_data(verdict.error),
    }


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
            _say_error(environment.label, error)
            data.append({"environment": environment.label, "images": [], **_error_data(error)})
            code = code or int(error.exit_code)
            continue
        rows += [_listed_row(environment.label, one) for one in found]
        images = [_listed_data(one) for one in found]
        data.append({"environment": environment.label, "images": images, **_error_data(None)})
    if arguments.json:
        print_json(data)
    elif rows:
        print_table(LIST_COLUMNS, rows)
    return code


def _listed(environment: Entry[UploadEnvironment], *, fixed_cloud: bool) -> list[Listed]:
    from pytest_dibctl.publish import listing

    with _region(environment, fixed_cloud=fixed_cloud) as region:
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


def run_transfer(arguments: Arguments) -> int:
    """``dibctl transfer``: prints where the image is now."""
    from pytest_dibctl.publish import connect, transfer

    catalog = load(arguments, need_images=False)
    with contextlib.ExitStack() as stack:
        regions: list[Region] = []
        rules: list[Obsoleting] = []
        for option in ("src", "dst"):
            environment = connect.side_environment(catalog, _side(arguments, option))
            environ = connect.environ_for(environment, os.environ)
            region = connect.open_region(environment, environ=environ, fixed_cloud=False)
            regions.append(stack.enter_context(contextlib.closing(region)))
            rules.append(environment.settings.obsolete)
        meter = stack.enter_context(Meter())
        source, destination = regions
        request = transfer.Request(
            what=arguments.uuid,
            source=source,
            destination=destination,
            rule=rules[0],
            meta=not arguments.ignore_meta,
            membership=not arguments.ignore_membership,
            timeout=arguments.timeout,
            tell=lambda line: meter.say(destination.name, line),
            sent=lambda sent, total: meter.sent(destination.name, sent, total),
        )
        try:
            done = transfer.transfer(request)
        except KeyboardInterrupt as stopped:
            if not signals.abandoned():
                notes = getattr(stopped, "__notes__", ())
                meter.say(destination.name, "; ".join(notes) or "what the transfer made is removed again")
            raise
    if arguments.json:
        print_json(
            {
                "source": {"environment": source.name, "image": done.source.id},
                "destination": {"environment": destination.name, "image": done.image.id},
                "name": done.image.name,
                "how": done.how,
                "size": done.image.size,
                "pending": list(done.pending),
            }
        )
        return ExitCode.OK
    print(f"{done.image.id}: {done.image.name} in {destination.name}: {TRANSFERRED[done.how]}")
    if done.pending:
        print(f"not accepted yet by {', '.join(done.pending)}")
    return ExitCode.OK


TRANSFERRED = {
    "unchanged": "is there already",
    "updated": "was there, and is brought up to date",
    "fetched": "fetched by its Glance",
    "streamed": "transferred",
}


def _side(arguments: Arguments, option: str) -> Side:
    from pytest_dibctl.publish.connect import Side

    given = {
        field: value
        for key, (field, _) in SIDES.items()
        if (value := getattr(arguments, f"{option}_{key.replace('-', '_')}")) is not None
    }
    return Side(option=f"--{option}", label=getattr(arguments, option), given=given)


def run_diff(arguments: Arguments) -> int:
    """``dibctl diff``: 0 whether or not anything differs."""
    from pytest_dibctl.publish import package_diff

    catalog = load(arguments)
    image, environment = catalog.image(arguments.image), catalog.upload(arguments.environment)
    name = _published_name(image, environment)
    file = Path.cwd() / (arguments.input or image.settings.filename)
    with _region(environment, endpoint=image.settings.glance.endpoint) as region:
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


# -- what they have in common ----------------------------------------------------------------------


def _environments(catalog: Catalog, arguments: Arguments) -> tuple[Entry[UploadEnvironment], ...]:
    if arguments.all:
        return catalog.select_uploads(["all", *arguments.environments])
    if not arguments.environments:
        raise NotInConfigError(
            "no upload environment is named", hint="name some, or --all; `dibctl validate` lists them"
        )
    return catalog.select_uploads(arguments.environments)


def _opened(
    environment: Entry[UploadEnvironment], *, endpoint: str | None = None, fixed_cloud: bool = False
) -> Region:
    from pytest_dibctl.publish import connect

    return connect.open_region(environment, environ=os.environ, endpoint=endpoint, fixed_cloud=fixed_cloud)


@contextlib.contextmanager
def _region(
    environment: Entry[UploadEnvironment], *, endpoint: str | None = None, fixed_cloud: bool = False
) -> Iterator[Region]:
    with contextlib.closing(_opened(environment, endpoint=endpoint, fixed_cloud=fixed_cloud)) as region:
        yield region


def _say_error(what: str, error: DibctlError) -> None:
    say(f"{what}: error: {error}")
    for note in getattr(error, "__notes__", ()):
        say(f"{what}: note: {note}")


def _error_data(error: DibctlError | None) -> dict[str, Any]:
    if error is None:
        return {"error": None, "exit_code": int(ExitCode.OK)}
    notes = list(getattr(error, "__notes__", ()))
    return {"error": error.message, "notes": notes, "exit_code": int(error.exit_code)}
