"""Several runs of a management program for one import of it, which takes longer than most of them.

Run by the services' Python: ``manage.py MODULE PROGRAM``, with a list of lists of arguments as JSON on
stdin. Ends with the status of the first run that fails.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def main(module: str, program: str) -> int:
    """Import the module once, and run its ``main`` in a child for each list of arguments."""
    run = importlib.import_module(module).main
    for arguments in json.load(sys.stdin):
        if (child := os.fork()) == 0:
            sys.argv = [program, *arguments]
            sys.exit(run())
        if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
