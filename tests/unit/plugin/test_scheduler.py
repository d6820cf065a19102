"""Which worker gets which test, with workers that are made of nothing."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_dibctl.plugin.xdist.scheduler import ImageScheduling


@dataclasses.dataclass(eq=False)
class Worker:
    """Does what xdist's workers do: runs a test only when it knows the next, or that there is none."""

    number: int
    queue: list[int] = dataclasses.field(default_factory=list)
    shutting_down: bool = False

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        assert not self.shutting_down
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def can_run(self) -> bool:
        return len(self.queue) > 1 or (bool(self.queue) and self.shutting_down)


class Run:
    """An xdist run: its controller's loop, over a scheduler and workers.

    ``groups`` has a letter for each test; those in upper case come before others of their group. ``ladders``
    are groups of which each begins when those before it are over.
    """

    def __init__(self, groups: str, workers: int, instances: int = 1, *ladders: str) -> None:
        first = [letter.isupper() for letter in groups]
        groups = groups.lower()
        self.groups = groups
        self.done: list[Hashable] = []
        self.different: list[int] = []
        self.ran: list[tuple[int, int]] = []
        self.crashed: list[int] = []
        self.workers: list[Worker] = []
        self.scheduling = ImageScheduling(
            config=None,
            numnodes=workers,
            groups_of=lambda _: groups,
            first_of=lambda _: first,
            earlier_than=lambda group: "".join(
                rungs[: rungs.index(str(group))] for rungs in ladders if str(group) in rungs
            ),
            instances=instances,
            on_done=self.done.append,
            on_difference=lambda _, node: self.different.append(node.number),
        )
        for _ in range(workers):
            self.start_worker()

    def start_worker(self, collection: Sequence[str] | None = None) -> Worker:
        worker = Worker(number=len(self.workers))
        self.workers.append(worker)
        self.scheduling.add_node(worker)
        ids = [f"t{index}" for index in range(len(self.groups))] if collection is None else collection
        self.scheduling.add_node_collection(worker, ids)
        if self.scheduling.collection_is_completed:
            self.scheduling.schedule()
        self.finish()
        return worker

    def step(self, worker: Worker) -> None:
        index = worker.queue.pop(0)
        self.ran.append((worker.number, index))
        self.scheduling.mark_test_complete(worker, index)
        self.finish()

    def crash(self, worker: Worker, *, rerun: bool = False) -> None:
        self.workers[worker.number] = Worker(number=worker.number, shutting_down=True)
        if (nodeid := self.scheduling.remove_node(worker)) is not None:
            self.crashed.append(int(nodeid[1:]))
            if rerun:
                self.scheduling.mark_test_pending(nodeid)
        self.start_worker()
        self.finish()

    def finish(self) -> None:
        if self.scheduling.tests_finished:
            for node in self.scheduling.nodes:
                node.shutdown()

    def ready(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.can_run]

    def to_the_end(self) -> None:
        while ready := self.ready():
            self.step(ready[0])


def workers_of(run: Run, group: str) -> set[int]:
    return {worker for worker, index in run.ran if run.groups[index] == group}


def test_each_group_has_one_worker_and_all_groups_are_done() -> None:
    run = Run("aaabbbccc", workers=2)
    run.to_the_end()
    assert sorted(index for _, index in run.ran) == list(range(9))
    assert all(len(workers_of(run, group)) == 1 for group in "abc")
    assert sorted(map(str, run.done)) == ["a", "b", "c"]


def test_groups_are_begun_in_order() -> None:
    run = Run("aabbcc", workers=2)
    assert [worker.queue for worker in run.workers] == [[0, 1], [2, 3]]


def test_a_worker_has_no_more_than_two_tests_so_that_a_run_can_stop() -> None:
    run = Run("a" * 50, workers=1)
    assert [worker.queue for worker in run.workers] == [[0, 1]]


def test_several_instances_share_a_group_only_if_no_other_is_free() -> None:
    run = Run("aaaabbbb", workers=3, instances=2)
    assert [[run.groups[index] for index in worker.queue] for worker in run.workers] == [
        ["a", "a"],
        ["b", "b"],
        ["a", "a"],
    ]


def test_others_join_a_group_once_the_tests_are_over_that_come_first() -> None:
    run = Run("AAaaaa", workers=2, instances=2)
    one, other = run.workers
    run.step(one)
    assert (one.queue, other.queue) == ([1, 2], [])
    assert not other.shutting_down
    run.step(one)
    assert (one.queue, other.queue) == ([2, 4], [3, 5])
    run.to_the_end()
    assert len(run.ran) == 6


def test_a_worker_waits_with_its_last_test_for_a_group_that_it_can_join_later() -> None:
    run = Run("AAaaaaaabb", workers=2, instances=2)
    one, other = run.workers
    run.step(other)
    assert other.queue == [9]
    assert not other.shutting_down
    run.step(one)
    assert not other.can_run
    run.step(one)
    assert other.can_run
    run.to_the_end()
    assert workers_of(run, "a") == {0, 1}
    assert len(run.ran) == 10


def test_a_group_is_not_done_while_a_test_of_it_is_called_for_again() -> None:
    run = Run("ab", workers=1)
    done = run.scheduling.is_done
    assert not done("a")
    run.crash(run.workers[0], rerun=True)
    assert run.done == ["a"]
    assert not done("a")
    run.to_the_end()
    assert done("a")
    assert done("b")


