"""Commands in a guest: ours over the run's one connection, beside bare ssh over it and testinfra's default.

The guest is a micro container, whose programs cost next to nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import testinfra

from benchmarks import paired
from benchmarks.rows import Row
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.image import artifact
from pytest_dibctl.plugin import host
from tests.nspawn.bench import Bench
from tests.support import micro

ROUNDS = 40


def rows(rounds: str = str(ROUNDS)) -> Iterator[Row]:
    """Yield a row for each way to run a command."""
    with tempfile.TemporaryDirectory(prefix="commands-") as name, contextlib.ExitStack() as stack:
        bench = Bench(Path(name))
        stack.callback(bench.stack.close)
        access = bench.ready(bench.boot(artifact.inspect(micro.cached() / "micro.qcow2")))
        ours = host.connect(access)
        theirs = _default(access, Path(name))
        bare = [*access.command_line(), "--", "true"]
        times = int(rounds)
        pair = paired.measure(lambda: ours.run("true"), lambda: theirs.run("true"), rounds=times)
        yield Row.of_pair("command over ssh", pair, peer="testinfra's default ssh")
        pair = paired.measure(lambda: ours.run("true"), lambda: _bare(bare), rounds=times)
        yield Row.of_pair("command over ssh, of host", pair, peer="bare ssh over the same connection")
        pair = paired.measure(lambda: access.run("true"), lambda: _bare(bare), rounds=times)
        yield Row.of_pair("command over ssh, of ssh_access", pair, peer="bare ssh over the same connection")


def _bare(argv: list[str]) -> None:
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def _default(access: SshAccess, directory: Path) -> Any:
    """Return a testinfra host as a user would have it: the key, and testinfra's own options."""
    config = directory / "plain"
    config.write_text(
        f"Host plain\n  HostName {access.ip}\n  Port {access.port}\n  User {access.username}\n"
        f"  IdentityFile {access.key.private_key_file}\n  UserKnownHostsFile {access.known_hosts}\n"
        "  IdentitiesOnly yes\n  BatchMode yes\n"
    )
    return testinfra.get_host("ssh://plain", ssh_config=str(config))
