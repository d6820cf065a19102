"""Which xdist worker runs which test: one image, in one environment, on one worker at a time.

xdist's own schedulers group by file or by a mark, and its loadgroup has silently stopped to group with a
newer pytest before. This one implements xdist's public ``Scheduling`` protocol and overrides nothing of it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NoReturn

Node = Any
"""xdist's WorkerController: a worker, as its controller sees it."""

LOOKAHEAD = 2
"""Tests a worker must have to run one: xdist's workers begin a test only once they know the next."""


class ImageScheduling:
    """Gives each worker one group at a time, two tests ahead, so that a run can stop soon.

    It begins when ``numnodes`` workers have collected. ``groups_of`` returns the group of each of a worker's
    tests, in order, and ``first_of`` which of them come before all others of their group. At most
    ``instances`` workers share a group: only once its first tests are over, and only where no group is
    without a worker. A group begins only once those that ``earlier_than`` names for it are over. ``on_done``
    is called with a group when no worker has a test of it left, and again after a test of it was run once
    more. ``on_difference`` is called with two workers whose tests differ.
    """

    def __init__(
        self,
        *,
        config: Any,
        numnodes: int,
        groups_of: Callable[[Node], Sequence[Hashable]],
        first_of: Callable[[Node], Sequence[bool]],
        earlier_than: Callable[[Hashable], Sequence[Hashable]] = lambda _group: (),
        instances: int,
        on_done: Callable[[Hashable], None],
        on_difference: Callable[[Node, Node], None],
    ) -> None:
        self.config = config  # pytest-rerunfailures looks for it here, as in all of xdist's own
        self.numnodes = numnodes
        self.collection: list[str] | None = None
        self._groups_of = groups_of
        self._first_of = first_of
        self._earlier_than = earlier_than
        self._instances = instances
        self._on_done = on_done
        self._on_difference = on_difference
        self._pending: dict[Node, list[int]] = {}
        self._collections: dict[Node, list[str]] = {}
        self._group: list[Hashable] = []
        self._queues: dict[Hashable, collections.deque[int]] = {}
        self._left: dict[Hashable, int] = {}
        self._all_first: frozenset[int] = frozenset()
        self._first: set[int] = set()
        """The tests that come before others of their group and are not over."""
        self._attached: dict[Node, Hashable] = {}

    # -- xdist's questions -----------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """The workers there are."""
        return list(self._pending)

    @property
    def collection_is_completed(self) -> bool:
        """Whether as many workers as were started have collected."""
        return len(self._collections) >= self.numnodes

    @property
    def tests_finished(self) -> bool:
        """Whether each worker has at most one test left, which it runs once it knows that none follows."""
        return (
            self.collection_is_completed
            and not any(self._queues.values())
            and all(len(pending) < LOOKAHEAD for pending in self._pending.values())
        )

    @property
    def has_pending(self) -> bool:
        """Whether any test is still to be run."""
        return any(self._queues.values()) or any(self._pending.values())

    # -- xdist's events --------------------------------------------------------------------------

    def add_node(self, node: Node) -> None:
        """Know a new worker; it gets tests once it has collected them."""
        self._pending[node] = []

    def add_node_collection(self, node: Node, collection: Sequence[str]) -> None:
        """Note what a worker has collected; a worker that comes late must have collected the same."""
        if self.collection is not None and list(collection) != self.collection:
            self._on_difference(next(iter(self._collections)), node)
            node.shutdown()  # of no use, and never to be waited for
            return
        self._collections[node] = list(collection)

    def schedule(self) -> None:
        """Begin to hand out tests, or go on with a worker that came later."""
        if self.collection is None and not self._begin():
            return
        self._feed_all()

    def mark_test_complete(self, node: Node, item_index: int, duration: float = 0) -> None:
        """Give another test to the worker that has run this one."""
        del duration
        self._pending[node].remove(item_index)
        self._first.discard(item_index)
        self._over(item_index)

    def mark_test_pending(self, item: str) -> None:
        """Have a test run once more: pytest-rerunfailures repeats a test that crashed its worker."""
        assert self.collection is not None
        index = self.collection.index(item)
        group = self._group[index]
        self._queues[group].appendleft(index)
        self._left[group] += 1
        self._first |= {index} & self._all_first
        self._feed_all()

    def is_busy(self, node: Node) -> bool:
        """Whether a worker has tests to run; if it dies, the first of them has crashed it."""
        return bool(self._pending.get(node))

    def remove_node(self, node: Node) -> str | None:
        """Forget a worker; return the test that crashed it, if one did. Other workers get its other tests."""
        pending = self._pending.pop(node)
        self._attached.pop(node, None)
        if not pending:
            return None
        assert self.collection is not None
        crashed, *others = pending
        self._first.discard(crashed)
        for index in reversed(others):
            self._queues[self._group[index]].appendleft(index)
        self._over(crashed)
        return self.collection[crashed]

    def remove_pending_tests_from_node(self, node: Node, indices: Sequence[int]) -> NoReturn:
        """Never called: it answers a request that this scheduler does not make."""
        raise NotImplementedError

    # -- our questions ---------------------------------------------------------------------------

    def is_done(self, group: Hashable) -> bool:
        """Whether no worker has, or will get, a test of a group, as far as is known now."""
        return not self._left.get(group)

    def group_of(self, nodeid: str) -> Hashable | None:
        """Return the group of a test."""
        if self.collection is None or nodeid not in self.collection:
            return None
        return self._group[self.collection.index(nodeid)]

    # -- steps -----------------------------------------------------------------------------------

    def _begin(self) -> bool:
        first, *others = self._collections
        different = [node for node in others if self._collections[node] != self._collections[first]]
        for node in different:
            self._on_difference(first, node)
        if different:
            return False
        self.collection = self._collections[first]
        self._group = list(self._groups_of(first))
        for index, group in enumerate(self._group):
            self._queues.setdefault(group, collections.deque()).append(index)
        self._left = {group: len(queue) for group, queue in self._queues.items()}
        self._all_first = frozenset(
            index for index, comes_first in enumerate(self._first_of(first)) if comes_first
        )
        self._first = set(self._all_first)
        return True

    def _feed_all(self) -> None:
        # In rounds: the first worker must not take the second test of a group that another could begin.
        for depth in range(1, LOOKAHEAD + 1):
            for node in self._pending:
                if len(self._pending[node]) < depth:
                    self._feed(node)
        for node, pending in self._pending.items():
            if 0 < len(pending) < LOOKAHEAD and not node.shutting_down and not self._may_come(node):
                node.shutdown()  # there is no next test: now it can run its last

    def _feed(self, node: Node) -> None:
        if node not in self._collections or node.shutting_down:
            return
        group = self._choose(node)
        if group is None:
            return
        self._attached[node] = group
        index = self._queues[group].popleft()
        self._pending[node].append(index)
        node.send_runtest_some([index])

    def _choose(self, node: Node) -> Hashable | None:
        """Return the group to give ``node`` a test of: its own, else the first without a worker."""
        mine = self._attached.get(node, _NONE)
        if self._queues.get(mine):
            return mine
        workers = self._workers_without(node)
        exclusive = self._exclusive()
        free = [
            group
            for group, queue in self._queues.items()
            if queue
            and workers[group] < (1 if group in exclusive else self._instances)
            and not self._is_held(node, group)
        ]
        return min(free, key=lambda group: workers[group], default=None)

    def _may_come(self, node: Node) -> bool:
        """Whether a worker could join a group later, once the tests are over that come first in it.

        Their worker does not wait for this one: while its group has tests, it always knows the next. Of the
        workers whose last tests a held group waits for, one stays for it; the others have to run theirs.
        """
        workers = self._workers_without(node)
        exclusive = self._exclusive()
        held = {group for group, queue in self._queues.items() if queue and self._is_held(node, group)}
        if any(self._queues[group] and workers[group] < self._instances for group in exclusive - held):
            return True
        last = (
            other
            for other, pending in self._pending.items()
            if 0 < len(pending) < LOOKAHEAD and not other.shutting_down
        )
        return bool(held) and node is next(last, None)

    def _is_held(self, node: Node, group: Hashable) -> bool:
        """Whether an earlier group has tests left that ``node`` does not run itself before any new one."""
        own = collections.Counter(self._group[index] for index in self._pending[node])
        return any(self._left.get(earlier, 0) > own[earlier] for earlier in self._earlier_than(group))

    def _workers_without(self, node: Node) -> collections.Counter[Hashable]:
        return collections.Counter(self._attached[other] for other in self._attached if other is not node)

    def _exclusive(self) -> set[Hashable]:
        """Return the groups that no second worker may join yet."""
        return {self._group[index] for index in self._first}

    def _over(self, index: int) -> None:
        """Count a test that has run, or that a worker died of, and give the workers others."""
        group = self._group[index]
        self._left[group] -= 1
        self._feed_all()
        if not self._left[group]:
            self._on_done(group)


_NONE = object()
