"""``dibctl transfer``."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, add_json, count
from pytest_dibctl.cli.configuration import load
from pytest_dibctl.cli.output import Meter, print_json
from pytest_dibctl.errors import ExitCode
from pytest_dibctl.system import signals

if TYPE_CHECKING:
    from pytest_dibctl.clouds.regions import Region
    from pytest_dibctl.config.models import Obsoleting
    from pytest_dibctl.publish.connect import Side


SIDES = {
    "auth-url": ("auth_url", "address of Keystone"),
    "tenant-name": ("project_name", "project"),
    "username": ("username", "user"),
    "password": ("password", "password; OS_PASSWORD is not seen by others"),
    "region-name": ("region_name", "region"),
}
"""What ``--src-...`` and ``--dst-...`` say: the key of a keystone section, and a help text."""


def add_options(parser: argparse.ArgumentParser) -> None:
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
        "--timeout", type=count, default=3600, metavar="SECONDS", help="time for the bytes (3600)"
    )
    add_json(parser)


def run(arguments: Arguments) -> int:
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
