"""The process that is the cloud: parent of all services, in pid and mount namespaces of its own.

When it ends, the kernel ends everything it started, guests included, and forgets every mount. It tells its
progress on stdout, until the cloud is ready.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.system import process
from tests.openstack.cloud import (
    accounts,
    bootstrap,
    config,
    databases,
    environment,
    libvirt,
    loops,
    names,
    network,
)
from tests.openstack.cloud import layout as ports
from tests.openstack.cloud.layout import Layout
from tests.openstack.cloud.services import Supervisor

KEPT_VARIABLES = ("PATH", "LANG", "TERM", "DIBCTL_TEST_CACHE")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cloud:
    """Starts the parts in the order in which they need each other."""

    layout: Layout
    venv: Path
    supervisor: Supervisor
    progress: Callable[[str], None]

    def start(self) -> None:
        """Return once the cloud is ready; raises CloudError or CommandError."""
        secrets = config.Secrets.random()
        config.Renderer(layout=self.layout, venv=self.venv, secrets=secrets).write_all()
        bootstrap.write_fernet_keys(self.layout.run)
        network.create(self.layout.base)
        self._start_rabbit()
        libvirt.start(self.layout, self.supervisor)
        first_password = self._databases().start()
        # Starting is mostly work for the processor: first what the others wait for.
        self._start_keystone()
        self.supervisor.wait_for_port("rabbit", ports.PORT_RABBIT)
        self.progress("RabbitMQ answers")
        self._start_apis()
        self.supervisor.wait_for_http("keystone", ports.PORT_KEYSTONE)
        self.progress("Keystone answers")
        clouds = bootstrap.Identity(first_password=first_password, service_password=secrets.service).fill()
        self.progress("users and endpoints are there")
        self._start_workers()
        resources = bootstrap.Resources(admin=clouds["clouds"]["admin"], supervisor=self.supervisor)
        self._wait_for_apis()
        resources.fill()
        self.progress("flavors and networks are there")
        resources.make_zones()
        accounts.write_clouds(self.layout.clouds_yaml, clouds)

    def _databases(self) -> databases.Databases:
        return databases.Databases(
            layout=self.layout, venv=self.venv, supervisor=self.supervisor, progress=self.progress
        )

    def _start_rabbit(self) -> None:
        home = self.layout.run / "rabbitmq"
        env = {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(ports.PORT_EPMD),
            "RABBITMQ_NODENAME": "dibctl@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(ports.PORT_RABBIT),
            "RABBITMQ_DIST_PORT": str(ports.PORT_RABBIT_PEERS),
            "RABBITMQ_CONFIG_FILE": str(self.layout.etc / "rabbitmq" / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.layout.log),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            # Idle schedulers that spin would take time from the others.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +S 2:2"
            ),
        }
        self.supervisor.start("epmd", "epmd", "-address", "127.0.0.1", "-port", str(ports.PORT_EPMD))
        self.supervisor.start("rabbit", "/usr/lib/rabbitmq/bin/rabbitmq-server", env=env)

    def _start_keystone(self) -> None:
        self._api(
            "keystone", ports.PORT_KEYSTONE, "keystone.wsgi.api", env={"OS_KEYSTONE_CONFIG_DIR": "keystone"}
        )

    def _start_apis(self) -> None:
        """Start what does not need the users that will be made meanwhile."""
        etc, log = self.layout.etc, self.layout.log
        self._api(
            "neutron",
            ports.PORT_NEUTRON,
            "neutron.wsgi.api",
            arguments=f"--config-file {etc}/neutron/neutron.conf --log-file {log}/neutron-api.log",
        )
        self._api(
            "nova",
            ports.PORT_NOVA,
            "nova.wsgi.osapi_compute",
            arguments=f"--log-file {log}/nova-api.log",
            env={"OS_NOVA_CONFIG_DIR": "nova"},
        )

    def _start_workers(self) -> None:
        etc = self.layout.etc
        self._program("nova-conductor", "nova-conductor", etc / "nova" / "nova.conf")
        self._api(
            "placement",
            ports.PORT_PLACEMENT,
            "placement.wsgi.api",
            env={"OS_PLACEMENT_CONFIG_DIR": "placement"},
        )
        self._program("neutron-rpc-server", "neutron-rpc-server", etc / "neutron" / "neutron.conf")
        # A compute service that asks before somebody can answer waits for ten seconds.
        self.supervisor.wait_for_log("nova-conductor", "nova-conductor.log", "Starting conductor node")
        self.supervisor.wait_for_http("placement", ports.PORT_PLACEMENT)
        self.progress("conductor and Placement are there")
        self._program("nova-compute-live", "nova-compute", etc / "nova" / "compute-live.conf")
        self._program("nova-compute-fake", "nova-compute", etc / "nova" / "compute-fake.conf")
        self._program("nova-scheduler", "nova-scheduler", etc / "nova" / "nova.conf")
        self._api("glance", ports.PORT_GLANCE, "glance.wsgi.api", env={"OS_GLANCE_CONFIG_DIR": "glance"})
        self._api(
            "glance-two", ports.PORT_GLANCE_TWO, "glance.wsgi.api", env={"OS_GLANCE_CONFIG_DIR": "glance-two"}
        )
        self._start_cinder()
        self.supervisor.wait_for_log(
            "neutron-rpc-server", "neutron-rpc-server.log", "Selected multiprocessing"
        )
        self.supervisor.start(
            "l2-agent",
            self.venv / "bin" / "python",
            Path(__file__).with_name("agent.py"),
            "--config-file",
            etc / "neutron" / "neutron.conf",
            "--log-file",
            "l2-agent.log",
            env={"DIBCTL_CLOUD_SILENT_HOSTS": config.HOST_FAKE},
        )

    def _start_cinder(self) -> None:
        configuration = self.layout.etc / "cinder" / "cinder.conf"
        self._api(
            "cinder",
            ports.PORT_CINDER,
            "cinder.wsgi.api",
            arguments=f"--config-file {configuration} --log-file {self.layout.log}/cinder-api.log",
        )
        self._program("cinder-scheduler", "cinder-scheduler", configuration)
        self.supervisor.start(
            "cinder-volume",
            self.venv / "bin" / "cinder-volume",
            "--config-file",
            configuration,
            env={"PYTHONPATH": str(Path(__file__).with_name("drivers"))},
        )

    def _wait_for_apis(self) -> None:
        for name, port in (
            ("nova", ports.PORT_NOVA),
            ("neutron", ports.PORT_NEUTRON),
            ("glance", ports.PORT_GLANCE),
            ("glance-two", ports.PORT_GLANCE_TWO),
            ("cinder", ports.PORT_CINDER),
        ):
            self.supervisor.wait_for_http(name, port)
        self.progress("all APIs answer")

    def _program(self, name: str, program: str, configuration: Path) -> None:
        self.supervisor.start(name, self.venv / "bin" / program, "--config-file", configuration)

    def _api(
        self, name: str, port: int, module: str, *, arguments: str = "", env: dict[str, str] | None = None
    ) -> None:
        """Start a WSGI application under uwsgi; values of ``env`` are folders of the configuration."""
        options = [
            "--http-socket", f"127.0.0.1:{port}",
            "--module", f"{module}:application",
            "--master", "--die-on-term", "--need-app", "--lazy-apps", "--single-interpreter",
            "--processes", "1", "--threads", "4", "--enable-threads", "--thunder-lock",
            "--buffer-size", "65535", "--post-buffering", "0",
            # A client of a busy machine may send nothing for more than 4 s, the default.
            "--socket-timeout", "60",
            # Nova uploads snapshots in chunks of unknown number; the default limit is less than one of them.
            "--http-chunked-input", "--chunked-input-limit", str(256 * 1024 * 1024),
            "--chunked-input-timeout", "60",
            # It cannot keep connections alive, and clients that are not told so fail now and then.
            "--add-header", "Connection: close",
        ]  # fmt: skip
        if arguments:
            options += ["--pyargv", arguments]
        directories = {key: str(self.layout.etc / value) for key, value in (env or {}).items()}
        self.supervisor.start(name, self.venv / "bin" / "uwsgi", *options, env=directories)


class Stopped(Exception):  # noqa: N818 -- nothing went wrong
    """Somebody asked for the end."""


class _Progress:
    """Lines with seconds on stdout; a reader that has gone ends the cloud, since nobody waits for it."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._started:6.1f} s  {what}\n")
        sys.stdout.flush()

    def close(self) -> None:
        """End the reader's file, and write nowhere from now on."""
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 -- for its descriptor
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def serve(base: Path) -> None:
    """Be the cloud in the directory ``base`` until SIGTERM, or until a service ends."""
    layout = Layout(base=base)
    progress = _Progress()
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            raise Stopped

    signal.signal(signal.SIGTERM, stop)
    venv = environment.path(layout)
    supervisor = Supervisor(log=layout.log, environment=_environment(layout, venv))
    try:
        libvirt.private_mounts(layout)
        _mount_small_stores(layout)
        Cloud(layout=layout, venv=venv, supervisor=supervisor, progress=progress).start()
        layout.ready.touch()
        progress("ready")
        progress.close()
        supervisor.watch(stopping)
    except Stopped:
        pass
    except DibctlError as error:
        layout.broken.write_text(f"{error}\n")
    except Exception:  # noqa: BLE001 -- whatever it was, who waits for the cloud must be told
        layout.broken.write_text(traceback.format_exc())
    finally:
        supervisor.terminate_all()
        network.remove()
        loops.detach(layout)


