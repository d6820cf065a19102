"""How the models of the configuration are built."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from pytest_dibctl.config.models.command import Preprocessing
print(Preprocessing.__pydantic_complete__)
"""


def test_the_model_that_threads_of_an_upload_instantiate_is_built_on_import() -> None:
    built = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    assert built.stdout == "True\n"
