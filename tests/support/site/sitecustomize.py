"""For processes that tests start and that nobody can reach into. Tests put this folder on PYTHONPATH.

A guardian of a run on the in-memory cloud must not look for a real one; ``$FAULTS_IN_FLIGHT`` (seconds) cuts
short how long what may still appear is waited for, where the services are known to be that quick.
"""

import os
import sys

if "pytest_dibctl.cleanup.guardian" in " ".join(sys.orig_argv) and "MEMORY_CLOUD_LOG" in os.environ:
    from tests.support import memory

    memory.install()

if "FAULTS_IN_FLIGHT" in os.environ:
    from pytest_dibctl.clouds import protocols

    protocols.IN_FLIGHT = float(os.environ["FAULTS_IN_FLIGHT"])
