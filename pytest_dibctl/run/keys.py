"""The third step of a target: the ssh key that opens its instance."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from pytest_dibctl.clouds.protocols import Cloud
from pytest_dibctl.errors import CredentialsError, NotInConfigError
from pytest_dibctl.guest.keys import SshKey
from pytest_dibctl.run.environments import find_instance
from pytest_dibctl.run.keeping import keep, keeps_instance
from pytest_dibctl.run.target_run import TargetRun, confirmed, disk_errors, host_name, remove_directory


@contextlib.contextmanager
def keypair(target_run: TargetRun, cloud: Cloud) -> Iterator[SshKey]:
    """Make an ed25519 key and import its public half into the cloud, or use the file that was named.

    Both are removed when the block ends, unless the instance they open is kept. Raises DibctlError.
    """
    run_options = target_run.options
    if run_options.existing_instance is not None:
        yield _key_of_existing(target_run)
        return
    # Nova allows 255 characters; the label is only there for people.
    name = f"dibctl-{target_run.ledger.run_id}-{host_name(target_run.label)[:100]}-{uuid.uuid4().hex[:6]}"
    with contextlib.ExitStack() as stack:
        if run_options.private_key_file is not None:
            key = SshKey.from_file(run_options.private_key_file)
        else:
            key = stack.enter_context(_made_key(target_run, name))
        stack.enter_context(_imported(target_run, cloud, key, name))
        yield key


def _key_of_existing(target_run: TargetRun) -> SshKey:
    run_options = target_run.options
    assert run_options.existing_instance is not None
    if run_options.private_key_file is not None:
        return SshKey.from_file(run_options.private_key_file)
    try:
        _, kept = find_instance(run_options.existing_instance)
    except NotInConfigError:
        raise CredentialsError(
            f"there is no ssh key for {run_options.existing_instance}: no run on this machine made it",
            hint="name the key with --dib-private-key-file (dibctl: --private-key-file)",
        ) from None
    return SshKey.from_file(Path(kept.details["key"]))


@contextlib.contextmanager
def _made_key(target_run: TargetRun, name: str) -> Iterator[SshKey]:
    directory = target_run.ledger.directory / f"key-{name}"
    record = target_run.record_local("key", name, directory=str(directory))
    try:
        with disk_errors():
            directory.mkdir(mode=0o700)
            key = SshKey.generate(directory, comment=name)
        yield key
    finally:
        if keeps_instance(target_run):
            record.keep("its instance was kept")
        else:
            with target_run.removal(record.resource, record):
                remove_directory(directory)


@contextlib.contextmanager
def _imported(target_run: TargetRun, cloud: Cloud, key: SshKey, name: str) -> Iterator[None]:
    record = target_run.record(cloud, "keypair", name, fingerprint=key.nova_fingerprint)
    target_run.guest.key_name = name
    try:
        with target_run.phase("boot"):
            cloud.import_key(key, name=name)
        record = confirmed(record)
        yield
    finally:
        if keeps_instance(target_run):
            keep(cloud, record, "its instance was kept", seconds=None)
        else:
            with target_run.removal(record.resource, record):
                cloud.delete_key(name, fingerprint=key.nova_fingerprint)
