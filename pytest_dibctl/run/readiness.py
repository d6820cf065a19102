"""Waiting for a guest: for a login, for a port, with the console's last words where it fails."""

from __future__ import annotations

import time

from pytest_dibctl.clouds.protocols import Instance
from pytest_dibctl.config import merge
from pytest_dibctl.errors import InstanceError, PortTimeoutError
from pytest_dibctl.guest.port_probe import port_answers
from pytest_dibctl.guest.ssh import SshAccess
from pytest_dibctl.run import naming
from pytest_dibctl.run.target_run import TargetRun
from pytest_dibctl.system.waiting import wait_until


def wait_ready(
    target_run: TargetRun, instance: Instance, access: SshAccess, *, listening: bool = False
) -> None:
    """Wait for a login, then for ``wait_for_port``; ``listening``: the ssh server is known to listen.

    Raises PortTimeoutError and InstanceError, with the named cause first.
    """
    deadline = target_run.deadlines.port
    try:
        waited = access.wait_ready(
            timeout=deadline,
            check=instance.check,
            progress=target_run.progress,
            console=instance.console_output,
            listening=listening,
        )
        wait_for_configured_port(target_run, instance, timeout=max(0.0, deadline - waited))
    except (PortTimeoutError, InstanceError) as error:
        raise naming.explained(target_run, error, instance) from None


def wait_for_configured_port(target_run: TargetRun, instance: Instance, *, timeout: float) -> None:
    """Wait for the port that the image names besides ssh, if it does; raises as ``wait_for_port`` does."""
    port = target_run.image.settings.tests.wait_for_port
    _, ssh_port = merge.login(target_run.image)
    if port is not None and port != ssh_port:
        wait_for_port(instance, port, timeout=timeout)


def wait_for_port(instance: Instance, port: int, *, timeout: float) -> float:
    """Wait until the guest's TCP ``port`` answers; return the seconds it took.

    Raises InstanceError if the instance dies meanwhile, PortTimeoutError after ``timeout`` seconds.
    """
    endpoint = instance.endpoint(port)
    started = time.monotonic()

    def answers() -> bool:
        if port_answers(endpoint.ip, endpoint.port):
            return True
        instance.check()
        return False

    if not wait_until(answers, timeout=timeout, poll=0.25):
        raise PortTimeoutError(
            f"port {port} of {instance.name} (reached as {endpoint.ip}:{endpoint.port}) gave no answer "
            f"within {timeout:g} s",
            hint="check that the service listens on all addresses, the guest's firewall, and the number: "
            "`wait_for_port` in images.yaml, or the test's own",
            symptom="login-done",
        )
    return time.monotonic() - started
