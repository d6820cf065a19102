"""Facts of diskimage-builder: versions, options, elements and the environment of a build."""

from __future__ import annotations

import dataclasses
import getopt
import importlib.metadata
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pytest_dibctl.build import mirrors
from pytest_dibctl.build.elements import Element, elements_path, expand, setting, skipped_scripts
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.dib import Dib
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import BuildError, CommandError, ConfigError
from pytest_dibctl.system import process

TOOL = "disk-image-create"
DISTRIBUTION = "diskimage-builder"

DEBIAN_ELEMENTS = frozenset({"debian", "debian-minimal", "debian-systemd"})
"""The elements that read the two mirror variables."""

MAIN_MIRROR = mirrors.MAIN_MIRROR
SECURITY_MIRROR = mirrors.SECURITY_MIRROR

TEMPORARY = ("TMP_DIR", "TMPDIR")
"""Variables that a build gets a value of its own for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The meaning of an image's cli_options; ``image_size`` is GiB."""

    arch: str | None = None
    types: tuple[str, ...] = ("qcow2",)
    compress: bool = True
    base: bool = True
    checksum: bool = False
    tmpfs: bool = True
    image_size: float | None = None
    qemu_img_options: str | None = None
    output: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything disk-image-create is told for one image.

    ``environment`` is laid over the caller's; ``notes`` are for the log, ``warnings`` for the user too.
    """

    argv_options: tuple[str, ...]
    options: Options
    named: tuple[str, ...]
    elements: tuple[Element, ...]
    environment: Mapping[str, str]
    arch: str
    version: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def element_names(self) -> frozenset[str]:
        """The names of all elements, dependencies included."""
        return frozenset(element.name for element in self.elements)


def recipe(image: Entry[Image], dib: Dib, cwd: Path) -> Recipe:
    """Work out the recipe of a build of ``image`` on this machine, now.

    Raises ConfigError for options and versions that do not fit, BuildError for elements that are missing
    or contradict each other: the message disk-image-create gives after it has started, in a second.
    """
    version = check_version(image, dib)
    options = parse_options(image, dib)
    paths = elements_path(image, dib, cwd)
    arch = options.arch or setting(dib, "ARCH") or host_arch()
    elements = expand(image, dib, paths, base=options.base, arch=arch)
    use = mirrors.Use()
    if not DEBIAN_ELEMENTS.isdisjoint(element.name for element in elements) and is_debian():
        use = mirrors.use(dib, host_mirrors())
    environment = {**dib.environment_variables, **use.environment}
    if use.element is not None:
        elements = tuple(sorted((*elements, use.element), key=lambda element: element.name))
        paths = (*paths, use.element.path.parent)
    if paths:
        environment["ELEMENTS_PATH"] = ":".join(str(path) for path in paths)
    skipped = (warning for element in elements for warning in skipped_scripts(element))
    return Recipe(
        argv_options=dib.cli_options,
        options=options,
        named=(*dib.elements, *([use.element.name] if use.element is not None else [])),
        elements=elements,
        environment=environment,
        arch=arch,
        version=version,
        notes=_caller_directory(),
        warnings=(*use.warnings, *_unused(image, dib), *skipped),
    )


_WHY_UNUSED = (
    "builds use a directory beside the image, where the free space is checked and the removal is certain"
)


def _caller_directory() -> tuple[str, ...]:
    """Say, for the log, which of the caller's variables a build does not use: they are for all programs."""
    return tuple(f"${name} is not used: {_WHY_UNUSED}" for name in TEMPORARY if name in os.environ)


def _unused(image: Entry[Image], dib: Dib) -> Iterator[str]:
    """Say which variables of the recipe a build does not use."""
    for name in TEMPORARY:
        if name in dib.environment_variables:
            yield f"{image.at(f'dib.environment_variables.{name}')}: is not used: {_WHY_UNUSED}"


