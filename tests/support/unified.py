"""What a machine with control groups of the second version shows of a container's limits.

``main`` runs as root on a machine of its own, the guest of tests/nspawn/test_unified_groups.py, with its
control groups mounted at ``TOP``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Final

from pytest_dibctl.clouds.nspawn import limits

TOP: Final = Path("/sys/fs/cgroup")
GIVEN: Final = "cgroup.subtree_control"
BOTH: Final = {"memory", "processes"}
MIB: Final = 1 << 20
BOMB: Final = (
    "echo $$ > {group}/cgroup.procs; i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i + 1)); done; wait"
)


def main() -> None:
    """Look, make, limit and remove; raises AssertionError."""
    assert words(TOP / GIVEN) == set(), "somebody was here before"
    assert limits.enforced() == BOTH
    assert words(TOP / GIVEN) == set(), "looking has changed something"
    one = limits.make("dibctl-one", memory=64, processes=20)
    assert one.enforced == BOTH
    assert words(TOP / GIVEN) >= {"memory", "pids"}
    two = limits.make("dibctl-two", memory=32, processes=10)
    assert [path.name for path in (*one.paths, *two.paths)] == ["dibctl-one", "dibctl-two"]
    assert (TOP / "dibctl-one/memory.max").read_text() == f"{64 * MIB}\n"
    fork(TOP / "dibctl-one", 20)
    limits.remove("dibctl-one")
    limits.remove("dibctl-one")
    assert not (TOP / "dibctl-one").exists()
    assert (TOP / "dibctl-two/pids.max").read_text() == "10\n", "another's limits have gone as well"
    limits.remove("dibctl-two")
    as_in_a_container()


def as_in_a_container() -> None:
    """Have a group be the top of what is mounted, at first with processes in it."""
    outer, top = TOP / "outer", Path("/mnt")
    outer.mkdir()
    (outer / "cgroup.procs").write_text(f"{os.getpid()}\n")
    subprocess.run(["mount", "-o", "bind", str(outer), str(top)], check=True)
    subprocess.run(["umount", str(TOP)], check=True)
    assert [hierarchy.top for hierarchy in limits.hierarchies()] == [top]
    assert limits.enforced() == set()
    made = limits.make("dibctl-three", memory=64, processes=20)
    assert made.enforced == set()
    assert [path.name for path in made.paths] == ["dibctl-three"]
    limits.remove("dibctl-three")
    (top / "leaf").mkdir()
    for pid in words(top / "cgroup.procs"):
        (top / "leaf/cgroup.procs").write_text(f"{pid}\n")
    assert limits.enforced() == BOTH
    assert words(top / GIVEN) == set()
    assert limits.make("dibctl-four", memory=64, processes=20).enforced == BOTH
    limits.remove("dibctl-four")


def fork(group: Path, most: int) -> None:
    """Start more processes in a group than it may have, and count them."""
    with subprocess.Popen(["sh", "-c", BOMB.format(group=group)], stderr=subprocess.DEVNULL) as bomb:
        seen = 0
        deadline = time.monotonic() + 60
        while seen < most and time.monotonic() < deadline:
            seen = max(seen, int((group / "pids.current").read_text()))
            time.sleep(0.05)
        time.sleep(0.5)
        seen = max(seen, int((group / "pids.current").read_text()))
        with contextlib.suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        bomb.wait()
    assert seen == most, seen


def words(path: Path) -> set[str]:
    """Return the words of a file of control groups."""
    return set(path.read_text().split())


if __name__ == "__main__":
    main()
