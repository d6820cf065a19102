"""Files outside of the elements that a build reads because of its recipe: they count as the elements do.

diskimage-builder names them in variables (``DIB_BLOCK_DEVICE_CONFIG: file:///…``), in ``source-repository-*``
files, and in the scripts that run on this machine. Names that a script makes up as it runs cannot be known
here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pytest_dibctl.build import elements
from pytest_dibctl.build.elements import Element
from pytest_dibctl.system.files import sha256

OUTSIDE = (
    *("root.d", "extra-data.d", "block-device.d", "post-root.d", "pre-finalise.d", "cleanup.d"),
    elements.ENVIRONMENT,
)
"""The phases whose scripts run on this machine and not in the image."""

MADE = "made by the build"
"""In the place of a digest: a file that is named, and that was not there before the build."""
_SYSTEM = (
    *("/bin/", "/boot/", "/dev/", "/lib/", "/lib64/", "/proc/", "/run/", "/sbin/", "/sys/", "/usr/"),
    *("/var/cache/", "/var/log/"),
)
"""Directories of this machine that are no input: tools, and what is never the same twice."""
_SEPARATORS = re.compile(r"[\s,;'\"]+")
_ABSOLUTE = re.compile(r"(?<![\w$}/.*-])/(?:[\w.@%+-]+/)*[\w.@%+-]+")
_AT_HOME = re.compile(r"(?:~|\$HOME|\$\{HOME\})/([\w.@%+/${}*-]+)")
_VARIABLE = re.compile(r"\$\{[^}]*\}|\$\w+")
_UNSTEADY = re.compile(r"\.cache/|\.rpmdb|\.rpmmacros")
"""Files of the user's that builds themselves write."""
_MANY, _LARGE = 20_000, 256 * 1024**2
"""Entries and bytes of a folder above which names, sizes and times of its files stand for their contents."""


def digests(
    recipe_elements: Sequence[Element],
    environment: Mapping[str, str],
    cwd: Path,
    *,
    salt: str,
    old: Mapping[str, str],
) -> dict[str, str]:
    """Return a digest of each file or folder that is read, by "input:where it is named:which one".

    ``environment`` holds the variables that count. Digests are salted: such a file may hold a password. Files
    that the build of the fingerprint ``old`` has made do not count.
    """
    named: dict[str, Path] = {}
    for name, value in environment.items():
        for number, path in enumerate(dict.fromkeys(_of_value(value, cwd)), start=1):
            named[f"input:{name}:{number}"] = path
    for element in recipe_elements:
        named |= {f"input:element {element.name}:{path}": path for path in _of_element(element)}
    return {
        name: MADE if old.get(name) == MADE else hashlib.sha256(f"{salt} {digest(path)}".encode()).hexdigest()
        for name, path in named.items()
    }


def digest(path: Path) -> str:
    """Return a digest of a file's bytes, of a folder's files, or of the commits of a git repository."""
    if not path.is_dir():
        return _of_file(path)
    for repository in (path / ".git", path):
        if (repository / "HEAD").is_file() and (repository / "objects").is_dir():
            heads = [repository / "HEAD", repository / "packed-refs", *_below(repository / "refs")]
            return _whole((str(head.relative_to(path)), _of_file(head)) for head in sorted(heads))
    files = sorted(_below(path))
    large = len(files) > _MANY or sum(_size(file) for file in files) > _LARGE
    return _whole((str(file.relative_to(path)), _stamp(file) if large else _of_file(file)) for file in files)


# -- where files are named -------------------------------------------------------------------------


def _of_value(value: str, cwd: Path) -> Iterator[Path]:
    """Yield the files and folders that a variable names: alone, in a list, as a URL, after a ``=``."""
    words = [word for word in _SEPARATORS.split(value) if word]
    parts = [part for word in words if "://" not in word for part in re.split("[:=|]", word)]
    for word in dict.fromkeys([value.strip(), *words, *parts]):
        yield from _existing(word.removeprefix("file://"), cwd)


def _of_element(element: Element) -> Iterator[Path]:
    shipped = element.path.parent == elements.own_elements()
    for source in sorted(element.path.glob("source-repository-*")):
        for line in _text(source).splitlines():
            fields = line.partition("#")[0].split()
            for field in fields[3:4]:
                yield from _existing(field.removeprefix("file://"), element.path)
    for phase in ("extra-data.d", elements.ENVIRONMENT) if shipped else OUTSIDE:
        for script in sorted(element.path.glob(f"{phase}/*")):
            text = "\n".join(line for line in _text(script).splitlines() if not line.lstrip().startswith("#"))
            yield from _at_home(text)
            if not shipped:
                yield from (path for name in _ABSOLUTE.findall(text) for path in _existing(name, Path("/")))


def _at_home(text: str) -> Iterator[Path]:
    for name in _AT_HOME.findall(text):
        pattern = _VARIABLE.sub("*", name).rstrip("/")
        if pattern.strip("*/") and not _UNSTEADY.search(f"{pattern}/"):
            yield from (path for path in sorted(Path.home().glob(pattern)) if path.is_file())


def _existing(name: str, base: Path) -> Iterator[Path]:
    """Yield the file or folder of that name, if it exists and can be an input."""
    if not name or len(name) > os.pathconf("/", "PC_PATH_MAX") or "\0" in name:
        return
    try:
        path = Path(os.path.normpath(base / Path(name).expanduser()))
        # A word such as "debian" may happen to be a folder of the working directory.
        wanted = path.is_file() or (path.is_dir() and "/" in name.strip("/"))
    except (OSError, RuntimeError):
        return
    if wanted and not f"{path}/".startswith(_SYSTEM):
        yield path


# -- digests ---------------------------------------------------------------------------------------


def _of_file(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        return f"unreadable: {error.errno}"


def _stamp(path: Path) -> str:
    try:
        info = path.stat()
    except OSError as error:
        return f"unreadable: {error.errno}"
    return f"{info.st_size} {info.st_mtime_ns}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _below(folder: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(directory, name)).is_file())


def _whole(parts: Iterator[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode(errors="surrogateescape")).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
