"""The elements of a build: where they lie, which ones take part, and which scripts are skipped."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.dib import Dib
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import BuildError
from pytest_dibctl.system.suggestions import did_you_mean

ENVIRONMENT = "environment.d"
"""The one folder of an element whose files are sourced, and so need not be executable."""
LISTS = ("element-deps", "element-provides")
COMMENT_HINT = "remove the line: element-deps holds names of elements only, and no comments"
"""The files of an element that name other elements."""
SHIPPED = Path(__file__).parent / "shipped_elements"
"""The directory of the elements that come with this package."""
_RUNNABLE = re.compile(r"[0-9A-Za-z_-]+")
"""The names of scripts that dib-run-parts runs; others it skips, those with a dot in them too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Element:
    """An element that takes part in a build, and its directory."""

    name: str
    path: Path


def setting(dib: Dib, name: str) -> str | None:
    """Return the value of the environment variable ``name`` in a build."""
    return dib.environment_variables.get(name, os.environ.get(name))


def elements_path(image: Entry[Image], dib: Dib, cwd: Path) -> tuple[Path, ...]:
    """Return the directories of ELEMENTS_PATH, absolute.

    A relative one is looked for below ``cwd``, then beside the file that names it. Raises BuildError for a
    folder that is at neither place.
    """
    directories = []
    for part in (setting(dib, "ELEMENTS_PATH") or "").split(":"):
        if not part:
            continue
        candidates = [(base / Path(part).expanduser()).absolute() for base in (cwd, image.path.parent)]
        existing = next((path for path in candidates if path.is_dir()), None)
        if existing is None:
            looked = " and ".join(dict.fromkeys(str(path) for path in candidates))
            raise BuildError(
                f"{image.at('dib.environment_variables.ELEMENTS_PATH')}: {part}: there is no such directory",
                hint=f"looked for {looked}",
            )
        # A directory that was given by a path with .. in it shows in the log as what it is.
        directories.append(Path(os.path.normpath(existing)))
    return tuple(directories)


def own_elements() -> Path:
    """Return the directory of the elements that come with diskimage-builder."""
    from diskimage_builder import paths  # lazily: only builds need it

    return Path(paths.get_path("elements"))


def expand(
    image: Entry[Image], dib: Dib, paths: Sequence[Path], *, base: bool, arch: str
) -> tuple[Element, ...]:
    """Return the elements of ``image`` with all they depend on, by diskimage-builder's own rules, sorted.

    Raises BuildError.
    """
    from diskimage_builder import element_dependencies as dependencies

    searched = [*paths, own_elements()]
    names = [*(["base"] if base else []), *dib.elements, *_default_block_device(dib.elements, arch)]
    where = image.at("dib.elements")
    try:
        elements = dependencies.get_elements(names, ":".join(str(path) for path in searched))
    except (OSError, UnicodeError) as error:
        raise BuildError(f"{where}: {_unreadable(searched, error)}") from None
    except dependencies.MissingElementException as error:
        [name] = re.findall(r"'(.+)'", str(error)) or [str(error)]
        lists = "" if name in names else _asking(name, searched)
        raise BuildError(
            f"{where}: there is no element {name!r}{lists}",
            hint=COMMENT_HINT if name.startswith("#") else _nearest(name, searched),
        ) from None
    except dependencies.AlreadyProvidedException as error:
        reason = str(error) or "a listed element is also provided by another listed element"
        raise BuildError(f"{where}: {reason}", hint="remove one of the two") from None
    except dependencies.MissingOSException:
        raise BuildError(
            f"{where}: no element provides an operating system",
            hint="add one, such as debian-minimal or ubuntu-minimal",
        ) from None
    return tuple(Element(name=name, path=Path(path)) for name, path in sorted(elements))


def _default_block_device(elements: Sequence[str], arch: str) -> list[str]:
    if "vm" not in elements or any(name.startswith("block-device-") for name in elements):
        return []
    return ["block-device-efi" if arch in ("arm64", "aarch64") else "block-device-mbr"]


def _unreadable(searched: Sequence[Path], error: Exception) -> str:
    """Say which list of an element cannot be read: diskimage-builder reads those of all, used or not."""
    for directory in searched:
        for path in (folder / name for folder in sorted(directory.iterdir()) for name in LISTS):
            try:
                if path.exists():
                    path.read_text()
            except UnicodeError:
                return f"{path}: is not UTF-8 text, so diskimage-builder cannot read it"
            except OSError as reason:
                return f"{path}: cannot be read: {reason.strerror}"
    return f"the elements cannot be read: {error}"


def _asking(name: str, searched: Sequence[Path]) -> str:
    """Say which element-deps name it; images.yaml does not, so its line alone would mislead."""
    paths = [path for directory in searched for path in sorted(directory.glob("*/element-deps"))]
    asking = [str(path) for path in paths if name in map(str.strip, path.read_text().splitlines())]
    return f", named in {' and '.join(asking)}" if asking else ""


def _nearest(name: str, searched: Sequence[Path]) -> str:
    for directory in searched:
        target = (directory / name).resolve()
        if target.is_dir() and target.name != name:
            return (
                f"{directory / name} is a link to {target}, and diskimage-builder names an element after the "
                f"directory itself: list {target.name!r}, or rename one of the two"
            )
    known = {path.name for directory in searched for path in directory.iterdir() if path.is_dir()}
    looked = f"looked in {', '.join(str(path) for path in searched)}"
    near = did_you_mean(name, known)
    return f"{near} {looked}" if near else f"{looked}; more with ELEMENTS_PATH"


def skipped_scripts(element: Element) -> Iterator[str]:
    """Yield a sentence for each script of an element that diskimage-builder skips without a word.

    Elements of diskimage-builder itself are left out: the user cannot change them.
    """
    if element.path.parent == own_elements():
        return
    for folder in sorted(element.path.glob("*.d")):
        if folder.name == ENVIRONMENT or not folder.is_dir():
            continue
        for script in sorted(path for path in folder.iterdir() if path.is_file()):
            if not os.access(script, os.X_OK):
                yield f"{script}: is not executable, so diskimage-builder skips it (chmod +x {script})"
            elif not _RUNNABLE.fullmatch(script.name):
                yield (
                    f"{script}: diskimage-builder skips it, because its name may hold only letters, digits, "
                    "- and _"
                )
