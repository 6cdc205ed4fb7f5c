"""Never twice, whoever works at the same time: threads, processes, and the moments in between."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from support.clock import SimulatedClock
from support.fixtures import ConfigFile, OpenGate, Outbox
from support.forks import run_at_once
from support.messages import ANNA_EMAIL, delivered_purchase, order_update, review_request
from support.postgres import PostgresServer

from notifygate import Gateway, Purchase, Status
from notifygate.ledger import people, purchases

ON_POSTGRESQL = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
"""SQLite lets in one writer at a time, so there is nothing to be found there."""


def at_once(*work: Callable[[], object]) -> None:
    """Run functions in a thread each, all started together. Raises what the first of them raised."""
    barrier = threading.Barrier(len(work))
    errors: list[BaseException] = []

    def run(one: Callable[[], object]) -> None:
        barrier.wait()
        try:
            one()
        except BaseException as error:  # noqa: BLE001  # handed on below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class TestDraining:
    def test_by_eight_threads_sends_each_message_once(self, gate: Gateway, outbox: Outbox) -> None:
        receipts = list(
            gate.submit_many(order_update(to=f"person{number}@example.dk") for number in range(200))
        )
        handled: list[int] = []

        at_once(*[lambda: handled.append(gate.drain())] * 8)

        assert Counter(sent["message_id"] for sent in outbox()) == Counter(
            receipt.message_id for receipt in receipts
        )
        assert sum(handled) == 200
        assert {gate.status(receipt.message_id) for receipt in receipts} == {Status.SENT}

    def test_by_four_processes_sends_each_message_once(self, config_file: ConfigFile, outbox: Outbox) -> None:
        config = config_file()
        with Gateway.open(config) as gate:
            receipts = list(
                gate.submit_many(order_update(to=f"person{number}@example.dk") for number in range(200))
            )
        script = """
from notifygate import Gateway
with Gateway.open() as gate:
    ready()
    handled = 0
    while gate.next_due() is not None:
        handled += gate.drain(limit=25)
    print(handled)
"""
        handled = run_at_once([script] * 4, config)

        assert Counter(sent["message_id"] for sent in outbox()) == Counter(
            receipt.message_id for receipt in receipts
        )
        assert sum(map(int, handled)) == 200


class TestTwoProcesses:
    def test_that_ask_about_the_same_purchases_and_persons_ask_once(
        self, config_file: ConfigFile, outbox: Outbox
    ) -> None:
        config = config_file(purposes={"review_request": {"quiet_hours": None}})
        now = datetime.now(UTC)
        with Gateway.open(config) as gate:
            for merchant in ("florist", "stars"):
                for number in range(10):
                    for name in ("buyer", "other", "reader"):
                        gate.consent.grant(
                            f"email:{name}{number}@example.dk",
                            party=merchant,
                            purpose="review_request",
                            occurred_at=now - timedelta(days=1),
                        )
        # Ten purchases, each asked about by both to two persons; and ten persons, each asked by both about two
        # purchases.
        script = """
from datetime import UTC, datetime
from notifygate import Gateway
from support.messages import delivered_purchase, review_request
merchant, name = "{merchant}", "{name}"
now = datetime.now(UTC)
with Gateway.open() as gate:
    for number in range(10):
        bought = delivered_purchase(now, f"shared{{number}}", "florist")
        gate.submit(review_request(bought, to=f"email:{{name}}{{number}}@example.dk", merchant=merchant))
        own = delivered_purchase(now, f"{{name}}{{number}}", "florist")
        gate.submit(review_request(own, to=f"email:reader{{number}}@example.dk", merchant=merchant))
    ready()
    while gate.next_due() is not None:
        gate.drain(limit=3)
