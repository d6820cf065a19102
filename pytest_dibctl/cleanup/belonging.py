"""To which cloud a record belongs. Its environment's label is no proof: it may mean another cloud by now.

Only a login that shows the identity which is on record may look for the resource, or find it gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from pytest_dibctl.errors import DibctlError, NotInConfigError
from pytest_dibctl.run.ledger import Record
from pytest_dibctl.system import host


def cloud_of(record: Record) -> Mapping[str, str]:
    """Return the identity of a record's cloud; raises DibctlError where an older version wrote none."""
    identity = record.details.get("cloud")
    if not isinstance(identity, dict) or not identity:
        raise DibctlError(
            f"its record does not identify its cloud (environment {record.details.get('environment')}); "
            f"remove it there by hand, then {record.path}"
        )
    return {str(key): str(text) for key, text in identity.items()}


def refuse_other(recorded: Mapping[str, str], shown: Mapping[str, str], label: str) -> None:
    """Raise DibctlError unless a login of environment ``label`` leads to the recorded cloud."""
    if dict(recorded) == dict(shown):
        return
    if recorded.get("engine") == "qemu":
        raise DibctlError(f"it belongs to {described(recorded)}; run `dibctl cleanup` there")
    raise DibctlError(
        f"it is in {described(recorded)}; environment {label} leads to {described(shown)}; {_way(label)}"
    )


def refuse_other_machine(recorded: Mapping[str, str]) -> None:
    """Raise DibctlError unless ``recorded`` is this machine and user."""
    if not recorded:
        raise DibctlError("its run's record does not name the machine; remove the directory by hand")
    refuse_other(recorded, host.identity(), "")


@contextlib.contextmanager
def told(recorded: Mapping[str, str], label: str) -> Iterator[None]:
    """Add to the error of an environment that is not there which cloud is wanted."""
    try:
        yield
    except NotInConfigError as error:
        raise DibctlError(f"{error.message}; it is in {described(recorded)}; {_way(label)}") from None


def _way(label: str) -> str:
    return (
        f"let {label} in test.yaml log in there (its project, region and user), and run `dibctl cleanup` "
        "again"
    )


def described(identity: Mapping[str, str]) -> str:
    """Return an identity in words."""
    if identity.get("engine") == "qemu":
        return f"machine {identity.get('hostname')} ({identity.get('machine')}), user {identity.get('uid')}"
    keys = ("project", "region", "user", "image_endpoint")
    named = [f"{key.replace('_', ' ')} {identity[key]}" for key in keys if identity.get(key)]
    return ", ".join([identity.get("keystone") or "a cloud without a Keystone", *named])
