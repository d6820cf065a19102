"""The desired image of an environment, and whether an existing image is equal to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from pytest_dibctl.build import fingerprint
from pytest_dibctl.build.dib import DISTRIBUTION
from pytest_dibctl.clouds.glance_content import COMMAND_LINE, BootFile, boot_files, disk_format
from pytest_dibctl.clouds.marks import UNFINISHED
from pytest_dibctl.clouds.regions import ImageRecord, ImageSpec
from pytest_dibctl.config import interpolate, merge, obsolete_rules
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.command import Preprocessing
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.config.models.upload import Obsoleting, UploadEnvironment
from pytest_dibctl.errors import ArtifactError, ConfigError, UntestedError
from pytest_dibctl.image import manifest, statements
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.publish import image_state

log = logging.getLogger(__name__)

SHA512 = image_state.SHA512
SPEC, LABEL, CONVERSION = "dibctl_spec", "dibctl_label", "dibctl_conversion"
"""Properties of a published image.

They hold the digest of the built file, which is the tested file; a digest of all settings sent to Glance; the
label in images.yaml; and the conversion from the built to the uploaded file.
"""
TESTED, PACKAGES = "dibctl_tested", "dibctl_packages"
"""Properties about the image's passed tests (time and environment), and about its packages."""
BUILT, BUILDER, RECIPE = "dibctl_built", "dibctl_builder", "dibctl_recipe"
"""Properties about the build: its time, diskimage-builder's version, and a digest of its inputs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """How another file is made of the built one before its upload; equal ones are made once for all.

    ``described`` is the value of the published image's property.
    """

    settings: Preprocessing
    disk_format: str
    container_format: str
    where: str = dataclasses.field(compare=False)
    described: str = dataclasses.field(compare=False)

    @property
    def key(self) -> str:
        """Equal for conversions that give the same file."""
        settings = self.settings.model_dump()
        return json.dumps([settings, self.disk_format, self.container_format], sort_keys=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """An image in an environment. ``timeout`` is seconds for the upload; ``members`` ids or names.

    ``sha512`` is of the built file, before any ``conversion``. ``rule`` says what obsolete means. ``tested``
    says when and where the image passed its tests, None if no run vouches for it. ``packages`` are packed.
    ``build`` are properties about its build.
    """

    spec: ImageSpec
    members: tuple[str, ...]
    companions: tuple[BootFile, ...]
    conversion: Conversion | None
    sha512: str
    rule: Obsoleting
    rule_at: str
    properties_at: str
    timeout: float
    tested: str | None = None
    packages: str | None = None
    build: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def facts(self) -> dict[str, str]:
        """The properties that do not count when images are compared.

        Tests may run again, manifests and records of a build get lost, and the same bytes be built twice.
        """
        facts = {TESTED: self.tested, PACKAGES: self.packages, **self.build}
        return {key: value for key, value in facts.items() if value is not None}


UNPROVEN = "no: nothing shows that this file was made of the one that was tested"
"""The property about tests, where ``preprocessing.use_existing`` took a file of unknown origin."""


def unproven(wanted: Wanted, environment: Entry[UploadEnvironment], file: Artifact) -> Wanted:
    """Return the desired image for a file that may have been made of another file than the tested.

    Raises UntestedError where a test run must vouch for it.
    """
    if environment.settings.require_tested:
        raise UntestedError(
            f"{environment.at('require_tested')}: nothing shows that {file.path} was made of the tested file",
            hint=f"remove {file.path.name} or set preprocessing.use_existing to false: it is made again",
        )
    return dataclasses.replace(wanted, tested=UNPROVEN)


def wanted(image: Entry[Image], environment: Entry[UploadEnvironment], built: Artifact) -> Wanted:
    """Return the desired image of ``built`` in ``environment``.

    Raises ConfigError for impossible settings, UntestedError if a test run must vouch for it and none does.
    """
    glance = merge.glance(image, environment)
    if glance.name is None:
        raise ConfigError(
            f"{image.at('glance.name')}: is missing, and an image is published under a name",
            hint="add to the image:\n  glance:\n    name: NAME",
        )
    settings = environment.settings
    rule_at = environment.at("obsolete.name")
    if not settings.external_upload:
        obsolete_rules.check(image, environment)
    conversion = _conversion(environment, glance, built)
    companions = boot_files(built, glance.properties)
    properties = dict(glance.properties)
    if companions:
        properties.setdefault("os_command_line", COMMAND_LINE)
    properties |= {SHA512: built.sha512, LABEL: image.label}
    if conversion is not None:
        properties[CONVERSION] = conversion.described
    spec = ImageSpec(
        name=glance.name,
        disk_format=conversion.disk_format if conversion else _disk_format(image, environment, built),
        container_format=glance.container_format,
        visibility=glance.visibility,
        protected=glance.protected,
        min_disk=glance.min_disk,
        min_ram=glance.min_ram,
        tags=glance.tags,
        properties=properties,
        importing=_importing(glance, environment, image, built),
        allow_unverified=glance.allow_unverified,
    )
    properties[SPEC] = _digest(spec, companions)
    return Wanted(
        spec=spec,
        members=glance.members,
        companions=companions,
        conversion=conversion,
        sha512=built.sha512,
        rule=settings.obsolete,
        rule_at=rule_at,
        properties_at=image.at("glance.properties"),
        timeout=glance.upload_timeout,
        tested=_tested(image, environment, built),
        packages=_packages(built.path),
        build=_build(built),
    )


def _build(built: Artifact) -> dict[str, str]:
    """Return the facts of its build in the record beside the file, empty if the record is of another file."""
    record = fingerprint.load(built.path)
    if record is None or record.sha512 != built.sha512:
        return {}
    facts = {RECIPE: fingerprint.summary(record.components)}
    if record.finished:
        facts[BUILT] = record.finished
    if (version := record.components.get(DISTRIBUTION)) is not None:
        facts[BUILDER] = f"{DISTRIBUTION} {version}"
    return facts


def _packages(built: Path) -> str | None:
    try:
        packages = manifest.read(built)
    except ArtifactError as error:
        log.warning("%s", error.message)
        return None
    return manifest.packed(packages) if packages is not None else None


def _tested(image: Entry[Image], environment: Entry[UploadEnvironment], built: Artifact) -> str | None:
    statement = statements.vouching(
        image, built.path, built.sha512, accept_changed=environment.settings.accept_changed_tests
    )
    if statement is None and environment.settings.require_tested:
        raise _untested(image, environment, built)
    return statement.described if statement is not None else None


def _untested(image: Entry[Image], environment: Entry[UploadEnvironment], built: Artifact) -> UntestedError:
    text = (
        f"{environment.at('require_tested')}: no whole and passing test run of {image.label} vouches for "
        f"{built.path}"
    )
    elsewhere = statements.passed_elsewhere(
        image, built.path, built.sha512, accept_changed=environment.settings.accept_changed_tests
    )
    if elsewhere is None:
        if parts := statements.partial(image, built.path, built.sha512):
            text += f"; of {parts} that passed, each left tests out, and parts do not add up"
        return UntestedError(
            text,
            hint=f"run `dibctl test {image.label}`, without leaving tests out; in CI, in one job "
            "(`dibctl matrix` never splits an image)",
        )
    place = elsewhere.environment
    if elsewhere.resumed:
        return UntestedError(
            f"{text}; it passed on {elsewhere.described}, but no instance booted there (--dib-warm)",
            hint=f"run `dibctl test {image.label}` without --warm",
        )
    command = f"pytest --dib-image={image.label} --dib-ladder={place},local"
    return UntestedError(
        f"{text}; it passed on {elsewhere.described}, but {place} does not vouch for images",
        hint=f"test it where a machine is booted: `{command}`; or let {place} vouch, with `vouches: true` in "
        "test.yaml",
    )


def is_same(image: ImageRecord, wanted: Wanted) -> bool:
    """Whether an image has the desired bytes and properties; it may be hidden."""
    spec = wanted.spec
    described = (image.disk_format, image.container_format, image.visibility, image.min_disk, image.min_ram)
    if described != (spec.disk_format, spec.container_format, spec.visibility, spec.min_disk, spec.min_ram):
        return False
    if image.status != "active" or image.tags - {UNFINISHED} != set(spec.tags):
        return False
    if any(image.properties.get(key) != value for key, value in spec.properties.items()):
        return False
    if UNFINISHED not in image.tags and image.protected != spec.protected:
        return False
    return _has_bytes(image, wanted)


def _has_bytes(image: ImageRecord, wanted: Wanted) -> bool:
    """Whether an image has the wanted bytes, as far as that can be known before a conversion."""
    # Of a converted file the digest is known only once it is made; the properties vouch for it then.
    if wanted.conversion is not None:
        return True
    if image.hash_algorithm == "sha512" and image.hash_value:
        return image.hash_value == wanted.sha512
    # A digest of another kind proves nothing here, and properties can be set by hand.
    return wanted.spec.allow_unverified


def _digest(spec: ImageSpec, companions: tuple[BootFile, ...]) -> str:
    """Return a digest of everything that is said of an image: a property that went shows too."""
    description = {
        "name": spec.name,
        "formats": [spec.disk_format, spec.container_format],
        "visibility": spec.visibility,
        "protected": spec.protected,
        "least": [spec.min_disk, spec.min_ram],
        "tags": sorted(spec.tags),
        "properties": dict(sorted(spec.properties.items())),
        "companions": {companion.key: companion.sha512 for companion in companions},
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _disk_format(image: Entry[Image], environment: Entry[UploadEnvironment], built: Artifact) -> str:
    return disk_format(
        built,
        (environment, image),
        hint="leave disk_format out, or have it converted: convert: {disk_format: %s}",
    )


def _conversion(
    environment: Entry[UploadEnvironment], glance: merge.MergedGlance, built: Artifact
) -> Conversion | None:
    settings = environment.settings
    if settings.preprocessing is not None:
        return Conversion(
            settings=settings.preprocessing,
            disk_format=glance.disk_format,
            container_format=glance.container_format,
            where=environment.at("preprocessing"),
            described=settings.preprocessing.cmdline,
        )
    convert = settings.convert
    if convert is None:
        return None
    named = settings.glance.disk_format
    if named is not None and named != convert.disk_format:
        raise ConfigError(
            f"{environment.at('glance.disk_format')}: is {named}, and convert makes {convert.disk_format}",
            hint="leave disk_format out: convert says it",
        )
    if convert.compression is None and convert.disk_format == built.disk_format:
        return None
    described = f"{convert.disk_format} {convert.compression or ''}".strip()
    suffix = described.replace(" ", ".")
    compress = f"-c -o compression_type={convert.compression} " if convert.compression else ""
    return Conversion(
        settings=Preprocessing(
            cmdline=f"qemu-img convert -m 8 -W -f {built.disk_format} -O {convert.disk_format} {compress}"
            "%(input_filename)s %(output_filename)s",
            output_filename=f"%(input_filename)s.to.{suffix}",
        ),
        disk_format=convert.disk_format,
        container_format=glance.container_format,
        where=environment.at("convert"),
        described=f"convert: {described}",
    )


def _importing(
    glance: merge.MergedGlance, environment: Entry[UploadEnvironment], image: Entry[Image], built: Artifact
) -> merge.ImportSettings:
    """Return how the image gets into Glance, with the names in ``import_uri`` filled in."""
    if glance.importing.uri is None:
        return glance.importing
    entry = environment if environment.settings.glance.import_uri else image
    names = {"filename": built.path.name, "label": image.label, "sha512": built.sha512}
    uri = interpolate.text(glance.importing.uri, names, entry.at("glance.import_uri"))
    return dataclasses.replace(glance.importing, uri=uri)
