"""The inputs of an image, as digests: equal fingerprints mean that a build would change nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_dibctl.build import inputs
from pytest_dibctl.build.dib import DISTRIBUTION, Recipe
from pytest_dibctl.build.inputs import MADE
from pytest_dibctl.config.models.command import Command
from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.image import artifact
from pytest_dibctl.image.artifact import Identity
from pytest_dibctl.system import files

VERSION = 1
"""Of the record's form; a record of another one means a build."""

INHERITED = frozenset(
    {
        "ARCH",
        "BASE_IMAGE_FILE",
        "BASE_IMAGE_TAR",
        "FS_TYPE",
        "ROOT_LABEL",
        "SHA256SUMS",
        "XS_TOOLS_DIR",
        "MAX_ONLINE_RESIZE",
        "QEMU_IMG_OPTIONS",
        "RAMDISK_ELEMENT",
        "SKIP_BASE",
    },
)
"""Variables without the DIB_ prefix that disk-image-create or its elements read from the caller."""

INHERITED_PREFIXES = ("DIB_", "REG_", "GENTOO_")
"""Of the variables of diskimage-builder itself, its rhel elements and its gentoo elements."""

IRRELEVANT = frozenset(
    {
        "DIB_DEBUG_TRACE",
        "DIB_IMAGE_CACHE",
        "DIB_LOCKFILES",
        "DIB_MIN_TMPFS",
        "DIB_NO_TIMESTAMP",
        "DIB_NO_TMPFS",
        "DIB_PYTHON_EXEC",
        "DIB_QUIET",
        "DIB_SHOW_IMAGE_USAGE",
        "DIB_SHOW_IMAGE_USAGE_FULL",
        "ELEMENTS_PATH",
    },
)
"""Variables that say how to build, not what; the elements that a path leads to count, not the path."""

_SHOWN = 3
_SMALL = 64 * 1024**2
"""Bytes; a larger file is not read again while its identity stays the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """How the image beside it was built; ``seconds`` and ``phases`` are the times of that build.

    ``components`` are digests by "kind:name". Values of environment variables may be secrets: theirs are
    salted. ``finished`` is the end of the build, UTC, ISO 8601. Records of older versions have neither
    ``finished`` nor digests in ``companion_sha512``.
    """

    salt: str
    components: Mapping[str, str]
    file: Identity
    sha512: str
    companions: Mapping[str, Identity]
    companion_sha512: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    finished: str = ""


def new_salt() -> str:
    """Return a salt for a new record."""
    return secrets.token_hex(16)


def components(
    recipe: Recipe | None,
    external: Sequence[Command],
    *,
    salt: str,
    target: str,
    cwd: Path,
    old: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Return the fingerprint of a build: ``recipe``, then ``external``, giving a file named ``target``.

    Relative names in variables are below ``cwd``, where the build runs; files that the build of the
    fingerprint ``old`` has made do not count.
    """
    parts = {"external_build": digest([command.cmdline for command in external]) if external else ""}
    if recipe is not None:
        parts |= {
            DISTRIBUTION: recipe.version,
            "arch": recipe.arch,
            "filename": target,
            "cli_options": digest(list(recipe.argv_options)),
            "elements": digest(list(recipe.named)),
        }
        parts |= {f"element:{element.name}": tree_digest(element.path) for element in recipe.elements}
        variables = relevant_environment(recipe.environment)
        parts |= {f"environment:{name}": digest([salt, name, value]) for name, value in variables.items()}
        parts |= inputs.digests(recipe.elements, variables, cwd, salt=salt, old=old)
    return {name: value for name, value in parts.items() if value}


def arguments(
    external: Sequence[Command], *, target: Path, cwd: Path, old: Mapping[str, str]
) -> dict[str, str]:
    """Return digests of the files that the commands name, such as scripts, by "file:argument".

    Relative names are below ``cwd``. The files of the image ``target`` do not count, nor those that the
    build of the fingerprint ``old`` has made.
    """
    own = {target, artifact.record_file(target)}
    own |= {target.with_name(f"{target.name}.build{kind}.log") for kind in ("", ".failed")}
    own |= {artifact.companion(target, suffix) for suffix in artifact.COMPANIONS}
    digests = {}
    for argument in _arguments(external):
        name = f"file:{argument}"
        path = Path(os.path.normpath(cwd.absolute() / argument))
        if old.get(name) == MADE:
            digests[name] = MADE
        # A whole script in one argument is too long for a file's name.
        with contextlib.suppress(OSError, ValueError):
            if name not in digests and path not in own and path.is_file():
                digests[name] = _file_digest(path)
    return digests


def _arguments(external: Sequence[Command]) -> Iterator[str]:
    for command in external:
        # Broken quotes are reported where the command is prepared to run.
        with contextlib.suppress(ValueError):
            yield from (argument.replace("%%", "%") for argument in shlex.split(command.cmdline))


def _file_digest(path: Path) -> str:
    identity = Identity.of(path)
    try:
        if identity.size > _SMALL:
            return artifact.digest(path, identity)
        return artifact.compute_digest(path)
    except (OSError, ArtifactError):
        return "unreadable"


def relevant_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that decide what is built: ``given``, and what the build inherits."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(INHERITED_PREFIXES) or name in INHERITED
    }
    return {name: value for name, value in sorted({**inherited, **given}.items()) if name not in IRRELEVANT}


