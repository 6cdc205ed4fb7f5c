"""Where one writes at a time, on SQLite: what is urgent comes first, and what is not makes itself brief."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from support.messages import ANNA_EMAIL, newsletter, order_update
from support.processes import wait_until

from notifygate import Gateway
from notifygate.gate import Decided, Gate
from notifygate.ledger.database import Ledger
from notifygate.ledger.fair_lock import FairLock

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)


class Waiting:
    """Threads that ask for a lock one after the other, and note in which order they got it."""

    def __init__(self, lock: FairLock) -> None:
        self.got: list[str] = []
        self._lock = lock
        self._threads: list[threading.Thread] = []

    def ask(self, name: str, *, is_urgent: bool = False, timeout_s: float = 30.0) -> None:
        def ask() -> None:
            if self._lock.acquire(is_urgent=is_urgent, timeout_s=timeout_s):
                self.got.append(name)
                self._lock.release()
            else:
                self.got.append(f"{name} gave up")

        thread = threading.Thread(target=ask)
        thread.start()
        self._threads.append(thread)
        wait_until(
            lambda: waiting_for(self._lock) == len(self._threads) or not thread.is_alive(), what="it waits"
        )

    def end(self) -> None:
        for thread in self._threads:
            thread.join(30)


def waiting_for(lock: FairLock) -> int:
    return len(lock._urgent) + len(lock._others)


def wait_for(lock: FairLock, count: int) -> None:
    wait_until(lambda: waiting_for(lock) == count, what=f"{count} wait")


def write(ledger: Ledger, wrote: list[str], name: str) -> threading.Thread:
    """Write in a thread of its own; a login code is urgent."""
    thread = threading.Thread(
        target=lambda: ledger.transact(lambda conn: wrote.append(name), is_urgent=name == "login code")
    )
    thread.start()
    return thread


class TestTheLock:
    def test_is_given_in_order_and_to_what_is_urgent_first(self) -> None:
        lock = FairLock()
        assert lock.acquire(timeout_s=1)
        waiting = Waiting(lock)
        waiting.ask("first")
        waiting.ask("second")
        waiting.ask("login code", is_urgent=True)
        waiting.ask("next login code", is_urgent=True)

        lock.release()
        waiting.end()

        assert waiting.got == ["login code", "next login code", "first", "second"]

    def test_goes_to_something_else_after_a_few_that_were_urgent(self) -> None:
        lock = FairLock()
        assert lock.acquire(timeout_s=1)
        waiting = Waiting(lock)
        waiting.ask("campaign")
        for _ in range(6):
            waiting.ask("login code", is_urgent=True)

        lock.release()
        waiting.end()

        assert waiting.got == [*["login code"] * 4, "campaign", *["login code"] * 2]

    def test_is_left_by_its_holder_for_what_is_urgent_and_had_again_before_all_else(self) -> None:
        lock = FairLock()
        assert lock.acquire(timeout_s=1)
        waiting = Waiting(lock)
        waiting.ask("another")
        lock.give_way()
        assert waiting.got == []
        waiting.ask("login code", is_urgent=True)

        lock.give_way()
        assert waiting.got == ["login code"]
        lock.release()
        waiting.end()

        assert waiting.got == ["login code", "another"]

    def test_is_not_given_to_one_that_has_given_up(self) -> None:
        lock = FairLock()
        assert lock.acquire(timeout_s=1)
        waiting = Waiting(lock)
        waiting.ask("hasty", timeout_s=0.01)
        wait_until(lambda: waiting.got == ["hasty gave up"], what="it gave up")
        lock.release()

        assert lock.acquire(timeout_s=0.01)

    def test_goes_on_to_the_next_when_it_is_handed_to_one_that_is_giving_up(self) -> None:
        lock = FairLock()
        assert lock.acquire(timeout_s=1)
        waiting = Waiting(lock)
        waiting.ask("hasty", timeout_s=0.2)
        with lock._state:
            time.sleep(0.3)  # by now it has given up, and has yet to say so
            lock._others.popleft().release()  # as `release` does
        waiting.end()

        assert waiting.got == ["hasty gave up"]
        assert lock.acquire(timeout_s=0.01)

    def test_has_one_holder_and_is_free_in_the_end_whoever_gives_up_when(self) -> None:
        lock, holders, most, got = FairLock(), [0], [0], Counter[bool]()

        def come_and_go(seed: int) -> None:
            draw = random.Random(seed)
            for _ in range(300):
                has_it = lock.acquire(is_urgent=draw.random() < 0.3, timeout_s=draw.uniform(0, 0.002))
                got[has_it] += 1
                if has_it:
                    holders[0] += 1
                    most[0] = max(most[0], holders[0])
                    time.sleep(draw.uniform(0, 0.0005))
                    holders[0] -= 1
                    lock.release()

        threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert most == [1]
        assert min(got[True], got[False]) > 0
        assert lock.acquire(timeout_s=0.01)


@ON_SQLITE
class TestACampaign:
    def test_is_overtaken_by_what_is_urgent(self, gate: Gateway) -> None:
        ledger = gate._runtime.ledger
        wrote: list[str] = []

        threads = []
        with ledger.begin():
            for number, name in enumerate(("campaign", "campaign", "login code"), start=1):
                threads.append(write(ledger, wrote, name))
                wait_for(ledger._writer, number)
        for thread in threads:
            thread.join(30)

        assert wrote == ["login code", "campaign", "campaign"]

    def test_is_overtaken_even_while_it_waits_for_another_process(self, gate: Gateway) -> None:
        ledger = gate._runtime.ledger
        wrote: list[str] = []

        with sqlite3.connect(str(ledger.engine.url.database), isolation_level=None) as other_process:
            other_process.execute("BEGIN IMMEDIATE")
            campaign = write(ledger, wrote, "campaign")
            wait_until(lambda: ledger._writer._is_held, what="it has the lock")
            login_code = write(ledger, wrote, "login code")
            wait_until(
                lambda: waiting_for(ledger._writer) == 1 and not ledger._writer._urgent, what="it gave way"
            )
            other_process.execute("COMMIT")
        campaign.join(30)
        login_code.join(30)
        other_process.close()

        assert wrote == ["login code", "campaign"]

    def test_is_decided_as_many_at_a_time_as_take_little_while_something_urgent_is_about(
        self, gate: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        groups: list[int] = []
        decide = Gate.decide

        def noting(self: Gate, conn: sa.Connection, message_ids: Sequence[str], **more: Any) -> Decided:
            groups.append(len(message_ids))
            return decide(self, conn, message_ids, **more)

        monkeypatch.setattr(Gate, "decide", noting)

        def work(count: int) -> list[int]:
            receipts = list(gate.submit_many(newsletter(text=f"{count} {n}") for n in range(count)))
            groups.clear()
            gate._runtime.work([receipt.message_id for receipt in receipts])
            return list(groups)

        monkeypatch.setattr("notifygate.ledger.database._URGENT_LATELY_S", 600.0)
        turns = gate._runtime.turns
        turns._brief = 7.0
        assert work(25) == [25]
        gate._runtime.work([gate.submit(order_update()).message_id], is_urgent=True)
        turns._brief = 7.0
        assert work(25)[0] == 7
        assert turns._brief != 7.0  # how long it took is taken note of
        turns._brief = 0.001
        assert work(25)[0] == 4
        turns._brief = 1_000.0
        assert work(25) == [25]
        turns._brief = 0.001
        monkeypatch.setattr("notifygate.ledger.database._URGENT_LATELY_S", 0.0)
        assert work(25) == [25]
