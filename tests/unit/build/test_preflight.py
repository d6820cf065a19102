"""What is missing on this machine is said at once and all together."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dibctl.build import causes, dib, preflight
from pytest_dibctl.errors import PreflightError
from pytest_dibctl.guards import namespace
from pytest_dibctl.system import checks
from pytest_dibctl.system.checks import Check
from tests.support import building
from tests.support.building import recipe

ALL = ("disk-image-create", "mkfs.ext4", "debootstrap", *namespace.TOOLS, *preflight.BUILD_TOOLS)


@pytest.fixture(autouse=True)
def _root_with_loop_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("root", "loop_devices"):
        fine = Check(name=name, ok=True, detail="")
        monkeypatch.setattr(checks, name, lambda fine=fine: fine)


def test_a_machine_with_everything_may_build(tmp_path: Path, only: Callable[..., None]) -> None:
    only(*ALL)
    preflight.for_build(building.entry(tmp_path), recipe("debootstrap"), tmp_path / "x.qcow2")


def test_everything_missing_is_named_with_one_apt_line(tmp_path: Path, only: Callable[..., None]) -> None:
    only(*(name for name in ALL if name not in {"debootstrap", "qemu-img", "losetup", "mount"}))
    with pytest.raises(PreflightError) as caught:
        preflight.for_build(building.entry(tmp_path), recipe("debootstrap"), tmp_path / "x.qcow2")
    assert caught.value.message.splitlines() == [
        "images.yaml (tiny): this machine cannot build the image:",
        "  mount: not found",
        "  losetup: not found",
        "  qemu-img: not found",
        "  debootstrap: not found; called by the element debootstrap",
    ]
    assert caught.value.hint == "apt-get install --no-install-recommends debootstrap mount qemu-utils"


def test_a_missing_disk_image_create_comes_from_pip(tmp_path: Path, only: Callable[..., None]) -> None:
    only(*(name for name in ALL if name != "disk-image-create"))
    with pytest.raises(PreflightError, match="disk-image-create: not found") as caught:
        preflight.for_build(building.entry(tmp_path), recipe("tiny"), tmp_path / "x.qcow2")
    assert caught.value.hint == "pip install diskimage-builder"


@pytest.mark.parametrize(
    ("names", "tools", "absent"),
    [
        (("tiny",), set(), {"debootstrap", "kpartx"}),
        (("debootstrap",), {"debootstrap"}, {"kpartx"}),
        (("vm", "block-device-mbr"), {"kpartx", "sfdisk"}, {"mkfs.vfat"}),
        (("block-device-gpt",), {"kpartx", "sgdisk"}, set()),
        (("vm", "block-device-efi"), {"kpartx", "sgdisk", "mkfs.vfat"}, {"pvcreate"}),
        (("block-device-efi-lvm",), {"pvcreate"}, set()),
        (("source-repositories", "cache-url"), {"git", "curl"}, set()),
    ],
    ids=lambda value: "-".join(sorted(value)) or "none",
)
def test_tools_depend_on_the_elements(
    names: tuple[str, ...], tools: set[str], absent: set[str], only: Callable[..., None]
) -> None:
    only()
    wanted = {check.name for check in preflight.program_checks(recipe(*names))}
    assert tools <= wanted
    assert not absent & wanted
    assert {"sudo", "unshare", "mkfs.ext4"} <= wanted


def test_debootstrap_is_needed_beside_mmdebstrap(only: Callable[..., None]) -> None:
    """diskimage-builder asks for its version before it takes the other one."""
    only("mmdebstrap")
    wanted = [check for check in preflight.program_checks(recipe("debootstrap")) if not check.ok]
    assert "debootstrap" in {check.name for check in wanted if check.required}


def missing(name: str) -> Check:
    return Check(name=name, ok=False, detail="none", required=False)


def test_partitions_without_device_mapper_are_refused(
    tmp_path: Path, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(*ALL, *preflight.PARTITION_TOOLS)
    monkeypatch.setattr(checks, "device_mapper", lambda: missing("device-mapper"))
    target = tmp_path / "x.qcow2"
    preflight.for_build(building.entry(tmp_path), recipe("tiny"), target)
    with pytest.raises(PreflightError, match="device-mapper: none"):
        preflight.for_build(building.entry(tmp_path), recipe("vm", "block-device-mbr"), target)


def test_an_efi_partition_without_vfat_is_refused(
    tmp_path: Path, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(*ALL, *preflight.PARTITION_TOOLS, *preflight.EFI_TOOLS)
    fine = dataclasses.replace(missing("device-mapper"), ok=True)
    monkeypatch.setattr(checks, "device_mapper", lambda: fine)
    monkeypatch.setattr(checks, "filesystem", missing)
    with pytest.raises(PreflightError, match="vfat: none"):
        preflight.for_build(building.entry(tmp_path), recipe("block-device-efi"), tmp_path / "x.qcow2")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (recipe("tiny", image_size=10.0), 10 * checks.GIB),
        (recipe("tiny", image_size=10.0, tmpfs=False), 30 * checks.GIB),
        (recipe("tiny"), preflight.MINIMAL_SPACE),
        (recipe("debian-minimal", "debootstrap"), 4 * checks.GIB),
    ],
    ids=["sized", "sized on disk", "small", "distribution"],
)
def test_space_is_the_configured_size_or_a_guess(
    found: dib.Recipe, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_memory", lambda: 8 * checks.GIB)
    assert preflight.needed_space(found) == expected


def test_too_little_space_is_said_with_both_amounts(tmp_path: Path, only: Callable[..., None]) -> None:
    only(*ALL)
    with pytest.raises(
        PreflightError, match=r"free space: [\d.]+ GiB free in .*, about 1000000\.0 GiB needed"
    ):
        preflight.for_build(building.entry(tmp_path), recipe("tiny", image_size=1e6), tmp_path / "x.qcow2")


@pytest.mark.parametrize("name", ["with blank.qcow2", "star*.qcow2", "quote'.qcow2", "dollar$.qcow2"])
def test_a_path_that_disk_image_create_cannot_quote_is_refused(
    tmp_path: Path, only: Callable[..., None], name: str
) -> None:
    only(*ALL)
    with pytest.raises(PreflightError, match="disk-image-create cannot work with"):
        preflight.for_build(building.entry(tmp_path), recipe("tiny"), tmp_path / name)


def test_external_commands_need_little_and_may_have_any_path(
    tmp_path: Path, only: Callable[..., None]
) -> None:
    only("setpriv", "qemu-img")
    preflight.for_build(building.entry(tmp_path), None, tmp_path / "with blank.qcow2")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            "E: Failed to fetch http://m.test/x Temporary failure resolving 'm.test'",
            "no address for m.test: check its DNS",
        ),
        ("curl: (6) Could not resolve host: m.test", "no address for m.test: check its DNS"),
        ("wget: unable to resolve host address 'm.test'", "no address for m.test: check its DNS"),
        ("Err:1 http://m.test x Connection refused", "mirror cannot be reached"),
        ("E: Failed getting release file http://m.test/dists/x/Release", "DIB_DISTRIBUTION_MIRROR"),
        ("/x/08-debootstrap: line 1: debootstrap: command not found", "apt-get install debootstrap"),
        ("sudo: sgdisk: command not found", "apt-get install gdisk"),
        ('pinging container registry quay.io: Get "https://quay.io/v2/": no such host', "registry quay.io"),
        ("chroot: failed to run command 'env': No such file or directory", "no programs in the tree"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'kpartx'", "apt-get install kpartx"),
        ("device-mapper: reload ioctl failed: No such file", "baremetal"),
        ("/dev/mapper/control: open failed", "leave out the vm"),
        ("losetup: cannot find an unused loop device", "losetup --list"),
        ("Total journal size too big for filesystem.", "DIB_JOURNAL_SIZE"),
        ("> E: Unable to locate package nonesuch", "no package nonesuch"),
        ("cp: error writing '/m/x': No space left on device", "DIB_IMAGE_SIZE"),
        ("E: Release signed by unknown key (key id 1)", "keyring"),
    ],
)
def test_frequent_causes_have_a_hint(said: str, hint: str, tmp_path: Path) -> None:
    assert hint in str(causes.hint(f"noise\n{said}", directory=tmp_path, recipe=recipe("debian-minimal")))


def test_the_hint_for_an_unreachable_mirror_names_its_host_only(tmp_path: Path) -> None:
    mirror = {dib.MAIN_MIRROR: "http://user:secret@m.test/debian"}
    found = dataclasses.replace(recipe("debian-minimal"), environment=mirror)
    said = causes.hint("Could not resolve 'm.test'", directory=tmp_path, recipe=found)
    assert said is not None
    assert "DIB_DISTRIBUTION_MIRROR is at m.test;" in said


def test_an_unknown_cause_has_no_hint(tmp_path: Path) -> None:
    assert causes.hint("it did not work", directory=tmp_path, recipe=None) is None


def test_a_full_output_directory_is_the_cause_whatever_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = dataclasses.make_dataclass("Usage", ["free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(free=1024**2))
    said = causes.hint("terminated oddly", directory=tmp_path, recipe=None)
    assert (
        said == f"{tmp_path} is full (1 MiB left): free some, or build elsewhere with `dibctl build --output`"
    )


def test_a_release_that_the_mirror_lacks_is_no_mirror_that_cannot_be_reached(tmp_path: Path) -> None:
    log = (
        "Err:2 http://m.test/debian bokworm Release\n  404  Not Found [IP: 192.0.2.1 80]\n"
        "E: The repository 'http://m.test/debian bokworm Release' does not have a Release file.\n"
    )
    said = causes.hint(log, directory=tmp_path, recipe=None)
    assert said is not None
    assert "no release bokworm: correct DIB_RELEASE" in said
