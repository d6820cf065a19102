"""The files of a git revision, and those of the working tree, laid out in folders of our own.

Objects are read as they are stored: no hook, filter, attribute or file system monitor that the repository
names is run, as a checkout or `git archive` would run it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final

from pytest_dibctl.errors import CommandError, DibctlError
from pytest_dibctl.system import process

TIMEOUT: Final = 600.0
"""Seconds that git may take for one command."""
_HARMLESS: Final = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.untrackedCache=false"),
    *("-c", "protocol.allow=never"),
)
_ENVIRONMENT: Final = {
    "GIT_TERMINAL_PROMPT": "0",
    # Unlike protocol.allow, no setting of the repository has the last word over it.
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C.UTF-8",
}
_LINK, _COMMIT, _PROGRAM = "120000", "160000", "100755"
_ID: Final = re.compile(r"[0-9a-f]{40,64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """A file of a revision: its mode, its object and its path."""

    mode: str
    sha: str
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """A git repository: the top of its working tree, and where below it one is."""

    top: Path
    prefix: PurePosixPath

    @classmethod
    def around(cls, directory: Path) -> Repository:
        """Return the repository that a directory is in; raises DibctlError if it is in none."""
        arguments = ["rev-parse", "--show-toplevel", "--show-prefix"]
        output = _text(directory, arguments, "this folder is in no git repository that can be read")
        top, _, prefix = output.partition("\n")
        return cls(top=Path(top), prefix=PurePosixPath(prefix.strip("\n")))

    def commit(self, revision: str) -> str:
        """Return the commit that a revision names; ``A...`` is where A and the present commit parted.

        Raises DibctlError.
        """
        name = revision.removesuffix("...")
        if not name or name.startswith("-") or "\0" in name:
            raise DibctlError(f"{revision!r} is no revision: it may not be empty, nor begin with `-`")
        commit_id = self._resolved(name)
        if name == revision:
            return commit_id
        with_head = ["merge-base", commit_id, self._resolved("HEAD")]
        return _text(self.top, with_head, f"{name} and HEAD have no commit in common").strip()

    def _resolved(self, name: str) -> str:
        arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
        try:
            commit = _text(self.top, arguments, f"there is no revision {name!r} here").strip()
        except DibctlError as error:
            raise DibctlError(error.message, hint=self._what_there_is()) from None
        if not _ID.fullmatch(commit):
            raise DibctlError(f"git says {commit!r} of revision {name!r}, which is no commit")
        return commit

    def _what_there_is(self) -> str:
        """Return what to do about a revision that is not here."""
        history = "in CI, fetch the whole history: `fetch-depth: 0`, or GIT_DEPTH: 0"
        try:
            _text(self.top, ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], "")
        except DibctlError:
            return "nothing is committed here yet: `git add -A && git commit`"
        asked = ["for-each-ref", "--count=5", "--format=%(refname:short)", "refs/heads", "refs/remotes"]
        branches = _text(self.top, asked, "the branches cannot be listed").split()
        return f"there is {', '.join(branches)}; {history}" if branches else history

    def lay_out(self, commit: str, target: Path) -> None:
        """Write the files of a commit below ``target``, an empty folder; raises DibctlError and OSError."""
        stored = list(_listed(self.top, commit))
        contents = {file.path: file for file in stored if file.mode not in (_LINK, _COMMIT)}
        links = {file.path: file for file in stored if file.mode == _LINK}
        # Links last: while files are written, no folder on their way is a link.
        for file, content in _contents(self.top, [*contents.values(), *links.values()]):
            place = _place(target, file.path)
            if file.mode == _LINK:
                place.symlink_to(os.fsdecode(content))
            else:
                _write(place, content, executable=file.mode == _PROGRAM)
        for module in (file for file in stored if file.mode == _COMMIT):
            self._lay_out_module(module, target)

    def _lay_out_module(self, module: _Stored, target: Path) -> None:
        """Write a submodule's files, if its repository is here; a recipe that needs others will tell."""
        here = self.top / module.path
        below = _place(target, f"{module.path}/.git").parent
        if (here / ".git").exists():
            with contextlib.suppress(DibctlError):
                Repository(top=here, prefix=PurePosixPath()).lay_out(module.sha, below)

    def copy_working_tree(self, target: Path) -> None:
        """Write the files that git tracks or would track, as they are now; raises DibctlError and OSError."""
        listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        with _output(self.top, listed) as names:
            # A repository that is no submodule ends with a slash.
            paths = [os.fsdecode(name).removesuffix("/") for name in names.read().split(b"\0") if name]
        links = []
        for path in dict.fromkeys(paths):
            source = self.top / _checked(path)
            try:
                mode = source.lstat().st_mode
            except OSError:
                continue  # deleted
            if any((self.top / folder).is_symlink() for folder in PurePosixPath(path).parents if folder.name):
                continue  # likewise to git: the link that took its folder's place is a file of its own
            place = _place(target, path)
            if stat.S_ISLNK(mode):
                links.append((source, place))
            elif stat.S_ISDIR(mode):
                place.mkdir(exist_ok=True)
                if (source / ".git").exists():
                    Repository(top=source, prefix=PurePosixPath()).copy_working_tree(place)
            elif stat.S_ISREG(mode):
                shutil.copyfile(source, place, follow_symlinks=False)
                place.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
        for source, place in links:
            place.symlink_to(source.readlink())

    def unknown_modules(self, commit: str) -> list[str]:
        """Return the submodules that have another commit than then, and whose files are not here."""
        then = {file.path: file.sha for file in _listed(self.top, commit) if file.mode == _COMMIT}
        now = {}
        with _output(self.top, ["ls-files", "-z", "--stage"]) as listing:
            for line in filter(None, listing.read().split(b"\0")):
                facts, _, path = line.partition(b"\t")
                mode, sha, _ = facts.decode().split(" ")
                if mode == _COMMIT:
                    now[os.fsdecode(path)] = sha
        return [
            path
            for path in sorted({*then, *now})
            if then.get(path) != now.get(path) and not (self.top / path / ".git").exists()
        ]


