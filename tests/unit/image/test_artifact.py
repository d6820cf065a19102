"""Image files: what they are, whether they are whole, and their digest."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from pytest_dibctl.errors import ArtifactError
from pytest_dibctl.image import artifact
from pytest_dibctl.system import process

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw ext4 filesystem of 8 MiB with something in it."""
    content = tmp_path / "content"
    content.mkdir()
    (content / "noise").write_bytes(os.urandom(2 * MIB))
    path = tmp_path / "fs.raw"
    process.run(["mke2fs", "-q", "-t", "ext4", "-d", str(content), str(path), "8M"])
    return path


def converted(source: Path, *options: str) -> Path:
    target = source.with_suffix(".qcow2")
    process.run(["qemu-img", "convert", *options, "-f", "raw", "-O", "qcow2", str(source), str(target)])
    return target


def test_a_raw_filesystem_is_described(raw: Path) -> None:
    found = artifact.inspect(raw)
    assert (found.disk_format, found.size, found.virtual_size) == ("raw", 8 * MIB, 8 * MIB)
    assert found.sha512 == hashlib.sha512(raw.read_bytes()).hexdigest()
    assert found.layout == "filesystem"
    assert found.kernel is None
    assert found.initrd is None


@pytest.mark.parametrize("options", [("-c",), ()], ids=["compressed", "plain"])
def test_a_qcow2_filesystem_is_described(raw: Path, options: tuple[str, ...]) -> None:
    path = converted(raw, *options)
    found = artifact.inspect(path)
    assert (found.disk_format, found.virtual_size, found.layout) == ("qcow2", 8 * MIB, "filesystem")
    assert found.size == path.stat().st_size < 8 * MIB


def test_kernel_and_initrd_beside_the_image_belong_to_it(raw: Path) -> None:
    (raw.parent / "fs.vmlinuz").write_bytes(b"k")
    (raw.parent / "fs.initrd").write_bytes(b"i")
    found = artifact.inspect(raw)
    assert (found.kernel, found.initrd) == (raw.parent / "fs.vmlinuz", raw.parent / "fs.initrd")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.qcow2", "a"),
        ("a.raw", "a"),
        ("a.img", "a"),
        ("debian.img.qcow2", "debian.img"),
        ("debian-12.5", "debian-12.5"),
        ("plain", "plain"),
        (".qcow2", ".qcow2"),
    ],
)
def test_only_the_last_suffix_of_an_image_format_is_dropped(name: str, stem: str) -> None:
    assert artifact.stem(Path("/x") / name) == Path("/x") / stem
    assert artifact.companion(Path("/x") / name, ".initrd") == Path(f"/x/{stem}.initrd")


def test_a_partitioned_disk_is_told_from_a_filesystem(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"")
    os.truncate(disk, 8 * MIB)
    assert artifact.inspect(disk).layout == "unknown"
    process.run(["sfdisk", "--quiet", str(disk)], stdin="label: dos\nstart=1MiB, type=83, bootable\n")
    assert artifact.inspect(disk).layout == "disk"
    assert artifact.inspect(converted(disk)).layout == "disk"


@pytest.mark.parametrize(("program", "size"), [("mkfs.xfs", 300), ("mkfs.btrfs", 128), ("mksquashfs", 1)])
def test_other_filesystems_are_known(tmp_path: Path, program: str, size: int) -> None:
    disk = tmp_path / "disk.raw"
    heads = {"mkfs.xfs": (0, b"XFSB"), "mkfs.btrfs": (65600, b"_BHRfS_M"), "mksquashfs": (0, b"hsqs")}
    offset, magic = heads[program]
    with disk.open("wb") as file:
        file.truncate(size * MIB)
        file.seek(offset)
        file.write(magic)
    assert artifact.inspect(disk).layout == "filesystem"


@pytest.mark.parametrize("options", [("-c",), ()], ids=["compressed", "plain"])
@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
def test_a_truncated_qcow2_is_refused(raw: Path, options: tuple[str, ...], share: float) -> None:
    path = converted(raw, *options)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ArtifactError, match=rf"{path}: ") as caught:
        artifact.inspect(path)
    assert caught.value.hint == "build or fetch it again"