def _mount_small_stores(layout: Layout) -> None:
    """Give each Glance a second store, which is soon full."""
    for glance in ("glance", "glance-two"):
        store = layout.run / glance / names.STORE_SMALL
        store.mkdir(parents=True)
        process.run(["mount", "-t", "tmpfs", "-o", f"size={names.STORE_SIZE}", "tmpfs", str(store)])


def _environment(layout: Layout, venv: Path) -> dict[str, str]:
    """Return the variables for all services, and forget our own: they may come from a test session."""
    path = process.tool_path()
    for name in set(os.environ) - set(KEPT_VARIABLES):
        del os.environ[name]
    os.environ["PATH"] = path
    return {
        "PATH": f"{venv / 'bin'}:{path}",
        "HOME": str(layout.run),
        "TMPDIR": str(layout.run / "tmp"),
        "LC_ALL": "C.UTF-8",
        "PYTHONWARNINGS": "ignore",
    }


def be_process_1(main: Callable[[], None]) -> int:
    """Run ``main`` in a child and bury all that die here, as process 1 of a pid namespace must.

    Returns the child's exit status; SIGTERM is passed on to it. libvirt waits in vain for the end of its
    processes where nobody does this.
    """
    child = os.fork()
    if child == 0:
        main()
        return 0
    signal.signal(signal.SIGTERM, lambda number, _frame: os.kill(child, number))
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(be_process_1(lambda: serve(Path(sys.argv[1]))))
