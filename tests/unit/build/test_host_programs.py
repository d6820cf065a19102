"""What elements call on this machine: known of diskimage-builder's own, read from the scripts of others."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dibctl.build import builder, elements, host_programs, preflight
from pytest_dibctl.build.dib import Recipe
from pytest_dibctl.build.elements import Element
from pytest_dibctl.system.package_names import DNF_DOWNLOAD, PROGRAMS
from tests.support import building

ALWAYS_THERE = {"mount", "losetup", "qemu-img", "sudo", "ps", "lsattr", "findmnt", "fstrim", "getopt"}
"""What every build is checked for."""


def failing(recipe: Recipe) -> dict[str, bool]:
    """Return what fails of a recipe's elements, and whether it is required."""
    return {check.name: check.required for check in host_programs.element_checks(recipe) if not check.ok}


def with_(recipe: Recipe, **environment: str) -> Recipe:
    return dataclasses.replace(recipe, environment=environment)


def own(tmp_path: Path, text: str, *, phase: str = "root.d") -> Recipe:
    """Return the recipe of an element of one's own with one script."""
    element = tmp_path / "elements" / "mine"
    building.hook(element, phase, "10-mine", text)
    return dataclasses.replace(building.recipe(), elements=(Element(name="mine", path=element),))


def test_the_data_are_what_the_scripts_of_diskimage_builder_call() -> None:
    """A newer one that calls more is noticed here."""
    for path in sorted(elements.own_elements().iterdir()):
        if not path.is_dir():
            continue
        called = {program for program, _script in host_programs.calls(Element(name=path.name, path=path))}
        known = {
            *host_programs.CALLED.get(path.name, ()),
            *host_programs.NOT_ALWAYS.get(path.name, ()),
        }
        assert called - ALWAYS_THERE <= known, path.name


def test_the_data_name_elements_and_programs_that_there_are() -> None:
    assert {path.name for path in elements.own_elements().iterdir()} >= host_programs.CALLED.keys()
    assert {name for names in host_programs.CALLED.values() for name in names} <= PROGRAMS


@pytest.mark.parametrize(
    ("there", "names", "settings", "missing"),
    [
        ((), ("containerfile",), {}, {"podman"}),
        ((), ("containerfile",), {"DIB_CONTAINERFILE_RUNTIME": "docker"}, {"docker"}),
        (("podman",), ("containerfile",), {}, set()),
        (("rpm",), ("yum-minimal",), {}, {"dnf", Path(DNF_DOWNLOAD).name}),
        (("rpm", "dnf", "dnf5"), ("yum-minimal",), {}, set()),
        (("rpm", "yum", "yumdownloader"), ("yum-minimal",), {}, set()),
        ((), ("zypper-minimal",), {}, {"zypper"}),
        (("curl", "qemu-img", "losetup", "blkid"), ("cache-url", "fedora"), {}, {"kpartx"}),
    ],
    ids=lambda value: "-".join(sorted(value)) or "none",
)
def test_elements_need_their_programs(
    there: tuple[str, ...],
    names: tuple[str, ...],
    settings: dict[str, str],
    missing: set[str],
    only: Callable[..., None],
) -> None:
    only(*there)
    assert failing(with_(building.recipe(*names), **settings)) == dict.fromkeys(missing, True)


