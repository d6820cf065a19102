"""SSH key pairs: making new ones and reading those of the user."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_dibctl.errors import CredentialsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization import SSHPrivateKeyTypes


def make_key(comment: str) -> tuple[str, str]:
    """Return a new ed25519 key: the text of an OpenSSH private key file, and the public key's line."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}".rstrip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SshKey:
    """A key pair whose private half is a file.

    ``public_key`` is a line of authorized_keys. ``fingerprint`` has the form that ssh-keygen prints. The file
    belongs to the caller: nothing here removes it.
    """

    private_key_file: Path
    public_key: str
    fingerprint: str

    def __repr__(self) -> str:
        """Short: tracebacks show what tests got."""
        return f"<ssh key {self.fingerprint}>"

    @classmethod
    def generate(cls, directory: Path, *, comment: str) -> Self:
        """Make a new ed25519 key; write its private half to ``id_ed25519`` in ``directory``, with mode 0600.

        Raises FileExistsError when the file exists, OSError when it cannot be written.
        """
        private, public = make_key(comment)
        file = directory / "id_ed25519"
        with os.fdopen(
            os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w"
        ) as sink:
            sink.write(private)
        return cls(private_key_file=file, public_key=public, fingerprint=_fingerprint(public))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Return the key pair of an existing private key.

        Raises CredentialsError when ssh cannot use the key unattended: the file cannot be read, other users
        can read it, it is protected by a passphrase, or it holds no private key.
        """
        from cryptography.hazmat.primitives import serialization as form

        path = path.expanduser().absolute()
        key = _load_private(path)
        public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
        return cls(private_key_file=path, public_key=public, fingerprint=_fingerprint(public))

    @property
    def name(self) -> str:
        """The key's comment; without one, the name of the private key's file."""
        words = self.public_key.split(maxsplit=2)
        return words[2] if len(words) > 2 else self.private_key_file.name  # noqa: PLR2004 -- type, key, comment

    @property
    def nova_fingerprint(self) -> str:
        """The fingerprint as Nova shows it: MD5 in hexadecimal, with colons."""
        digest = hashlib.md5(_blob(self.public_key), usedforsecurity=False).hexdigest()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _load_private(path: Path) -> SSHPrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form

    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path}: cannot read the private key: {error.strerror}") from None
    if mode & 0o077:
        raise CredentialsError(
            f"{path}: others may read this private key (mode {mode & 0o777:04o}), and ssh refuses it then",
            hint=f"chmod 600 {path}",
        )
    load = form.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else form.load_pem_private_key
    try:
        return load(data, password=None)  # type: ignore[return-value]  # other PEM keys fail as ssh keys below
    except TypeError:
        raise CredentialsError(
            f"{path}: the private key is protected by a passphrase, which ssh cannot ask for here",
            hint="use a key without a passphrase",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialsError(
            f"{path}: not a private key that can be read",
            hint="it must be the private half (not the .pub file), in OpenSSH's or PEM format",
        ) from None


def _blob(public_key: str) -> bytes:
    try:
        return base64.b64decode(public_key.split()[1], validate=True)
    except (IndexError, binascii.Error):
        raise CredentialsError(f"not a public key: {public_key!r:.80}") from None


def _fingerprint(public_key: str) -> str:
    digest = base64.b64encode(hashlib.sha256(_blob(public_key)).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"