def summary(components: Mapping[str, str]) -> str:
    """Return one digest of a fingerprint that equal recipes have on every machine.

    Of environment variables and the files they name it holds the names: the digests of what is in them are
    salted anew for each image.
    """
    parts = [
        f"{name}={'' if name.startswith(('environment:', 'input:')) else value}"
        for name, value in sorted(components.items())
        # Where a script's files lie differs between machines.
        if not name.startswith("input:element ")
    ]
    return digest(parts)


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Return the differences between two fingerprints in a few words; empty without one."""
    differences = [
        _change(name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if len(differences) > _SHOWN:
        differences = [*differences[:_SHOWN], f"and {len(differences) - _SHOWN} more"]
    return ", ".join(differences)


def _change(name: str, old: str | None, new: str | None) -> str:
    item = name.removeprefix("file:") if name.startswith("file:") else name.replace(":", " ", 1)
    if name.startswith("input:"):
        item = f"a file that {name.split(':')[1]} names was"
    if old is None:
        return f"{item} added"
    if new is None:
        return f"{item} removed"
    if name in (DISTRIBUTION, "arch", "filename"):
        return f"{item} {old} -> {new}"
    return f"{item} changed"


def tree_digest(root: Path, *, counts: Callable[[Path], bool] = lambda _path: True) -> str:
    """Return a digest of all names, modes, link targets and contents below ``root`` that count."""
    return _tree_digest(root, frozenset(), counts)


def _tree_digest(root: Path, above: frozenset[Path], counts: Callable[[Path], bool]) -> str:
    whole = hashlib.sha256()
    above |= {root.resolve()}
    for path in filter(counts, _walk(root)):
        mode = path.lstat().st_mode
        kind = "l" if stat.S_ISLNK(mode) else "d" if stat.S_ISDIR(mode) else "f"
        whole.update(
            f"{kind} {stat.S_IMODE(mode) & 0o777:o} {path.relative_to(root)}\0".encode(
                errors="surrogateescape"
            )
        )
        if kind == "l":
            whole.update(os.fsencode(path.readlink()) + b"\0")
        # A link's file or folder too: elements are copied with the targets of their links.
        with contextlib.suppress(OSError):
            if kind == "l" and path.is_dir() and path.resolve() not in above:
                whole.update(_tree_digest(path.resolve(), above, counts).encode())
            if path.is_file():
                with path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _walk(root: Path) -> Iterator[Path]:
    for directory, names, others in os.walk(root):
        names[:] = sorted(name for name in names if name != "__pycache__")
        for name in sorted([*names, *others]):
            if not name.endswith(".pyc"):
                yield Path(directory) / name


def digest(value: Sequence[str]) -> str:
    """Return the digest of some texts in their order."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def load(target: Path) -> Record | None:
    """Return the record of the image ``target``, or None when there is none that can be used."""
    try:
        data = json.loads(artifact.record_file(target).read_text())
        if data["version"] != VERSION:
            return None
        file = dict(data["file"])
        sha512 = str(file.pop("sha512"))
        return Record(
            salt=str(data["salt"]),
            components=dict(data["components"]),
            file=Identity(**file),
            sha512=sha512,
            companions={suffix: Identity(**entry) for suffix, entry in data["companions"].items()},
            companion_sha512=dict(data.get("companion_sha512", {})),
            seconds=float(data["seconds"]),
            phases=dict(data["phases"]),
            finished=str(data.get("finished", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save(target: Path, record: Record) -> None:
    """Write the record of the image ``target``; raises OSError."""
    data: dict[str, Any] = {
        "version": VERSION,
        **artifact.file_entry(record.file, record.sha512),
        "companions": {suffix: dataclasses.asdict(entry) for suffix, entry in record.companions.items()},
        "companion_sha512": dict(record.companion_sha512),
        "salt": record.salt,
        "components": dict(record.components),
        "seconds": round(record.seconds, 1),
        "phases": {name: round(seconds, 1) for name, seconds in record.phases.items()},
        "finished": record.finished,
    }
    files.write_atomically(artifact.record_file(target), json.dumps(data, indent=1) + "\n", mode=0o644)


def outdated(target: Path, record: Record | None, new: Mapping[str, str]) -> str | None:
    """Say why the image ``target`` must be built; None when it need not be.

    Files that were copied or restored are read once, and the record is then made to fit them.
    """
    if not target.exists():
        return "no image yet"
    if record is None:
        return "no build record"
    if not _is_same(target, record):
        return "file changed since it was built"
    return changes(record.components, new) or None


def _is_same(target: Path, record: Record) -> bool:
    """Tell whether the image and its companions hold the bytes that were built."""
    file = _same(target, record.file, record.sha512)
    companions = {
        suffix: _same(artifact.companion(target, suffix), identity, record.companion_sha512.get(suffix))
        for suffix, identity in record.companions.items()
    }
    present = {suffix: identity for suffix, identity in companions.items() if identity is not None}
    if file is None or len(present) < len(companions):
        return False
    moved = dataclasses.replace(record, file=file, companions=present)
    # Another run may have built meanwhile: its record stays. Without a new one, the digest comes from the
    # user's cache next time.
    if moved != record and load(target) == record:
        with contextlib.suppress(OSError):
            save(target, moved)
    return True


def _same(path: Path, recorded: Identity, sha512: str | None) -> Identity | None:
    """Return the identity of ``path`` if it holds what was recorded."""
    try:
        present = Identity.of(path)
        if present == recorded:
            return present
        if present.size != recorded.size or artifact.digest(path, present) != sha512:
            return None
    except (OSError, ArtifactError):
        return None
    return present
