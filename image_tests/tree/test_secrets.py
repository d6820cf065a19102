"""Nothing secret is baked into the image: everybody who may boot it can read it.

Names of files that are there on purpose go, as patterns between blanks, into SECRETS_ALLOWED in
``environment_variables`` of the image or the environment; users with a password into PASSWORDS_ALLOWED.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree, TreeItem

pytestmark = pytest.mark.usefixtures("image_tree")

PLACES = (
    *("/etc", "/root", "/home", "/opt", "/srv", "/usr/local"),
    *("/var/lib/cloud", "/var/backups", "/var/spool/cron"),
)
"""Where people and build scripts leave files of their own; packages keep examples of keys elsewhere."""

MOST = 1024 * 1024
"""Bytes of a file that are searched; no key or credentials file is longer."""

PRIVATE_KEY = re.compile(rb"^[ \t]*-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----", re.MULTILINE)
"""Indented it is in YAML, as under cloud-init's ``ssh_keys``."""

CREDENTIALS = (
    *("/.netrc", "/.pgpass", "/.my.cnf", "/.pypirc", "/.git-credentials", "/.vault-token", "/.npmrc"),
    *("/.aws/credentials", "/.docker/config.json", "/.config/gh/hosts.yml", "/.kube/config"),
    *("/.config/openstack/clouds.yaml", "/etc/openstack/clouds.yaml", "/etc/openstack/secure.yaml"),
    *("/openrc", "openrc.sh", "/clouds.yaml", "/.azure/accessTokens.json"),
)
"""How the names of files end that hold credentials and nothing else."""

HISTORIES = ("_history", "/.lesshst", "/.viminfo", "/.wget-hsts")

SECRET_SETTING = re.compile(
    rb"^[^#;\n]*(?<![^\W_])(password|passwd|secret|token|api_?key)[ \t]*[=:][ \t]*['\"]?[^\s'\"]{6,}",
    re.IGNORECASE | re.MULTILINE,
)
"""A line of an apt, pip or proxy configuration that holds a password, by that name or as proxy_password."""

WORDS = {
    "/etc/apt/auth.conf": re.compile(rb"^[^#\n]*(?<!\S)password[ \t]+\S", re.MULTILINE),
    "/root/.curlrc": re.compile(
        rb"^[ \t]*(-u|-U|(--)?(proxy-)?user(?![-\w]))[ \t:=]*['\"]?[^\s:'\"]+:[^\s'\"]", re.MULTILINE
    ),
}
"""How a password is written without its sign of equality, in files whose names start so."""

URL_WITH_PASSWORD = re.compile(rb"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s:@]+@", re.IGNORECASE)

SOURCES = (
    *("/etc/apt/sources.list", "/etc/apt/sources.list.d/*", "/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*"),
    *("/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*", "/etc/yum.repos.d/*", "/etc/dnf/dnf.conf"),
    *("/etc/apk/repositories", "/etc/pip.conf", "/root/.config/pip/pip.conf", "/root/.pip/pip.conf"),
    *("/etc/environment", "/etc/wgetrc", "/root/.curlrc", "/root/.gitconfig", "/etc/gitconfig"),
    *("/etc/dib-manifests/dib_environment", "/etc/dib-manifests/dib_arguments"),
)
"""Files that build scripts write addresses into, of mirrors, proxies and package indexes."""

HOME = 5
"""Which field of /etc/passwd is the home directory."""

KEY = re.compile(r"^\s*[^\s#]", re.MULTILINE)
"""A line of authorized_keys that is neither empty nor a comment."""

PASSWORD_SET = re.compile(r"^(?P<user>[^:]+):(?P<hash>[^:]*):")


def plain_files(tree: ImageTree) -> Iterator[TreeItem]:
    """Yield the regular files in PLACES."""
    for place in PLACES:
        if tree.path(place).is_dir():
            yield from (item for item in tree.walk(place) if stat.S_ISREG(item.mode))


def filled(tree: ImageTree) -> list[str]:
    return [item.name for item in plain_files(tree) if item.stat.st_size]


def content(tree: ImageTree, name: str) -> bytes:
    return tree.read_bytes(name, MOST)


def test_no_private_keys(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No file holds a private key: every instance of the image would share it.

    If this fails, have the key made on the first boot, or handed over by cloud-init. Debian's ssl-cert makes
    /etc/ssl/private/ssl-cert-snakeoil.key while it is installed: remove it, and make it anew on boot.
    """
    names = [item.name for item in plain_files(image_tree)]
    found = [name for name in names if PRIVATE_KEY.search(content(image_tree, name))]
    refuse("private keys are in the image", found, "SECRETS_ALLOWED")


def test_no_credentials(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No file is there whose only use is to hold credentials, of a cloud, a registry or a database.

    If this fails, a build script logged in somewhere with its own home directory as the image's: remove the
    file in a finalise.d script.
    """
    found = [name for name in filled(image_tree) if name.endswith(CREDENTIALS)]
    refuse("credentials are in the image", found, "SECRETS_ALLOWED")


def test_no_passwords_in_sources(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No address of a mirror, proxy or package index carries a password, nor does what DIB wrote down.

    If this fails, give the build its password in another way than by an address (a proxy on the build
    machine, apt's auth.conf.d removed in finalise.d), and keep it out of DIB_* variables.
    """
    names = [name for pattern in SOURCES for name in image_tree.glob(pattern)]
    found = []
    for name in names:
        if not image_tree.is_file(name):
            continue
        text = content(image_tree, name)
        patterns = [URL_WITH_PASSWORD, SECRET_SETTING]
        patterns += [pattern for start, pattern in WORDS.items() if name.startswith(start)]
        if any(pattern.search(text) for pattern in patterns):
            found.append(name)
    refuse("passwords are in the image", found, "SECRETS_ALLOWED")


def test_no_passwords_of_users(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No user has a password, or needs none: everybody who knows the image would know it.

    If this fails, lock the account (``passwd --lock``); DIB's ``devuser`` and ``dynamic-login`` elements, for
    example, set passwords. Users log in with keys, which cloud-init brings.
    """
    found = []
    for name in ("/etc/shadow", "/etc/passwd"):
        for line in image_tree.read(name).splitlines():
            known = PASSWORD_SET.match(line)
            if known is None or known["hash"].startswith(("*", "!")) or known["hash"] == "x":
                continue
            how = "has a password" if known["hash"] else "needs no password"
            found.append(f"{known['user']}: {how} in {name}")
    refuse("users could log in with a password", found, "PASSWORDS_ALLOWED")


def test_no_authorized_keys(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No ssh key opens every instance of the image.

    If this fails, remove the file; cloud-init writes the keys of the user who boots the image. DIB's element
    ``local-config`` copies those of the build's user.
    """
    users = [line.split(":") for line in image_tree.read("/etc/passwd").splitlines()]
    homes = {user[HOME].rstrip("/") for user in users if len(user) > HOME}
    files = ("authorized_keys", "authorized_keys2")
    names = [f"{home}/.ssh/{file}" for home in sorted(homes) for file in files]
    names += image_tree.glob("/etc/ssh/authorized_keys*/*")
    found = [name for name in dict.fromkeys(names) if KEY.search(image_tree.read(name))]
    refuse("ssh keys are let in", found, "SECRETS_ALLOWED")


def test_no_histories(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No shell has left what was typed while the image was made.

    If this fails, the image was changed by hand, or a build script runs an interactive shell.
    """
    found = [name for name in filled(image_tree) if name.endswith(HISTORIES)]
    refuse("histories are in the image", found, "SECRETS_ALLOWED")
