"""clouds.yaml, secure.yaml and certificates: every fault in them is an error that names the file."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keystoneauth1.exceptions as auth_exceptions
import openstack.config
import yaml
from openstack.config import loader

from pytest_dibctl.errors import ConfigError, CredentialsError, DibctlError
from pytest_dibctl.system.suggestions import did_you_mean

FILES: Mapping[str, list[str]] = {
    "OS_CLIENT_CONFIG_FILE": loader.CONFIG_FILES,
    "OS_CLIENT_SECURE_FILE": loader.SECURE_FILES,
}
"""The variables that name clouds.yaml and secure.yaml, and where the openstack client looks otherwise."""
_LOOKED_FOR = (
    "clouds.yaml is looked for in the working directory, ~/.config/openstack and /etc/openstack, or set "
    "OS_CLIENT_CONFIG_FILE"
)


def files(environ: Mapping[str, str], variable: str) -> list[str]:
    """Return where a file is looked for, the first place first."""
    named = environ.get(variable)
    return [named, *FILES[variable]] if named else list(FILES[variable])


def read(
    environ: Mapping[str, str], cloud: str, *, where: str, **options: Any
) -> openstack.config.OpenStackConfig:
    """Return clouds.yaml and secure.yaml as the openstack client finds them, without the OS_* variables.

    Raises ConfigError when they cannot be read, or have no entry ``cloud`` of a shape that can be used.
    """
    entry = _checked(environ, "OS_CLIENT_CONFIG_FILE", cloud, where=where)
    if entry is None:
        near = did_you_mean(cloud, _names(environ))
        raise ConfigError(f"{where}: there is no cloud {cloud!r} in clouds.yaml", hint=near or _LOOKED_FOR)
    _checked(environ, "OS_CLIENT_SECURE_FILE", cloud, where=where)
    with told(where=where, cloud=cloud, file=entry):
        return openstack.config.OpenStackConfig(
            load_envvars=False,
            config_files=files(environ, "OS_CLIENT_CONFIG_FILE"),
            secure_files=files(environ, "OS_CLIENT_SECURE_FILE"),
            **options,
        )


def _names(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the entries of clouds.yaml, which could be read a moment ago."""
    document = yaml.safe_load(texts(environ).get("OS_CLIENT_CONFIG_FILE", ""))
    return [str(name) for name in (document or {}).get("clouds") or ()]


def _checked(environ: Mapping[str, str], variable: str, cloud: str, *, where: str) -> Path | None:
    """Return the file that has the entry ``cloud``, None if the first file there is has none.

    Of several places openstacksdk, too, reads the first that can be read.
    """
    for name in files(environ, variable):
        path = Path(name)
        try:
            if not path.exists():
                continue
            document = yaml.safe_load(path.read_text())
        except OSError as error:
            raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{where}: {path} is not valid YAML: {reason}", hint="mend the file") from None
        return _entry_of(document, path, cloud, where=where)
    return None


def _entry_of(document: Any, path: Path, cloud: str, *, where: str) -> Path | None:
    clouds = document.get("clouds") if isinstance(document, dict) else document
    if clouds is None:
        return None
    if not isinstance(document, dict) or not isinstance(clouds, dict):
        raise ConfigError(f"{where}: {path}: clouds is no mapping of names to entries", hint="mend the file")
    if cloud not in clouds:
        return None
    entry = clouds[cloud]
    auth = entry.get("auth", {}) if isinstance(entry, dict) else {}
    for name, value in ((f"clouds.{cloud}", entry), (f"clouds.{cloud}.auth", auth)):
        if not isinstance(value, dict):
            kind = "empty" if value is None else f"a {type(value).__name__}"
            raise ConfigError(
                f"{where}: {path}: {name} is {kind}, and has to be a mapping", hint="mend the file"
            )
    return path


@contextlib.contextmanager
def told(*, where: str, cloud: str | None = None, file: Path | None = None) -> Iterator[None]:
    """Turn every error of reading or using an entry in this block into a DibctlError that names the entry.

    Raises ConfigError, CredentialsError where something to log in with is missing.
    """
    place = f"{where}: " + (f"cloud {cloud!r} of {file or 'clouds.yaml'}: " if cloud is not None else "")
    try:
        yield
    except DibctlError:
        raise
    except (auth_exceptions.OptionError, auth_exceptions.NoMatchingPlugin) as error:
        raise CredentialsError(f"{place}not enough credentials: {_said(error)}") from None
    except Exception as error:  # noqa: BLE001 -- openstacksdk reads the file as it comes: anything may happen
        raise ConfigError(f"{place}cannot be used: {_said(error)}", hint="mend the entry") from None


def check_complete(config: Mapping[str, Any], file: Path, *, where: str, cloud: str) -> None:
    """Raise CredentialsError for an entry that lacks a value for its login; keystoneauth asks late."""
    auth = config.get("auth") or {}
    if config.get("auth_type") not in {None, "password"}:  # keystoneauth checks the others when it reads them
        return
    needed = (("auth_url",), ("username", "user_id"), ("password",))
    missing = [" or ".join(names) for names in needed if not any(auth.get(name) for name in names)]
    if missing:
        raise CredentialsError(
            f"{where}: cloud {cloud!r} of {file}: not enough credentials, missing {'; '.join(missing)}",
            hint="add them to auth of the entry, or to secure.yaml",
        )


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (
        text
        if text and not isinstance(error, KeyError | AttributeError)
        else f"{type(error).__name__} {text}"
    )


def texts(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of the clouds.yaml and secure.yaml there are, by the variable that names each.

    A file that cannot be read is left out: its use reports the error.
    """
    found = {}
    for variable in FILES:
        for path in map(Path, files(environ, variable)):
            with contextlib.suppress(OSError, ValueError):
                if path.exists():
                    found[variable] = path.read_text()
                    break
    return found


def check_certificates(config: Mapping[str, Any], *, where: str) -> None:
    """Raise ConfigError for a file of certificates, or of a key, that cannot be used."""
    verify = config.get("verify", True) and not config.get("insecure")
    authority, certificate, key = (_path(config.get(name)) for name in ("cacert", "cert", "key"))
    if verify and authority is not None:
        with _usable(authority, where, "of trusted authorities"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if authority.is_dir():
                next(authority.iterdir(), None)
            else:
                context.load_verify_locations(cafile=authority)
    if certificate is not None:
        with _usable(certificate, where, "of the client's certificate"):
            certificate.read_bytes()
    if key is not None:
        with _usable(key, where, "of the client's key"):
            key.read_bytes()


def _path(name: Any) -> Path | None:
    return Path(str(name)).expanduser() if name else None


@contextlib.contextmanager
def _usable(path: Path, where: str, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{where}: the file {what}, {path}, cannot be used: {reason}",
            hint="ssl_ca_path, or cacert in clouds.yaml, names a file of PEM certificates",
        ) from None


def urls(config: Any) -> Iterable[str]:
    """Yield every URL in a configuration: the author of the configuration vouches for it."""
    if isinstance(config, Mapping):
        for value in config.values():
            yield from urls(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from urls(value)
    elif isinstance(config, str) and config.strip().lower().startswith(("http://", "https://")):
        yield config.strip()