"""
        run_at_once(
            [
                script.format(merchant="florist", name="buyer"),
                script.format(merchant="stars", name="other"),
            ],
            config,
        )

        sent = outbox()
        assert Counter(
            one["text"].rpartition("order ")[2] for one in sent if "shared" in one["text"]
        ) == Counter(f"shared{number} from Florist." for number in range(10))
        assert Counter(one["to"] for one in sent if one["to"].startswith("reader")) == Counter(
            f"reader{number}@example.dk" for number in range(10)
        )


class TestLinkingWhileDraining:
    def test_neither_hangs_nor_deadlocks(
        self, open_gate: OpenGate, ledger_url: str, request: pytest.FixtureRequest
    ) -> None:
        on_postgresql = ledger_url.startswith("postgresql")
        server: PostgresServer | None = request.getfixturevalue("postgres_server") if on_postgresql else None
        before = server.deadlocks() if server else 0
        gate = open_gate()
        points = [f"email:person{number}@example.dk" for number in range(6)]
        done = threading.Event()

        def link() -> None:
            try:
                for _ in range(4):
                    for number in range(5):
                        gate.people.link(points[number], points[number + 1], "account")
                    for number in range(5):
                        gate.people.unlink(points[number], points[number + 1])
            finally:
                done.set()

        def link_backwards() -> None:
            for _ in range(4):
                for number in reversed(range(5)):
                    gate.people.link(points[number + 1], f"sms:+452012345{number}", "account")

        def send() -> None:
            while not done.is_set():
                list(gate.submit_many(order_update(to=point.partition(":")[2]) for point in points))
                gate.drain()

        at_once(link, link_backwards, send, send)
        gate.drain()

        assert gate.next_due() is None
        if server:
            gate.close()
            assert server.deadlocks() == before


@contextmanager
def meanwhile(
    patched: pytest.MonkeyPatch,
    work: Callable[[], object],
    *,
    before: str = "",
    after: str = "",
    module: ModuleType = purchases,
) -> Iterator[None]:
    """Let `work` happen in another transaction, once, before or after one of the ledger's functions runs."""
    name = before or after
    real = getattr(module, name)
    waiting = [work]

    def called(*args: Any, **more: Any) -> Any:
        if before and waiting:
            waiting.pop()()
        returned = real(*args, **more)
        if after and waiting:
            waiting.pop()()
        return returned

    with patched.context() as patch:
        patch.setattr(module, name, called)
        yield
    assert not waiting, f"{module.__name__}.{name} was not called"


