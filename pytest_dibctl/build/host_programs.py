"""The programs of this machine that the elements of a build call: known ones as data, others by a scan.

The scripts of some phases run on this machine and not in the image. The programs of diskimage-builder's own
elements are known; the scripts of other elements are read. A script's text leads to nothing but programs of
the table in ``system/package_names.py``: it names no package, and what it seems to call is not required.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.build import elements
from pytest_dibctl.build.dib import Recipe
from pytest_dibctl.build.elements import Element
from pytest_dibctl.build.inputs import OUTSIDE
from pytest_dibctl.system import checks
from pytest_dibctl.system.checks import Check
from pytest_dibctl.system.package_names import DEBIAN_KEYRING, DNF_DOWNLOAD, PROGRAMS, UBUNTU_KEYRING

_CLOUD_IMAGE: Final = ("qemu-img", "kpartx", "losetup", "blkid")
"""Programs that take the tree out of a distribution's own image."""
CLOUD_IMAGES: Final = frozenset({"centos", "fedora", "opensuse", "rhel"})
"""The elements that begin with such an image, whose partitions need device-mapper."""

CALLED: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(CLOUD_IMAGES, _CLOUD_IMAGE),
    "cache-url": ("curl",),
    # Its version is asked for also where mmdebstrap does its work.
    "debootstrap": ("debootstrap",),
    "docker": ("docker",),
    "gentoo": ("curl", "gpgv"),
    "iso": ("mkdosfs", "mkisofs"),
    "source-repositories": ("git",),
    "uboot": ("mkimage",),
    "yum-minimal": ("rpm",),
    "zypper-minimal": ("zypper",),
}
"""Programs by the element of diskimage-builder whose scripts always call them on this machine."""

NOT_ALWAYS: Final[Mapping[str, tuple[str, ...]]] = {
    "apt-preferences": ("jq",),
    "centos": ("curl",),
    "fedora": ("curl",),
    "source-repositories": ("curl", "rsync"),
}
"""Programs that these elements call in some cases only: for the test that compares data and scripts."""

TRUSTED: Final = Path("/etc/apt/trusted.gpg.d")
"""Where the keys lie that apt trusts for every repository; mmdebstrap asks there first."""

_LARGEST: Final = 256 * 1024
"""Bytes of a script that are read."""
_KEYWORDS: Final = frozenset(
    {"if", "then", "else", "elif", "do", "while", "until", "!", "time", "exec", "nohup"}
)
_ENDS: Final = re.compile(r"[;&|()`{}]")
_ASSIGNMENT: Final = re.compile(r"\w+=")


def element_checks(recipe: Recipe) -> Iterator[Check]:
    """Yield a check for each program or file of this machine that the elements of a build need.

    Those that a script may call, as its text looks, are not required.
    """
    sure: dict[str, str] = {}
    for element in recipe.elements:
        for program in CALLED.get(element.name, ()):
            sure.setdefault(program, element.name)
    for program, name in sure.items():
        yield checks.one_of(program, why=f"called by the element {name}")
    yield from _by_settings(recipe)
    for program, script in _scanned(recipe).items():
        if program not in sure:
            check = checks.one_of(program, why=f"{script} seems to call it")
            yield dataclasses.replace(check, required=False)


def _by_settings(recipe: Recipe) -> Iterator[Check]:
    names = recipe.element_names
    if "containerfile" in names:
        runtime = setting(recipe, "DIB_CONTAINERFILE_RUNTIME") or "podman"
        yield checks.one_of(runtime, why="called by the element containerfile")
    if "yum-minimal" in names:
        yield from _yum()
    keyring = setting(recipe, "DIB_APT_KEYRING") or setting(recipe, "DIB_DEBIAN_KEYRING")
    if "debootstrap" in names and keyring:
        yield _named_keyring(Path(keyring))
    elif "debootstrap" in names:
        yield from _keyrings(recipe)


