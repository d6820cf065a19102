"""MariaDB, and the services' schemas in it, which are made once and kept in the cache."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_dibctl.system import process
from tests.openstack.cloud import bootstrap, environment, names
from tests.openstack.cloud import layout as ports
from tests.openstack.cloud.layout import Layout
from tests.openstack.cloud.services import Supervisor

DATABASES = (
    "keystone",
    "glance",
    "glance_two",
    "placement",
    "nova_api",
    "nova",
    "nova_cell0",
    "neutron",
    "cinder",
)

MANAGE = Path(__file__).with_name("manage.py")

MODULES: Mapping[str, str] = {
    "keystone-manage": "keystone.cmd.manage",
    "placement-manage": "placement.cmd.manage",
    "glance-manage": "glance.cmd.manage",
    "nova-manage": "nova.cmd.manage",
    "neutron-db-manage": "neutron.db.migration.cli",
    "cinder-manage": "cinder.cmd.manage",
}
"""Where each management program has its ``main``."""

CONFIGURATIONS: Mapping[str, str] = {
    "keystone": "keystone.conf",
    "placement": "placement.conf",
    "glance": "glance-api.conf",
    "glance-two": "glance-api.conf",
    "nova": "nova.conf",
    "neutron": "neutron.conf",
    "cinder": "cinder.conf",
}
"""The services' files in their folders."""

SYNC_TIMEOUT = 600
"""Seconds for one management program."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Databases:
    """The databases of a cloud. ``start`` leaves MariaDB running under ``supervisor``."""

    layout: Layout
    venv: Path
    supervisor: Supervisor
    progress: Callable[[str], None]

    @property
    def _prepared(self) -> Path:
        return self.layout.base / f"databases-{self._digest()}"

    def _digest(self) -> str:
        """Return what changes when the prepared databases are no longer what would be made."""
        server = process.run(["mariadbd", "--version"]).output
        made_of = f"{environment.digest()}\n{server}\n{Path(__file__).read_text()}{MANAGE.read_text()}"
        return hashlib.sha256(made_of.encode()).hexdigest()[:8]

    def start(self) -> str:
        """Start MariaDB with every schema in place; return the password of Keystone's first user."""
        if not self._prepared.exists():
            self._prepare()
        process.run(["cp", "-a", "--reflink=auto", str(self._prepared / "mysql"), str(self.layout.databases)])
        self._start_server()
        return (self._prepared / "password").read_text()

    def _prepare(self) -> None:
        for stale in self.layout.base.glob("databases-*"):
            shutil.rmtree(stale)
        password = secrets.token_urlsafe(16)
        self._install()
        self._start_server()
        self._create_databases()
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for done in [pool.submit(self._run, program) for program in self._programs(password)]:
                done.result()
        # Only a server that has ended in order leaves files that can be copied.
        self.supervisor.stop("mariadb", grace=30)
        self._keep(password)
        self.progress("databases kept for the next time")

    def _keep(self, password: str) -> None:
        building = self.layout.base / "databases-building"
        building.mkdir(mode=0o700)
        self.layout.databases.rename(building / "mysql")
        (building / "password").touch(mode=0o600)
        (building / "password").write_text(password)
        building.rename(self._prepared)

    def _install(self) -> None:
        process.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={self.layout.databases}",
                "--user=root",
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ],
        )

    def _start_server(self) -> None:
        # Nothing here need survive a power cut: durability is off wherever it can be.
        self.supervisor.start(
            "mariadb",
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={self.layout.databases}",
            f"--socket={self.layout.database_socket}",
            f"--pid-file={self.layout.run}/mariadbd.pid",
            "--skip-networking",
            "--skip-name-resolve",
            "--character-set-server=utf8mb3",
            "--max-connections=400",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=O_DIRECT_NO_FSYNC",
            "--innodb-doublewrite=0",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=8M",
            "--sync-binlog=0",
        )
        self.supervisor.wait("mariadb", "answer on its socket", self._answers, timeout=60)
        self.progress("MariaDB answers")

    def _answers(self) -> bool:
        return process.run([*self._client("mariadb-admin"), "ping"], check=False).returncode == 0

    def _client(self, program: str) -> list[str]:
        return [program, "--no-defaults", "--user=root", f"--socket={self.layout.database_socket}"]

    def _create_databases(self) -> None:
        statements = "".join(f"create database {name} character set utf8mb3;\n" for name in DATABASES)
        process.run(self._client("mariadb"), stdin=statements)

    def _programs(self, password: str) -> Sequence[_Program]:
        """Return what fills the databases, the longest first; none waits for another."""
        # What is in braces Nova fills in from its configuration: other directories and passwords do no harm.
        cell_urls = [
            "--database_connection",
            "{scheme}://{username}@{hostname}/nova?{query}",
            "--transport-url",
            "{scheme}://{username}:{password}@{hostname}:{port}/",
        ]
        cell0_url = ["--database_connection", "{scheme}://{username}@{hostname}/nova_cell0?{query}"]
        first = bootstrap.FIRST_USER
        bootstrapping = ["bootstrap", "--bootstrap-region-id", names.REGION]
        bootstrapping += ["--bootstrap-username", first.name, "--bootstrap-project-name", first.project]
        for interface in ("public", "internal", "admin"):
            bootstrapping += [f"--bootstrap-{interface}-url", ports.AUTH_URL]
        return (
            self._program(
                "nova-manage",
                ("nova", ["api_db", "sync"]),
                ("nova", ["cell_v2", "map_cell0", *cell0_url]),
                ("nova", ["cell_v2", "create_cell", "--name", "cell1", *cell_urls]),
                ("nova", ["db", "sync"]),
            ),
            # The password not as an argument: everybody can read those.
            dataclasses.replace(
                self._program("keystone-manage", ("keystone", ["db_sync"]), ("keystone", bootstrapping)),
                env={"OS_BOOTSTRAP_PASSWORD": password},
            ),
            self._program("neutron-db-manage", ("neutron", ["upgrade", "heads"])),
            self._program("glance-manage", ("glance", ["db_sync"]), ("glance-two", ["db_sync"])),
            self._program("cinder-manage", ("cinder", ["db", "sync"])),
            self._program("placement-manage", ("placement", ["db", "sync"])),
        )

    def _program(self, program: str, *runs: tuple[str, list[str]]) -> _Program:
        """Return a program to be run with a service's configuration and arguments, one after the other."""
        return _Program(
            name=program,
            runs=tuple(
                ("--config-file", str(self.layout.etc / service / CONFIGURATIONS[service]), *arguments)
                for service, arguments in runs
            ),
        )

    def _run(self, program: _Program) -> None:
        process.run(
            [str(self.venv / "bin" / "python"), str(MANAGE), MODULES[program.name], program.name],
            stdin=json.dumps(program.runs),
            env={**self.supervisor.environment, **program.env},
            timeout=SYNC_TIMEOUT,
            join_stderr=True,
        )
        self.progress(f"{program.name} is done")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Program:
    name: str
    runs: tuple[tuple[str, ...], ...]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
