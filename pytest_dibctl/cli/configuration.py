"""The configuration files: loaded for the other commands, ``dibctl validate`` and ``dibctl schema``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_dibctl.cli.command import Arguments, Command, add_json
from pytest_dibctl.cli.output import print_json, print_result, say, show
from pytest_dibctl.errors import DibctlError, ExitCode

if TYPE_CHECKING:
    from pytest_dibctl.cli.results.machine import CheckedImage, Validation
    from pytest_dibctl.config.catalog import Catalog
    from pytest_dibctl.config.report import ImageReport, Report


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

    result = report.validate(
        cwd=Path.cwd(),
        images=arguments.images_config,
        test=arguments.test_config,
        upload=arguments.upload_config,
        checks=[builder.check_recipe, builder.check_machine],
    )
    print_result(arguments, report_data(result), result.lines())
    return ExitCode.OK if result.ok else ExitCode.CONFIG


def report_data(found: Report) -> Validation:
    """Return the report for JSON."""
    return {
        "ok": found.ok,
        "files": [
            {"kind": file.kind, "path": str(file.path), "labels": list(file.labels)} for file in found.files
        ],
        "overrides": [
            {
                "kind": override.kind,
                "label": override.label,
                "winner": override.winner,
                "loser": override.loser,
            }
            for override in found.overrides
        ],
        "warnings": list(found.warnings),
        "images": [_image_data(image) for image in found.images],
        "environments": list(found.environments),
        "uploads": list(found.uploads),
        "errors": list(found.all_errors),
    }


def _image_data(image: ImageReport) -> CheckedImage:
    return {
        "label": image.label,
        "at": image.at,
        "filename": image.filename,
        "environment": image.environment,
        "environment_at": image.environment_at,
        "tests": list(image.tests),
        "errors": list(image.errors),
    }


def _add_schema_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind", nargs="?", choices=("images", "test", "upload"), help="which of the three files"
    )
    parser.add_argument(
        "--path", action="store_true", help="print the path of the schema's file instead, for `$schema=`"
    )
    parser.add_argument(
        "--result",
        metavar="COMMAND",
        help="the schema of what this command prints with --json, instead of a file's",
    )


def _schema(arguments: Arguments) -> int:
    from pytest_dibctl.config import schema

    if (arguments.kind is None) == (arguments.result is None):
        raise DibctlError(
            "one schema is printed: that of a file, or that of a result",
            hint="`dibctl schema images`, or `dibctl schema --result list`",
        )
    if arguments.result is not None:
        return _result_schema(arguments)
    if arguments.path:
        show(str(schema.path(arguments.kind)))
    else:
        print_json(schema.schema(arguments.kind))
    return ExitCode.OK


def _result_schema(arguments: Arguments) -> int:
    from pytest_dibctl.cli.results import schema  # lazily: it needs the rooms of all commands

    if arguments.path:
        raise DibctlError("--path is for the schema of a file", hint="leave it out, and redirect the output")
    print_json(schema.schema(arguments.result))
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
    help="Print the JSON Schema of a configuration file, for editors, or of what a command prints.",
    add_options=_add_schema_options,
    run=_schema,
    examples=(
        "dibctl schema images > images.schema.json",
        "dibctl schema --result list > list.schema.json",
    ),
)
