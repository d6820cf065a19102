"""The inputs of a build's tree at each boundary between its scripts, as digests.

A layer counts everything that scripts before its boundary may have seen: all files of all elements but the
scripts that run later, variables, options, the files that these name, diskimage-builder, the architecture. In
doubt, an input counts as seen: one rebuild too many is right, one too few is wrong. The layer after root.d
counts less where that is certain, so that images that begin alike share it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.build import elements, fingerprint, inputs
from pytest_dibctl.build.dib import DISTRIBUTION, Recipe
from pytest_dibctl.build.elements import Element
from pytest_dibctl.build.inputs import MADE
from pytest_dibctl.guards import phases
from pytest_dibctl.guards.phases import BOUNDARIES, Boundary
from pytest_dibctl.system import process

_OWN: Final = tuple(dict.fromkeys(boundary.element for boundary in BOUNDARIES))
FORM: Final = "1"
"""Of a layer: another one means another key."""

_BY_OTHER_WAYS: Final = (
    r"\beval\b|\$\{!|\bprintenv\b|\bcompgen\b|environ\b|getenv"
    r"|\b(declare|export|typeset)\s+-[a-zA-Z]*p|(?<![/\w])env\b(?!\s+(-|\w+=))|\bset\s*\|"
)
"""How a script may see variables that it does not name."""
_ANYTHING: Final = re.compile(
    r"TMP_HOOKS_PATH|in_target\.d|BASH_SOURCE|\$0|\$\{0|_LIB\b"  # where all elements lie
    r"|IMAGE_ELEMENT|image_element|IMAGE_NAME|DIB_ARGS|DIB_ENV"  # what is built
    r"|DIB_ROOT_LABEL|DIB_ROOT_FSTYPE|DIB_BOOT_LABEL|DIB_MOUNTPOINTS|DIB_BLOCK_DEVICE|" + _BY_OTHER_WAYS
)
"""Words that let a script of root.d see more than its own text names."""
_OF_THE_IMAGE: Final = re.compile(r"IMAGE_NAME|DIB_ARGS|DIB_ENV")
"""Variables in which the name and the place of the image file are."""
_ASSIGNMENT: Final = re.compile(r"^\s*(?:export\s+)?(\w+)=")
_THE_ELEMENTS: Final = re.compile(r"IMAGE_ELEMENT|image_element|DIB_ARGS|DIB_ENV|" + _BY_OTHER_WAYS)
"""Words that let a script see the list of elements."""
_LOOK_FOR_FILES: Final = frozenset(
    {"package-installs", "pkg-map", "svc-map", "install-types", "source-repositories", "modprobe"}
)
_NO_CONTENT: Final = frozenset({"README.rst", "README.md", *elements.LISTS, "__pycache__"})
_PLAIN: Final = re.compile(
    r"\s*((export\s+)?DIB_\w+=[^`<>|&;()]*|if\s+\[[^`<>()]*;\s*then|else|fi|case\s+\S+\s+in|esac"
    r"|[\w*]+\)\s*(;;)?|;;|echo\s+(\"[^`$\"]*\"|[^`<>|&;()]*)|exit \d+)?\s*"
)
"""A line of a shell script that only sets variables, or ends the build."""
_PHASE_NAME: Final = re.compile(
    "|".join(rf"\b{re.escape(phase)}\b" for phase in phases.PHASES)
    + r"|\*\.d\b|(TMP_HOOKS_PATH\}?|in_target\.d)[\"']?/?(\s|$|\*)",
    re.MULTILINE,
)
"""Words which show that a script may read other scripts."""
_LARGE: Final = 1 << 20


def components(
    recipe: Recipe, boundary: Boundary, *, target: str, cwd: Path, salt: str, old: Mapping[str, str]
) -> dict[str, str]:
    """Return the inputs of a tree at a boundary, as digests by "kind:name".

    ``target`` is the name of the image file. Variables and the files they name may hold secrets: their
    digests are salted. Files that the build of the fingerprint ``old`` has made do not count.
    """
    variables = fingerprint.relevant_environment(recipe.environment)
    own = [Element(name=name, path=elements.SHIPPED / name) for name in _OWN]
    everything = boundary is not BOUNDARIES[0] or _sees_anything(recipe.elements)
    first = _of_root(recipe.elements)
    text = "" if everything else "\n".join(_texts(_readable_after_root(first)))
    counted = {
        name: value
        for name, value in variables.items()
        if everything or not name.startswith("DIB_") or name in text
    }
    parts = {
        "form": FORM,
        DISTRIBUTION: recipe.version,
        "arch": recipe.arch,
        "cli_options": fingerprint.digest(list(recipe.argv_options)),
        "bootstrap": _bootstrap(),
    }
    later = boundary is not BOUNDARIES[0]
    seen = _seen(recipe.elements, boundary) if later else recipe.elements if everything else first
    if everything:
        unseen = {element.name for element in recipe.elements} - {element.name for element in seen}
        parts["elements"] = fingerprint.digest([name for name in recipe.named if name not in unseen])
    if _names_the_image(recipe.elements, boundary):
        parts["filename"] = target
    for element in (*seen, *own):
        parts[f"element:{element.name}"] = fingerprint.tree_digest(
            element.path, counts=_Counts(element, boundary, everything=everything)
        )
    if _reads_scripts(recipe.elements, boundary):
        parts |= {
            f"scripts:{element.name}": fingerprint.tree_digest(element.path) for element in recipe.elements
        }
    parts |= {
        f"environment:{name}": fingerprint.digest([salt, name, value]) for name, value in counted.items()
    }
    named = inputs.digests(recipe.elements, counted, cwd, salt=salt, old=old)
    return {**parts, **{name: value for name, value in named.items() if value != MADE}}


def key(components_: Mapping[str, str], boundary: Boundary) -> str:
    """Return the name of a layer: equal ones stand for equal trees."""
    lines = [f"{name}={value}" for name, value in sorted(components_.items())]
    return fingerprint.digest([boundary.name, *lines])[:40]


def boundaries(recipe: Recipe) -> Iterator[Boundary]:
    """Yield the boundaries of a build: in the image's root, those in phases that it has scripts for."""
    for boundary in BOUNDARIES:
        folders = (element.path / boundary.phase for element in recipe.elements)
        if boundary.element == phases.ELEMENT or any(
            phases.is_script(path) for folder in folders if folder.is_dir() for path in folder.iterdir()
        ):
            yield boundary


