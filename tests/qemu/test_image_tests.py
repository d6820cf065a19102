"""The generic ``image`` tests: each seen to pass and to fail, and on xfs, btrfs and rpm's database."""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dibctl.system import process
from tests.qemu.test_end_to_end import ROOT, Finished, Operator
from tests.support import image_leaks

pytestmark = pytest.mark.real

MAKERS = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q"), "btrfs": ("mkfs.btrfs", "-q")}
MIB = 1 << 20
SIZE = 512 * MIB
"""xfs takes nothing smaller than 300 MiB."""


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator with an empty directory."""
    return Operator(path=tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What every root filesystem has."""
    return skeleton(tmp_path / "tree")


def skeleton(root: Path) -> Path:
    for name in ("etc", "dev", "proc", "tmp", "var/lib", "usr/bin", "usr/lib", "usr/lib64"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/os-release").write_text("ID=other\n")
    return root


@contextlib.contextmanager
def mounted(image: Path) -> Iterator[Path]:
    point = image.with_suffix(".mounted")
    point.mkdir()
    process.run(["mount", "-o", "loop", str(image), str(point)])
    try:
        yield point
    finally:
        process.run(["umount", str(point)])
        point.rmdir()


def pack(tree: Path, filesystem: str, image: Path, *, subvolume: str | None = None) -> None:
    """Make an image of a filesystem that holds the tree."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    process.run([*MAKERS[filesystem], str(image)])
    with mounted(image) as point:
        if subvolume is not None:
            process.run(["btrfs", "subvolume", "create", str(point / subvolume)])
        process.run(["cp", "-a", f"{tree}/.", str(point / (subvolume or ""))])


def check(operator: Operator, name: str, *arguments: str) -> Finished:
    """Run a generic test on ``image.raw``."""
    tests = {"ssh": {"username": "root"}, "tests_list": [{"image": f"generic:{name}"}]}
    document = {"micro": {"filename": "image.raw", "tests": tests}}
    operator.write("images.yaml", yaml.safe_dump(document))
    return operator.pytest("-rs", *arguments)


@pytest.mark.parametrize(
    ("filesystem", "subvolume"), [("xfs", None), ("btrfs", None), ("btrfs", "root"), ("btrfs", "@")]
)
def test_a_clean_filesystem_passes(
    operator: Operator, tree: Path, filesystem: str, subvolume: str | None
) -> None:
    pack(tree, filesystem, operator.path / "image.raw", subvolume=subvolume)
    finished = check(operator, "filesystem")
    assert finished.code == 0, finished.output
    assert "1 passed" in finished.output


def test_a_damaged_xfs_fails(operator: Operator, tree: Path) -> None:
    image = operator.path / "image.raw"
    pack(tree, "xfs", image)
    process.run(["xfs_db", "-x", "-c", "sb 0", "-c", "write fdblocks 5", str(image)])
    finished = check(operator, "filesystem")
    assert finished.code == 1, finished.output
    assert "xfs_repair -n exited with 1" in finished.output


# -- rpm -------------------------------------------------------------------------------------------

SPEC = """\
Name: {name}
Version: 1
Release: 1
Summary: A package of nothing
License: MIT
BuildArch: noarch
{requires}
%description
It has no files.
%files
"""


def install(tree: Path, package: str, *, requires: str = "") -> None:
    """Build a package and install it in the tree, whatever it requires."""
    work = tree.parent / "rpms"
    work.mkdir(exist_ok=True)
    spec = work / f"{package}.spec"
    spec.write_text(SPEC.format(name=package, requires=f"Requires: {requires}" if requires else ""))
    # Without a database of its own Debian's rpm makes ~/.rpmdb.
    own = ["--define", f"_topdir {work}", "--define", f"_dbpath {work}/database"]
    process.run(["rpmbuild", "-bb", *own, str(spec)])
    process.run(
        [
            *("rpm", "--root", str(tree), "--define", "_dbpath /var/lib/rpm"),
            *("--install", "--nodeps", str(work / "RPMS/noarch" / f"{package}-1-1.noarch.rpm")),
        ]
    )


@pytest.fixture
def rpm_tree(tree: Path) -> Path:
    """A tree with rpm, all it needs to run, and a database of one package."""
    for program in ("/usr/bin/rpm", "/bin/sh", "/bin/cp", "/bin/mkdir", "/bin/rm"):
        _copy_program(Path(program), tree)
    shutil.copytree("/usr/lib/rpm", tree / "usr/lib/rpm", symlinks=True)
    (tree / "etc/rpm").mkdir()
    (tree / "etc/rpm/macros").write_text("%_dbpath /var/lib/rpm\n")
    (tree / "var/lib/rpm").mkdir()
    install(tree, "whole")
    # SQLite's own files, which packing an image leaves behind or not.
    for name in ("rpmdb.sqlite-shm", "rpmdb.sqlite-wal"):
        (tree / "var/lib/rpm" / name).unlink(missing_ok=True)
    return tree


def _copy_program(program: Path, tree: Path) -> None:
    shutil.copy(program, tree / "usr/bin" / program.name)
    linked = process.run(["ldd", str(program)]).output.split()
    for library in {Path(word) for word in linked if word.startswith("/")}:
        target = tree / str(library).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def test_a_whole_rpm_database_passes(operator: Operator, rpm_tree: Path) -> None:
    pack(rpm_tree, "ext4", operator.path / "image.raw")
    finished = check(operator, "packagedb")
    assert finished.code == 0, finished.output
    assert "2 passed, 1 skipped" in finished.output


def test_a_package_that_misses_another_fails(operator: Operator, rpm_tree: Path) -> None:
    install(rpm_tree, "lacking", requires="something-else")
    pack(rpm_tree, "ext4", operator.path / "image.raw")
    finished = check(operator, "packagedb")
    assert finished.code == 1, finished.output
    assert "something-else is needed by" in finished.output
    assert "1 failed, 1 passed, 1 skipped" in finished.output


def test_a_damaged_rpm_database_fails(operator: Operator, rpm_tree: Path) -> None:
    database = rpm_tree / "var/lib/rpm/rpmdb.sqlite"
    content = bytearray(database.read_bytes())
    content[4096:16384] = bytes(12288)
    database.write_bytes(bytes(content))
    pack(rpm_tree, "ext4", operator.path / "image.raw")
    finished = check(operator, "packagedb")
    assert finished.code == 1, finished.output
    assert "rpm" in finished.output.partition("FAILURES")[2]


# -- all of them, on images with everything wrong --------------------------------------------------

KERNEL = "6.1.0-1-test"
LATER = "6.1.0-2-test"

KEY_FILE = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"

STANZA = """\
Package: {name}
Status: install ok {state}
Architecture: all
Maintainer: nobody <nobody@example.com>
Version: 1
Description: a package of nothing
"""

MANIFESTS: Mapping[str, str] = {
    "dib_arguments": "-o it vm\n",
    "dib_environment": 'declare -x DIB_RELEASE="stable"\ndeclare -x DIB_PASSWORD=""\n',
}

GOOD: Mapping[str, str] = {
    "/boot/grub/grub.cfg": "linux /boot/vmlinuz\n",
    f"/lib/modules/{KERNEL}/modules.dep": "",
    "/etc/cloud/cloud.cfg": "datasource_list: [Ec2, None]\n",
    "/etc/cloud/cloud.cfg.d/91-dib.cfg": "datasource_list: [NoCloud, ConfigDrive, None]\n",
    "/etc/hostname": "",
    "/etc/machine-id": "uninitialized\n",
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\neve:x:1:1::/home/eve/:/bin/sh\n",
    "/etc/shadow": "root:*:1::::::\neve:!locked:1::::::\n",
    "/etc/shadow-": "root:*:1::::::\n",
    **{f"/etc/dib-manifests/{name}": text for name, text in MANIFESTS.items()},
    "/etc/dib-manifests/dib-manifest-dpkg-it": '{"packages": []}\n',
    "/etc/dib-manifests/folder/file": "",
    "/var/lib/dpkg/status": STANZA.format(name="whole", state="installed"),
    "/var/lib/dpkg/updates/tmp.i": "",
    # What only resembles a secret, or has room for one.
    "/etc/apt/auth.conf": "# machine example.com login me password hidden\n",
    "/etc/apt/sources.list": "deb http://example.com/debian stable main\n",
    "/etc/apt/apt.conf.d/10proxy": 'Acquire::http::Proxy "http://proxy.example.com:3128";\n',
    "/etc/wgetrc": "# password = hidden\nuse_askpass = /bin/askpass\n",
    "/etc/yum.repos.d/some.repo": "password=\nsslclientkey=/etc/pki/client.key\n",
    "/root/.curlrc": 'user-agent = "some:thing"\n',
    "/root/.ssh/authorized_keys": "# none\n\n",
    "/root/.bash_history": "",
    "/root/.netrc": "",
    "/etc/ssh/ssh_host_rsa_key": "",
    "/etc/reads-keys": "grep -e '-----BEGIN PRIVATE KEY-----' $1\n",
    "/usr/share/doc/example.pem": KEY_FILE,
}
"""Files of an image that passes everything, some of them near to what would fail."""

SPOILED: Mapping[str, str] = {
    "/boot/grub/grub.cfg": "",
    "/etc/cloud/cloud.cfg.d/91-dib.cfg": "datasource_list: [None]\n",
    "/etc/cloud/cloud-init.disabled": "",
    "/etc/default/grub": "GRUB_CMDLINE_LINUX='ds=nocloud;s=http://10.0.2.2/'\n",
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\neve:x:1:1::/home/eve/:/bin/sh\nadam::2:2::/:/bin/sh\n",
    "/etc/shadow": "root:*:1::::::\neve:$6$salt$hash:1::::::\n",
    "/etc/dib-manifests/dib_arguments": "\n",
    "/etc/dib-manifests/dib_environment": 'declare -x DIB_DEV_USER_PASSWORD="devuser"\n',
    "/etc/dib-manifests/dib-manifest-dpkg-it": "",
    "/etc/dib-manifests/dib-manifest-git-it": "some git /opt/some https://example.com/some 0123\n",
    "/var/lib/dpkg/status": "\n".join(
        [
            STANZA.format(name="halfway", state="half-configured"),
            STANZA.format(name="lacking", state="installed") + "Depends: something-else\n",
        ]
    ),
    "/var/lib/dpkg/updates/0001": "\n",
    "/etc/ssh/ssh_host_ed25519_key": "x",
    "/etc/ssh/ssh_host_ed25519_key.pub": "x",
    "/etc/dropbear/dropbear_rsa_host_key": "x",
    "/usr/etc/ssh/ssh_host_rsa_key": "x",
    "/var/lib/systemd/random-seed": "x",
    "/boot/efi/loader/random-seed": "x",
    "/var/lib/dhcp/dhclient.eth0.leases": "x",
    "/var/lib/dhcpcd/duid": "x",
    "/var/lib/NetworkManager/internal-eth0.lease": "x",
    "/etc/udev/rules.d/70-persistent-net.rules": "x",
    "/var/lib/cloud/instances/i-1/obj.pkl": "x",
    "/var/lib/cloud/data/instance-id": "i-1",
    "/etc/ssl/private/key.pem": "-----BEGIN PRIVATE KEY-----\nx\n",
    "/etc/cloud/cloud.cfg.d/50.cfg": "ssh_keys:\n  rsa_private: |\n    -----BEGIN RSA PRIVATE KEY-----\n",
    "/home/eve/.ssh/id_rsa": KEY_FILE,
    "/root/.netrc": "x",
    "/etc/apt/sources.list": "deb https://me:hidden@example.com/debian stable main\n",
    "/etc/apt/auth.conf": "machine example.com login me password hidden\n",
    "/etc/wgetrc": "proxy_password = hidden\n",
    "/etc/yum.repos.d/some.repo": "password=hidden\n",
    "/root/.curlrc": 'user = "me:hidden"\n',
    "/root/.ssh/authorized_keys": "# mine\nssh-ed25519 AAAA me\n",
    "/home/eve/.ssh/authorized_keys2": "ssh-ed25519 AAAA me",
    "/.ssh/authorized_keys": "ssh-ed25519 AAAA me",
    "/etc/ssh/authorized_keys.d/adam": "ssh-ed25519 AAAA me",
    "/root/.bash_history": "id\n",
    "/home/eve/.python_history": "1 + 1\n",
    "/home/eve/.lesshst": "x",
    "/etc/written": "",
    "/opt/shared/file": "",
}
"""What the spoiled image has instead or besides."""

UNFIT = ("/var/lib/dbus/machine-id", "/etc/fstab")
"""Of the leaks: one that is a link here, and one that decides how the image is opened."""

LEAKS = {
    leak.file: leak
    for leak in reversed(image_leaks.load())
    if leak.module != "datasources" and not leak.also and leak.file not in {*GOOD, *SPOILED, *UNFIT}
}
"""Of the cases that tests/unit/test_image_leaks.py looks at one by one, what can be in one image."""

RESEMBLING = {leak.file: leak.clean[0] for leak in LEAKS.values() if leak.clean}

MODES: Mapping[str, int] = {
    "/etc/written": 0o666,
    "/opt/shared": 0o777,
    "/etc/shadow": 0o644,
    "/etc/shadow-": 0o604,
    "/etc/dib-manifests/dib_environment": 0o644,
}
"""Permissions in the spoiled image."""

ALLOWED: Mapping[str, str] = {
    "SECRETS_ALLOWED": "/etc/* /root/* /home/* /.ssh/* /opt/* "
    "/usr/* /var/* /run/* /boot/* /*ks.cfg /preseed*",
    "PASSWORDS_ALLOWED": "eve adam adm",
    "WORLD_WRITABLE_ALLOWED": "/etc/written /opt/share?",
}
"""What has the spoiled image pass all tests that heed it."""

NARROW: Mapping[str, str] = {
    "SECRETS_ALLOWED": "/etc/* /home/eve/.ssh/* /home/eve/.docker/*",
    "PASSWORDS_ALLOWED": "ev eve? adam",
    "WORLD_WRITABLE_ALLOWED": "/etc/written /opt",
}
"""What has it pass some of them, or for some paths."""

GUARDED = ["secrets", "credentials", "permissions"]
"""Tests with exceptions that these variables name."""

LABELS: Mapping[str, Mapping[str, Any]] = {
    "healthy": {
        "file": "healthy.qcow2",
        "tests": ["all"],
        "min_disk": 2,
        "variables": {"MAX_FILE_SIZE": "400M", "MAX_DISK_SIZE": "1.5 GiB"},
    },
    "tight": {
        "file": "healthy.qcow2",
        "tests": ["size", "datasources"],
        "min_disk": 1,
        "variables": {"MAX_FILE_SIZE": "64k", "MAX_DISK_SIZE": "1535M", "DATASOURCES": "NoCloud, Azure"},
    },
    "vague": {"file": "healthy.qcow2", "tests": ["size"], "variables": {"MAX_DISK_SIZE": "big"}},
    "spoiled": {"file": "spoiled.raw", "tests": ["all"]},
    "allowed": {"file": "spoiled.raw", "tests": GUARDED, "variables": ALLOWED},
    "narrow": {"file": "spoiled.raw", "tests": GUARDED, "variables": NARROW},
    "bare": {"file": "bare.raw", "tests": ["all"]},
    "elsewhere": {"file": "bare.raw", "tests": ["datasources"], "variables": {"DATASOURCES": "Ec2"}},
    "unified": {"file": "unified.raw", "tests": ["bootable", "manifest"], "manifests": "/opt/manifests"},
    "hidden": {"file": "hidden.raw", "tests": ["bootable"]},
    "stray": {"file": "stray.raw", "tests": ["datasources"]},
    "garbled": {"file": "garbled.raw", "tests": ["datasources"]},
}
"""Images, some of one file, the generic tests that look at them, and settings for these."""

Failures = Mapping[str, tuple[set[str] | None, str]]
"""Of each test that fails, the paths its message names (None: a program's words), and what else it says."""

READABLE = ({"/etc/shadow", "/etc/shadow-"}, "/etc/shadow is -rw-r--r--")

OF_DATASOURCES = (
    *("test_datasources_are_configured", "test_datasources_suit_the_environment"),
    *("test_cloudinit_is_not_disabled", "test_data_comes_from_the_cloud"),
)

LEAKING: Mapping[str, str] = {
    "test_no_host_keys": "host keys are in the image",
    "test_no_machine_id": "a machine id is",
    "test_no_random_seed": "a random seed is",
    "test_no_traces_of_a_boot": "traces of another machine are",
    "test_no_network_cards": "addresses of network cards are",
    "test_no_storage_names": "names for storage are",
    "test_no_identifiers": "identifiers of another machine are",
    "test_no_subscriptions": "subscriptions are",
    "test_no_agents": "agents are registered",
    "test_no_members": "memberships are",
    "test_no_private_keys": "private keys are in the image",
    "test_no_passwords_of_users": "eve: has a password in /etc/shadow\n  adam: needs no password in",
    "test_no_authorized_keys": "ssh keys are let in",
    "test_no_passwords_for_installers": "passwords for installers are",
    "test_no_histories": "histories are in the image",
    "test_no_credentials": "credentials are in the image",
    "test_no_tokens": "tokens are in the image",
    "test_no_passwords_in_sources": "passwords are in the image",
    "test_no_passwords_of_networks": "passwords of networks are",
    "test_no_passwords_of_services": "passwords of services are",
}
"""The tests that LEAKS are for, and what each says first."""

OF_SECRETS = {
    *(leak.test for leak in LEAKS.values() if leak.module in {"secrets", "credentials"}),
} - {"test_no_passwords_of_users"}

BOOT_FOLDERS = ("efi", "grub", "grub2", "loader")

LEAKED: Mapping[str, set[str]] = {
    "test_no_host_keys": {
        *("/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"),
        *("/etc/dropbear/dropbear_rsa_host_key", "/usr/etc/ssh/ssh_host_rsa_key"),
    },
    "test_no_machine_id": {"/etc/machine-id", "/var/lib/dbus/machine-id"},
    "test_no_random_seed": {"/var/lib/systemd/random-seed", "/boot/efi/loader/random-seed"},
    "test_no_traces_of_a_boot": {
        *("/var/lib/dhcp/dhclient.eth0.leases", "/var/lib/dhcpcd/duid"),
        *("/var/lib/NetworkManager/internal-eth0.lease", "/etc/udev/rules.d/70-persistent-net.rules"),
        *("/var/lib/cloud/instance", "/var/lib/cloud/instances/i-1", "/var/lib/cloud/data/instance-id"),
    },
    "test_no_private_keys": {
        *("/etc/cloud/cloud.cfg.d/50.cfg", "/etc/ssl/private/key.pem", "/home/eve/.ssh/id_rsa"),
    },
    "test_no_credentials": {"/root/.netrc"},
    "test_no_passwords_in_sources": {
        *("/etc/apt/auth.conf", "/etc/apt/sources.list", "/etc/wgetrc", "/root/.curlrc"),
        *("/etc/yum.repos.d/some.repo", "/etc/dib-manifests/dib_environment"),
    },
    "test_no_passwords_of_users": {"/etc/passwd", "/etc/shadow"},
    "test_no_authorized_keys": {
        *("/root/.ssh/authorized_keys", "/home/eve/.ssh/authorized_keys2"),
        *("/.ssh/authorized_keys", "/etc/ssh/authorized_keys.d/adam"),
    },
    "test_no_histories": {"/root/.bash_history", "/home/eve/.python_history", "/home/eve/.lesshst"},
}
"""What of SPOILED these tests find."""


def leaked(test: str, allowed: str = "") -> set[str]:
    """Return what a test has to find in the spoiled image, without what the patterns allow."""
    # The same file may be there for two tests, as an entitlement's key is.
    same = [leak for leak in image_leaks.load() if leak.test == test and leak.file in LEAKS]
    found = LEAKED.get(test, set()) | {leak.file for leak in same if leak.leaks == LEAKS[leak.file].leaks}
    return {name for name in found if not any(fnmatch.fnmatchcase(name, mask) for mask in allowed.split())}


FAILURES: Mapping[str, Failures] = {
    "healthy": {},
    "tight": {
        "test_file_is_within_its_budget": ({"/healthy.qcow2"}, "MiB, allowed are 0.1"),
        "test_disk_is_within_its_budget": (set(), "the disk has 1536.0 MiB, allowed are 1535.0"),
        "test_disk_fits_min_disk": (set(), "the disk has 1.50 GiB, and min_disk promises that 1 are enough"),
        "test_datasources_suit_the_environment": (set(), "missing: Azure"),
    },
    "vague": {"test_disk_is_within_its_budget": (set(), "MAX_DISK_SIZE is 'big'")},
    "spoiled": {
        "test_kernel_is_there": (
            {"/spoiled.raw", "/boot", "/boot/vmlinuz", *(f"/boot/{name}" for name in BOOT_FOLDERS)},
            "no kernel is in",
        ),
        "test_boot_loader_is_there": ({"/spoiled.raw"}, "no boot loader is configured"),
        "test_disk_can_be_started": ({"/spoiled.raw"}, "neither boot code nor an EFI partition"),
        "test_datasources_are_configured": (set(), "names no source (it is ['None'])"),
        "test_datasources_suit_the_environment": (set(), "missing: NoCloud"),
        "test_filesystem_is_clean": (None, "ref count is 7, should be 1"),
        "test_arguments_are_written_down": ({"/etc/dib-manifests"}, "has no dib_arguments"),
        "test_packages_are_written_down": (
            {"/etc/dib-manifests", "/etc/dib-manifests/dib-manifest-dpkg-it"},
            "has no list of packages",
        ),
        "test_manifests_are_for_root": ({"/etc/dib-manifests/dib_environment"}, "everybody may read"),
        "test_every_package_is_whole": (None, "halfway"),
        "test_no_package_misses_another": (None, "lacking : Depends: something-else"),
        "test_nothing_was_left_in_the_middle": ({"/var/lib/dpkg/updates/0001"}, "were not finished"),
        "test_nothing_is_world_writable": ({"/etc/written", "/opt/shared"}, "/opt/shared: drwxrwxrwx"),
        "test_passwords_are_not_readable": READABLE,
        "test_cloudinit_is_not_disabled": ({"/etc/cloud/cloud-init.disabled"}, "cloud-init is switched off"),
        "test_data_comes_from_the_cloud": ({"/etc/default/grub"}, "another place for the data"),
        **{test: (leaked(test), words) for test, words in LEAKING.items()},
    },
    "allowed": {"test_passwords_are_not_readable": READABLE},
    "narrow": {
        **{
            test: (left, "named in SECRETS_ALLOWED")
            for test in LEAKING
            if (left := leaked(test, NARROW["SECRETS_ALLOWED"])) and test in OF_SECRETS
        },
        "test_no_passwords_of_users": (
            leaked("test_no_passwords_of_users") - {"/etc/passwd"},
            "named in PASSWORDS_ALLOWED",
        ),
        "test_nothing_is_world_writable": ({"/opt/shared"}, "named in WORLD_WRITABLE_ALLOWED"),
        "test_passwords_are_not_readable": READABLE,
    },
    "bare": {
        "test_kernel_is_there": ({"/bare.raw"}, "has no initrd beside it"),
        "test_kernel_has_its_modules": (set(), f"the kernel is {LATER}; there are modules for {KERNEL}"),
        "test_datasources_suit_the_environment": (set(), "datasource_list is ['Ec2']; missing: NoCloud"),
        "test_filesystem_is_clean": (None, "the journal was not empty"),
        **dict.fromkeys(
            (
                *("test_arguments_are_written_down", "test_packages_are_written_down"),
                "test_manifests_are_for_root",
            ),
            ({"/etc/dib-manifests"}, "add the element `manifests`"),
        ),
    },
    "elsewhere": {},
    "unified": {},
    "hidden": {},
    "stray": dict.fromkeys(
        OF_DATASOURCES,
        ({"/etc/cloud/cloud.cfg"}, "datasource_list is 'NoCloud' in /etc/cloud/cloud.cfg, and no list"),
    ),
    "garbled": dict.fromkeys(
        OF_DATASOURCES,
        ({"/etc/cloud/cloud.cfg.d/1.cfg"}, "/etc/cloud/cloud.cfg.d/1.cfg is no YAML"),
    ),
}
"""All that fails, by image."""

SKIPPED: Mapping[str, set[str]] = {
    "healthy": set(),
    "allowed": set(),
    "elsewhere": set(),
    "unified": {"test_kernel_has_its_modules", "test_packages_are_written_down"},
    "hidden": {"test_kernel_is_there", "test_boot_loader_is_there", "test_kernel_has_its_modules"},
}
"""What does not apply or cannot tell, of images where everything else has to pass."""


def write(root: Path, files: Mapping[str, str], modes: Mapping[str, int] | None = None) -> None:
    for name, content in files.items():
        path = root / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        if "shadow" in name or "manifests" in name:
            path.chmod(0o600)
    for name, mode in (modes or {}).items():
        (root / name[1:]).chmod(mode)


def healthy_tree(root: Path) -> Path:
    """Make a tree with a kernel, dpkg, apt and GOOD."""
    write(skeleton(root), {**RESEMBLING, **GOOD})
    (root / "tmp").chmod(0o1777)
    (root / "boot/vmlinuz").write_bytes(kernel(KERNEL))
    # A link's mode says that everybody may do everything.
    (root / "etc/dib-manifests/latest").symlink_to("dib-manifest-dpkg-it")
    (root / "var/lib/dbus").mkdir()
    (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    for program in ("/usr/bin/dpkg", "/usr/bin/apt-get", "/bin/sh"):
        _copy_program(Path(program), root)
    # Without its tables of architectures apt gives up.
    shutil.copytree("/usr/share/dpkg", root / "usr/share/dpkg")
    for package in ("whole", "halfway", "lacking"):
        info = f"/var/lib/dpkg/info/{package}"
        write(root, {f"{info}.list": "/.\n", f"{info}.md5sums": ""})
    return root


def kernel(version: str) -> bytes:
    """Return so much of an x86 kernel that its version can be told."""
    head = bytearray(0x400)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x100).to_bytes(2, "little")
    said = f"{version} (who@where) #1".encode()
    head[0x300 : 0x300 + len(said)] = said
    return bytes(head)


def make_filesystem(tree: Path, image: Path, *, offset: int = 0, size: int = 16, change: str = "") -> None:
    """Make an ext4 filesystem of ``size`` MiB with the tree; ``change`` is a command of debugfs."""
    where = ["-E", f"offset={offset}", "-d", str(tree)]
    process.run(["mke2fs", "-q", "-t", "ext4", *where, str(image), f"{size}M"])
    if change:
        process.run(["debugfs", "-w", "-R", change, f"{image}?offset={offset}"])


def make_disk(
    tree: Path, image: Path, *, boot_code: bool = False, efi: bool = False, change: str = ""
) -> None:
    """Make a disk of an empty partition, or a FAT one for EFI that is not mounted, and one with the tree."""
    with image.open("wb") as file:
        file.truncate(70 * MIB)
    label, kind = ("gpt", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B") if efi else ("dos", "83")
    table = f"label: {label}\nstart=1MiB, size=3MiB, type={kind}\nstart=4MiB, size=64MiB\n"
    process.run(["sfdisk", "--quiet", str(image)], stdin=table)
    if efi:
        process.run(["mformat", "-i", f"{image}@@{MIB}", "-T", "6144", "-h", "64", "-s", "32", "::"])
    make_filesystem(tree, image, offset=4 * MIB, size=64, change=change)
    if boot_code:
        with image.open("r+b") as file:
            file.write(b"\xfa")


def make_images(folder: Path) -> None:
    """Make the files of LABELS."""
    tree = healthy_tree(folder / "healthy")
    make_disk(tree, folder / "healthy.raw", boot_code=True)
    raw, qcow2 = (str(folder / f"healthy.{kind}") for kind in ("raw", "qcow2"))
    process.run(["qemu-img", "convert", "-O", "qcow2", raw, qcow2])
    process.run(["qemu-img", "resize", "-q", qcow2, "1536M"])

    write(tree, {**{leak.file: leak.leaks for leak in LEAKS.values()}, **SPOILED}, MODES)
    (tree / "boot/vmlinuz").unlink()
    (tree / "boot/vmlinuz").symlink_to("vmlinuz-gone")
    (tree / "var/lib/cloud/instance").symlink_to("/var/lib/cloud/instances/i-1")
    make_disk(tree, folder / "spoiled.raw", change="set_inode_field /etc/hostname links_count 7")

    tree = skeleton(folder / "bare")
    write(
        tree, {f"/lib/modules/{KERNEL}/modules.dep": "", "/etc/cloud/cloud.cfg": "datasource_list: [Ec2]\n"}
    )
    make_filesystem(tree, folder / "bare.raw", change="feature needs_recovery")
    (folder / "bare.vmlinuz").write_bytes(kernel(LATER))

    tree = skeleton(folder / "unified")
    make_disk(tree, folder / "hidden.raw", efi=True)
    write(tree, {f"/opt/manifests/{name}": text for name, text in MANIFESTS.items()})
    write(tree, {"/efi/EFI/Linux/linux.efi": "x", "/opt/manifests/dib-manifest-git-it": "some git\n"})
    make_disk(tree, folder / "unified.raw", efi=True)

    for name, files in {
        "stray": {"/etc/cloud/cloud.cfg": "datasource_list: NoCloud\n"},
        "garbled": {"/etc/cloud/cloud.cfg": "", "/etc/cloud/cloud.cfg.d/1.cfg": "datasource_list: [\n"},
    }.items():
        write(skeleton(folder / name), files)
        make_filesystem(folder / name, folder / f"{name}.raw")


def settings(image: Mapping[str, Any]) -> dict[str, Any]:
    """Return what images.yaml says of one of LABELS."""
    build = {"DIB_MANIFEST_IMAGE_DIR": image["manifests"]} if "manifests" in image else {}
    return {
        "filename": image["file"],
        "dib": {"elements": ["vm"], "environment_variables": build},
        "glance": {"min_disk": image.get("min_disk", 0)},
        "tests": {
            "ssh": {"username": "root"},
            "environment_variables": dict(image.get("variables", {})),
            "tests_list": [{"image": f"generic:{name}"} for name in image["tests"]],
        },
    }


Outcomes = Mapping[str, ET.Element | None]
"""By test, what the JUnit file says of it: a failure, an error, that it was skipped; None if it passed."""

Seen = tuple[Mapping[str, Outcomes], str]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Test all LABELS in one run, and return what became of each test, by label, and the output."""
    operator = Operator(path=tmp_path_factory.mktemp("images"))
    make_images(operator.path)
    operator.write("images.yaml", yaml.safe_dump({name: settings(image) for name, image in LABELS.items()}))
    run = operator.run("pytest", "-v", "--dib-image=all", "--dib-build=never", "--junit-xml=junit.xml")
    outcomes: dict[str, dict[str, ET.Element | None]] = {label: {} for label in LABELS}
    for case in ET.parse(operator.path / "junit.xml").iter("testcase"):
        name, _, label = case.get("name", "").rstrip("]").partition("[")
        said = [part for part in case if part.tag in {"failure", "error", "skipped"}]
        for part in said:
            message = part.get("message", "")
            # pytest leaves the end of a long list to the text, where an assertion has its source.
            cut = re.search(r"\AFailed: (?s:.*)^\[\+\d+ more lines?", message, re.MULTILINE)
            whole = part.text or "" if cut else message
            part.set("message", whole.replace(str(operator.path), ""))
        outcomes[label][name] = said[0] if said else None
    return outcomes, run.output


def named_in(message: str) -> set[str]:
    """Return the paths in what a test says itself, without the assertion that pytest shows below it."""
    return set(re.findall(r"/[\w./-]*[\w-]", message.partition("\nassert ")[0]))


@pytest.mark.parametrize("label", LABELS)
def test_what_is_wrong_fails_by_name_and_nothing_else_does(seen: Seen, label: str) -> None:
    outcomes, output = seen
    said = {
        name: part.get("message", "")
        for name, part in outcomes[label].items()
        if part is not None and part.tag != "skipped"
    }
    assert said.keys() == FAILURES[label].keys(), output
    for name, (paths, words) in FAILURES[label].items():
        assert words in said[name]
        assert paths is None or named_in(said[name]) == paths, said[name]


@pytest.mark.parametrize("label", SKIPPED)
def test_what_is_right_passes_and_is_not_passed_over(seen: Seen, label: str) -> None:
    outcomes, output = seen
    skipped = {name for name, part in outcomes[label].items() if part is not None and part.tag == "skipped"}
    assert skipped == SKIPPED[label], output


def test_each_is_seen_to_pass_and_to_fail(seen: Seen) -> None:
    outcomes, _ = seen
    modules = [ast.parse(path.read_text()) for path in (ROOT / "image_tests/tree").glob("test_*.py")]
    functions = {node.name for tree in modules for node in tree.body if isinstance(node, ast.FunctionDef)}
    generic = {name for name in functions if name.startswith("test_")}
    assert outcomes["healthy"].keys() == generic
    assert {name for failing in FAILURES.values() for name in failing} == generic