def installed_version() -> str | None:
    """Return the version of diskimage-builder beside this package."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_version(image: Entry[Image], dib: Dib) -> str:
    """Return the installed version; raises ConfigError when it is outside of min and max_version.

    A limit is compared as far as it is written: ``max_version: 3.43`` allows 3.43.2.
    """
    installed = installed_version()
    if installed is None:
        raise BuildError(f"{DISTRIBUTION} is not installed", hint=f"pip install {DISTRIBUTION}")
    for key, limit, word, sign in (
        ("min_version", dib.min_version, "older", -1),
        ("max_version", dib.max_version, "newer", 1),
    ):
        if limit is not None and _compare(installed, limit) == sign:
            raise ConfigError(
                f"{image.at(f'dib.{key}')}: {DISTRIBUTION} {installed} is {word} than {limit}",
                hint=f"pip install '{DISTRIBUTION}{'>=' if sign < 0 else '<='}{limit}'",
            )
    return installed


def _compare(installed: str, limit: str) -> int:
    want = [int(part) for part in limit.split(".")]
    have = [int(part) for part in re.findall(r"\d+", installed)][: len(want)]
    return (have > want) - (have < want)


def parse_options(image: Entry[Image], dib: Dib) -> Options:
    """Read cli_options as disk-image-create does; raises ConfigError for an unknown option."""
    where = image.at("dib.cli_options")
    try:
        pairs, rest = getopt.gnu_getopt(list(dib.cli_options), *_known_options())
    except getopt.GetoptError as error:
        raise ConfigError(f"{where}: {error.msg}", hint=_option_hint(error.opt)) from None
    if rest:
        raise ConfigError(f"{where}: {rest[0]!r} is no option", hint="elements belong under `elements`")
    _refuse_joined(image, dib, pairs)
    given = {name: value.strip() for name, value in pairs}
    return Options(
        arch=given.get("-a"),
        types=tuple(part for part in given.get("-t", "qcow2").split(",") if part) or ("qcow2",),
        compress="-u" not in given,
        base="-n" not in given and setting(dib, "SKIP_BASE") != "1",
        checksum="--checksum" in given or (setting(dib, "DIB_CHECKSUM") or "0") != "0",
        tmpfs="--no-tmpfs" not in given and (setting(dib, "DIB_NO_TMPFS") or "0") == "0",
        image_size=_number(given.get("--image-size") or setting(dib, "DIB_IMAGE_SIZE")),
        qemu_img_options=given.get("--qemu-img-options") or setting(dib, "QEMU_IMG_OPTIONS"),
        output=given.get("-o"),
    )


def _refuse_joined(image: Entry[Image], dib: Dib, pairs: Sequence[tuple[str, str]]) -> None:
    """Raise ConfigError for an item such as ``-a amd64``, which gives the option a value with a blank in it.

    As an item of its own, a value may hold anything that its option accepts.
    """
    joined = [(name, value) for name, value in pairs if len(name) == len("-a") and value[:1].isspace()]
    for number, item in enumerate(dib.cli_options):
        for name, value in joined:
            if item.startswith("-") and item.endswith(name[1:] + value):
                flags = item.removesuffix(value)
                raise ConfigError(
                    f"{image.at(f'dib.cli_options[{number}]')}: {item!r} is one argument with a space in it",
                    hint=f"write it as separate items: [{', '.join([flags, *value.split()])}]",
                )


def _known_options() -> tuple[str, list[str]]:
    """Return the options of the installed disk-image-create, which its own help does not tell truly."""
    from diskimage_builder import paths

    script = Path(paths.get_path("lib"), TOOL)
    match = re.search(r"getopt -o (\S+) -l (\S+) ", script.read_text())
    if match is None:
        raise BuildError(f"{script}: this version of {DISTRIBUTION} reads its options in an unknown way")
    return match.group(1), match.group(2).replace(":", "=").split(",")


def _option_hint(option: str) -> str:
    variables = {"image-extra-size": "DIB_IMAGE_EXTRA_SIZE", "mkfs-journal-size": "DIB_JOURNAL_SIZE"}
    if option in variables:
        return f"{TOOL} documents it and refuses it; set {variables[option]} in environment_variables"
    return "each item of the list is one argument, so `-a` and `amd64` are two items"


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def host_arch() -> str:
    """Return this machine's architecture by Debian's name, as disk-image-create finds it."""
    if Path("/etc/debian_version").exists():
        try:
            return process.run(["dpkg", "--print-architecture"], timeout=10).output.strip()
        except CommandError:
            pass
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(
        machine, "armhf" if machine.startswith("armv") else machine
    )


def is_debian(os_release: Path = Path("/etc/os-release")) -> bool:
    """Tell whether this machine runs Debian itself, whose mirrors hold Debian."""
    return os_release_value("ID", os_release) == "debian"


def os_release_value(name: str, os_release: Path = Path("/etc/os-release")) -> str | None:
    """Return one value of os-release."""
    try:
        text = os_release.read_text()
    except OSError:
        return None
    match = re.search(rf"^{name}=[\"']?([^\"'\n]*)", text, re.MULTILINE)
    return match.group(1) if match else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AptSource:
    """One suite of one repository that apt uses."""

    uri: str
    suite: str
    components: tuple[str, ...]


def host_mirrors(apt: Path = Path("/etc/apt")) -> dict[str, str]:
    """Return the mirrors that this machine's apt uses, by the names of DIB's variables.

    debian-minimal takes its security suite from another host than its main one, neither of which a
    machine behind a mirror of its own may reach.
    """
    mirrors: dict[str, str] = {}
    sources = [source for source in apt_sources(apt) if "main" in source.components]
    # Other people's repositories also have suites that are named after Debian's.
    sources.sort(key=lambda source: "debian" not in urlsplit(source.uri).path)
    for source in sources:
        if re.fullmatch(r"[a-z]+-security|[a-z]+/updates", source.suite):
            mirrors.setdefault(SECURITY_MIRROR, source.uri)
        elif re.fullmatch(r"[a-z]+", source.suite):
            mirrors.setdefault(MAIN_MIRROR, source.uri)
    return dict(sorted(mirrors.items()))


def apt_sources(apt: Path) -> Iterator[AptSource]:
    """Yield the binary package sources that are enabled below ``apt``: http and https, without passwords."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        if file.suffix == ".sources":
            yield from _deb822(text)
        elif file.suffix == ".list":
            yield from one_line_sources(text)


def _deb822(text: str) -> Iterator[AptSource]:
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", uncommented):
        fields = {
            name.lower(): value.split()
            for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", paragraph, re.MULTILINE)
        }
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[:1] in (["no"], ["false"]):
            continue
        for uri in filter(_is_http, fields.get("uris", [])):
            for suite in fields.get("suites", []):
                yield AptSource(
                    uri=uri.rstrip("/"), suite=suite, components=tuple(fields.get("components", []))
                )


def one_line_sources(text: str) -> Iterator[AptSource]:
    """Yield the sources in a text of lines such as `deb URI SUITE COMPONENT`."""
    for line in text.splitlines():
        match = re.fullmatch(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s*(.*)", line.partition("#")[0].strip())
        if match and _is_http(match.group(1)):
            components = tuple(match.group(3).split())
            yield AptSource(uri=match.group(1).rstrip("/"), suite=match.group(2), components=components)


def _is_http(uri: str) -> bool:
    # One with a password in it would end up in the image and in the log.
    return uri.startswith(("http://", "https://")) and "@" not in urlsplit(uri).netloc
