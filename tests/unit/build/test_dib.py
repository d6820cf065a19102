"""What images.yaml means to diskimage-builder: versions, options, elements, mirrors."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_dibctl.build import dib, fingerprint, mirrors
from pytest_dibctl.errors import BuildError, ConfigError
from tests.support import building


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ELEMENTS_PATH", "ARCH", "SKIP_BASE", "TMP_DIR", dib.MAIN_MIRROR, dib.SECURITY_MIRROR):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def elements(tmp_path: Path) -> Path:
    building.element(tmp_path / "elements")
    return tmp_path / "elements"


def recipe(directory: Path, cwd: Path | None = None, **settings: Any) -> dib.Recipe:
    image = building.entry(directory, dib={"elements": ["tiny"], "cli_options": ["-n"], **settings})
    assert image.settings.dib is not None
    return dib.recipe(image, image.settings.dib, cwd or directory)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"min_version": "3.44"}, "is older than 3.44"),
        ({"min_version": "3.43.1"}, "is older than 3.43.1"),
        ({"max_version": "3.42"}, "is newer than 3.42"),
        ({"max_version": "2"}, "is newer than 2"),
    ],
)
def test_a_version_outside_of_the_limits_is_refused(
    elements: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(dib, "installed_version", lambda: "3.43.0")
    with pytest.raises(ConfigError, match=rf"diskimage-builder 3\.43\.0 {said}") as caught:
        recipe(elements.parent, environment_variables={"ELEMENTS_PATH": "elements"}, **limits)
    assert f"tiny.dib.{next(iter(limits))}" in caught.value.message
    assert caught.value.exit_code == 10


@pytest.mark.parametrize(
    "limits",
    [
        {"min_version": "3.43.0", "max_version": "3.43.0"},
        {"max_version": "3.43"},
        {"max_version": "3"},
        {"min_version": "3.9"},
        {"max_version": "3.100"},
    ],
    ids=str,
)
def test_limits_are_numbers_compared_as_far_as_they_are_written(
    elements: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    monkeypatch.setattr(dib, "installed_version", lambda: "3.43.0")
    found = recipe(elements.parent, environment_variables={"ELEMENTS_PATH": "elements"}, **limits)
    assert found.version == "3.43.0"


def test_options_are_read_as_disk_image_create_reads_them(elements: Path) -> None:
    options = [
        "-x",
        "-a",
        "arm64",
        "-n",
        "-u",
        "-t",
        "raw,qcow2",
        "--image-size=2.5",
        "--qemu-img-options",
        "a=b",
    ]
    found = recipe(
        elements.parent, environment_variables={"ELEMENTS_PATH": "elements"}, cli_options=options
    ).options
    assert found == dib.Options(
        arch="arm64",
        types=("raw", "qcow2"),
        compress=False,
        base=False,
        image_size=2.5,
        qemu_img_options="a=b",
    )


@pytest.mark.parametrize(
    ("option", "said", "hint"),
    [
        ("--no-such-option", "option --no-such-option not recognized", "one argument"),
        ("--image-extra-size=1", "image-extra-size", "DIB_IMAGE_EXTRA_SIZE"),
        ("-a amd64", r"cli_options\[1\]\): '-a amd64' is one argument", "[-a, amd64]"),
        ("-a  amd64 -x", "is one argument with a space in it", "[-a, amd64, -x]"),
        ("-t raw", "'-t raw' is one argument", "[-t, raw]"),
        ("-xa amd64", "'-xa amd64' is one argument", "[-xa, amd64]"),
        ("vm", "'vm' is no option", "elements belong under"),
        ("-o", "option -o requires argument", "one argument"),
    ],
)
def test_an_option_that_disk_image_create_would_refuse_is_refused(
    elements: Path, option: str, said: str, hint: str
) -> None:
    variables = {"ELEMENTS_PATH": "elements"}
    with pytest.raises(ConfigError, match=said) as caught:
        recipe(elements.parent, environment_variables=variables, cli_options=["-n", option])
    assert "images.yaml (tiny.dib.cli_options" in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    "options",
    [
        ["--mkfs-options", "-O ^metadata_csum -i 8192"],
        ["--mkfs-options=-O ^metadata_csum"],
        ["--mkfs-options", "-a amd64"],
        ["--root-label", " x"],
        ["--root-label= x"],
        ["-p", "vim,less"],
        ["-aamd64"],
    ],
    ids=" ".join,
)
def test_values_may_hold_blanks(elements: Path, options: list[str]) -> None:
    variables = {"ELEMENTS_PATH": "elements"}
    found = recipe(elements.parent, environment_variables=variables, cli_options=["-n", *options])
    assert found.argv_options == ("-n", *options)


def test_a_relative_elements_path_is_below_the_working_directory_first(tmp_path: Path) -> None:
    for name in ("work", "files"):
        building.element(tmp_path / name / "elements")
        building.element(tmp_path / name / name, "only-there")
    (tmp_path / "files" / "files" / "only-there" / "element-provides").unlink()
    found = recipe(
        tmp_path / "files", tmp_path / "work", environment_variables={"ELEMENTS_PATH": "./elements::files"}
    )
    assert found.environment["ELEMENTS_PATH"] == f"{tmp_path}/work/elements:{tmp_path}/files/files"
    assert [element.path for element in found.elements] == [tmp_path / "work" / "elements" / "tiny"]


def test_the_callers_elements_path_is_used_when_the_image_has_none(
    elements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELEMENTS_PATH", "elements")
    assert recipe(elements.parent).environment["ELEMENTS_PATH"] == str(elements)


def test_a_directory_of_elements_that_does_not_exist_is_named_with_the_places(elements: Path) -> None:
    work = elements.parent / "work"
    with pytest.raises(BuildError, match=r"ELEMENTS_PATH\): nowhere: there is no such directory") as caught:
        recipe(elements.parent, work, environment_variables={"ELEMENTS_PATH": f"{elements}:nowhere"})
    assert caught.value.hint == f"looked for {work}/nowhere and {elements.parent}/nowhere"


def test_an_element_that_does_not_exist_is_named_with_near_ones(elements: Path) -> None:
    with pytest.raises(
        BuildError, match=r"images.yaml \(tiny.dib.elements\): there is no element 'tinny'"
    ) as caught:
        recipe(elements.parent, elements=["tinny"], environment_variables={"ELEMENTS_PATH": "elements"})
    assert str(caught.value.hint).startswith(f"did you mean 'tiny'? looked in {elements}, ")
    assert caught.value.exit_code == 1


def test_a_dependency_that_does_not_exist_is_named(elements: Path) -> None:
    (elements / "tiny" / "element-deps").write_text("nonesuch\n")
    asking = re.escape(f"there is no element 'nonesuch', named in {elements}/tiny/element-deps")
    with pytest.raises(BuildError, match=asking):
        recipe(elements.parent, environment_variables={"ELEMENTS_PATH": "elements"})


def test_a_comment_among_dependencies_is_named_as_what_it_is(elements: Path) -> None:
    (elements / "tiny" / "element-deps").write_text("# elements/tiny/element-deps\n")
    with pytest.raises(BuildError, match=r"named in .*tiny/element-deps") as caught:
        recipe(elements.parent, environment_variables={"ELEMENTS_PATH": "elements"})
    assert "no comments" in str(caught.value.hint)


def test_elements_without_an_operating_system_are_refused(elements: Path) -> None:
    building.element(elements, "other", provides="")
    with pytest.raises(BuildError, match="no element provides an operating system"):
        recipe(elements.parent, elements=["other"], environment_variables={"ELEMENTS_PATH": "elements"})


def test_two_operating_systems_are_refused(elements: Path) -> None:
    building.element(elements, "other")
    with pytest.raises(BuildError, match="already provided by"):
        recipe(
            elements.parent, elements=["tiny", "other"], environment_variables={"ELEMENTS_PATH": "elements"}
        )


def test_base_comes_in_unless_it_is_left_out(elements: Path) -> None:
    variables = {"ELEMENTS_PATH": "elements"}
    assert "base" in recipe(elements.parent, cli_options=[], environment_variables=variables).element_names
    assert recipe(elements.parent, environment_variables=variables).element_names == {"tiny"}


@pytest.mark.parametrize(
    ("options", "device"),
    [(["-a", "amd64"], "block-device-mbr"), (["-a", "arm64"], "block-device-efi")],
    ids=["amd64", "arm64"],
)
def test_vm_brings_its_block_device(options: list[str], device: str, tmp_path: Path) -> None:
    found = recipe(tmp_path, elements=["debian-minimal", "vm"], cli_options=options)
    assert {"vm", device, "debootstrap"} < found.element_names
    explicit = recipe(tmp_path, elements=["debian-minimal", "vm", "block-device-gpt"], cli_options=options)
    assert device not in explicit.element_names


DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
# http://elsewhere.test/debian-security
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://disabled.test/debian
Suites: bookworm
Components: main
Enabled: no
"""

