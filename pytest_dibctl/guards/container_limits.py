"""How much memory and how many processes a container may take: control groups, or limits of a process."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

MIB: Final = 1 << 20
FIRST_TO_GO: Final = 1000
"""The score of a process that the kernel takes first when memory runs out."""


def enter(spec: Mapping[str, Any]) -> None:
    """Put this process, which becomes systemd-nspawn, under the container's limits; raises OSError."""
    Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))
    for group in spec["groups"]:
        (Path(group) / "cgroup.procs").write_text("0\n")
    if "processes" not in spec["enforced"]:
        # All users of a user namespace together may have as many processes as its maker (ucounts).
        resource.setrlimit(resource.RLIMIT_NPROC, (spec["processes"], spec["processes"]))
    if "memory" not in spec["enforced"]:
        limit = spec["memory"] * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