@ON_POSTGRESQL
class TestAnAliasLearntAtTheSameMoment:
    """What another transaction commits between looking and writing must not part what belongs together."""

    FLOWERS = Purchase("florist", "F1")
    PARCEL = Purchase("postdanmark", "PD1")

    @pytest.fixture
    def asking(self, gate: Gateway) -> Gateway:
        for merchant in ("florist", "postdanmark", "stars"):
            for name in ("anna", "berit"):
                gate.consent.grant(f"email:{name}@example.dk", party=merchant, purpose="review_request")
        return gate

    def learn(self, gate: Gateway) -> Callable[[], None]:
        return lambda: gate.purchases.alias(self.FLOWERS, "postdanmark", "PD1")

    def asks(self, gate: Gateway, clock: SimulatedClock, outbox: Outbox, *names: Purchase) -> int:
        """How many asks go out when each of the names is asked about, each to another person."""
        for number, purchase in enumerate(names):
            to = ("email:anna@example.dk", "email:berit@example.dk")[number]
            dated = delivered_purchase(clock.now, purchase.order_id, purchase.seller)
            gate.submit(review_request(dated, to=to))
        gate.drain()
        return sum(sent["text"].startswith("What do you think") for sent in outbox())

    def test_as_the_carriers_first_message_comes_in(
        self,
        asking: Gateway,
        clock: SimulatedClock,
        outbox: Outbox,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        first = order_update(merchant="postdanmark", purchase=self.PARCEL)

        with meanwhile(monkeypatch, lambda: asking.submit(first), before="add_name"):
            asking.purchases.alias(self.FLOWERS, "postdanmark", "PD1")

        assert self.asks(asking, clock, outbox, self.FLOWERS, self.PARCEL) == 1

    def test_as_an_ask_made_elsewhere_is_recorded(
        self,
        asking: Gateway,
        clock: SimulatedClock,
        outbox: Outbox,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for purchase in (self.FLOWERS, self.PARCEL):
            asking.submit(order_update(purchase=purchase))

        with meanwhile(monkeypatch, self.learn(asking), after="ensure"):
            asking.purchases.record_ask(self.PARCEL, "postdanmark", clock.now)

        assert self.asks(asking, clock, outbox, self.FLOWERS) == 0

    def test_as_a_review_is_recorded(
        self,
        asking: Gateway,
        clock: SimulatedClock,
        outbox: Outbox,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for purchase in (self.FLOWERS, self.PARCEL):
            asking.submit(order_update(purchase=purchase))

        with meanwhile(monkeypatch, self.learn(asking), after="ensure"):
            asking.purchases.record_review(self.PARCEL, clock.now)

        assert self.asks(asking, clock, outbox, self.FLOWERS) == 0

    @pytest.mark.parametrize("is_known", [True, False])
    def test_as_another_alias_of_the_same_purchase_is_learnt(
        self,
        asking: Gateway,
        clock: SimulatedClock,
        outbox: Outbox,
        monkeypatch: pytest.MonkeyPatch,
        is_known: bool,
    ) -> None:
        invitation = Purchase("stars", "S1")
        known = [self.FLOWERS, self.PARCEL, *([invitation] if is_known else [])]
        list(asking.submit_many(order_update(purchase=purchase) for purchase in known))

        with meanwhile(monkeypatch, self.learn(asking), after="ensure"):
            asking.purchases.alias(self.PARCEL, "stars", "S1")

        assert self.asks(asking, clock, outbox, self.FLOWERS, invitation) == 1


@ON_POSTGRESQL
def test_who_waited_for_a_persons_lock_counts_what_was_reserved_meanwhile(
    gate: Gateway, clock: SimulatedClock, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INVARIANT(the clock is read under the locks): else the other's reservation lies in the future."""
    gate.consent.grant(ANNA_EMAIL, party="florist", purpose="review_request")
    gate.consent.grant(ANNA_EMAIL, party="stars", purpose="review_request")
    gate.submit(order_update(to="berit@example.dk"))
    gate.drain()  # the policy is known from here on, so that nobody waits for whoever writes it down
    gate.submit(review_request(delivered_purchase(clock.now, "F1", "florist")))

    def ask_as_well() -> None:
        clock.advance(seconds=1)
        gate.submit(review_request(delivered_purchase(clock.now, "F2", "florist"), merchant="stars"))
        gate.drain()
        assert len(outbox()) == 2

    with meanwhile(monkeypatch, ask_as_well, before="lock", module=people):
        gate.drain()

    assert len(outbox()) == 2


def test_a_refusal_is_never_overtaken_by_a_decision_that_begins_after_it(
    gate: Gateway, outbox: Outbox
) -> None:
    """Withdrawals and drains at the same time: once `withdraw` has returned, nothing more is decided for."""
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
    withdrawn = threading.Event()
    late: list[str] = []

    def withdraw() -> None:
        gate.consent.withdraw(ANNA_EMAIL)
        withdrawn.set()

    def send() -> None:
        for _ in range(5):
            was_withdrawn = withdrawn.is_set()
            receipt = gate.submit(order_update(purpose="newsletter", text="News", dedupe_key="n"))
            gate.drain()
            if was_withdrawn and gate.status(receipt.message_id) is Status.SENT:
                late.append(receipt.message_id)

    at_once(withdraw, send, send)

    assert withdrawn.is_set()
    assert late == []
    assert len(outbox()) <= 1
