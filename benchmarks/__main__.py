"""``python -m benchmarks [NAME...] [--json FILE] [-- ARGUMENT...]``: paired measurements as one table."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page
from benchmarks.rows import Row, table

USUAL = (
    *("startup", "loading", "reuse", "builds", "session", "packer", "commands"),
    *("first_test", "warm", "workers"),
)
"""What takes less than 15 minutes on two cores; the image that the first builds is there for the others."""
NAMES = (*USUAL, "first_line", "containers", "openstack_flow", "rotate", "upload")
"""Those that are not usual need more of the machine, and run when they are named."""


def main() -> int:
    """Run the named benchmarks, or the usual ones; print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.* from the rows")
    given, arguments = split(sys.argv[1:])
    options = parser.parse_args(given)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"there is no benchmark {', '.join(unknown)}")
    if arguments and len(options.names) != 1:
        parser.error("arguments after -- are for one benchmark")
    rows = [row for name in options.names or USUAL for row in measured(name, arguments)]
    print(table(rows))
    document = {"machine": machine(), "rows": [row.as_data() for row in rows]}
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.docs:
        page.write(document)
    return 0


def measured(name: str, arguments: Sequence[str] = ()) -> list[Row]:
    """Return the rows of one benchmark; one that cannot run here has a row that says why."""
    started = time.monotonic()
    print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
    try:
        rows = list(importlib.import_module(f"benchmarks.{name}").rows(*arguments))
    except (SystemExit, OSError) as error:
        last = [*str(error).strip().splitlines(), "it failed"][0]
        rows = [Row(figure=name, missing=f"not measured: {last}")]
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    return rows


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.platform()),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before ``--``, and what after it."""
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


if __name__ == "__main__":
    sys.exit(main())