ONE_LINE = """\
# deb http://commented.test/debian bookworm main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
deb-src http://sources.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.test/debian bookworm main # trailing
deb http://mirror.test/debian-security bookworm-security main
"""
SECRET = "deb http://user:secret@private.test/debian bookworm main\n"


def apt(directory: Path, **files: str) -> Path:
    (directory / "sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        (directory / "sources.list.d" / name.replace("_", ".")).write_text(text)
    return directory


MIRRORS = {
    dib.MAIN_MIRROR: "http://mirror.test/debian",
    dib.SECURITY_MIRROR: "http://mirror.test/debian-security",
}


def test_mirrors_are_read_from_deb822_sources(tmp_path: Path) -> None:
    assert dib.host_mirrors(apt(tmp_path, debian_sources=DEB822)) == MIRRORS


def test_mirrors_are_read_from_one_line_sources(tmp_path: Path) -> None:
    assert dib.host_mirrors(apt(tmp_path, debian_list=ONE_LINE)) == MIRRORS
    (tmp_path / "sources.list.d" / "debian.list").rename(tmp_path / "sources.list")
    assert dib.host_mirrors(tmp_path) == MIRRORS


def test_a_mirror_with_a_password_in_its_address_is_not_put_into_the_image(tmp_path: Path) -> None:
    assert dib.host_mirrors(apt(tmp_path, a_list=SECRET, debian_list=ONE_LINE)) == MIRRORS


def test_repositories_of_others_are_not_taken_for_mirrors(tmp_path: Path) -> None:
    other = (
        "deb https://packages.test/apt bookworm main\n"
        "deb https://docker.test/linux/debian bookworm stable\n"
        "deb https://node.test/x nodistro main\n"
    )
    assert dib.host_mirrors(apt(tmp_path, a_list=other, debian_sources=DEB822)) == MIRRORS


def test_sources_that_are_switched_off_by_their_name_are_not_read(tmp_path: Path) -> None:
    assert dib.host_mirrors(apt(tmp_path, debian_sources_disabled=DEB822, debian_list_save=ONE_LINE)) == {}


@pytest.mark.parametrize("suite", ["bookworm/updates", "stable-security"])
def test_security_suites_are_known_by_their_names(tmp_path: Path, suite: str) -> None:
    found = dib.host_mirrors(apt(tmp_path, x_list=f"deb http://s.test/debian-security {suite} main\n"))
    assert found == {dib.SECURITY_MIRROR: "http://s.test/debian-security"}


@pytest.fixture
def _mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dib, "host_mirrors", lambda: MIRRORS)
    monkeypatch.setattr(dib, "is_debian", lambda: True)


