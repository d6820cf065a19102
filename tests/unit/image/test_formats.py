"""Files that are no image by themselves, in every way that a format has for it."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dibctl.errors import ArtifactError, CommandError
from pytest_dibctl.image import artifact, formats
from pytest_dibctl.system import process

MIB = 1 << 20
SECRET = b"of this machine alone"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def host_file(tmp_path: Path) -> Path:
    """A file of this machine that an image points at."""
    path = tmp_path / "host.raw"
    path.write_bytes(SECRET.ljust(MIB, b"\0"))
    return path


def img(*argv: str) -> None:
    process.run(["qemu-img", *argv])


def patched(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def qcow2_overlay(path: Path, host: Path) -> None:
    img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(host), str(path))


def qcow2_json_overlay(path: Path, host: Path) -> None:
    name = "json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(host)}})
    img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, str(path), "1M")


def qcow2_old_overlay(path: Path, host: Path) -> None:
    img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-F", "raw", "-b", str(host), str(path))


def qcow2_data_file(path: Path, host: Path) -> None:
    img("create", "-q", "-f", "qcow2", "-o", f"data_file={host},data_file_raw=on", str(path), "1M")


def qcow2_corrupt(path: Path, _host: Path) -> None:
    img("create", "-q", "-f", "qcow2", str(path), "1M")
    patched(path, 72, struct.pack(">Q", 2))


def qcow2_encrypted(path: Path, _host: Path) -> None:
    path.write_bytes(encrypted())


@functools.cache
def encrypted() -> bytes:
    """Return an encrypted image, made once: a key is stretched for seconds."""
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image"
        argv = (
            "create",
            "-q",
            "--object",
            "secret,id=s,data=abc",
            "-f",
            "qcow2",
            "-o",
            options,
            str(path),
            "1M",
        )
        # On a busy machine qemu-img now and then cannot measure how long a key takes, and gives up.
        for _ in range(20):
            with contextlib.suppress(CommandError):
                img(*argv)
                return path.read_bytes()
        img(*argv)
        return path.read_bytes()


def qcow_one(path: Path, host: Path) -> None:
    img("create", "-q", "-f", "qcow", "-F", "raw", "-b", str(host), str(path))


def qed_overlay(path: Path, host: Path) -> None:
    img("create", "-q", "-f", "qed", "-F", "raw", "-b", str(host), str(path))


def vmdk_descriptor(path: Path, host: Path) -> None:
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        f'RW 2048 FLAT "{host}" 0\n'
    )


def vmdk_flat(path: Path, _host: Path) -> None:
    img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", str(path), "1M")


def vmdk_overlay(path: Path, _host: Path) -> None:
    base = path.with_name("base.vmdk")
    img("create", "-q", "-f", "vmdk", str(base), "1M")
    img("create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", str(base), str(path))


def vmdk_hidden_descriptor(path: Path, host: Path) -> None:
    """A sparse header without a capacity: QEMU then reads the extents that the descriptor lists."""
    img("create", "-q", "-f", "vmdk", str(path), "1M")
    patched(path, 12, struct.pack("<Q", 0))
    vmdk_descriptor(path.with_suffix(".text"), host)
    patched(path, 512, path.with_suffix(".text").read_bytes() + b"\0")


def vmdk_other_extent(path: Path, host: Path) -> None:
    img("create", "-q", "-f", "vmdk", str(path), "1M")
    vmdk_descriptor(path.with_suffix(".text"), host)
    patched(path, 512, path.with_suffix(".text").read_bytes() + b"\0")


def vdi_difference(path: Path, _host: Path) -> None:
    img("create", "-q", "-f", "vdi", str(path), "1M")
    patched(path, 0x4C, struct.pack("<I", 4))


def vhd_difference(path: Path, _host: Path) -> None:
    img("create", "-q", "-f", "vpc", str(path), "1M")
    patched(path, 60, struct.pack(">I", 4))


ELSEWHERE = [
    *(qcow2_overlay, qcow2_json_overlay, qcow2_old_overlay, qcow2_data_file, qcow2_corrupt, qcow2_encrypted),
    *(qcow_one, qed_overlay, vmdk_descriptor, vmdk_flat, vmdk_overlay, vmdk_hidden_descriptor),
    *(vmdk_other_extent, vdi_difference, vhd_difference),
]


@pytest.mark.parametrize("make", ELSEWHERE)
@pytest.mark.parametrize("suffix", [".img", ".raw", ""])
def test_a_file_that_is_not_whole_by_itself_is_refused(
    tmp_path: Path, host_file: Path, make: Callable[[Path, Path], None], suffix: str
) -> None:
    path = tmp_path / f"image{suffix}"
    make(path, host_file)
    with pytest.raises(ArtifactError) as caught:
        artifact.inspect(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


BZIP = "import bz2, sys; sys.stdout.buffer.write(bz2.compress(open(sys.argv[1], 'rb').read()))"
XZ = "import lzma, sys; sys.stdout.buffer.write(lzma.compress(open(sys.argv[1], 'rb').read()))"
ZIP = (
    "import sys, zipfile\nwith zipfile.ZipFile(sys.stdout.buffer, 'w') as archive: archive.write(sys.argv[1])"
)

PACKERS = {
    "xz": [sys.executable, "-c", XZ],
    "gz": ["gzip", "-c"],
    "bz2": [sys.executable, "-c", BZIP],
    "zip": [sys.executable, "-c", ZIP],
    "tar": ["tar", "-cf", "-"],
    "tar.gz": ["tar", "-czf", "-"],
}


@pytest.mark.parametrize("name", ["image.raw", "image.img", "image", "image.qcow2.{}"])
@pytest.mark.parametrize("packer", PACKERS)
def test_an_archive_is_refused(tmp_path: Path, packer: str, name: str) -> None:
    img("create", "-q", "-f", "qcow2", str(tmp_path / "plain.qcow2"), "1M")
    path = tmp_path / name.format(packer)
    with path.open("wb") as file:
        subprocess.run([*PACKERS[packer], "plain.qcow2"], cwd=tmp_path, stdout=file, check=True)
    with pytest.raises(ArtifactError, match="and no image by itself"):
        artifact.inspect(path)


@pytest.mark.parametrize(("offset", "magic", "what"), [*formats.ARCHIVES, *formats.FOREIGN])
def test_every_known_mark_is_told(tmp_path: Path, offset: int, magic: bytes, what: str) -> None:
    path = tmp_path / "image.raw"
    path.write_bytes(bytes(offset) + magic.ljust(4096, b"\0"))
    with pytest.raises(ArtifactError, match=what.partition("(")[0]):
        artifact.inspect(path)


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vdi", "vhdx", "qed"])
def test_a_name_and_its_content_agree(tmp_path: Path, kind: str) -> None:
    other = "vdi" if kind == "qcow2" else "qcow2"
    path = tmp_path / f"image.{kind}"
    img("create", "-q", "-f", other, str(path), "1M")
    with pytest.raises(ArtifactError, match=f"is a {other} image, and its name says {kind}"):
        artifact.inspect(path)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("qcow2", []), ("qcow2", ["-o", "compat=0.10"]), ("qcow2", ["-c", "-o", "compression_type=zstd"])),
        *(
            ("vmdk", []),
            ("vmdk", ["-o", "subformat=streamOptimized"]),
            ("vdi", []),
            ("vdi", ["-o", "static=on"]),
        ),
        *(("vpc", []), ("vhdx", []), ("qed", [])),
    ],
)
def test_whole_images_are_taken(tmp_path: Path, host_file: Path, kind: str, options: list[str]) -> None:
    path = tmp_path / "image.img"
    img("convert", "-f", "raw", "-O", kind, *options, str(host_file), str(path))
    assert artifact.inspect(path).disk_format == kind
    assert artifact.inspect(path).virtual_size >= MIB


@pytest.mark.parametrize(
    ("real", "declared", "agrees"),
    [
        *(("qcow2", "qcow2", True), ("qcow2", "raw", False), ("raw", "qcow2", False), ("raw", "iso", True)),
        *(("vpc", "vhd", True), ("raw", "vhd", True), ("qcow2", "vhd", False), ("vmdk", "iso", False)),
    ],
)
def test_what_is_declared_is_compared(real: str, declared: str, agrees: bool) -> None:
    said = f"is {real}, and here says {declared}"
    with contextlib.nullcontext() if agrees else pytest.raises(ArtifactError, match=said):
        formats.refuse_other(Path("x"), real, declared, where="here")


def test_headers_of_noise_are_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "noise.img"
    for offset, magic, kind in formats._MAGICS:
        for fill in (b"\0", b"\xff"):
            for length in (0, 20, 70, 2000):
                path.write_bytes((fill * offset + magic).ljust(offset + len(magic) + length, fill))
                with pytest.raises(ArtifactError):
                    artifact.verify(path)
                assert kind
