"""The files of a new repository of images, and their writing without harm to existing files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
import stat
import string
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

import pytest_dibctl
from pytest_dibctl.config import schema, search
from pytest_dibctl.config.kinds import KINDS, Kind
from pytest_dibctl.errors import DibctlError
from pytest_dibctl.system import locks

Ci = Literal["github", "gitlab"]
CI: tuple[Ci, ...] = get_args(Ci)
"""The services that files can be written for."""
TEMPLATES = Path(__file__).parent / "templates"
LOCK_PATIENCE = 60.0
"""Seconds that another ``init`` of the same folder may take."""
_SAME = (
    *("elements/guest/README.rst", "elements/guest/element-deps", "elements/guest/package-installs.yaml"),
    *("elements/guest/post-install.d/50-guest", "tests/login.sh", "tests/inside.sh"),
    *("test.yaml", "upload.yaml", "pytest.ini"),
)
"""Files that are written as they lie among the templates."""
_RENAMED = {
    "tests/content/test_files.py": "tests/content/test_files.py.txt",
    "tests/test_system.py": "tests/test_system.py.txt",
    ".gitignore": "gitignore",
    ".editorconfig": "editorconfig",
    ".vscode/settings.json": "vscode.json",
}
"""Likewise, under another name: tools would take these for our own repository's."""
_OF_CI: Mapping[Ci, Mapping[str, str]] = {
    "github": {".github/workflows/images.yml": "github/images.yml"},
    "gitlab": {".gitlab-ci.yml": "gitlab/ci.yml", ".gitlab/images.yml": "gitlab/images.yml"},
}
_PYTEST_SETTINGS = ("pytest.toml", ".pytest.toml", ".pytest.ini")
"""Files that hold nothing but settings of pytest: beside one, pytest.ini would be a second voice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewFile:
    """A file to be written; ``name`` is its path in the repository, with slashes."""

    name: str
    content: str
    executable: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """The outcome for the files: the names of the written files, and why the others were not written."""

    written: tuple[str, ...]
    kept: Mapping[str, str]


def distributions() -> Mapping[str, Mapping[str, Any]]:
    """Return the recipes: by label, the values of images.yaml."""
    data: dict[str, dict[str, Any]] = yaml.safe_load((TEMPLATES / "distributions.yaml").read_text())
    return data


def new_files(labels: Sequence[str], services: Sequence[Ci]) -> tuple[NewFile, ...]:
    """Return the files of a repository with an image of each distribution, and CI at each of the services."""
    known = distributions()
    images = [_text("images.yaml"), *(_image(label, known[label]) for label in dict.fromkeys(labels))]
    sources = {name: name for name in _SAME} | _RENAMED
    for service in services:
        sources |= _OF_CI[service]
    return (
        NewFile(name="images.yaml", content="".join(images)),
        *(
            NewFile(
                name=name,
                content=(TEMPLATES / source).read_text(),
                executable=bool((TEMPLATES / source).stat().st_mode & stat.S_IXUSR) or _is_script(source),
            )
            for name, source in sources.items()
        ),
        NewFile(name="requirements.txt", content=_text("requirements.txt")),
        NewFile(name=".pre-commit-config.yaml", content=_text("pre-commit.yaml")),
        *(NewFile(name=f"schema/{kind}.json", content=schema.render(kind)) for kind in KINDS),
    )


def _is_script(source: str) -> bool:
    """Whether a template is a script: an installer may have dropped the mode of a file that is data to it."""
    return source.endswith(".sh") or ".d/" in source


def _text(template: str, **values: str) -> str:
    values = {"version": pytest_dibctl.__version__, **values}
    return string.Template((TEMPLATES / template).read_text()).substitute(values)


def _image(label: str, distribution: Mapping[str, Any]) -> str:
    options = distribution.get("options", ())
    return _text(
        "image.yaml",
        label=label,
        name=distribution["name"],
        release=distribution["release"],
        elements=", ".join(distribution["elements"]),
        options=f"    cli_options: [{', '.join(options)}]\n" if options else "",
    )


# -- writing ---------------------------------------------------------------------------------------


def write(directory: Path, files: Sequence[NewFile]) -> Written:
    """Write those of the files that are not there into ``directory``, which is made if need be.

    No file is ever replaced, and no symbolic link is followed, ``directory`` itself included: what is written
    lies in that folder. A second process waits until the first has ended. Raises DibctlError, before anything
    is written, when a link or a file is in the way of a folder.
    """
    directory = Path(os.path.normpath(directory.absolute()))
    try:
        _make_root(directory)
        with locks.exclusive(directory, timeout=LOCK_PATIENCE):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                return _write_all(descriptor, directory, files)
            finally:
                os.close(descriptor)
    except OSError as error:
        place = error.filename or directory
        raise DibctlError(f"{place}: cannot be written: {error.strerror or error}") from None


def _make_root(directory: Path) -> None:
    if directory.is_symlink():
        raise DibctlError(
            f"{directory} is a symbolic link, which is not followed",
            hint=f"name the folder itself: `dibctl init {shlex.quote(os.path.realpath(directory))}`",
        )
    directory.mkdir(parents=True, exist_ok=True)


def _write_all(root: int, directory: Path, files: Sequence[NewFile]) -> Written:
    present = _configured(directory)
    kept = {file.name: reason for file in files if (reason := _reason_to_keep(root, file.name, present))}
    written = []
    for file in files:
        if file.name in kept:
            continue
        with _folder(root, Path(file.name).parent, make=True) as folder:
            assert folder is not None  # it is made
            if _create(folder, Path(file.name).name, file):
                written.append(file.name)
            else:
                kept[file.name] = "is there already"
    return Written(written=tuple(written), kept=kept)


def _reason_to_keep(root: int, name: str, present: Mapping[str, str]) -> str:
    """Return why a file is not written, empty if it is; raises DibctlError for a folder that is none."""
    path = Path(name)
    with _folder(root, path.parent, make=False) as folder:
        if folder is not None:
            with contextlib.suppress(FileNotFoundError):
                os.stat(path.name, dir_fd=folder, follow_symlinks=False)
                return "is there already"
    return present.get(name, "")


@contextlib.contextmanager
def _folder(root: int, path: Path, *, make: bool) -> Iterator[int | None]:
    """Open a folder below ``root``, component by component; yield None if it is not there and not made."""
    descriptor = os.dup(root)
    try:
        for number, part in enumerate(path.parts, start=1):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            except FileNotFoundError:
                yield None
                return
            except OSError:  # ELOOP or ENOTDIR
                where = "/".join(path.parts[:number])
                raise DibctlError(
                    f"{where} is not a folder; a symbolic link is not followed",
                    hint="move it out of the way, or make it a folder",
                ) from None
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _create(folder: int, name: str, file: NewFile) -> bool:
    """Write a file that is whole as soon as it is there; return False if another one has its name."""
    mode = 0o777 if file.executable else 0o666
    try:
        # It has no name yet: a process that is killed leaves no draft.
        descriptor = os.open(".", os.O_WRONLY | os.O_TMPFILE, mode, dir_fd=folder)
    except OSError:  # not every file system can do that
        return _create_by_draft(folder, name, file, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as nameless:
        nameless.write(file.content)
        nameless.flush()
        try:
            os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)
        except FileExistsError:
            return False
        except OSError:  # no /proc
            return _create_by_draft(folder, name, file, mode)
    return True


def _create_by_draft(folder: int, name: str, file: NewFile, mode: int) -> bool:
    draft = f".{name[:100]}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(draft, flags, mode, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as draft_file:
            draft_file.write(file.content)
        # Unlike a rename, a link replaces nothing.
        os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft, dir_fd=folder)
    return True


def _configured(directory: Path) -> dict[str, str]:
    """Return the files that would contradict the existing configuration, with the reason."""
    reasons: dict[str, str] = {}
    kinds: tuple[Kind, ...] = tuple(KINDS)
    for kind in kinds:
        files, _ = search.find_files(kind, directory, directory / "no-system-folder")
        if files:
            reasons[f"{kind}.yaml"] = f"{search.display_path(files[-1], directory)} is there already"
    if settings := _pytest_settings(directory):
        reasons["pytest.ini"] = f"{settings} has pytest's settings"
    return reasons


def _pytest_settings(directory: Path) -> str | None:
    for name in _PYTEST_SETTINGS:
        if (directory / name).exists():
            return name
    for name, section in (("tox.ini", "[pytest]"), ("setup.cfg", "[tool:pytest]")):
        if section in _read(directory / name):
            return name
    with contextlib.suppress(tomllib.TOMLDecodeError):
        tool = tomllib.loads(_read(directory / "pyproject.toml")).get("tool", {})
        if isinstance(tool, Mapping) and "pytest" in tool:
            return "pyproject.toml"
    return None


def _read(path: Path) -> str:
    """Return a text file, empty if it is none; a pipe would never end."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.is_file():
            return path.read_text()
    return ""
