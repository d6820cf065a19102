"""``python -m benchmarks [NAME...] [-- ARGUMENT...]``: paired measurements, as medians and ratios."""

from __future__ import annotations

import argparse
import importlib
import sys

USUAL = ("startup", "loading", "reuse", "workers")
NAMES = (*USUAL, "openstack_flow", "rotate", "upload", "builds", "containers", "warm")
"""Those that are not usual need more of the machine, and run when they are named."""
TAKE_ARGUMENTS = ("workers", "rotate", "upload", "builds", "containers", "warm")


def main() -> int:
    """Run the named benchmarks, or the usual ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    given, arguments = split(sys.argv[1:])
    for name in parser.parse_args(given).names or USUAL:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name}")
        if arguments and name not in TAKE_ARGUMENTS:
            parser.error(f"{name} takes no arguments")
        importlib.import_module(f"benchmarks.{name}").main(*arguments)
    return 0


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before ``--``, and what after it."""
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


if __name__ == "__main__":
    sys.exit(main())
