"""Nothing secret is baked into the image: everybody who may boot it can read it.

Names of files that are there on purpose go, as patterns between blanks, into SECRETS_ALLOWED in
``environment_variables`` of the image or the environment; users with a password into PASSWORDS_ALLOWED.
What programs log in elsewhere with is looked for in ``credentials``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from .findings import Sign, content, find, find_in_homes, homes, plain_files

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree

pytestmark = pytest.mark.usefixtures("image_tree")

PRIVATE_KEY = re.compile(
    rb"^[ \t]*-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----"
    rb"|^-----BEGIN OpenVPN Static key V1-----|^PuTTY-User-Key-File-"
    rb'|"private_key"[ \t]*:[ \t]*"-----BEGIN ',
    re.MULTILINE,
)
"""Indented it is in YAML, as under cloud-init's ``ssh_keys``; in JSON, a key of a Google service account."""

HISTORIES = ("_history", "/.lesshst", "/.viminfo", "/.wget-hsts", "/.zhistory", "/.histfile")

KEY = rb"^[ \t]*[^\s#]"
"""A line of authorized_keys that is neither empty nor a comment."""

LETS_IN = "its key opens all instances; remove it"

AUTHORIZED = (
    Sign(
        names=(
            "/etc/ssh/authorized_keys*/*",
            "/etc/skel/.ssh/authorized_keys*",
            "/home/*/.ssh/authorized_keys",
        ),
        pattern=KEY,
        what=LETS_IN,
    ),
    Sign(
        names=(
            *("/etc/dropbear/authorized_keys", "/etc/dropbear-initramfs/authorized_keys"),
            "/etc/dropbear/initramfs/authorized_keys",
        ),
        pattern=KEY,
        what=LETS_IN,
    ),
)

AUTHORIZED_IN_HOMES = (
    Sign(names=("/.ssh/authorized_keys", "/.ssh/authorized_keys2"), pattern=KEY, what=LETS_IN),
)

LOGINS = ("/etc/shadow", "/etc/passwd")
"""What decides who needs no password; an empty field of a group or of a copy decides nothing."""

COPIES = tuple(
    f"{name}{copy}"
    for name in (*LOGINS, "/etc/gshadow")
    for copy in ("-", ".bak", ".orig", ".old", ".rpmsave", ".rpmnew", ".dpkg-old")
)

PASSWORDS = (
    *(*LOGINS, "/etc/gshadow", *COPIES),
    *("/var/backups/shadow.bak", "/var/backups/passwd.bak", "/var/backups/gshadow.bak"),
)

ENTRY = re.compile(r"^(?P<user>[^:#\s]+):(?P<lock>[*!]*)(?P<hash>[^:]*):")

HASH = re.compile(r"\$\w+\$")
"""How crypt's hashes begin. An installer may write a word after the lock, as in ``!locked``."""

NO_PASSWORD = (
    rb"['\"]?(?:[*!x]+|locked|thereisnopassword\w*|R|RANDOM|REDACTED|null|~)?['\"]?[ \t]*(?:[,}#\s]|$)"
)
"""What stands in a password's place where there is none, or it is made on the first boot."""

