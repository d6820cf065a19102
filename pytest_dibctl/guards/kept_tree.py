"""Keeping the tree of a build between two of its scripts, and putting a kept one in the place of scripts.

It runs on this machine, started by the scripts of the element dibctl-layers, those in the image's root too:
the first process of the build's process ids has this machine's root. It knows one directory in the build's
own, whose ``ORDERS`` say what to do; what it keeps lies there, and the tool takes it to the cache. Nothing
that goes wrong in keeping ends a build. A kept tree that cannot be put in place does, and the tool builds
anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from pytest_dibctl.errors import CommandError
from pytest_dibctl.guards import mounts, phases
from pytest_dibctl.guards.phases import BOUNDARIES, Boundary
from pytest_dibctl.system import process

ORDERS: Final = "orders.json"
PROGRAM: Final = "keeper"
"""In the directory that ``DIRECTORY`` names: what is to be done, and what starts this module."""
DIRECTORY: Final = "DIBCTL_LAYERS"
"""The environment variable by which the scripts of the element find the directory."""

KEPT: Final = "dibctl kept: "
PASSED: Final = "dibctl passed: "
UNUSABLE: Final = "dibctl cannot use: "
NOT_KEPT: Final = "dibctl does not keep: "
"""Beginnings of lines in the log; a boundary's name follows."""

TREE, EXTRA, STATE, SOURCES = "tree.tar.zst", "extra.tar.zst", "state.json", "apt"
"""The files of a layer: the tree, what scripts made besides, mounts, and apt's sources, for the tool only."""

_PACK: Final = ("tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--format=pax")
_LEFT_OUT: Final = ("--exclude=./tmp/in_target.d", "--exclude=./tmp/profiledir.*")
"""Paths that disk-image-create makes anew for each phase."""
_STANDARD_MOUNTS: Final = ("proc", "dev", "dev/pts", "sys", "tmp/in_target.d")
_ALWAYS_NEW: Final = ("hooks/dib-run-parts", "hooks/environment.d/11-dib-install-type.bash")
_BLOCK: Final = 1 << 20


