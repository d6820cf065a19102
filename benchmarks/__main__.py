"""``python -m benchmarks [NAME...]``: paired measurements in one run, printed as medians and ratios."""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = ("startup", "reuse")


def main() -> int:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    for name in parser.parse_args().names or NAMES:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name}")
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