def _yum() -> Iterator[Check]:
    """Check for what the element takes: yumdownloader with yum, or else dnf."""
    why = "called by the element yum-minimal"
    if checks.tool("yumdownloader").ok:
        yield checks.one_of("yum", why=why)
        return
    yield checks.one_of("dnf", why=why)
    if not checks.tool("dnf5").ok:
        places = ("/usr/lib/python3*/site-packages/dnf-plugins/download.py",)
        debian = "/usr/lib/python3/dist-packages/dnf-plugins/download.py"
        yield checks.file(DNF_DOWNLOAD, debian, *places, why=why)


def _named_keyring(path: Path) -> Check:
    fix = "correct DIB_APT_KEYRING or DIB_DEBIAN_KEYRING"
    return Check(
        name="keyring", ok=path.is_file(), detail=f"{path}" if path.is_file() else f"no {path}", fix=fix
    )


def _keyrings(recipe: Recipe) -> Iterator[Check]:
    """Check for the keys of the distribution; without them debootstrap goes on, and mmdebstrap does not."""
    extra = " ".join(
        setting(recipe, f"DIB_{tool}_EXTRA_ARGS") or "" for tool in ("DEBOOTSTRAP", "MMDEBSTRAP")
    )
    if any(word in extra for word in ("--no-check-gpg", "--keyring", "check/signed-by")):
        return
    quick = checks.tool("mmdebstrap").ok and not setting(recipe, "DIB_DEBIAN_DEBOOTSTRAP_SCRIPT")
    for element, path, trusted in (
        ("ubuntu-minimal", UBUNTU_KEYRING, "*ubuntu*"),
        ("debian-minimal", DEBIAN_KEYRING, "debian-archive-*"),
    ):
        if element in recipe.element_names:
            why = f"signatures cannot be checked without it; {element} needs it"
            yield dataclasses.replace(
                checks.file(path, path, f"{TRUSTED}/{trusted}", why=why), required=quick
            )
            if quick and not list(TRUSTED.glob(trusted)):
                # It looks into the keyring to learn whether it is the right one.
                yield checks.one_of("gpg", why=f"mmdebstrap calls it for the keyring of {element}")


def setting(recipe: Recipe, name: str) -> str | None:
    """Return a variable as a build sees it."""
    return recipe.environment.get(name, os.environ.get(name))


# -- scripts of other elements ---------------------------------------------------------------------


def _scanned(recipe: Recipe) -> dict[str, str]:
    """Return programs, each with the first script of an element of the user's that seems to call it."""
    shipped = (elements.own_elements(), elements.SHIPPED)
    found: dict[str, str] = {}
    for element in recipe.elements:
        if element.path.parent not in shipped:
            for program, script in calls(element):
                found.setdefault(program, f"{element.name}/{script}")
    return found


def calls(element: Element) -> Iterator[tuple[str, str]]:
    """Yield the known programs that an element's scripts seem to call on this machine, with the script."""
    for folder in OUTSIDE:
        for script in sorted((element.path / folder).glob("*")):
            name = f"{folder}/{script.name}"
            yield from ((program, name) for program in sorted(programs_in(_text(script))))


def programs_in(text: str) -> set[str]:
    """Return the known programs that a shell script seems to call, without those that it looks for itself."""
    if not re.match(r"#!.*sh\b|[^#]|#[^!]|$", text):
        return set()
    called: set[str] = set()
    for line in text.replace("\\\n", " ").splitlines():
        for part in _ENDS.split(re.sub(r"(^|\s)#.*", "", line)):
            if (name := _command(part.split())) in PROGRAMS:
                called.add(name)
    looked_for = re.findall(r"\b(?:command -v|which|type -p|type|hash)\s+(\S+)", text)
    return called - {word.rstrip(";)") for word in looked_for}


def _command(words: list[str]) -> str:
    """Return the name of the program that a simple command of the shell runs."""
    after_sudo = False
    for word in words:
        if word in _KEYWORDS or _ASSIGNMENT.match(word) or (after_sudo and word.startswith("-")):
            continue
        if word in ("sudo", "env"):
            after_sudo = True
            continue
        name = word.strip("\"'")
        return "" if "$" in name else name.rpartition("/")[2]
    return ""


def _text(path: Path) -> str:
    """Return the beginning of a script; nothing of what is no file, such as a pipe that never ends."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, _LARGEST).decode(errors="replace") if regular else ""
    except OSError:
        return ""
    finally:
        os.close(descriptor)
