"""The views of an image's mounted tree: one for the image's own commands, one for scripts of this machine.

Scripts follow the links of the image with this machine's root as theirs: a link to /etc/hostname would show
them this machine's file. In their view such links are replaced by ones that lead to the same place in
the image.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.guards import image_command, namespace
from pytest_dibctl.guards.mounts import OPTIONS, inside, mount
from pytest_dibctl.guards.namespace import MachineProc
from pytest_dibctl.system import kernel

COMMANDS, ENTER, FILES = "commands", "enter", "files"
"""In the guard's directory: the tree to run commands in, the program that runs one there, and the tree for
scripts."""

LAYERS: Final = "layers"
"""Where the layers of the scripts' tree are."""

ROOM: Final = "512m"
"""Bytes that commands may write to each of /dev, /tmp and /run, in memory; a copy of a package database fits.
"""

MOST_FILES: Final = 100_000
"""Files that fit there, and links of the image that are replaced; a file takes memory though it is empty."""

MOST_LINKS: Final = 40
"""Links that a path may go through, as in the kernel."""

DEVICES: Final = ("null", "zero", "full", "random", "urandom")

ENTER_SCRIPT: Final = """#!/bin/sh
# Run a command of the image, confined: on its read-only files, with a /proc, /dev, /tmp and /run of its own,
# without a network, within limits, and as a user without rights on this machine.
exec {command} "$@"
"""


def for_commands(directory: Path, root: Path) -> None:
    """Make the tree that commands run in, and the program that runs one.

    If the filesystem can be mapped, its files belong to the users of ``namespace.users``. Otherwise the user
    ``nobody`` owns all files, and commands read the files that all users may read.
    """
    tree = directory / COMMANDS
    tree.mkdir()
    with users_for("the image's commands") as users:
        for point in mount_points(root):
            _show_as(users, point, tree / point.relative_to(root))
    owner = f"uid={namespace.FIRST_USER},gid={namespace.FIRST_USER}"
    for name, mode, more in (("dev", 755, "noexec"), ("tmp", 1777, "nodev"), ("run", 755, "nodev")):
        where = inside(tree, name)
        if where is not None:
            limits = f"size={ROOM},nr_inodes={MOST_FILES}"
            mount("tmpfs", where, kind="tmpfs", options=(f"mode={mode}", "nosuid", more, limits, owner))
    if inside(tree, "dev") is not None:
        _fill_dev(tree / "dev")
    command = image_command.command(tree, proc=inside(tree, "proc") is not None)
    enter = directory / ENTER
    enter.write_text(ENTER_SCRIPT.format(command=shlex.join(command)))
    enter.chmod(0o700)


@contextlib.contextmanager
def users_for(whom: str) -> Iterator[int]:
    """Yield a descriptor of a user namespace whose users own nothing here; raises ArtifactError."""
    try:
        users = namespace.users()
    except OSError as error:
        raise ArtifactError(
            f"no user namespace for {whom}: {error.strerror}",
            hint="sysctl user.max_user_namespaces says how many this machine allows",
        ) from None
    try:
        yield users
    finally:
        os.close(users)


def mount_points(root: Path) -> list[Path]:
    """Return the tree's mount points, those above before those below."""
    return [root, *map(Path, reversed(MachineProc().mount_points(root)))]


def _show_as(users: int, source: Path, target: Path) -> None:
    copy = kernel.clone_mount(str(source))
    try:
        # Filesystems that cannot do it are shown as they are: less can be read then, and no more.
        with contextlib.suppress(OSError):
            kernel.map_owners(copy, users)
        kernel.attach_mount(copy, str(target))
    except OSError as error:
        raise ArtifactError(f"{source}: cannot be mounted for commands: {error.strerror}") from None
    finally:
        os.close(copy)


def _fill_dev(dev: Path) -> None:
    for name in DEVICES:
        (dev / name).touch()
        mount(f"/dev/{name}", dev / name, options=("bind",))
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(f"/proc/self/{target}")
    (dev / "shm").mkdir()
    (dev / "shm").chmod(0o1777)


