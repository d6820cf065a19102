"""A built image on disk: its format, sizes, digest, and the kernel and initrd that travel with it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pytest_dibctl.errors import ArtifactError, CommandError
from pytest_dibctl.image import formats
from pytest_dibctl.system import files, package_names, process

Layout = Literal["disk", "filesystem", "unknown"]
"""The layout by the first bytes: a boot sector, a bare filesystem (boots only with a kernel beside it) ..."""

_HEAD = 128 * 1024
"""Bytes read from the start of the virtual disk; btrfs keeps its magic at 64 KiB + 64."""

_MAGICS = ((1080, b"\x53\xef"), (0, b"XFSB"), (0, b"hsqs"), (65600, b"_BHRfS_M"))
"""Offset and magic number of ext2/3/4, xfs, squashfs and btrfs."""

LIMITS = ("prlimit", "--as=2147483648", "--cpu=60", "--core=0", "--")
"""Starts a program that reads an image's format: 2 GiB of memory and a minute of the processor suffice."""

_SUFFIXES = (".qcow2", ".raw", ".img")

COMPANIONS = (".vmlinuz", ".initrd")
"""Suffixes of the files that are booted together with a filesystem image."""

_RECORD = ".dibctl.json"

MOST_DIGESTS = 1000
"""Digests that are kept for a user; each is of one path and takes a block of the disk."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """An image file: ``size`` and ``virtual_size`` are bytes, ``sha512`` is hex and of the file's bytes.

    ``unproven`` is a file that is used in place of a built file, without proof that it was made of that file.
    """

    path: Path
    disk_format: str
    size: int
    virtual_size: int
    sha512: str
    kernel: Path | None = None
    initrd: Path | None = None
    layout: Layout = "unknown"
    unproven: bool = False

    def __repr__(self) -> str:
        """Short: tracebacks show what tests got."""
        return f"<{self.disk_format} file {self.path.name}, sha512 {self.sha512[:12]}>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """The identity of a file's state, without reading the file; ``mtime_ns`` is nanoseconds."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the identity of ``path``; raises OSError."""
        stat = path.stat()
        return cls(size=stat.st_size, mtime_ns=stat.st_mtime_ns, inode=stat.st_ino)

    @classmethod
    def if_any(cls, path: Path) -> Self | None:
        """Return the identity of ``path``, None where no file can be looked at."""
        try:
            return cls.of(path)
        except OSError:
            return None


def stem(path: Path) -> Path:
    """Return ``path`` without its last suffix if that suffix names an image format.

    ``<stem>.vmlinuz`` and ``<stem>.initrd`` beside the image are its kernel and initrd, and ``<stem>`` is the
    output name for disk-image-create.
    """
    return path.with_suffix("") if path.suffix in _SUFFIXES else path


def companion(path: Path, suffix: str) -> Path:
    """Return where the file with ``suffix`` that belongs to the image ``path`` lies."""
    base = stem(path)
    return base.with_name(base.name + suffix)


def record_file(path: Path) -> Path:
    """Return the file that holds how the image ``path`` was built; ``build.outputs`` writes it."""
    return path.with_name(path.name + _RECORD)


