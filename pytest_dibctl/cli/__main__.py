"""``python -m pytest_dibctl.cli`` is ``dibctl``."""

from __future__ import annotations

import sys

from pytest_dibctl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
