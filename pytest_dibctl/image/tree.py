"""An image's content as a file tree, opened read-only without a guest, and closed in every case.

Only its guard (``guards.image_mount``), and processes that are started through the guard, see the mounted
tree. This process reads the files through ``/proc/<guard>/root``, commands are run in the guard's namespaces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import select
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.guards import image_mount, image_views
from pytest_dibctl.image.artifact import Artifact
from pytest_dibctl.system import kernel, process, processes
from pytest_dibctl.system.waiting import wait_while

OPENING_MAY_TAKE = 120.0
"""Seconds; 0.2 are usual."""

CLOSING_MAY_TAKE = 10.0
"""Seconds until the guard is killed instead of asked."""

LONGEST = 64 << 20
"""Bytes of a file that ``ImageTree.read`` returns; a package database may have ten MiB."""

MOST_LINKS = 40
"""Symbolic links that a path may go through, as in the kernel."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeItem:
    """A file, directory or other entry of the tree: its path in the image, and its lstat."""

    name: str
    stat: os.stat_result

    @property
    def mode(self) -> int:
        """Type and permissions."""
        return self.stat.st_mode


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTree:
    """The file tree of an image, as built; nothing can be written.

    ``root`` is its top, for this process; inside of the guard's namespaces it is ``mount_point``.
    ``device`` is the block device of the root filesystem, ``filesystem`` its type, ``partition`` the
    number of its partition (0 where there are none), ``has_efi`` says that there is a partition for EFI
    firmware. ``notes`` say which other partitions are not shown.
    """

    artifact: Artifact
    directory: Path
    pid: int
    device: Path
    filesystem: str
    partition: int
    has_efi: bool = False
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Short: tracebacks show what tests got."""
        return f"<files of {self.artifact.path.name}>"

    @property
    def root(self) -> Path:
        """The top of the tree. Absolute symbolic links below it lead to this machine: use ``path``."""
        return Path(f"/proc/{self.pid}/root{self.mount_point}")

    @property
    def disk(self) -> Path:
        """The whole disk as a raw file, for this process, for any image format."""
        return Path(f"/proc/{self.pid}/root{self.directory / image_mount.DISK}")

    @property
    def mount_point(self) -> Path:
        """Where the tree is for commands that ``inside`` runs."""
        return self.directory / image_mount.ROOT

    @property
    def scripts_root(self) -> Path:
        """The tree's top for scripts that ``inside`` runs; no link of the image leads out of it."""
        return self.directory / image_views.FILES

    @property
    def enter(self) -> Path:
        """The program, for commands that ``inside`` runs, that runs its arguments in the image."""
        return self.directory / image_views.ENTER

    def inside(self, argv: Sequence[str], *, cwd: Path | None = None) -> list[str]:
        """Return how to run ``argv``, a program of this machine, where the tree is mounted.

        It ends with the tree, and with this process.
        """
        self.check()
        in_directory = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd or Path.cwd()), *argv]
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--"]
        return process.die_with_parent([*enter, *in_directory])

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return how to run ``argv``, a program of the image, with the image as its root directory."""
        return self.inside([str(self.enter), *argv], cwd=Path("/"))

    def check(self) -> None:
        """Raise ArtifactError when the tree is not open any more."""
        if not self.root.is_dir():
            raise ArtifactError(f"{self.artifact.path}: its file tree is not open any more")

    def path(self, name: str) -> Path:
        """Return the path, for this process, of the image's file ``name``.

        Symbolic links are followed as in the image, so the path never leads to a file of this machine. The
        end of a link may be missing or no regular file: ``open`` and ``read`` refuse that. Raises OSError
        (ELOOP) for links in a circle.
        """
        resolved: list[str] = []
        ahead = list(reversed(PurePosixPath("/", name).parts[1:]))
        links = 0
        while ahead:
            part = ahead.pop()
            if part == "..":
                resolved = resolved[:-1]
                continue
            here = self.root.joinpath(*resolved, part)
            if not here.is_symlink():
                resolved.append(part)
                continue
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
            target = PurePosixPath(here.readlink())
            if target.is_absolute():
                resolved = []
            ahead += [step for step in reversed(target.parts) if step != "/"]
        return self.root.joinpath(*resolved)

    def exists(self, name: str) -> bool:
        """Whether the image has ``name``, links followed."""
        return os.path.lexists(self.path(name))

    def open(self, name: str) -> BinaryIO:
        """Open a regular file of the image for reading; links are followed as they would be in the image.

        The caller closes it. Raises OSError, also for a pipe, a device or anything else that is no regular
        file.
        """
        root = os.open(self.root, os.O_PATH | os.O_DIRECTORY)
        try:
            # Without O_NONBLOCK, a pipe would be waited for.
            file = kernel.open_in_root(root, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
        finally:
            os.close(root)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "is no regular file in the image", name)
        return os.fdopen(file, "rb")

    def read_bytes(self, name: str, most: int = LONGEST) -> bytes:
        """Return the first ``most`` bytes of a regular file; raises OSError, as ``open`` does."""
        with self.open(name) as file:
            return file.read(most)

    def read(self, name: str, most: int = LONGEST) -> str:
        """Return the text of a file, empty where there is none.

        Raises OSError for a file that is not regular, and EFBIG for a file of more than ``most`` bytes.
        """
        try:
            content = self.read_bytes(name, most + 1)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        if len(content) > most:
            raise OSError(errno.EFBIG, f"has more than {most} bytes", name)
        return content.decode(errors="replace")

    def is_file(self, name: str) -> bool:
        """Whether ``name`` is a regular file, links followed."""
        try:
            self.open(name).close()
        except OSError:
            return False
        return True

    def glob(self, pattern: str) -> list[str]:
        """Return the names that match ``pattern``, as the image calls them, sorted.

        Links in the part before the first wildcard are followed, later ones are not.
        """
        fixed = []
        parts = list(PurePosixPath(pattern.lstrip("/")).parts)
        while parts and not set("*?[") & set(parts[0]):
            fixed.append(parts.pop(0))
        base = self.path("/".join(fixed))
        if not parts:
            return [f"/{'/'.join(fixed)}"] if os.path.lexists(base) else []
        paths = base.glob("/".join(parts)) if base.is_dir() else []
        return sorted(str(PurePosixPath("/", *fixed, path.relative_to(base))) for path in paths)

    def walk(self, top: str = "/") -> Iterator[TreeItem]:
        """Yield everything below ``top``, directories before what is in them, links not followed."""
        base = self.path(top)
        above = str(PurePosixPath("/", top))
        waiting = [(base, "" if above == "/" else above)]
        while waiting:
            folder, name = waiting.pop()
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    item = TreeItem(name=f"{name}/{entry.name}", stat=entry.stat(follow_symlinks=False))
                    yield item
                    if stat.S_ISDIR(item.mode):
                        waiting.append((folder / entry.name, item.name))


@contextlib.contextmanager
def opened(artifact: Artifact, directory: Path) -> Iterator[ImageTree]:
    """Open the image's file tree read-only; ``directory`` is made for it and removed again.

    Raises ArtifactError when there is no root filesystem on the image that this machine can mount, or a
    program for it is missing.
    """
    directory.mkdir(mode=0o700)
    try:
        with _guarded(artifact, directory) as tree:
            yield tree
    finally:
        directory.rmdir()


@contextlib.contextmanager
def _guarded(artifact: Artifact, directory: Path) -> Iterator[ImageTree]:
    guard = process.start(
        image_mount.command(artifact.path, artifact.disk_format, directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Unmarked: it releases its resources itself, in its own order.
        env={process.RUN: ""},
    )
    try:
        yield _answer(guard, artifact, directory)
    finally:
        _close(guard)


def _close(guard: subprocess.Popen[str]) -> None:
    """End the guard, and wait until nothing that it held is left."""
    assert guard.stdin is not None
    # unshare, which started it, ends only when the kernel has ended all that lived in its namespaces.
    guard.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        guard.wait(CLOSING_MAY_TAKE)
    process.stop(guard, grace=0)
    for pipe in (guard.stdout, guard.stderr):
        if pipe is not None:
            pipe.close()


def _answer(guard: subprocess.Popen[str], artifact: Artifact, directory: Path) -> ImageTree:
    """Wait for the guard's message about the opened tree."""
    assert guard.stdout is not None
    assert guard.stderr is not None
    ready, _, _ = select.select([guard.stdout], [], [], OPENING_MAY_TAKE)
    line = guard.stdout.readline() if ready else ""
    if not line:
        process.stop(guard, grace=0)
        why = guard.stderr.read().strip() or f"no answer within {OPENING_MAY_TAKE:g} s"
        raise ArtifactError(f"{artifact.path}: its file tree could not be opened: {why}")
    answer = json.loads(line)
    if "error" in answer:
        raise ArtifactError(answer["error"], hint=answer["hint"])
    return ImageTree(
        artifact=artifact,
        directory=directory,
        pid=answer["pid"],
        device=Path(answer["device"]),
        filesystem=answer["filesystem"],
        partition=answer["partition"],
        has_efi=answer["has_efi"],
        notes=tuple(answer["notes"]),
    )


def remove(directory: Path) -> None:
    """Remove the leftovers of a dead run's tree that was opened in ``directory``; raises OSError.

    Its guard dies with the run, unless it was stopped or could not be scheduled.
    """
    option = image_mount.directory_option(directory)

    def killed() -> tuple[processes.Process, ...]:
        guards = processes.with_argument(option)
        processes.send(signal.SIGKILL, guards)
        return guards

    if guards := wait_while(killed, timeout=CLOSING_MAY_TAKE, poll=0.05):
        raise OSError(errno.EBUSY, f"process {guards[0].pid} does not end", str(directory))
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()