def inspect(path: Path, *, packed: bool = False) -> Artifact:
    """Return the image file at ``path``; ``packed`` allows an archive of an image.

    The digest is read from the build's record or from the user's cache, if these are about this file; else
    the file is read once.

    Raises ArtifactError when the file is missing, unreadable, empty, truncated or damaged, and when it is
    no image by itself, as ``formats.of`` says.
    """
    path = path.absolute()
    identity = _identity(path)
    verified = _verified(path, identity, packed)
    kernel, initrd = (companion(path, suffix) for suffix in COMPANIONS)
    return Artifact(
        path=path,
        disk_format=verified.disk_format,
        size=identity.size,
        virtual_size=verified.virtual_size,
        sha512=digest(path, identity),
        kernel=kernel if kernel.is_file() else None,
        initrd=initrd if initrd.is_file() else None,
        layout=verified.layout,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
    """The facts of an image file without its digest; ``virtual_size`` is bytes."""

    disk_format: str
    virtual_size: int
    layout: Layout


@functools.lru_cache(maxsize=64)
def _verified(path: Path, identity: Identity, packed: bool) -> Verified:  # noqa: ARG001 -- another file of that name is another call
    # A run inspects its image for the header, for the build and for the upload: qemu-img is asked once.
    return verify(path, packed=packed)


def verify(path: Path, *, packed: bool = False) -> Verified:
    """Return the facts of ``path``; raises ArtifactError unless it is a whole image by itself.

    ``packed`` allows an archive of an image.
    """
    _identity(path)
    try:
        disk_format = formats.of(path, packed=packed)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    info = _image_info(path, disk_format)
    virtual_size = int(info["virtual-size"])
    _check_whole(path, disk_format)
    head = _head(path, disk_format, virtual_size)
    _check_filesystem_fits(path, head, virtual_size)
    return Verified(disk_format=disk_format, virtual_size=virtual_size, layout=layout(head))


def _identity(path: Path) -> Identity:
    try:
        identity = Identity.of(path)
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no such image file", hint="build it, or name another with --dib-input (dibctl: --input)"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    if identity.size == 0:
        raise ArtifactError(f"{path}: the image file is empty", hint="build or fetch it again")
    return identity


def _qemu_img(*argv: str, check: bool = True) -> process.Result:
    try:
        if shutil.which("qemu-img", path=process.tool_path()) is None:
            raise ArtifactError("qemu-img: not found", hint=package_names.advice("qemu-img"))
        return process.run([*LIMITS, "qemu-img", *argv], check=check, timeout=60)
    except CommandError as error:
        raise ArtifactError(error.message, hint=error.hint) from None


def _image_info(path: Path, disk_format: str) -> Mapping[str, Any]:
    result = _qemu_img("info", "--force-share", "--output=json", "-f", disk_format, str(path), check=False)
    if result.returncode != 0:
        complaint = result.errors.strip().removeprefix("qemu-img: ")
        reason = complaint or f"qemu-img exited with {result.returncode}"
        raise ArtifactError(f"{path}: not a readable image: {reason}", hint="build or fetch it again")
    info: Mapping[str, Any] = json.loads(result.output)
    # A reference that formats.of overlooked: a newer QEMU may know more ways to name a file.
    specific = info.get("format-specific", {}).get("data", {})
    if "backing-filename" in info or "data-file" in specific or specific.get("corrupt"):
        raise ArtifactError(f"{path}: is no image by itself, or damaged", hint=formats.AGAIN)
    return info


def _check_whole(path: Path, disk_format: str) -> None:
    """Refuse a qcow2 file whose tables point past its end, which ``qemu-img info`` never notices."""
    if disk_format != "qcow2":
        return
    result = _qemu_img("check", "--force-share", "--output=json", "-f", disk_format, str(path), check=False)
    # 3 is leaked clusters: wasteful, and nothing is missing.
    if result.returncode not in (0, 3):
        complaint = next(
            iter(result.errors.strip().splitlines()), f"qemu-img check exited with {result.returncode}"
        )
        raise ArtifactError(
            f"{path}: the image is truncated or damaged: {complaint.removeprefix('ERROR: ')}",
            hint="build or fetch it again",
        )


def _head(path: Path, disk_format: str, virtual_size: int) -> bytes:
    """Return the first bytes of the virtual disk."""
    if disk_format == "raw":
        with path.open("rb") as file:
            return file.read(_HEAD)
    size = min(_HEAD, virtual_size) // 512 * 512
    if not size:
        return b""
    with tempfile.TemporaryDirectory(prefix="dibctl-") as directory:
        target = Path(directory) / "head"
        # One block: qemu-img spends half a millisecond on each.
        source = ["dd", "--force-share", "-f", disk_format, "-O", "raw", f"bs={size}", "count=1"]
        _qemu_img(*source, f"if={path}", f"of={target}")
        return target.read_bytes()


def layout(head: bytes) -> Layout:
    """Tell a whole disk from a bare filesystem by the first bytes of the virtual disk."""
    if head[510:512] == b"\x55\xaa":
        return "disk"
    for offset, magic in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return "filesystem"
    return "unknown"


def _check_filesystem_fits(path: Path, head: bytes, virtual_size: int) -> None:
    """Refuse a bare ext filesystem or a GPT disk that says that it is larger than the image."""
    needed = 0
    if layout(head) == "filesystem" and head[1080:1082] == b"\x53\xef":
        (blocks,) = struct.unpack_from("<I", head, 1024 + 4)
        (exponent,) = struct.unpack_from("<I", head, 1024 + 24)
        # Above 6 (64 KiB blocks) it is no ext superblock after all.
        needed = blocks << (10 + exponent) if exponent <= 6 else 0  # noqa: PLR2004
    elif head[512:520] == b"EFI PART":
        (last,) = struct.unpack_from("<Q", head, 512 + 32)
        needed = (last + 1) * 512
    if needed > virtual_size:
        raise ArtifactError(
            f"{path}: the image is truncated: it holds {virtual_size} bytes of {needed}",
            hint="build or fetch it again",
        )


def known_digest(path: Path, identity: Identity) -> str | None:
    """Return the SHA-512 of the file if it was computed before, for this ``identity``."""
    return recorded_digest(record_file(path), identity) or recorded_digest(_cache_file(path), identity)


def compute_digest(path: Path, algorithm: str = "sha512") -> str:
    """Return a digest of the file in hex; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _computed(path: Path, algorithm: str = "sha512") -> str:
    try:
        return compute_digest(path, algorithm)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None


def digest(path: Path, identity: Identity) -> str:
    """Return the SHA-512 of the file, known for this ``identity`` or computed now; raises ArtifactError."""
    known = known_digest(path, identity)
    if known:
        return known
    computed = _computed(path)
    # A cache that cannot be written costs time at the next run, and nothing else.
    with contextlib.suppress(OSError):
        cache = _cache_file(path)
        cache.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(cache, json.dumps(file_entry(identity, computed)), mode=0o644)
        _forget_oldest(cache.parent)
    return computed


def _forget_oldest(folder: Path) -> None:
    """Keep the digests that were computed last, as many as ``MOST_DIGESTS``; half of them go at once."""
    names = os.listdir(folder)  # noqa: PTH208 -- a thousand paths would take longer than the rest
    if len(names) <= MOST_DIGESTS:
        return
    oldest_first = sorted((folder / name for name in names), key=lambda entry: entry.lstat().st_mtime)
    for entry in oldest_first[: len(names) - MOST_DIGESTS // 2]:
        entry.unlink(missing_ok=True)


def file_digest(path: Path, algorithm: str, *, sha512: str) -> str:
    """Return a digest of a file whose SHA-512 is known; raises ArtifactError if the file has changed."""
    if algorithm == "sha512":
        return sha512
    refuse_changed(path, sha512)
    return _computed(path, algorithm)


def refuse_changed(path: Path, sha512: str) -> None:
    """Raise ArtifactError if the file has changed since it had this digest, or cannot be read."""
    if _computed(path) != sha512:
        raise changed(path)


def changed(path: Path) -> ArtifactError:
    """Return the error for a file whose bytes are not those that its digest is of; the digest is forgotten.

    A file whose times were set back after a change looks unchanged, so a digest that was kept proves nothing.
    """
    with contextlib.suppress(OSError):
        _cache_file(path).unlink(missing_ok=True)
    return ArtifactError(
        f"{path} is not the tested file: its bytes changed after its digest was computed",
        hint="build and test it again; if these bytes are wanted, `touch` it and test it first",
    )


@contextlib.contextmanager
def unchanged(path: Path, sha512: str) -> Iterator[None]:
    """Let a command read a file inside: its bytes have this digest, and nothing writes to it meanwhile.

    The file is read once before; the time of its last change, which no program can set, vouches for the rest.
    Raises ArtifactError.
    """
    before = _change(path)
    refuse_changed(path, sha512)
    yield
    if _change(path) != before:
        raise ArtifactError(
            f"{path} changed while it was read", hint="try again when no process writes to the file any more"
        )


def _change(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def digest_of(path: Path) -> str:
    """Return the SHA-512 of a file, known or computed now; raises ArtifactError."""
    return digest(path, _identity(path))


def file_entry(identity: Identity, sha512: str) -> dict[str, Any]:
    """Return a record's facts of the image file itself; ``recorded_digest`` reads it."""
    return {"file": {**dataclasses.asdict(identity), "sha512": sha512}}


def recorded_digest(record: Path, identity: Identity) -> str | None:
    """Return the digest that ``record`` holds for a file of this identity, if any."""
    try:
        entry = dict(json.loads(record.read_text())["file"])
        sha512 = str(entry.pop("sha512"))
        return sha512 if Identity(**entry) == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cache_file(path: Path) -> Path:
    return files.user_cache() / "digests" / hashlib.sha256(os.fsencode(path)).hexdigest()
