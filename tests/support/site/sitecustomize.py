"""For a guardian of a run on the in-memory cloud, which must not be left to look for a real one.

Tests put this folder on PYTHONPATH; only guardians are concerned.
"""

import os
import sys

if "pytest_dibctl.guardian" in sys.orig_argv and "MEMORY_CLOUD_LOG" in os.environ:
    from tests.support import memory

    memory.install()