def test_a_crash_in_a_test_that_comes_first_lets_others_join() -> None:
    run = Run("Aaaaa", workers=2, instances=2)
    run.crash(run.workers[0])
    assert sorted(index for worker in run.workers for index in worker.queue) == [1, 2, 3, 4]
    run.to_the_end()
    assert len(workers_of(run, "a")) == 2


def test_a_rerun_of_a_test_that_comes_first_still_comes_first() -> None:
    run = Run("Aaaaaaaa", workers=2, instances=2)
    one = run.workers[0]
    run.crash(one, rerun=True)
    assert run.scheduling._first == {0}
    run.to_the_end()
    assert sorted(index for _, index in run.ran) == list(range(8))


def test_a_worker_too_many_waits_and_takes_over_after_a_crash() -> None:
    run = Run("aaa", workers=2)
    first, spare = run.workers
    assert not spare.queue
    assert not spare.shutting_down
    run.crash(first)
    run.to_the_end()
    assert run.crashed == [0]
    assert [index for _, index in run.ran] == [1, 2]
    assert workers_of(run, "a") == {spare.number}


def test_the_test_a_worker_died_of_is_not_run_again_unless_asked_for() -> None:
    run = Run("aa", workers=1)
    run.crash(run.workers[0], rerun=True)
    run.to_the_end()
    assert sorted(index for _, index in run.ran) == [0, 1]
    assert run.done == ["a"]


def test_workers_that_collected_something_else_get_nothing() -> None:
    run = Run("ab", workers=1)
    late = run.start_worker(["t1", "t0"])
    assert run.different == [1]
    assert late.shutting_down
    run.to_the_end()
    assert len(run.ran) == 2


def test_collections_that_differ_from_the_start_end_the_run() -> None:
    run = Run("a", workers=0)
    run.scheduling.numnodes = 2
    run.start_worker(["t0"])
    run.start_worker(["t1"])
    assert run.different == [1]
    assert run.scheduling.tests_finished


def test_the_group_of_a_test_is_known_by_its_node_id() -> None:
    run = Run("ab", workers=1)
    assert run.scheduling.group_of("t1") == "b"
    assert run.scheduling.group_of("elsewhere") is None


def test_a_later_rung_is_the_same_workers_and_begins_when_the_earlier_is_over() -> None:
    run = Run("aabb", 2, 1, "ab")
    one, other = run.workers
    assert (one.queue, other.queue) == ([0, 1], [])
    run.step(one)
    assert (one.queue, other.queue) == ([1, 2], [])
    run.to_the_end()
    assert run.ran == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert run.done == ["a", "b"]


def test_workers_that_share_a_rung_do_not_wait_for_each_other() -> None:
    run = Run("aabbbb", 2, 2, "ab")
    one, other = run.workers
    assert (one.queue, other.queue) == ([0], [1])
    assert other.can_run
    assert not one.can_run
    run.step(other)
    assert one.queue == [0, 2]
    run.to_the_end()
    assert [index for _, index in run.ran] == [1, 0, 2, 3, 4, 5]


def test_a_free_worker_takes_another_image_while_a_rung_is_held() -> None:
    run = Run("aabbcc", 2, 1, "ab")
    assert [worker.queue for worker in run.workers] == [[0, 1], [4, 5]]


def test_a_rung_is_not_held_by_a_test_that_killed_its_worker() -> None:
    run = Run("abb", 2, 1, "ab")
    run.crash(run.workers[0])
    run.to_the_end()
    assert run.crashed == [0]
    assert [index for _, index in run.ran] == [1, 2]


def in_order(letters: list[str]) -> str:
    return "".join(sorted(letters, key=lambda letter: (letter.lower(), letter)))


@settings(max_examples=300, deadline=None)
@given(
    groups=st.lists(st.sampled_from("abcdABCD"), max_size=20).map(in_order),
    workers=st.integers(1, 5),
    instances=st.integers(1, 3),
    choices=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60),
    ladders=st.sampled_from([[], ["ab"], ["abc"], ["ab", "cd"], ["abcd"]]),
)
def test_whatever_crashes_every_test_is_run_or_died_of_once(
    groups: str, workers: int, instances: int, choices: list[tuple[int, bool]], ladders: list[str]
) -> None:
    run = Run(groups, workers, instances, *ladders)
    first = {index for index, letter in enumerate(groups) if letter.isupper()}
    groups = groups.lower()
    for number, dies in choices:
        if not (ready := run.ready()):
            break
        worker = ready[number % len(ready)]
        if dies:
            run.crash(worker)
        else:
            run.step(worker)
        for group in set(groups):
            live = [one for one in run.workers if any(groups[index] == group for index in one.queue)]
            assert len(live) <= instances
            to_come = {index for index in first if groups[index] == group} - set(run.crashed)
            if not to_come <= {index for _, index in run.ran}:
                assert len(live) <= 1
        for rungs in ladders:
            for lower, upper in itertools.combinations(rungs, 2):
                begun = {groups[worker.queue[0]] for worker in run.workers if worker.queue}
                over = {index for _, index in run.ran} | set(run.crashed)
                if upper in begun | {groups[index] for _, index in run.ran}:
                    assert {index for index, group in enumerate(groups) if group == lower} <= over
    run.to_the_end()
    assert sorted([index for _, index in run.ran] + run.crashed) == list(range(len(groups)))
    assert {str(group) for group in run.done} == set(groups)
    assert not run.scheduling.has_pending
    assert all(worker.shutting_down for worker in run.workers if worker in run.scheduling.nodes)
