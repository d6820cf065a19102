"""As much of networkx as diskimage-builder's block devices use, for the dozen Pythons that a build starts.

Each of them would spend a second on importing the library for a graph of five nodes. ``light.usable`` says
whether the installed diskimage-builder uses no more than this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class _Nodes(dict[str, dict[str, Any]]):
    """Attributes by node; called, pairs of both."""

    def __call__(self, *, data: bool = False) -> list[Any]:
        return list(self.items()) if data else list(self)


class DiGraph:
    """A directed graph whose nodes have attributes."""

    def __init__(self) -> None:
        self.nodes = _Nodes()
        self._next: dict[str, dict[str, None]] = {}

    def add_node(self, name: str, **attributes: Any) -> None:
        """Add a node, or attributes to one."""
        self.nodes.setdefault(name, {}).update(attributes)
        self._next.setdefault(name, {})

    def add_edge(self, tail: str, head: str) -> None:
        """Add an edge, and its nodes where they are missing."""
        self.add_node(tail)
        self.add_node(head)
        self._next[tail][head] = None

    def successors(self, name: str) -> Iterator[str]:
        """Yield the nodes that edges of a node lead to, in the order of these edges."""
        yield from self._next[name]


def topological_sort(graph: DiGraph) -> Iterator[str]:
    """Yield the nodes, tails before heads, in networkx's own order; raises ValueError for a circle."""
    incoming = dict.fromkeys(graph.nodes, 0)
    for name in graph.nodes:
        for head in graph.successors(name):
            incoming[head] += 1
    generation = [name for name, count in incoming.items() if count == 0]
    left = len(incoming)
    while generation:
        following = []
        for name in generation:
            for head in graph.successors(name):
                incoming[head] -= 1
                if incoming[head] == 0:
                    following.append(head)
            left -= 1
            yield name
        generation = following
    if left:
        message = "the block device's parts depend on one another in a circle"
        raise ValueError(message)
