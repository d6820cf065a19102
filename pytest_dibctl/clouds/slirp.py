"""slirp4netns: the way out of a network namespace, and the way in to its ports.

It refuses this machine's loopback, and routes of the namespace refuse this machine's other addresses.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_dibctl.errors import CommandError, InstanceError
from pytest_dibctl.system import bounded_log, process, sockets, user_network

API: Final = "net.sock"
LOG: Final = "network.log"
READY: Final = 20.0
"""Seconds that slirp4netns may take to configure the namespace; it takes 0.02."""
LOG_LIMIT: Final = 1 << 20
FREE_PORT_TRIES: Final = 20
"""A free port may be taken between the moment it is found and the moment it is used."""


def forwards(api: Path) -> dict[int, int]:
    """Return the loopback port of each TCP port that is forwarded; raises InstanceError without an answer."""
    entries = _call(api, "list_hostfwd").get("entries")
    return {
        entry["guest_port"]: entry["host_port"]
        for entry in (entries if isinstance(entries, list) else ())
        if entry["proto"] == "tcp"
    }


def forward(
    api: Path, port: int, *, address: str, section: str, host: int = 0, named: int | None = None
) -> None:
    """Forward the loopback port ``host`` (0: a free one) to TCP ``port`` of ``address`` in the namespace.

    Messages call the port ``named``, and point to the section of test.yaml. Raises InstanceError.
    """
    for attempt in range(1, FREE_PORT_TRIES + 1):
        rule = {"proto": "tcp", "host_addr": user_network.LOOPBACK, "host_port": host or _free_port()}
        try:
            _call(api, "add_hostfwd", {**rule, "guest_addr": address, "guest_port": port})
        except InstanceError as error:
            if host:
                raise InstanceError(
                    f"port {host} of this machine cannot lead to the guest's port {named or port}, as "
                    f"{section}.forward_ports says: {error.message}",
                    hint=f"another program, or another guest, has it (`ss -ltnp sport = :{host}`): name "
                    "another host port, or leave it out and get a free one",
                ) from None
            if attempt == FREE_PORT_TRIES:
                raise
        else:
            return


def _call(api: Path, command: str, arguments: Mapping[str, object] | None = None) -> dict[str, Any]:
    request = {"execute": command, **({"arguments": arguments} if arguments else {})}
    try:
        with sockets.connected(api) as connection:
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            answer = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
    except (OSError, ValueError) as error:
        raise InstanceError(f"slirp4netns does not answer ({command}): {error}") from None
    if "error" in answer:
        raise InstanceError(f"slirp4netns refused {command}: {answer['error'].get('desc')}")
    returned = answer.get("return", answer)  # some versions answer a list without the envelope
    return returned if isinstance(returned, dict) else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((user_network.LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def connect(
    pid: int, directory: Path, *, end: int, section: str, host_loopback: bool = False
) -> tuple[subprocess.Popen[str], ...]:
    """Give the new network namespace of process ``pid`` its way out; return the processes that serve it.

    ``section`` is that of test.yaml, for messages. With ``host_loopback`` the way leads to this machine too.
    They end by themselves when the last process ends that holds the other end of the pipe ``end``. The caller
    reaps them. Raises InstanceError when the network cannot be made.
    """
    ready, ready_end = os.pipe()
    options = ["--configure", "--enable-sandbox", "--enable-seccomp"]
    if not host_loopback:
        options.append("--disable-host-loopback")
    descriptors = ["--exit-fd", str(end), "--ready-fd", str(ready_end)]
    helpers: list[subprocess.Popen[str]] = []
    try:
        with (
            bounded_log.writer(directory / LOG, limit=LOG_LIMIT) as (sink, copier),
            os.fdopen(sink, "wb", closefd=False) as log,
        ):
            helpers.append(copier)
            helpers.append(
                process.start(
                    ["slirp4netns", *options, *descriptors, "--api-socket", API, str(pid), "tap0"],
                    cwd=directory,
                    stdout=log,
                    stderr=log,
                    pass_fds=(end, ready_end),
                    env={process.RUN: ""},
                )
            )
        os.close(ready_end)
        ready_end = -1
        _await_ready(ready, directory / LOG, section)
        if not host_loopback:
            _refuse_own_addresses(pid)
    except BaseException:
        for helper in reversed(helpers):
            process.stop(helper, grace=0)
        raise
    finally:
        os.close(ready)
        if ready_end >= 0:
            os.close(ready_end)
    return tuple(helpers)


def _await_ready(descriptor: int, log: Path, section: str) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(READY * 1000) and os.read(descriptor, 1) == b"1":
        return
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()[-5:]
    raise InstanceError(
        "slirp4netns gave the guest no network" + "".join(f"\n  {line}" for line in lines),
        hint="it needs /dev/net/tun"
        + ("; qemu.host_loopback: true does without, and lets the guest reach services of this machine")
        * (section == "qemu"),
    )


def _refuse_own_addresses(pid: int) -> None:
    """Keep the guest from this machine's addresses, at which services that listen on all of them answer."""
    enter = ["nsenter", "--target", str(pid), "--net"]
    if os.geteuid() != 0:
        enter += ["--user", "--preserve-credentials"]
    batch = "".join(f"route add unreachable {prefix}\n" for prefix in own_addresses())
    try:
        process.run([*enter, "--", "ip", "-batch", "-"], stdin=batch, timeout=READY)
    except CommandError as error:
        raise InstanceError(
            f"this machine's addresses cannot be closed to the guest: {error.message}"
        ) from None


def own_addresses() -> tuple[str, ...]:
    """Return the IPv4 addresses, and whole prefixes, that this machine takes for its own; not 127.0.0.0/8.

    Raises CommandError when they cannot be read.
    """
    command = ["ip", "-json", "-4", "route", "show", "table", "local", "type", "local"]
    routes = json.loads(process.run(command, timeout=READY).output or "[]")
    return tuple(dict.fromkeys(str(route["dst"]) for route in routes if not route["dst"].startswith("127.")))