def runs_before(names: Iterable[str], recipe: Recipe, boundary: Boundary) -> str | None:
    """Return the first of the named elements that has a script before a boundary."""
    wanted = set(names)
    for element in recipe.elements:
        if element.name in wanted and any(_scripts_before(element, boundary)):
            return element.name
    return None


def _scripts_before(element: Element, boundary: Boundary) -> Iterator[Path]:
    for phase in phases.PHASES:
        for path in sorted((element.path / phase).glob("*")):
            if phases.is_script(path) and not boundary.is_later(phase, path.name):
                yield path


class _Counts:
    """Whether a file of an element may have been seen before a boundary."""

    def __init__(self, element: Element, boundary: Boundary, *, everything: bool) -> None:
        self._root = element.path
        self._boundary = boundary
        self._everything = everything

    def __call__(self, path: Path) -> bool:
        if not path.is_relative_to(self._root):
            return True  # behind a link
        parts = path.relative_to(self._root).parts
        if not self._everything and parts[0] not in ("root.d", elements.ENVIRONMENT):
            return False
        # Every file counts that is no script of a later phase, also in that phase's folder: install types.
        is_script = len(parts) == 2 and parts[0] in phases.PHASES and phases.is_script(path)  # noqa: PLR2004
        return not (is_script and self._boundary.is_later(*parts)) and path.name not in phases.PHASES


def _seen(recipe_elements: Iterable[Element], boundary: Boundary) -> list[Element]:
    """Return the elements that count at a boundary: those with files that count, or all of them.

    The names of all elements are in a variable. diskimage-builder's elements that look by it for files of
    others find none in the rest; where another script may use that variable, all elements count.
    """
    recipe_elements = list(recipe_elements)
    texts = _texts(
        path
        for element in recipe_elements
        if element.path.parent != elements.own_elements() or element.name not in _LOOK_FOR_FILES
        for path in (*_scripts_before(element, boundary), *_readable_after_root([element]))
    )
    if any(_THE_ELEMENTS.search(text) for text in texts):
        return recipe_elements
    return [element for element in recipe_elements if _has_files(element, boundary)]


