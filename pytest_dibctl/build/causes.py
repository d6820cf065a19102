"""Hints for the known failures of a build."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from pytest_dibctl.build import dib
from pytest_dibctl.system import package_names

FULL = 16 * 1024 * 1024
"""Bytes; with less than this left, a directory counts as full."""

_UNSIGNED = re.compile(r"NO_PUBKEY|signed by unknown key|signatures couldn't be verified|is not signed")
_UNKNOWN_NAME = re.compile(
    r"(?i)(?:temporary failure resolving|could not resolve(?: host)?:?|unable to resolve host address) "
    r"\W?([\w.-]*\w)"
)
_NETWORK = re.compile(
    r"(?i)temporary failure resolving|could not resolve|failed getting release file|unable to connect"
    r"|connection (refused|timed out|reset)|network is unreachable|no route to host|couldn't download"
    r"|\b(403|404|5\d\d) +(not found|forbidden|service|bad gateway)|invalid release file|no such host"
    r"|failed to retrieve new repository metadata|failed to download metadata for repo",
)


def hint(log_text: str, *, directory: Path, recipe: dib.Recipe | None) -> str | None:
    """Return a hint for a build that failed with ``log_text``, None for an unknown failure.

    ``directory`` is that of the output.
    """
    for known in (
        _space,
        _registry,
        _release,
        _names,
        _network,
        _empty,
        _command,
        _device_mapper,
        _loop,
        _journal,
        _package,
        _signature,
    ):
        advice = known(log_text, directory, recipe)
        if advice:
            return advice
    return None


NO_SPACE = "No space left on device"


def cut_off(log_text: str, directory: Path) -> bool:
    """Whether ``directory`` is full and the build could not even say so, for its log lies there as well."""
    return NO_SPACE not in log_text and shutil.disk_usage(directory).free < FULL


def _space(log_text: str, directory: Path, recipe: dib.Recipe | None) -> str | None:
    left = shutil.disk_usage(directory).free
    if NO_SPACE not in log_text and "Disk quota exceeded" not in log_text and left >= FULL:
        return None
    if left < FULL:
        return (
            f"{directory} is full ({left // 1024**2} MiB left): free some, or build elsewhere with "
            "`dibctl build --output`"
        )
    tmpfs = recipe is not None and recipe.options.tmpfs
    return "the image is too small for its contents: raise DIB_IMAGE_SIZE" + (
        ", or the build's tmpfs is full: --no-tmpfs in cli_options builds on disk" if tmpfs else ""
    )


def _registry(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    match = re.search(r"pinging container registry ([\w.:-]+)", log_text)
    if match is None:
        return None
    registry = f"the container registry {match.group(1)} cannot be reached"
    return f"{registry}; `--from` in DIB_CONTAINERFILE_BUILDOPTS names an image elsewhere"


def _empty(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    if not re.search(r"chroot: failed to run command .env.: No such file", log_text):
        return None
    return "root.d left no programs in the tree: the log has what its package manager could not fetch"


def _release(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    """Distinguish a mirror that lacks the release from a mirror that cannot be reached."""
    match = re.search(r"The repository '\S+ ([\w./-]+) Release' does not have a Release file", log_text)
    if match is None or not re.search(r"\b404 +Not Found", log_text):
        return None
    return (
        f"the package mirror answers, but has no release {match.group(1)}: correct DIB_RELEASE, or name a "
        f"mirror that has it in {dib.MAIN_MIRROR}"
    )


def _names(log_text: str, _directory: Path, recipe: dib.Recipe | None) -> str | None:
    match = _UNKNOWN_NAME.search(log_text)
    if match is None:
        return None
    host = match.group(1).rstrip(".")
    return (
        f"this machine finds no address for {host}: check its DNS (/etc/resolv.conf), and the spelling; "
        f"{_mirrors(recipe)}"
    )


def _network(log_text: str, _directory: Path, recipe: dib.Recipe | None) -> str | None:
    if not _NETWORK.search(log_text):
        return None
    return f"a package mirror cannot be reached; {_mirrors(recipe)}"


def _mirrors(recipe: dib.Recipe | None) -> str:
    """Say which mirrors a build uses, and how it is given others."""
    environment = recipe.environment if recipe is not None else {}
    names = (dib.MAIN_MIRROR, dib.SECURITY_MIRROR)
    # The host only: an address may hold a password.
    used = [f"{name} is at {urlsplit(environment[name]).hostname}" for name in names if name in environment]
    mirrors = ", ".join(used) or f"{names[0]} sets another"
    return f"{mirrors}; proxies come from http_proxy"


def _command(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    match = re.search(
        # Only whole words: from each character of a long one, the search would take minutes.
        r"(?<![\w.-])([\w.-]+): (?:command not found|not found$)|No such file or directory: '([\w.-]+)'",
        log_text,
    )
    name = (match.group(1) or match.group(2)) if match else None
    return package_names.advice(name) if name and package_names.package_of(name) else None


def _device_mapper(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    if not re.search(r"kpartx|device-mapper|/dev/mapper", log_text):
        return None
    return (
        "partitions need the kernel's device-mapper; without it, leave out the vm and block-device-* elements"
        " and build a filesystem image with the baremetal element"
    )


def _loop(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    if not re.search(r"losetup.*(cannot find|failed)|could not find any free loop device", log_text):
        return None
    return "no loop device is free; `losetup --list` shows the files on them"


def _journal(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    if "journal size too big" not in log_text:
        return None
    return (
        "the image is smaller than its journal: set DIB_JOURNAL_SIZE (MiB) or a larger DIB_IMAGE_SIZE (GiB)"
    )


def _package(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    match = re.search(
        r"Unable to locate package (\S+)|Package '?([\w.+-]+)'? has no installation candidate", log_text
    )
    if match is None:
        return None
    return (
        f"the distribution has no package {match.group(1) or match.group(2)}: check its name and DIB_RELEASE"
    )


def _signature(log_text: str, _directory: Path, _recipe: dib.Recipe | None) -> str | None:
    if not _UNSIGNED.search(log_text):
        return None
    return "the mirror's signature cannot be checked: install the keyring, or name it in DIB_APT_KEYRING"
