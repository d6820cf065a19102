"""The small networkx does what networkx does for diskimage-builder's block devices."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dibctl.build import light
from pytest_dibctl.build.light import networkx as small

networkx: Any = importlib.import_module("networkx")

NODES = [f"node{number}" for number in range(8)]
EDGES = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda edge: edge[0] < edge[1]))


@given(order=st.permutations(NODES), edges=EDGES)
def test_nodes_are_sorted_as_networkx_sorts_them(order: list[str], edges: list[tuple[int, int]]) -> None:
    graphs = (networkx.DiGraph(), small.DiGraph())
    for graph in graphs:
        for name in order:
            graph.add_node(name, obj=name.upper())
        for tail, head in edges:
            graph.add_edge(NODES[tail], NODES[head])
    big, little = graphs
    assert list(small.topological_sort(little)) == list(networkx.topological_sort(big))
    assert dict(little.nodes(data=True)) == dict(big.nodes(data=True))
    assert [little.nodes[name]["obj"] for name in NODES] == [name.upper() for name in NODES]


def test_a_circle_is_an_error_for_both() -> None:
    graph = small.DiGraph()
    graph.add_edge("a", "b")
    graph.add_edge("b", "a")
    with pytest.raises(ValueError, match="circle"):
        list(small.topological_sort(graph))


def test_it_serves_the_installed_diskimage_builder_and_no_caller_s_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DIB_PYTHON_EXEC", raising=False)
    monkeypatch.delenv("DUMP_CONFIG_GRAPH", raising=False)
    assert light.usable()
    assert Path(light.environment({})["DIB_PYTHON_EXEC"]).is_file()
    assert light.environment({"DIB_PYTHON_EXEC": "/usr/bin/python3"}) == {}
    monkeypatch.setenv("DUMP_CONFIG_GRAPH", "1")
    assert light.environment({}) == {}


@pytest.mark.parametrize(
    "text",
    [
        "import networkx as nx\nnx.shortest_path(dg)",
        "import networkx as nx\ndg.remove_node('x')",
        "import networkx",
        "from networkx.algorithms import dag",
    ],
)
def test_another_use_of_networkx_is_noticed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diskimage_builder import paths

    (tmp_path / "block_device").mkdir()
    (tmp_path / "block_device" / "config.py").write_text(text)
    monkeypatch.setattr(paths, "get_path", lambda _name: str(tmp_path / "lib"))
    assert not light.usable()


def test_only_the_program_for_block_devices_gets_it(tmp_path: Path) -> None:
    said = {}
    for name in ("dib-block-device.py", "outfilter.py"):
        script = tmp_path / name
        script.write_text("import networkx; print(networkx.__file__)")
        environment = {**os.environ, "DIBCTL_PYTHON": sys.executable}
        program = Path(light.__file__).with_name("python")
        result = subprocess.run(
            [program, script], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        said[name] = Path(result.stdout.strip())
    assert said["dib-block-device.py"].is_relative_to(Path(light.__file__).parent)
    assert said["outfilter.py"] == Path(networkx.__file__)
