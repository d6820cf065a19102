"""``dibctl transfer``: an image from one cloud or region to another."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json, count
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import Meter, print_result
from pytest_dibctl.errors import ConfigError, ExitCode
from pytest_dibctl.system import signals
from pytest_dibctl.system.suggestions import did_you_mean

if TYPE_CHECKING:
    from pytest_dibctl.cli.results import images
    from pytest_dibctl.clouds.regions import Region
    from pytest_dibctl.config.catalog import Catalog
    from pytest_dibctl.config.entry import Entry
    from pytest_dibctl.config.models.upload import Obsoleting, UploadEnvironment
    from pytest_dibctl.publish.connect import Side
    from pytest_dibctl.publish.transfer_request import Transferred

SIDES = {
    "auth-url": ("auth_url", "address of Keystone"),
    "tenant-name": ("project_name", "project"),
    "username": ("username", "user"),
    "password": ("password", "password; other users can see it, so better set OS_PASSWORD"),
    "region-name": ("region_name", "region"),
}
"""The options ``--src-...`` and ``--dst-...``: the key of a keystone section, and a help text."""
OUTCOMES = {
    "unchanged": "is there already",
    "updated": "was there, and is brought up to date",
    "fetched": "fetched by its Glance",
    "streamed": "transferred",
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uuid", metavar="IMAGE", help="id of an image, or the name of a current one")
    for option, metavar in (("src", "SOURCE"), ("dst", "DESTINATION")):
        parser.add_argument(
            option, nargs="?", metavar=metavar, help="label in upload.yaml, or a name in clouds.yaml"
        )
        for key, (_, text) in SIDES.items():
            parser.add_argument(f"--{option}-{key}", metavar="VALUE", help=f"{metavar.lower()}: {text}")
    parser.add_argument(
        "--ignore-meta", action="store_true", help="copy only the name, the formats and the bytes"
    )
    parser.add_argument("--ignore-membership", action="store_true", help="copy neither owner nor members")
    parser.add_argument(
        "--timeout", type=count, default=3600, metavar="SECONDS", help="time for the bytes (3600)"
    )
    parser.add_argument(
        "--allow-unverified",
        action="store_true",
        help="accept an image whose size or digest Glance does not tell",
    )
    add_json(parser)


def _run(arguments: Arguments) -> int:
    """Transfer an image, and print where it is now."""
    from pytest_dibctl.publish import connect

    catalog = load(arguments, need_images=False)
    with contextlib.ExitStack() as stack:
        regions: list[Region] = []
        environments: list[Entry[UploadEnvironment]] = []
        for option in ("src", "dst"):
            side = _side(arguments, option)
            environment = connect.side_environment(catalog, side)
            environ = connect.environ_for(environment, os.environ)
            with _naming_near(side, catalog):
                region = connect.open_region(environment, environ=environ, fixed_cloud=False)
            regions.append(stack.enter_context(contextlib.closing(region)))
            environments.append(environment)
        source, destination = regions
        rule = environments[0].settings.obsolete
        transferred = _transfer(arguments, source, destination, rule)
    data = _data(source, destination, transferred)
    print_result(arguments, data, _lines(destination, transferred))
    return ExitCode.OK


@contextlib.contextmanager
def _naming_near(side: Side, catalog: Catalog) -> Iterator[None]:
    """Add a note to a ConfigError of the block: a label that was taken for a cloud is near to a known one."""
    try:
        yield
    except ConfigError as error:
        near = did_you_mean(side.label or "", catalog.uploads) if side.label not in catalog.uploads else ""
        if near:
            error.add_note(f"there is no upload environment {side.label!r}; {near}")
        raise


def _side(arguments: Arguments, option: str) -> Side:
    from pytest_dibctl.publish.connect import Side

    values = {
        field: value
        for key, (field, _) in SIDES.items()
        if (value := getattr(arguments, f"{option}_{key.replace('-', '_')}")) is not None
    }
    return Side(option=f"--{option}", label=getattr(arguments, option), given=values)


def _transfer(arguments: Arguments, source: Region, destination: Region, rule: Obsoleting) -> Transferred:
    """Transfer an image and show how far it is, an interruption too."""
    from pytest_dibctl.publish import transfer, transfer_request

    with Meter() as meter:
        request = transfer_request.Request(
            what=arguments.uuid,
            source=source,
            destination=destination,
            rule=rule,
            meta=not arguments.ignore_meta,
            membership=not arguments.ignore_membership,
            timeout=arguments.timeout,
            allow_unverified=arguments.allow_unverified,
            tell=lambda line: meter.say(destination.name, line),
            sent=lambda sent, total: meter.sent(destination.name, sent, total),
        )
        try:
            return transfer.transfer(request)
        except KeyboardInterrupt as interruption:
            if not signals.abandoned():
                notes = getattr(interruption, "__notes__", ())
                meter.say(destination.name, "; ".join(notes) or "what the transfer made is removed again")
            raise


def _data(source: Region, destination: Region, transferred: Transferred) -> images.Transfer:
    return {
        "source": {"environment": source.name, "image": transferred.source.id},
        "destination": {"environment": destination.name, "image": transferred.image.id},
        "name": transferred.image.name,
        "how": transferred.how,
        "size": transferred.image.size,
        "pending": list(transferred.pending),
    }


def _lines(destination: Region, transferred: Transferred) -> Iterator[str]:
    image = transferred.image
    yield f"{image.id}: {image.name} in {destination.name}: {OUTCOMES[transferred.how]}"
    if transferred.pending:
        yield f"not accepted yet by {', '.join(transferred.pending)}"


COMMAND = Command(
    name="transfer",
    help="Copy an image from one cloud or region to another.",
    add_options=_add_options,
    run=_run,
    examples=("dibctl transfer 'Debian 12' public-one public-two",),
)