@pytest.mark.usefixtures("_mirrors")
def test_a_debian_image_takes_the_mirrors_of_this_machine(tmp_path: Path) -> None:
    found = recipe(tmp_path, elements=["debian-minimal"])
    assert MIRRORS.items() <= found.environment.items()
    assert "http://mirror.test/debian and http://mirror.test/debian-security" in found.warnings[0]
    assert "keep_host_mirror" in found.warnings[0]
    assert mirrors.ELEMENT in found.named
    assert mirrors.ELEMENT in found.element_names
    directory = Path(found.environment["ELEMENTS_PATH"].split(":")[-1])
    [script] = (directory / mirrors.ELEMENT / "finalise.d").iterdir()
    assert os.access(script, os.X_OK)
    parts = fingerprint.components(found, [], salt="", target="x", cwd=tmp_path)
    assert f"element:{mirrors.ELEMENT}" in parts


@pytest.mark.usefixtures("_mirrors")
@pytest.mark.parametrize(
    "settings",
    [
        {"keep_host_mirror": True},
        {"environment_variables": {"DIB_APT_SOURCES_CONF": "default:deb http://image.test/ x main"}},
    ],
)
def test_the_image_may_keep_the_mirrors_or_write_its_sources_itself(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    found = recipe(tmp_path, elements=["debian-minimal"], **settings)
    assert MIRRORS.items() <= found.environment.items()
    assert found.named == ("debian-minimal",)
    assert "image" in found.warnings[0]


@pytest.mark.usefixtures("_mirrors")
def test_a_debian_mirror_of_the_image_wins_by_its_other_name_too(tmp_path: Path) -> None:
    given = {"DIB_DEBIAN_DISTRIBUTION_MIRROR": MIRRORS[dib.MAIN_MIRROR]}
    found = recipe(tmp_path, elements=["debian-minimal"], environment_variables=given)
    assert dib.MAIN_MIRROR not in found.environment
    assert "DIB_DIBCTL_HOST_MIRROR" not in found.environment


@pytest.mark.parametrize("name", ["TMP_DIR", "TMPDIR"])
def test_a_temporary_directory_that_is_not_used_is_told(elements: Path, name: str) -> None:
    variables = {"ELEMENTS_PATH": "elements", name: "/somewhere"}
    found = recipe(elements.parent, environment_variables=variables)
    [said] = [warning for warning in found.warnings if "is not used" in warning]
    assert f"dib.environment_variables.{name}" in said


@pytest.mark.usefixtures("_mirrors")
def test_mirrors_that_the_image_or_the_caller_sets_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dib.SECURITY_MIRROR, "http://caller.test/")
    found = recipe(
        tmp_path, elements=["debian-minimal"], environment_variables={dib.MAIN_MIRROR: "http://image.test/"}
    )
    assert found.environment == {dib.MAIN_MIRROR: "http://image.test/"}
    assert found.warnings == ()
    assert mirrors.ELEMENT not in found.named