class NotKept(Exception):  # noqa: N818 -- no error: the build goes on
    """Why a tree is not kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orders:
    """The tool's orders for one build.

    ``restore`` is the boundary at which the build goes on, ``layer`` the directory of the tree kept there.
    Trees are kept at the boundaries ``keep`` if the scripts since the last tree took at least ``minimum``
    seconds, and ``worth`` times the packing of that tree. ``reserve`` bytes must stay free, and no file may
    appear in ``out``.
    """

    restore: str | None
    layer: str | None
    keep: tuple[str, ...]
    minimum: float
    worth: float
    reserve: int
    out: str

    def write(self, directory: Path) -> None:
        """Write them and the program that follows them; raises OSError."""
        (directory / ORDERS).write_text(json.dumps(dataclasses.asdict(self)))
        program = directory / PROGRAM
        argv = process.command_line(process.isolated_python(__name__))
        program.write_text(f'#!/bin/sh\nexec {argv} "$@"\n')
        program.chmod(0o700)


def main() -> NoReturn:
    """Do what is to be done at the place that the argument names: ``begin``, or a boundary."""
    place, directory = sys.argv[1], Path(os.environ[DIRECTORY])
    orders = Orders(**json.loads((directory / ORDERS).read_text()))
    keeper = _Keeper(directory, orders, Path(os.environ["TMP_BUILD_DIR"]))
    if place == "begin":
        sys.exit(keeper.begin())
    sys.exit(keeper.at(next(boundary for boundary in BOUNDARIES if boundary.name == place)))


class _Keeper:
    def __init__(self, directory: Path, orders: Orders, build: Path) -> None:
        self.directory = directory
        self.orders = orders
        self.build = build
        self.root = build / "mnt"
        self.hooks = build / "hooks"

    def begin(self) -> int:
        """Remember what is there at first; take away the scripts that a kept tree stands for."""
        (self.directory / "before.json").write_text(json.dumps(self._listing()))
        self._start_clock()
        if self.orders.restore is not None:
            boundary = _boundary(self.orders.restore)
            for phase in phases.PHASES:
                folder = self.hooks / phase
                for script in sorted(folder.iterdir()) if folder.is_dir() else ():
                    ours = script.name.endswith(phases.ELEMENT) and phase == BOUNDARIES[0].phase
                    if phases.is_script(script) and not ours and not boundary.is_later(phase, script.name):
                        _take_away(script, running=phase == "root.d")
            for name in ("etc", "proc", "sys", "dev", "tmp"):
                (self.root / name).mkdir(exist_ok=True)
        return 0

    def at(self, boundary: Boundary) -> int:
        """Put the kept tree in place, or keep the tree as it is here."""
        if self.orders.restore is not None and boundary is BOUNDARIES[0]:
            started = time.time()
            try:
                self._restore(Path(self.orders.layer or ""))
            except (OSError, CommandError, ValueError) as error:
                _say(f"{UNUSABLE}{self.orders.restore}: {error}")
                return 1
            # Packing takes as long as unpacking, near enough.
            (self.directory / "packing").write_text(str(time.time() - started))
            self._start_clock()
            return 0
        if boundary.name in self.orders.keep:
            try:
                self._keep(boundary)
                _say(f"{KEPT}{boundary.name}")
            except (OSError, CommandError, NotKept) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                _say(f"{NOT_KEPT}{boundary.name}: {reason}")
            shutil.rmtree(self._draft(boundary), ignore_errors=True)
        _say(f"{PASSED}{boundary.name}")
        return 0

    # -- keeping -----------------------------------------------------------------------------------

    def _keep(self, boundary: Boundary) -> None:
        seconds = time.time() - float((self.directory / "since").read_text())
        if seconds < max(self.orders.minimum, self.orders.worth * self._last_packing()):
            raise NotKept(f"its scripts took {seconds:.0f} s only")
        started = time.time()
        if any(Path(self.orders.out).iterdir()):
            raise NotKept("scripts wrote beside the image, which a tree does not hold")
        mounts = list(self._mounts())
        made = self._made_besides()
        draft = self._draft(boundary)
        draft.mkdir(parents=True, mode=0o700)
        if made:
            listed = self.directory / "made"
            listed.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in made))
            names = ["--null", "--verbatim-files-from", f"--files-from={listed}"]
            self._pack(["-C", str(self.build), *names], draft / EXTRA)
        with self._without_mounts() as view:
            self._pack([*_LEFT_OUT, "--sparse", "-C", str(view), "."], draft / TREE)
        self._copy_sources(draft / SOURCES)
        state = {"mounts": mounts, "extra": bool(made), "seconds": seconds}
        (draft / STATE).write_text(json.dumps(state))
        draft.rename(draft.with_name(boundary.name))
        (self.directory / "packing").write_text(str(time.time() - started))
        self._start_clock()

    def _pack(self, arguments: list[str], target: Path) -> None:
        """Write an archive while the reserve stays free; raises CommandError, OSError or NotKept."""
        with (
            process.spawn([*_PACK, "-c", *arguments], stdout=subprocess.PIPE, stderr=2) as tar,
            process.spawn(
                ["zstd", "-q", "-1", "-T0", "--check"],
                stdin=tar.stdout or 0,
                stdout=subprocess.PIPE,
                stderr=2,
            ) as zstd,
        ):
            _close(tar)
            source = zstd.stdout.fileno() if zstd.stdout is not None else 0
            with target.open("wb") as file:
                while block := os.read(source, _BLOCK):
                    self._check_room()
                    file.write(block)
            codes = (tar.wait(), zstd.wait())
        # tar's 1: a file changed while it was read.
        if codes != (0, 0):
            raise NotKept("its files cannot be packed, or still change")

    def _check_room(self) -> None:
        info = os.statvfs(self.directory)
        if info.f_bavail * info.f_frsize < self.orders.reserve + _BLOCK:
            raise NotKept("no room: the build needs what is left on the disk")

    def _listing(self) -> dict[str, str]:
        """Return what lies in the build's directory besides the tree: size and time of each file."""
        entries = {}
        for folder, folders, files in os.walk(self.build):
            if Path(folder) == self.build:
                folders[:] = [name for name in folders if name not in ("mnt", "built")]
            folders[:] = [name for name in folders if name != "__pycache__"]
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in (*files, *links):
                path = Path(folder, name)
                info = path.lstat()
                # The mode changes when a kept tree takes a script's place.
                entries[str(path.relative_to(self.build))] = f"{info.st_size} {info.st_mtime_ns}"
        return {name: stamp for name, stamp in entries.items() if name not in _ALWAYS_NEW}

    def _made_besides(self) -> list[str]:
        before = json.loads((self.directory / "before.json").read_text())
        now = self._listing()
        if changed := sorted(name for name in before if now.get(name) != before[name]):
            # Emptied by us in a build that goes on from an earlier boundary.
            changed = [name for name in changed if self.orders.restore is None or "/root.d/" not in name]
            if changed:
                raise NotKept(f"a script changed {changed[0]}")
        made = sorted(now.keys() - before.keys())
        if for_later := [name for name in made if _phase_of(name) is not None]:
            raise NotKept(f"a script made the script {for_later[0]}")
        return made

    def _mounts(self) -> Iterator[dict[str, str]]:
        """Yield what scripts mounted in the tree; raises NotKept for what is no directory of this machine."""
        table = [line.split(" ") for line in mounts.table()]
        for fields in table:
            device, inside, point = fields[2], mounts.decoded(fields[3]), Path(mounts.decoded(fields[4]))
            if not point.is_relative_to(self.root) or str(point.relative_to(self.root)) in _STANDARD_MOUNTS:
                continue
            sources = [
                Path(mounts.decoded(other[4]), os.path.relpath(inside, mounts.decoded(other[3])))
                for other in table
                if other[2] == device and inside.startswith(mounts.decoded(other[3]))
            ]
            outside = [path for path in sources if not path.resolve().is_relative_to(self.root)]
            same = [path for path in outside if path.is_dir() and path.samefile(point)]
            if not same:
                raise NotKept(
                    f"a script mounted {point.relative_to(self.root)}, which is no directory elsewhere"
                )
            yield {"target": str(point.relative_to(self.root)), "source": str(same[0].resolve())}

    def _copy_sources(self, target: Path) -> None:
        """Copy apt's sources for the tool; a link in the tree may lead anywhere, so none is followed."""
        target.mkdir(mode=0o700)
        (target / "sources.list.d").mkdir()
        for folder in ("", "sources.list.d"):
            place = self.root / "etc" / "apt" / folder
            with contextlib.suppress(OSError):
                for path in sorted(place.iterdir()):
                    if path.suffix in (".list", ".sources") and path.is_file() and not path.is_symlink():
                        shutil.copyfile(path, target / folder / path.name)

    @contextlib.contextmanager
    def _without_mounts(self) -> Iterator[Path]:
        """Show the tree without what is mounted in it: a bind mount that is not recursive."""
        view = self.directory / "view"
        view.mkdir(exist_ok=True)
        process.run(["mount", "--bind", str(self.root), str(view)])
        try:
            yield view
        finally:
            process.run(["umount", str(view)])

    def _draft(self, boundary: Boundary) -> Path:
        return self.directory / "kept" / f"{boundary.name}.part"

    def _last_packing(self) -> float:
        try:
            return float((self.directory / "packing").read_text())
        except OSError:
            return 0.0

    def _start_clock(self) -> None:
        (self.directory / "since").write_text(str(time.time()))

    # -- putting in place --------------------------------------------------------------------------

    def _restore(self, layer: Path) -> None:
        state: dict[str, Any] = json.loads((layer / STATE).read_text())
        with self._without_mounts() as view:
            for name in ("resolv.conf", "resolv.conf.ORIG"):
                (view / "etc" / name).unlink(missing_ok=True)
            _unpack(layer / TREE, view)
        if state["extra"]:
            _unpack(layer / EXTRA, self.build)
        for mount in state["mounts"]:
            target = self.root / mount["target"]
            Path(mount["source"]).mkdir(parents=True, exist_ok=True)
            process.run(["mount", "--bind", mount["source"], str(target)])