def for_scripts(directory: Path, root: Path) -> None:
    """Make the tree for scripts of this machine, whose links lead to the image's files only.

    Raises ArtifactError when too many links would have to be replaced.
    """
    view = directory / FILES
    view.mkdir()
    points = mount_points(root)
    links = dict(_links(root))
    replaced = replacements(links)
    if len(replaced) > MOST_FILES:
        raise ArtifactError(f"more than {MOST_FILES} links of the image lead outside of it")
    layers = directory / LAYERS
    layers.mkdir()
    mount("tmpfs", layers, kind="tmpfs", options=("mode=700", f"size={ROOM}"))
    by_point: dict[Path, dict[str, str]] = {point: {} for point in points}
    for name, target in replaced.items():
        path = root / name
        point = next(point for point in reversed(points) if point in path.parents)
        by_point[point][str(path.relative_to(point))] = target
    for number, point in enumerate(points):
        _show_without_exits(layers, str(number), point, view / point.relative_to(root), by_point[point])


def _show_without_exits(
    layers: Path, name: str, source: Path, target: Path, replaced: Mapping[str, str]
) -> None:
    """Show one mount of the tree with some of its links replaced."""
    if not replaced:
        mount(str(source), target, options=("bind",))
        return
    upper, lower = layers / f"{name}-links", layers / name
    upper.mkdir()
    lower.mkdir()
    mount(str(source), lower, options=("bind",))
    _copy_status(source, upper)
    for link, new in replaced.items():
        parent = Path()
        for part in Path(link).parts[:-1]:
            parent /= part
            if not (upper / parent).is_dir():
                (upper / parent).mkdir()
                _copy_status(source / parent, upper / parent)
        (upper / link).symlink_to(new)
        _copy_status(source / link, upper / link)
    # Without the attributes by which files of a layer could point to others of it, as the image may set them.
    follow_nothing = ("redirect_dir=nofollow", "metacopy=off", "index=off")
    below = f"lowerdir={name}-links:{name}"
    mount("overlay", target, kind="overlay", options=(*OPTIONS, *follow_nothing, below), cwd=layers)


def _copy_status(source: Path, target: Path) -> None:
    """Give ``target`` owner, permissions and times of ``source``: in the view it stands for it."""
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        target.chmod(stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _links(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path and target of each symbolic link of the tree."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        # A directory that a damaged filesystem cannot list has no links to follow.
        with contextlib.suppress(OSError), os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.is_symlink():
                    yield name, os.readlink(root / name)  # noqa: PTH115 -- Path would tidy the target
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(name)


def replacements(links: Mapping[str, str]) -> dict[str, str]:
    """Return new targets for the links that lead out of the tree; ``links`` are all links, path to target.

    A link leads outside by an absolute target, or by more ``..`` than there are directories above it. Its
    new target is the place where it would lead if the tree were the root, without any link on the way. A
    link in a circle leads to itself.
    """
    return {
        name: new for name, target in links.items() if (new := _replacement(name, target, links)) is not None
    }


def _replacement(name: str, target: str, links: Mapping[str, str]) -> str | None:
    above = name.split("/")[:-1]
    resolved = [] if target.startswith("/") else list(above)
    leads_outside = target.startswith("/")
    ahead = target.split("/")[::-1]
    followed = 0
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            leads_outside |= not resolved
            resolved = resolved[:-1]
            continue
        resolved.append(part)
        further = links.get("/".join(resolved))
        if further is None:
            continue
        followed += 1
        if followed > MOST_LINKS:
            return name.rpartition("/")[2]
        resolved = [] if further.startswith("/") else resolved[:-1]
        ahead += further.split("/")[::-1]
    if not leads_outside:
        return None
    new = "/".join([".."] * len(above) + resolved) or "."
    # A longer one cannot be made; no path of that length can be opened either.
    return new if len(os.fsencode(new)) < os.pathconf("/", "PC_PATH_MAX") else name.rpartition("/")[2]
