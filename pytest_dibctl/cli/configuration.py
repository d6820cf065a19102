"""The configuration files: loaded for the other commands, ``dibctl validate`` and ``dibctl schema``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json
from pytest_dibctl.cli.output import print_json, print_result, say, show
from pytest_dibctl.errors import ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.config.catalog import Catalog


def load(arguments: Arguments, *, need_images: bool = True) -> Catalog:
    """Return the configuration, and show its warnings; raises ConfigError.

    Without ``need_images`` a missing images.yaml is no error.
    """
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


def _add_validate_options(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "print the report as JSON")


def _validate(arguments: Arguments) -> int:
    """Check the configuration; the exit code is 10 for any error in it."""
    from pytest_dibctl.build import builder
    from pytest_dibctl.config import report

    found = report.validate(
        cwd=Path.cwd(),
        images=arguments.images_config,
        test=arguments.test_config,
        upload=arguments.upload_config,
        checks=[builder.check_recipe, builder.check_machine],
    )
    print_result(arguments, found.as_dict(), found.lines())
    return ExitCode.OK if found.ok else ExitCode.CONFIG


def _add_schema_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("images", "test", "upload"), help="which of the three files")
    parser.add_argument(
        "--path", action="store_true", help="print the path of the schema's file instead, for `$schema=`"
    )


def _schema(arguments: Arguments) -> int:
    from pytest_dibctl.config import schema

    if arguments.path:
        show(str(schema.path(arguments.kind)))
    else:
        print_json(schema.schema(arguments.kind))
    return ExitCode.OK


VALIDATE = Command(
    name="validate",
    help="Check the configuration and show which files it was read from.",
    add_options=_add_validate_options,
    run=_validate,
    examples=(
        "dibctl validate",
        "dibctl validate --images-config other.yaml",
    ),
)
SCHEMA = Command(
    name="schema",
    help="Print the JSON Schema of a configuration file, for editors.",
    add_options=_add_schema_options,
    run=_schema,
    examples=("dibctl schema images > images.schema.json",),
)
