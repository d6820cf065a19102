"""A quicker start of diskimage-builder's own Python programs, where that is known to work."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_dibctl.system import process

_PYTHON: Final = "DIB_PYTHON_EXEC"
_OURS: Final = "DIBCTL_PYTHON"
_PROVIDED: Final = frozenset({"DiGraph", "topological_sort"})
_USED_FOR_DEBUGGING: Final = frozenset({"nx_pydot", "Digraph"})
"""Behind DUMP_CONFIG_GRAPH, and in a docstring."""
_GRAPH: Final = frozenset({"nodes", "node", "add_node", "add_edge"})
"""Used of a graph; ``node`` only where there are no ``nodes``."""


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make disk-image-create's own programs start sooner; none where not sure.

    ``given`` is the image's environment: what it or the caller says of Python or of graphs stays.
    """
    variables = {**os.environ, **given}
    if _PYTHON in variables or "DUMP_CONFIG_GRAPH" in variables or not usable():
        return {}
    return {_PYTHON: str(Path(__file__).with_name("python")), _OURS: process.interpreter()}


def usable() -> bool:
    """Whether the installed diskimage-builder uses of networkx no more than what is here."""
    from diskimage_builder import paths

    folder = Path(paths.get_path("lib")).parent / "block_device"
    try:
        texts = [file.read_text() for file in folder.rglob("*.py") if "tests" not in file.parts]
    except OSError:
        return False
    users = [text for text in texts if "networkx" in re.sub(r"#.*", "", text)]
    return all(_is_known(text) for text in users)


def _is_known(text: str) -> bool:
    code = re.sub(r"#.*", "", text)
    imports = re.findall(r"^\s*(?:import|from)\s+networkx.*$", code, re.MULTILINE)
    return (
        all(line.strip() == "import networkx as nx" for line in imports)
        and set(re.findall(r"\bnx\.(\w+)", code)) <= _PROVIDED | _USED_FOR_DEBUGGING
        and set(re.findall(r"\bdg\.(\w+)", code)) <= _GRAPH
    )
