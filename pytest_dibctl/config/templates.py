"""Every ``%(name)s`` template of the environments, tried before anything runs.

A mistake in the second command of an upload would otherwise be told when the first one has run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pytest_dibctl.config import interpolate
from pytest_dibctl.config.catalog import Catalog
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.glance import Glance
from pytest_dibctl.config.models.upload import UploadEnvironment
from pytest_dibctl.errors import ConfigError

UPLOAD_NAMES = (
    *("input_filename", "output_filename", "disk_format", "container_format"),
    *("label", "name"),
)
"""The names that ``%(name)s`` may have in ``external_upload``."""
IMPORT_NAMES = ("filename", "label", "sha512")
"""The names that ``%(name)s`` may have in ``glance.import_uri``."""

_Try = Callable[[], object]


def upload_key(number: int) -> str:
    """Return where a command of external_upload stands; ``number`` counts from 0."""
    return f"external_upload[{number}].cmdline"


def require_upload(environment: Entry[UploadEnvironment]) -> None:
    """Raise ConfigError for the first template of an upload environment that cannot be filled in."""
    for attempt in _of_upload(environment):
        attempt()


def errors(catalog: Catalog) -> Iterator[str]:
    """Yield what is wrong with each template of the environments, and of the images' ``glance`` sections."""
    attempts: list[_Try] = []
    for image in catalog.images.values():
        attempts += _of_glance(image.settings.glance, image)
    for test in catalog.environments.values():
        attempts += _of_site(test)
    for upload in catalog.uploads.values():
        attempts += _of_upload(upload)
    for attempt in attempts:
        try:
            attempt()
        except ConfigError as error:
            yield f"{error.message} ({error.hint})" if error.hint else error.message


def _of_upload(environment: Entry[UploadEnvironment]) -> Iterator[_Try]:
    names = dict.fromkeys(UPLOAD_NAMES, "x")
    for number, command in enumerate(environment.settings.external_upload):
        yield partial(interpolate.command, command.cmdline, names, environment.at(upload_key(number)))
    yield from _of_site(environment)


def _of_site(environment: Entry[Any]) -> Iterator[_Try]:
    settings = environment.settings.preprocessing
    if settings is not None:
        yield partial(
            interpolate.preprocessing,
            settings,
            input_filename="x",
            disk_format="raw",
            container_format="bare",
            where=environment.at("preprocessing"),
        )
    yield from _of_glance(environment.settings.glance, environment)


def _of_glance(glance: Glance, entry: Entry[Any]) -> Iterator[_Try]:
    uri = glance.import_uri
    if uri is not None:
        names = dict.fromkeys(IMPORT_NAMES, "x")
        yield partial(interpolate.text, uri, names, entry.at("glance.import_uri"))
