"""The addresses of a local instance's own network: QEMU's defaults, which containers have too."""

from __future__ import annotations

from typing import Final

LOOPBACK: Final = "127.0.0.1"
"""Where this machine reaches the ports of instances."""
NETWORK: Final = "10.0.2.0/24"
GUEST: Final = "10.0.2.15"
GATEWAY: Final = "10.0.2.2"
RESOLVER: Final = "10.0.2.3"
"""Where DNS queries are answered, by QEMU or slirp4netns, with the answers of this machine's resolver."""
