"""Where the cloud keeps its files and where it listens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pytest_dibctl.errors import PreflightError
from tests.support import micro

REPOSITORY = Path(__file__).resolve().parents[3]

LONGEST_DIRECTORY = 60
"""Characters; the paths of unix sockets below it end at 107."""

# Away from the services' usual ports, and below those that the kernel hands out.
PORT_KEYSTONE = 15000
PORT_GLANCE = 15292
PORT_GLANCE_TWO = 15293
PORT_NEUTRON = 15696
PORT_NOVA = 15774
PORT_CINDER = 15776
PORT_PLACEMENT = 15778
PORT_RABBIT = 15672
PORT_RABBIT_PEERS = 15673
PORT_EPMD = 15369

PORTS = (
    PORT_KEYSTONE,
    PORT_GLANCE,
    PORT_GLANCE_TWO,
    PORT_NEUTRON,
    PORT_NOVA,
    PORT_CINDER,
    PORT_PLACEMENT,
    PORT_RABBIT,
    PORT_RABBIT_PEERS,
    PORT_EPMD,
)

AUTH_URL = f"http://127.0.0.1:{PORT_KEYSTONE}/v3"


def default_directory() -> Path:
    """Return where the cloud lives unless a directory is named."""
    return micro.cache_directory() / "openstack"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of one cloud. All but the caches are in ``run``, which exists while the cloud does."""

    base: Path

    @classmethod
    def at(cls, directory: Path | None) -> Layout:
        """Return the layout in ``directory``, or in the default one; raises PreflightError for a bad one."""
        base = (directory or default_directory()).absolute()
        if len(str(base)) > LONGEST_DIRECTORY:
            raise PreflightError(
                f"{base}: too long for the unix sockets in it (more than {LONGEST_DIRECTORY} characters)",
                hint="name a shorter one with --directory, or set DIBCTL_TEST_CACHE",
            )
        if base.is_relative_to("/run"):
            raise PreflightError(f"{base}: the cloud hides /run from its services, it cannot live there")
        return cls(base=base)

    @property
    def lock(self) -> Path:
        """Held by whoever starts or stops the cloud."""
        return self.base / "lock"

    @property
    def run(self) -> Path:
        """What lives and dies with the cloud."""
        return self.base / "run"

    @property
    def failed(self) -> Path:
        """The logs of the last cloud that failed."""
        return self.base / "failed"

    @property
    def etc(self) -> Path:
        """The services' configuration, a folder each."""
        return self.run / "etc"

    @property
    def log(self) -> Path:
        """The services' logs."""
        return self.run / "log"

    @property
    def state(self) -> Path:
        """Which processes the cloud is, as JSON."""
        return self.run / "state.json"

    @property
    def ready(self) -> Path:
        """There once the cloud answers."""
        return self.run / "ready"

    @property
    def broken(self) -> Path:
        """There once a service has ended; says which."""
        return self.run / "broken"

    @property
    def volumes(self) -> Path:
        """Cinder's volumes, a file each."""
        return self.run / "cinder" / "volumes"

    @property
    def users(self) -> Path:
        """The test sessions that use the cloud, a file each."""
        return self.run / "users"

    @property
    def lanes(self) -> Path:
        """Locks and clients' configurations of the lanes."""
        return self.run / "lanes"

    @property
    def clouds_yaml(self) -> Path:
        """The clients' configuration."""
        return self.run / "clouds.yaml"

    @property
    def database_socket(self) -> Path:
        """MariaDB's."""
        return self.run / "mysql.sock"

    @property
    def databases(self) -> Path:
        """MariaDB's files."""
        return self.run / "mysql"