def test_a_qcow2_cut_down_to_its_first_bytes_is_refused(raw: Path) -> None:
    path = converted(raw)
    os.truncate(path, 60)
    with pytest.raises(ArtifactError, match=r"not a readable image: .*header too short"):
        artifact.inspect(path)


def test_a_truncated_raw_filesystem_is_refused(raw: Path) -> None:
    os.truncate(raw, 5 * MIB)
    with pytest.raises(ArtifactError, match=rf"truncated: it holds {5 * MIB} bytes of {8 * MIB}"):
        artifact.inspect(raw)


def test_a_truncated_gpt_disk_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"")
    os.truncate(disk, 8 * MIB)
    process.run(["sfdisk", "--quiet", str(disk)], stdin="label: gpt\nstart=1MiB\n")
    assert artifact.inspect(disk).layout == "disk"
    os.truncate(disk, 7 * MIB)
    with pytest.raises(ArtifactError, match=rf"truncated: it holds {7 * MIB} bytes of {8 * MIB}"):
        artifact.inspect(disk)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(b"")
    with pytest.raises(ArtifactError, match="the image file is empty"):
        artifact.inspect(tmp_path / "x.raw")


def test_text_in_a_file_named_qcow2_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.qcow2").write_text("<html>404</html>\n" * 100)
    with pytest.raises(ArtifactError, match="not a qcow2 image, although its name says so"):
        artifact.inspect(tmp_path / "x.qcow2")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"{tmp_path}/x.raw: no such image file"):
        artifact.inspect(tmp_path / "x.raw")


def test_a_directory_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        artifact.inspect(tmp_path)


def test_a_missing_qemu_img_is_said(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "tool_path", lambda: "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ArtifactError, match="qemu-img: not found") as caught:
        artifact.inspect(raw)
    assert caught.value.hint


def test_an_image_that_a_guest_has_open_can_be_inspected(raw: Path) -> None:
    path = converted(raw)
    argv = ["qemu-io", "-f", "qcow2", str(path)]
    with process.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdin.write("length\n")
        user.stdin.flush()
        assert user.stdout.readline()  # now it holds the file's lock
        assert artifact.inspect(path).disk_format == "qcow2"


def test_the_digest_is_computed_once_for_a_file(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = artifact.inspect(raw).sha512

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "compute_digest", refuse)
        assert artifact.inspect(raw).sha512 == first
    with raw.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"changed")
    assert artifact.inspect(raw).sha512 == hashlib.sha512(raw.read_bytes()).hexdigest() != first


def test_without_a_place_for_the_cache_the_digest_is_computed(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert artifact.inspect(raw).sha512 == hashlib.sha512(raw.read_bytes()).hexdigest()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"file": {}}', '{"file": {"sha512": 1, "odd": 2}}'])
def test_a_damaged_cache_is_ignored(raw: Path, tmp_path: Path, text: str) -> None:
    artifact.inspect(raw)
    [cache] = (tmp_path / "cache" / "dibctl" / "digests").iterdir()
    cache.write_text(text)
    assert artifact.inspect(raw).sha512 == hashlib.sha512(raw.read_bytes()).hexdigest()


def test_only_the_newest_digests_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "MOST_DIGESTS", 4)
    files = [tmp_path / f"{number}.raw" for number in range(5)]
    cache = tmp_path / "cache" / "dibctl" / "digests"
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
        artifact.digest_of(file)
        for entry in set(cache.iterdir()):
            if entry.stat().st_mtime > 100:
                os.utime(entry, (number, number))
    assert len(list(cache.iterdir())) == 2

    def refuse(path: Path, algorithm: str = "sha512") -> str:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(artifact, "_computed", refuse)
    assert [artifact.digest_of(file) for file in files[3:]] == [
        hashlib.sha512(bytes([number])).hexdigest() for number in (3, 4)
    ]