def _has_files(element: Element, boundary: Boundary) -> bool:
    """Whether an element has more before a boundary than what says which elements it needs."""
    counts = _Counts(element, boundary, everything=True)
    files = (path for path in element.path.rglob("*") if not path.is_dir() or path.is_symlink())
    return any(counts(path) for path in files if path.relative_to(element.path).parts[0] not in _NO_CONTENT)


def _of_root(recipe_elements: Iterable[Element]) -> list[Element]:
    """Return the elements that scripts of root.d are of, or see something of in their variables."""
    of_root = [element for element in recipe_elements if (element.path / "root.d").is_dir()]
    others = [
        element
        for element in recipe_elements
        if element not in of_root and (element.path / elements.ENVIRONMENT).is_dir()
    ]
    while True:
        text = "\n".join(_texts(_readable_after_root(of_root)))
        seen = [element for element in others if not _only_sets_others(element, text)]
        if not seen:
            return of_root
        of_root += seen
        others = [element for element in others if element not in seen]


def _only_sets_others(element: Element, text: str) -> bool:
    """Whether environment.d of an element only sets variables of DIB's that ``text`` does not speak of."""
    lines = [line for own in _texts(_readable_after_root([element])) for line in own.splitlines()]
    names = [assigned[1] for line in lines if (assigned := _ASSIGNMENT.match(line))]
    return all(map(_PLAIN.fullmatch, lines)) and not any(
        not name.startswith("DIB_") or re.search(rf"\b{name}\b", text) for name in names
    )


def _readable_after_root(recipe_elements: Iterable[Element]) -> Iterator[Path]:
    for element in recipe_elements:
        for folder in ("root.d", elements.ENVIRONMENT):
            yield from (path for path in sorted((element.path / folder).rglob("*")) if path.is_file())


def _sees_anything(recipe_elements: Iterable[Element]) -> bool:
    """Whether a script of root.d may see more than is certain from its text.

    environment.d may put what is built into a variable: then the use of that variable counts.
    """
    files = list(_readable_after_root(recipe_elements))
    lines = [
        (path.parent.name == elements.ENVIRONMENT, line)
        for path in files
        for line in _text(path).splitlines()
    ]
    suspicious = [_ANYTHING]
    while True:
        tainted = set()
        for in_environment, line in lines:
            if any(pattern.search(line) for pattern in suspicious):
                assigned = _ASSIGNMENT.match(line) if in_environment else None
                if assigned is None:
                    return True
                tainted.add(assigned[1])
        names = [re.compile(rf"\b{name}\b") for name in sorted(tainted)]
        if len(names) == len(suspicious) - 1:
            return False
        suspicious = [_ANYTHING, *names]


def _names_the_image(recipe_elements: Iterable[Element], boundary: Boundary) -> bool:
    texts = _texts(path for element in recipe_elements for path in _scripts_before(element, boundary))
    return any(_OF_THE_IMAGE.search(text) for text in texts)


def _reads_scripts(recipe_elements: Iterable[Element], boundary: Boundary) -> bool:
    """Whether an operator's script before a boundary names phases: it may read the scripts of later ones."""
    return any(
        _PHASE_NAME.search(text)
        for element in recipe_elements
        if element.path.parent not in (elements.own_elements(), elements.SHIPPED)
        for text in _texts(_scripts_before(element, boundary))
    )


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        yield _text(path)


def _text(path: Path) -> str:
    """Return a script without comments; for an unreadable script, a text that may see anything."""
    try:
        if path.stat().st_size > _LARGE:
            return "eval"
        data = path.read_bytes()
    except OSError:
        return "eval"
    if b"\0" in data:
        return "eval"
    lines = data.decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def _bootstrap() -> str:
    """Say which program bootstraps Debian: the trees of the two programs differ."""
    return "mmdebstrap" if shutil.which("mmdebstrap", path=process.tool_path()) else "debootstrap"