def _boundary(name: str) -> Boundary:
    return next(boundary for boundary in BOUNDARIES if boundary.name == name)


def _take_away(script: Path, *, running: bool) -> None:
    """Have a script do nothing; of the phase that runs, all have been looked up and must be there."""
    if running:
        script.unlink()
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    elif script.is_symlink():
        script.unlink()  # what it leads to may be a file of the user's
    else:
        script.chmod(script.stat().st_mode & ~0o111)


def _phase_of(name: str) -> str | None:
    parts = name.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "hooks" and parts[1] in phases.PHASES else None  # noqa: PLR2004


def _unpack(archive: Path, target: Path) -> None:
    argv = [*_PACK[:-1], "--same-permissions", "--same-owner", "-x", "-C", str(target)]
    with (
        process.spawn(["zstd", "-q", "-d", "-c", str(archive)], stdout=subprocess.PIPE, stderr=2) as zstd,
        process.spawn(argv, stdin=zstd.stdout or 0, stderr=2) as tar,
    ):
        _close(zstd)
        codes = (zstd.wait(), tar.wait())
    if codes != (0, 0):
        raise ValueError(f"{archive.name} cannot be unpacked")


def _close(started: subprocess.Popen[str]) -> None:
    """Close our end of the pipe that another process reads from."""
    if started.stdout is not None:
        started.stdout.close()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="replace"))