INSTALLERS = (
    Sign(
        names=(
            *("/root/*ks.cfg", "/root/*.ks", "/root/*kickstart*", "/*ks.cfg", "/*.ks"),
            *("/var/log/anaconda/*ks*", "/etc/sysconfig/*ks.cfg"),
        ),
        pattern=rb"^[ \t]*+(?:(?:rootpw|sshpw|user|bootloader)\b[^\n]*(?:\$\w+\$|grub\.pbkdf2\.)"
        rb"|(?![^\n]*--iscrypted)(?:(?:rootpw|sshpw)\b(?:[ \t]+--\S+)*[ \t]+(?!--)"
        rb"|(?:user|bootloader)\b[^\n]*[ \t]--password[= \t]+)(?!" + NO_PASSWORD + rb")\S"
        rb"|\w+\b[^\n]*[ \t]--(?:passphrase|activation-key|one-time-password)[= \t]+\S)",
        what="passwords of a kickstart installation; remove it in %post, or write `rootpw --lock`",
    ),
    Sign(
        names=("/preseed*", "/root/preseed*", "/var/log/installer/*", "/var/log/installer/cdebconf/*"),
        pattern=rb"^[ \t]*[^#\s]\S*[ \t]+(?:passwd|partman-crypto|grub-installer)/\S*pass(?:word|phrase)\S*"
        rb"[ \t]+(?:password|string)[ \t]+(?!" + NO_PASSWORD + rb")\S",
        what="passwords of a preseeded installation; remove it",
    ),
    Sign(
        names=("/var/cache/debconf/passwords.dat*",),
        pattern=rb"^Value:[ \t]*\S",
        what="an answer to a package's question for a password; answer on the first boot, or purge it",
    ),
    Sign(
        names=(
            *("/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*.cfg", "/autoinstall.y*ml"),
            *("/var/lib/cloud/seed/*/*-data", "/var/lib/cloud/instances/*/*.txt*", "/user-data"),
            *("/run/cloud-init/*.json", "/var/log/installer/*user-data*", "/root/user-data*"),
        ),
        pattern=rb"^[^#\n]*?(?<![\w-])(?:plain_text_passwd|hashed_passwd|hashed-passwd|passwd|password|token_secret)"
        rb"(?:['\"][ \t]*:[ \t]*|[ \t]*:[ \t]+)(?!" + NO_PASSWORD + rb")(?![\[{|>&*])\S"
        rb"|^(?P<i>[ \t]*)chpasswd[ \t]*:[ \t]*\n(?:(?P=i)[ \t]+[^\n]*\n){0,50}?"
        rb"(?P=i)[ \t]+(?:-[ \t]+)?['\"]?[a-z_][\w.-]*:(?!" + NO_PASSWORD + rb")\S",
        what="a password in cloud-init's configuration; have the user who boots the image bring it",
    ),
    Sign(
        names=(
            *("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub*/user.cfg", "/etc/grub.d/*"),
            "/boot/efi/EFI/*/*.cfg",
        ),
        pattern=rb"^[^#\n]*grub\.pbkdf2\.\w+\.\d+\.[0-9A-Fa-f]",
        what="the boot loader's password as a hash that all instances share; set it on the first boot",
    ),
)
"""Answers to questions of an installer, or of cloud-init."""


def test_no_private_keys(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No file holds a private key: every instance of the image would share it.

    If this fails, have the key made on the first boot, or handed over by cloud-init. Debian's ssl-cert makes
    /etc/ssl/private/ssl-cert-snakeoil.key while it is installed: remove it, and make it anew on boot.
    """
    names = [item.name for item in plain_files(image_tree)]
    found = [name for name in names if PRIVATE_KEY.search(content(image_tree, name))]
    refuse("private keys are in the image", found, "SECRETS_ALLOWED")


def test_no_passwords_of_users(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No user has a password, or needs none: everybody who knows the image would know it.

    A locked account shows its hash too: who finds the password can use it elsewhere, and unlocking brings it
    back. Copies that programs made of these files count.

    If this fails, replace the hash (``usermod --password '!*' USER``, ``gpasswd --remove-password GROUP``);
    ``passwd --lock`` leaves it. DIB's ``devuser`` and ``dynamic-login`` elements, for example, set passwords.
    Users log in with keys, which cloud-init brings.
    """
    found = [line for name in PASSWORDS for line in _passwords(name, content(image_tree, name))]
    refuse("passwords of users are in the image", found, "PASSWORDS_ALLOWED")


def _passwords(name: str, text: bytes) -> Iterator[str]:
    for line in text.decode(errors="replace").splitlines():
        entry = ENTRY.match(line)
        if entry is None or entry["hash"] == "x":
            continue
        user = entry["user"]
        if entry["lock"]:
            if HASH.match(entry["hash"]):
                yield f"{user}: is locked, but the hash can be read in {name}; usermod -p '!*' {user}"
        elif entry["hash"]:
            yield f"{user}: has a password in {name}"
        elif name in LOGINS:
            yield f"{user}: needs no password in {name}"


def test_no_authorized_keys(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No ssh key opens every instance of the image.

    If this fails, remove the file; cloud-init writes the keys of the user who boots the image. DIB's element
    ``local-config`` copies those of the build's user. What is in /etc/skel, every new user gets.
    """
    in_homes = [
        f"{home}{end}: {sign.what}"
        for home in homes(image_tree)
        for sign in AUTHORIZED_IN_HOMES
        for end in sign.names
        if sign.shows(content(image_tree, f"{home}{end}"))
    ]
    refuse(
        "ssh keys are let in", dict.fromkeys([*in_homes, *find(image_tree, AUTHORIZED)]), "SECRETS_ALLOWED"
    )


def test_no_passwords_for_installers(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No file of answers to an installer is left: kickstart, preseed, debconf, autoinstall, cloud-init.

    If this fails, remove the file at the end of the installation. A hash is a password that takes longer.
    """
    refuse("passwords for installers are in the image", find(image_tree, INSTALLERS), "SECRETS_ALLOWED")


def test_no_histories(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No shell has left what was typed while the image was made.

    If this fails, the image was changed by hand, or a build script runs an interactive shell.
    """
    sign = Sign(names=HISTORIES, what="what was typed or read while the image was made; remove it")
    refuse("histories are in the image", find_in_homes(image_tree, [sign]), "SECRETS_ALLOWED")