def _listed(top: Path, commit: str) -> Iterator[_Stored]:
    with _output(top, ["ls-tree", "-r", "-z", "--full-tree", commit]) as listing:
        for line in listing.read().split(b"\0"):
            if line:
                facts, _, path = line.partition(b"\t")
                mode, _, sha = facts.decode().split(" ")
                yield _Stored(mode=mode, sha=sha, path=os.fsdecode(path))


def _contents(top: Path, files: Iterable[_Stored]) -> Iterator[tuple[_Stored, bytes]]:
    files = list(files)
    with tempfile.TemporaryFile() as wanted:
        wanted.write("".join(f"{file.sha}\n" for file in files).encode())
        wanted.seek(0)
        with _output(top, ["cat-file", "--batch"], wanted) as objects:
            for file in files:
                header = objects.readline().decode().split()
                if len(header) != 3 or header[1] != "blob":  # noqa: PLR2004 -- object, type, size
                    raise DibctlError(
                        f"git has no content of {file.path} ({' '.join(header)})",
                        hint="in CI, fetch the whole history: `fetch-depth: 0`, or GIT_DEPTH: 0",
                    )
                content = objects.read(int(header[2]))
                objects.read(1)
                yield file, content


def _checked(path: str) -> str:
    """Return a path that stays below the folder that it is joined to; raises DibctlError for another."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise DibctlError(f"the git repository names a file {path!r}, which no checkout would write")
    return path


def _place(target: Path, path: str) -> Path:
    """Return where a path lies below a folder of ours, and make its folder.

    Raises DibctlError where a link is on the way: a tree may name a link, and a file below it.
    """
    folder = target
    for part in _checked(path).split("/")[:-1]:
        folder /= part
        if folder.is_symlink():
            raise DibctlError(
                f"the git repository names a file {path!r} below a link, which no checkout would write"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return target / path


def _write(place: Path, content: bytes, *, executable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(place, flags, 0o600), "wb") as file:
        file.write(content)
    place.chmod(0o755 if executable else 0o644)


# -- git -------------------------------------------------------------------------------------------


def _text(directory: Path, arguments: list[str], problem: str) -> str:
    try:
        result = process.run(_argv(directory, arguments), env=_ENVIRONMENT, check=False, timeout=TIMEOUT)
    except CommandError as error:
        raise DibctlError(f"{problem}: {error.message}", hint="--changed-since needs git") from None
    if result.returncode != 0:
        reason = result.errors.strip().removeprefix("fatal: ")
        raise DibctlError(f"{problem}{f': {reason}' if reason else ''}")
    return result.output


@contextlib.contextmanager
def _output(directory: Path, arguments: list[str], stdin: IO[bytes] | None = None) -> Iterator[IO[bytes]]:
    """Run git and yield its output, as bytes; raises DibctlError."""
    with tempfile.TemporaryFile() as written, tempfile.TemporaryFile() as errors:
        argv = _argv(directory, arguments)
        source: int | IO[bytes] = subprocess.DEVNULL if stdin is None else stdin
        try:
            with process.spawn(argv, env=_ENVIRONMENT, stdin=source, stdout=written, stderr=errors) as git:
                code = git.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DibctlError(f"git {arguments[0]} did not end within {TIMEOUT:g} s") from None
        if code != 0:
            errors.seek(0)
            raise DibctlError(f"git {arguments[0]}: {errors.read().decode(errors='replace').strip()}")
        written.seek(0)
        yield written


def _argv(directory: Path, arguments: list[str]) -> list[str]:
    return ["git", "--no-pager", *_HARMLESS, "-C", str(directory), *arguments]