def test_a_keyring_that_is_missing_stops_mmdebstrap_only(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = str(tmp_path / "no.gpg")
    monkeypatch.setattr(host_programs, "UBUNTU_KEYRING", missing)
    monkeypatch.setattr(host_programs, "TRUSTED", tmp_path)
    only("debootstrap", "mmdebstrap")
    recipe = building.recipe("ubuntu-minimal", "debootstrap")
    assert failing(recipe) == {"no.gpg": True, "gpg": True}
    assert failing(with_(recipe, DIB_DEBIAN_DEBOOTSTRAP_SCRIPT="x")) == {"no.gpg": False}
    assert not failing(with_(recipe, DIB_DEBOOTSTRAP_EXTRA_ARGS="--no-check-gpg"))
    assert failing(with_(recipe, DIB_APT_KEYRING=missing)) == {"keyring": True}
    assert not failing(with_(recipe, DIB_APT_KEYRING=__file__))


# -- scripts of elements that are not diskimage-builder's ------------------------------------------


@pytest.mark.parametrize(
    ("line", "called"),
    [
        ("podman pull x", {"podman"}),
        ("sudo -E podman pull x", {"podman"}),
        ("if ! sudo zypper refresh; then exit 1; fi", {"zypper"}),
        ("A=1 B=2 /usr/bin/dnf install", {"dnf"}),
        ("x=$(curl -s http://x | jq .a)", {"curl", "jq"}),
        ("cat x | \\\n  rsync a b", {"rsync"}),
        ("# podman pull x", set()),
        ("echo podman # dnf", set()),
        ("sudo chroot $TARGET_ROOT dnf install", set()),
        ("$TARGET_ROOT/usr/bin/dnf install", set()),
        ("if command -v podman; then podman pull x; fi", set()),
        ("apt-get install podman", set()),
        ("cowsay moo; rm -rf /", set()),
    ],
)
def test_a_call_is_found_in_a_script(line: str, called: set[str]) -> None:
    assert host_programs.programs_in(f"#!/bin/bash\n{line}\n") == called


def test_what_another_language_says_is_not_read_as_a_shell() -> None:
    assert not host_programs.programs_in("#!/usr/bin/env python3\npodman = 1\n")


def test_a_guess_is_told_and_refuses_nothing(tmp_path: Path, only: Callable[..., None]) -> None:
    only()
    recipe = own(tmp_path, "#!/bin/sh\nskopeo copy a b\n")
    assert failing(recipe) == {"skopeo": False}
    assert any("mine/root.d/10-mine seems to call it" in guess for guess in preflight.guesses(recipe))
    assert not failing(own(tmp_path / "inside", "#!/bin/sh\nskopeo copy a b\n", phase="install.d"))


def test_an_element_can_name_no_package_and_hold_up_nothing(
    tmp_path: Path, only: Callable[..., None]
) -> None:
    """The text of a strange element is data; its links and pipes need not end."""
    only()
    recipe = own(tmp_path, "#!/bin/sh\nsudo cowsay; 'podman; reboot'; `nmap`\n" + "sudo " * 100_000)
    phase = tmp_path / "elements" / "mine" / "root.d"
    os.mkfifo(phase / "20-pipe")
    (phase / "30-endless").symlink_to("/dev/zero")
    (phase / "40-loop").symlink_to("40-loop")
    (phase / "50-folder").mkdir()
    (phase / "60-binary").write_bytes(bytes(range(256)) * 4096)
    started = time.monotonic()
    checks = list(host_programs.element_checks(recipe))
    assert time.monotonic() - started < 5
    assert {check.name for check in checks} <= PROGRAMS
    assert not any(check.required for check in checks)


# -- told by validate ------------------------------------------------------------------------------


def test_what_is_missing_is_a_warning_of_validate(tmp_path: Path, only: Callable[..., None]) -> None:
    """The same configuration is right on the machine that builds."""
    only()
    image = building.entry(tmp_path, dib={"elements": ["opensuse-minimal"]})
    [warning] = builder.check_machine(image, tmp_path)
    assert "images.yaml (tiny.dib): a build on this machine lacks " in warning
    assert "zypper (not found; called by the element zypper-minimal)" in warning
    assert not builder.check_machine(building.entry(tmp_path), tmp_path)
    wrong = building.entry(tmp_path, dib={"elements": ["no-such-element"]})
    assert not builder.check_machine(wrong, tmp_path)


def test_a_setting_brings_no_package(only: Callable[..., None]) -> None:
    only()
    settings = {"DIB_CONTAINERFILE_RUNTIME": "cowsay; reboot", "FS_TYPE": "ext4 --reinstall"}
    failed = [
        check
        for check in preflight.program_checks(with_(building.recipe("containerfile"), **settings))
        if check.name in ("cowsay; reboot", "mkfs.ext4 --reinstall")
    ]
    assert [(check.ok, check.package) for check in failed] == [(False, None)] * 2
