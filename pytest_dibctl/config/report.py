"""The report of ``dibctl validate``: files, labels, what replaces what, and everything that is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_dibctl.config import catalog as configuration
from pytest_dibctl.config import obsolete_rules, templates, tests_list
from pytest_dibctl.config.catalog import Catalog, Override, SourceFile
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.input_files import exists, resolve_input
from pytest_dibctl.config.kinds import NOUNS
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.nova import Nova
from pytest_dibctl.config.models.nspawn import Nspawn
from pytest_dibctl.config.models.qemu import Qemu
from pytest_dibctl.config.models.section import Section
from pytest_dibctl.config.models.test import TestEnvironment
from pytest_dibctl.config.search import SYSTEM, not_found, working_directory
from pytest_dibctl.errors import DibctlError

Check = Callable[[Entry[Image], Path], Sequence[str]]
"""Checks an image in a working directory and returns warnings; raises a DibctlError if it is wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageReport:
    """One image: its place, the place of its test environment, and the errors that prevent its tests.

    ``environment`` is a label, ``environment_at`` the place of its definition. The place is "built-in" for a
    built-in environment, and None for an undefined one. ``tests`` are the files and commands that its entries
    name, each after its kind.
    """

    label: str
    at: str
    filename: str
    environment: str
    environment_at: str | None
    tests: tuple[str, ...]
    errors: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """All that is known of a configuration without using it. Holds no secret.

    ``errors`` are those of the files and of the environments; each image has its own besides.
    """

    files: tuple[SourceFile, ...]
    overrides: tuple[Override, ...]
    warnings: tuple[str, ...]
    images: tuple[ImageReport, ...]
    environments: tuple[str, ...]
    uploads: tuple[str, ...]
    errors: tuple[str, ...]

    @property
    def all_errors(self) -> tuple[str, ...]:
        """Everything that is wrong: the errors of the files, then those of each image."""
        return (*self.errors, *(error for image in self.images for error in image.errors))

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings do not count."""
        return not self.all_errors

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report for people."""
        yield from self._files()
        for image in self.images:
            place = image.environment_at or "not defined"
            yield f"image {image.label}: {image.at}, tested in {image.environment} ({place})"
            yield from (f"    {test}" for test in image.tests)
        yield from (f"warning: {warning}" for warning in self.warnings)
        yield from (f"error: {error}" for error in self.all_errors)
        count = len(self.all_errors)
        yield f"{count} error{'' if count == 1 else 's'}" if count else "the configuration is valid"

    def _files(self) -> Iterator[str]:
        if not self.files:
            yield "no configuration file was found"
        for file in self.files:
            noun = NOUNS[file.kind] + ("" if len(file.labels) == 1 else "s")
            yield f"read {file.display_name}: {len(file.labels)} {noun}: {', '.join(file.labels) or '-'}"


def _rule_errors(catalog: Catalog) -> Iterator[str]:
    """Yield what is wrong with rules on obsolete images, each for the first image that shows it."""
    for environment in catalog.uploads.values():
        if environment.settings.external_upload:
            continue
        for image in catalog.images.values():
            errors = [_one_line(error) for error in obsolete_rules.broken(image, environment)]
            yield from errors
            if errors:
                break


def validate(
    *,
    cwd: Path | None = None,
    images: Path | None = None,
    test: Path | None = None,
    upload: Path | None = None,
    system: Path = SYSTEM,
    checks: Sequence[Check] = (),
) -> Report:
    """Check the configuration of a run in ``cwd``; arguments as of ``catalog.load``.

    ``checks`` are made of every image besides. Errors are in the result; raises ConfigError only when the
    current directory was removed.
    """
    cwd = working_directory(cwd)
    catalog, problems = configuration.read(
        cwd=cwd,
        explicit={"images": images, "test": test, "upload": upload},
        system=system,
    )
    errors = [str(problem) for problem in problems]
    if not problems and not any(file.kind == "images" for file in catalog.files):
        errors.append(_one_line(not_found("images", cwd, system)))
    errors += _environment_errors(catalog, cwd)
    errors += _rule_errors(catalog)
    errors += templates.errors(catalog)
    warnings = list(catalog.warnings)
    return Report(
        files=catalog.files,
        overrides=catalog.overrides,
        images=tuple(_image(catalog, image, cwd, checks, warnings) for image in catalog.images.values()),
        warnings=tuple(dict.fromkeys(warnings)),
        environments=tuple(catalog.environments),
        uploads=tuple(catalog.uploads),
        errors=tuple(errors),
    )


def _image(
    catalog: Catalog, image: Entry[Image], cwd: Path, checks: Sequence[Check], warnings: list[str]
) -> ImageReport:
    errors: list[str] = []
    for check in checks:
        with _collected(errors):
            warnings += check(image, cwd)
    environment = None
    with _collected(errors):
        environment = catalog.environment_for(image)
    tests: list[str] = []
    for index, entry in enumerate(image.settings.tests.tests_list):
        with _collected(errors):
            paths = tests_list.expand(entry, image, cwd, index=index)
            tests += [f"{entry.kind}: {path}" for path in paths]
    with _collected(errors):
        tests_list.check_external(image)
    tests += [f"external: {test.cmdline}" for test in image.settings.external_tests]
    return ImageReport(
        label=image.label,
        at=image.at(),
        filename=image.settings.filename,
        environment=image.settings.tests.environment_name or configuration.LOCAL,
        environment_at=_place(environment) if environment else None,
        tests=tuple(tests),
        errors=tuple(errors),
    )


def _place(environment: Entry[TestEnvironment]) -> str:
    is_built_in = environment.display_name == configuration.BUILT_IN
    return configuration.BUILT_IN if is_built_in else environment.at()


@contextlib.contextmanager
def _collected(errors: list[str]) -> Iterator[None]:
    """Add a DibctlError of the block to ``errors`` instead of raising it."""
    try:
        yield
    except DibctlError as error:
        errors.append(_one_line(error))


def _environment_errors(catalog: Catalog, cwd: Path) -> Iterator[str]:
    """Yield what is wrong with the test environments."""
    for entry in catalog.environments.values():
        yield from user_data_errors(entry, cwd)


def user_data_errors(entry: Entry[TestEnvironment], cwd: Path) -> Iterator[str]:
    """Yield an error for each user-data file of a test environment that does not exist."""
    for key, section in _sections(entry.settings):
        if section is not None and (error := _user_data_error(entry, key, section, cwd)):
            yield error


def _sections(settings: TestEnvironment) -> tuple[tuple[str, Nova | Qemu | Nspawn | None], ...]:
    """Return the sections that may have user data, by their keys."""
    return ("nova", settings.nova), ("qemu", settings.qemu), ("nspawn", settings.nspawn)


def _user_data_error(entry: Entry[Section], key: str, section: Nova | Qemu | Nspawn, cwd: Path) -> str | None:
    if section.userdata_file is None or exists(resolve_input(section.userdata_file, entry, cwd)):
        return None
    return f"{entry.at(f'{key}.userdata_file')}: there is no file {section.userdata_file}"


def _one_line(error: DibctlError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
