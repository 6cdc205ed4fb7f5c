"""Threads that come at the same time are served together, and each gets what is its own."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from notifygate import LedgerError, NotifygateError
from notifygate import together as sharing
from notifygate.errors import LedgerUnreachable
from notifygate.together import Together

Loads = Sequence[Sequence[int]]


class Doubling:
    """Doubles numbers, a moment later, and remembers which it was given together."""

    def __init__(self, fault: Callable[[Loads], BaseException | None] = lambda loads: None) -> None:
        self.given: list[list[Sequence[int]]] = []
        self._fault = fault

    def __call__(self, loads: Loads) -> list[list[int]]:
        self.given.append(list(loads))
        time.sleep(0.02)
        if (fault := self._fault(loads)) is not None:
            raise fault
        return [[2 * number for number in load] for load in loads]


def call_at_once(
    together: Together[Sequence[int], list[int]], loads: Loads
) -> list[list[int] | BaseException]:
    """Bring each load in a thread of its own; return what each thread got."""
    start = threading.Barrier(len(loads))

    def call(load: Sequence[int]) -> list[int] | BaseException:
        start.wait()
        try:
            return together(load)
        except BaseException as error:  # noqa: BLE001  # looked at by the test
            return error

    with ThreadPoolExecutor(len(loads)) as pool:
        return list(pool.map(call, loads))


def test_each_thread_gets_the_result_of_its_own_load() -> None:
    double = Doubling()
    together = Together(double, at_most=100)

    got = call_at_once(together, [[number, number + 1] for number in range(20)])

    assert got == [[2 * number, 2 * number + 2] for number in range(20)]
    assert len(double.given) < 20  # some were served together
    assert sorted(load[0] for group in double.given for load in group) == list(range(20))


def test_loads_that_are_longer_than_a_group_may_be_are_done_alone() -> None:
    double = Doubling()
    together = Together(double, at_most=4)

    got = call_at_once(together, [[number] * (6 if number == 0 else 3) for number in range(5)])

    assert [result[0] for result in got if isinstance(result, list)] == [0, 2, 4, 6, 8]
    assert all(len(group) == 1 for group in double.given)


def test_a_lone_thread_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_LINGER_S", 600.0)
    together = Together(Doubling(), at_most=100)

    assert [together([number]) for number in range(3)] == [[0], [2], [4]]


def test_a_load_at_fault_keeps_no_other_from_being_done() -> None:
    together = Together(
        Doubling(lambda loads: ValueError("seven") if any(7 in load for load in loads) else None), at_most=100
    )

    got = call_at_once(together, [[number] for number in range(10)])

    assert isinstance(got[7], ValueError)
    assert [result for number, result in enumerate(got) if number != 7] == [
        [2 * number] for number in range(10) if number != 7
    ]


def test_a_ledger_that_cannot_be_reached_is_asked_once_for_all() -> None:
    double = Doubling(lambda loads: LedgerUnreachable("down"))

    got = call_at_once(Together(double, at_most=100), [[number] for number in range(10)])

    assert all(isinstance(result, LedgerUnreachable) for result in got)
    assert len(double.given) < 10


def test_a_fault_of_what_one_asked_of_the_ledger_is_no_other_threads() -> None:
    together = Together(
        Doubling(lambda loads: LedgerError("a lock") if any(7 in load for load in loads) else None),
        at_most=100,
    )

    got = call_at_once(together, [[number] for number in range(10)])

    assert [number for number, result in enumerate(got) if isinstance(result, LedgerError)] == [7]


def test_what_is_done_is_not_done_again_whatever_comes_after_it() -> None:
    double = Doubling()

    def broken(loads: object, results: object) -> None:
        raise ValueError("after it was done")

    got = call_at_once(Together(double, then=broken, at_most=100), [[number] for number in range(6)])

    assert all(isinstance(result, ValueError) for result in got)
    assert sorted(load[0] for group in double.given for load in group) == list(range(6))


def test_a_forked_process_waits_for_none_of_its_parents_threads() -> None:
    is_at_work, may_end = threading.Event(), threading.Event()

    def wait(loads: Loads) -> list[None]:
        is_at_work.set()
        may_end.wait()
        return [None for _ in loads]

    together: Together[Sequence[int], None] = Together(wait, at_most=100)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(together, [1])
        is_at_work.wait()
        if (child := os.fork()) == 0:
            signal.alarm(20)
            together._do = lambda loads: [None for _ in loads]
            together([2])
            os._exit(0)
        may_end.set()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thread_that_is_ended_leaves_no_other_waiting_and_says_that_nothing_is_known() -> None:
    ended = iter([KeyboardInterrupt()])
    together = Together(Doubling(lambda loads: next(ended, None) if len(loads) > 1 else None), at_most=100)

    got = call_at_once(together, [[number] for number in range(6)])

    assert sum(isinstance(result, KeyboardInterrupt) for result in got) == 1
    unknown = [result for result in got if isinstance(result, NotifygateError)]
    assert unknown
    assert "not known" in str(unknown[0])
    assert together([21]) == [42]


def test_what_is_called_from_within_is_done_at_once() -> None:
    together: Together[Sequence[int], int] = Together(
        lambda loads: [together([]) + sum(load) if load else 1 for load in loads], at_most=100
    )
    assert together([1, 2]) == 4


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_that_come_back_again_and_again_are_mostly_served_together(threads: int) -> None:
    double = Doubling()
    together = Together(double, at_most=100)

    def come_back() -> None:
        for _ in range(10):
            together([1])

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(come_back)

    assert sum(len(group) for group in double.given) == 10 * threads
    assert len(double.given) <= 20


@pytest.mark.parametrize("when", [["before"], ["after"], [None, "after"]])
def test_a_thread_that_is_ended_while_it_waits_takes_no_lead_along(
    monkeypatch: pytest.MonkeyPatch, when: list[str | None]
) -> None:
    together = Together(Doubling(), at_most=100)
    gather, ends = together._gather, iter(when)

    def ended_once(call: Any) -> None:
        end = next(ends, None)
        if end == "before":
            raise KeyboardInterrupt
        gather(call)
        if end == "after":
            raise KeyboardInterrupt

    monkeypatch.setattr(together, "_gather", ended_once)

    got = call_at_once(together, [[number] for number in range(6)])

    assert sum(isinstance(result, KeyboardInterrupt) for result in got) == 1
    assert sum(isinstance(result, list | NotifygateError) for result in got) == 5
    assert together([21]) == [42]