@pytest.mark.usefixtures("_mirrors")
def test_other_images_do_not_take_the_mirrors(elements: Path) -> None:
    found = recipe(elements.parent, environment_variables={"ELEMENTS_PATH": "elements"})
    assert dib.MAIN_MIRROR not in found.environment
    assert dib.MAIN_MIRROR not in recipe(elements.parent, elements=["ubuntu-minimal"]).environment


def test_only_debian_itself_is_debian(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    assert not dib.is_debian(release)
    release.write_text('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n')
    assert not dib.is_debian(release)
    release.write_text('ID="debian"\n')
    assert dib.is_debian(release)


@pytest.mark.parametrize("name", ["element-deps", "element-provides"])
@pytest.mark.parametrize("wrong", ["latin-1", "folder"])
def test_a_list_of_elements_that_cannot_be_read_is_named(elements: Path, name: str, wrong: str) -> None:
    other = elements / "other"
    other.mkdir()
    if wrong == "latin-1":
        (other / name).write_bytes("für\n".encode("latin-1"))
    else:
        (other / name).mkdir()
    with pytest.raises(BuildError, match=rf"tiny\.dib\.elements.*/{name}: "):
        recipe(elements.parent, environment_variables={"ELEMENTS_PATH": "elements"})


def test_an_element_that_is_a_link_is_known_by_its_directory(elements: Path) -> None:
    (elements / "linked").symlink_to("tiny")
    with pytest.raises(BuildError) as caught:
        recipe(elements.parent, elements=["linked"], environment_variables={"ELEMENTS_PATH": "elements"})
    assert caught.value.hint is not None
    assert "is a link to" in caught.value.hint
    assert "list 'tiny'" in caught.value.hint


def test_scripts_that_diskimage_builder_skips_are_told(elements: Path) -> None:
    folder = elements / "tiny" / "install.d"
    folder.mkdir(exist_ok=True)
    (folder / "50-no-bit").write_text("#!/bin/sh\n")
    dotted = folder / "60-dotted.sh"
    dotted.write_text("#!/bin/sh\n")
    dotted.chmod(0o755)
    good = folder / "70-good"
    good.write_text("#!/bin/sh\n")
    good.chmod(0o755)
    (elements / "tiny" / "environment.d").mkdir(exist_ok=True)
    (elements / "tiny" / "environment.d" / "10-x.bash").write_text("A=b\n")
    found = recipe(elements.parent, environment_variables={"ELEMENTS_PATH": "elements"}).warnings
    assert [warning.partition(": ")[0] for warning in found] == [str(folder / "50-no-bit"), str(dotted)]
    assert "chmod +x" in found[0]
    assert "letters, digits" in found[1]


def test_a_callers_temporary_directory_is_told_too(elements: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMP_DIR", "/somewhere")
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    found = recipe(elements.parent, environment_variables={"ELEMENTS_PATH": "elements"})
    assert not any("$TMP" in warning for warning in found.warnings)
    for name in ("TMP_DIR", "TMPDIR"):
        assert any(f"${name} is not used" in note for note in found.notes)
