"""The configuration files: loaded for the other commands; ``dibctl validate`` and ``dibctl schema``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments
from pytest_dibctl.cli.output import print_json, say
from pytest_dibctl.errors import ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.config.catalog import Catalog


def load(arguments: Arguments, *, need_images: bool = True) -> Catalog:
    """Return the configuration, and say what is odd about it."""
    from pytest_dibctl.config import catalog

    loaded = catalog.load(
        cwd=Path.cwd(),
        images=arguments.images_config,
        test=arguments.test_config,
        upload=arguments.upload_config,
        need=catalog.NEEDED if need_images else (),
    )
    for warning in loaded.warnings:
        say(f"dibctl: warning: {warning}")
    return loaded


def add_validate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run_validate(arguments: Arguments) -> int:
    """``dibctl validate``: exits 10 when anything is wrong."""
    from pytest_dibctl.build import builder
    from pytest_dibctl.config import report

    found = report.validate(
        cwd=Path.cwd(),
        images=arguments.images_config,
        test=arguments.test_config,
        upload=arguments.upload_config,
        checks=[builder.check_recipe],
    )
    if arguments.json:
        print_json(found.as_dict())
    else:
        for line in found.lines():
            print(line)
    return ExitCode.OK if found.ok else ExitCode.CONFIG


def add_schema_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("images", "test", "upload"))


def run_schema(arguments: Arguments) -> int:
    """``dibctl schema``: JSON on stdout."""
    from pytest_dibctl.config import schema

    print_json(schema.schema(arguments.kind))
    return ExitCode.OK
