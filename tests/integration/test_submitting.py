"""Handing messages over: receipts, the same request again, batches, and the caller's own transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from support.clock import SimulatedClock
from support.fixtures import OpenGate, Outbox
from support.messages import delivered_purchase, newsletter, order_update, review_request
from support.tables import plain_engine, row_counts

from notifygate import (
    Email,
    Gateway,
    IdempotencyConflict,
    InvalidMessage,
    Message,
    NotFound,
    Receipt,
    Sms,
    Status,
)


class TestOneMessage:
    def test_a_receipt_says_queued_and_the_ledger_has_the_message(self, gate: Gateway) -> None:
        receipt = gate.submit(order_update())

        assert receipt.status is Status.QUEUED
        assert not receipt.duplicate
        assert gate.status(receipt.message_id) is Status.QUEUED

    def test_it_is_sent_when_the_gateway_drains(self, gate: Gateway, outbox: Outbox) -> None:
        receipt = gate.submit(order_update())

        assert gate.drain() == 1
        assert gate.status(receipt.message_id) is Status.SENT
        [sent] = outbox()
        assert (sent["message_id"], sent["to"]) == (receipt.message_id, "anna@example.dk")

    def test_the_address_is_used_as_typed_and_a_number_in_e164(self, gate: Gateway, outbox: Outbox) -> None:
        gate.submit(order_update(to="Anna.Hansen@Example.DK"))
        gate.submit(order_update(content=Sms("20 12 34 56", "On its way")))
        gate.drain()

        assert {sent["to"] for sent in outbox()} == {"Anna.Hansen@Example.DK", "+4520123456"}

    def test_an_unknown_id_is_not_found(self, gate: Gateway) -> None:
        for ask in (gate.status, gate.explain, gate.cancel):
            with pytest.raises(NotFound, match="msg_unknown"):
                ask("msg_unknown")

    @pytest.mark.parametrize(
        ("fault", "field"),
        [
            ({"merchant": "nobody"}, "merchant"),
            ({"purpose": "nothing"}, "purpose"),
            ({"timezone": "Mars/Olympus"}, "timezone"),
            ({"content": Sms("12", "x")}, "content.to"),
            ({"content": Sms("+45 70 12 34 56", "x"), "purpose": "review_request"}, "purchase"),
        ],
    )
    def test_what_the_config_does_not_know_is_refused_by_name(
        self, gate: Gateway, ledger_url: str, fault: dict[str, Any], field: str
    ) -> None:
        before = row_counts(ledger_url)

        with pytest.raises(InvalidMessage) as refused:
            gate.submit(order_update(**fault))

        assert refused.value.field == field
        assert row_counts(ledger_url) == before

    def test_what_is_no_message_is_refused(self, gate: Gateway) -> None:
        with pytest.raises(InvalidMessage, match="dict"):
            gate.submit({"merchant": "cykelpartner"})  # type: ignore[arg-type]


class TestTheSameRequestAgain:
    def test_gets_the_first_receipt_and_is_sent_once(self, gate: Gateway, outbox: Outbox) -> None:
        first = gate.submit(order_update(idempotency_key="k"))
        again = gate.submit(order_update(idempotency_key="k"))

        assert again == Receipt(message_id=first.message_id, status=Status.QUEUED, duplicate=True)
        gate.drain()
        assert len(outbox()) == 1

    def test_gets_the_status_of_today(self, gate: Gateway) -> None:
        first = gate.submit(order_update(idempotency_key="k"))
        gate.drain()

        assert gate.submit(order_update(idempotency_key="k")) == Receipt(
            message_id=first.message_id, status=Status.SENT, duplicate=True
        )

    def test_may_spell_the_address_otherwise_and_carry_new_times(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        first = gate.submit(order_update(idempotency_key="k"))
        later = clock.advance(minutes=5)
        again = gate.submit(
            order_update(to="ANNA@example.dk", idempotency_key="k", send_after=later, metadata={"try": 2})
        )

        assert again.message_id == first.message_id

    @pytest.mark.parametrize(
        "change",
        [
            {"text": "Another text."},
            {"to": "berit@example.dk"},
            {"purpose": "login_code"},
            {"role": "recipient"},
            {"dedupe_key": "d"},
            {
                "content": Email(
                    "anna@example.dk", "Your order", text="Your parcel is on its way.", html="<p>"
                )
            },
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_with_other_content_is_a_conflict_that_names_the_first(
        self, gate: Gateway, change: dict[str, str]
    ) -> None:
        first = gate.submit(order_update(idempotency_key="k"))

        with pytest.raises(IdempotencyConflict, match=first.message_id) as conflict:
            gate.submit(order_update(idempotency_key="k", **change))

        assert (conflict.value.merchant, conflict.value.message_id) == ("cykelpartner", first.message_id)

    def test_about_another_purchase_is_a_conflict(self, gate: Gateway, clock: SimulatedClock) -> None:
        gate.submit(review_request(delivered_purchase(clock.now, "1"), idempotency_key="k"))

        with pytest.raises(IdempotencyConflict):
            gate.submit(review_request(delivered_purchase(clock.now, "2"), idempotency_key="k"))

    def test_keys_of_two_merchants_have_nothing_to_do_with_each_other(self, gate: Gateway) -> None:
        one = gate.submit(order_update(idempotency_key="k"))
        other = gate.submit(order_update(idempotency_key="k", merchant="postdanmark"))

        assert one.message_id != other.message_id
        assert not other.duplicate

    def test_without_a_key_is_another_message(self, gate: Gateway, outbox: Outbox) -> None:
        gate.submit(order_update())
        gate.submit(order_update())
        gate.drain()

        assert len(outbox()) == 2

    def test_within_one_batch_gets_the_first_receipt(self, gate: Gateway) -> None:
        key = {"idempotency_key": "k"}
        first, other, again = gate.submit_many([order_update(**key), order_update(), order_update(**key)])

        assert (again.message_id, again.duplicate) == (first.message_id, True)
        assert other.message_id != first.message_id

    def test_from_eight_threads_at_once_is_one_message(
        self, gate: Gateway, outbox: Outbox, ledger_url: str
    ) -> None:
        receipts: list[Receipt] = []
        barrier = threading.Barrier(8)

        def submit() -> None:
            barrier.wait()
            receipts.append(gate.submit(order_update(idempotency_key="k")))

        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gate.drain()

        assert len(receipts) == 8
        assert len({receipt.message_id for receipt in receipts}) == 1
        assert sum(not receipt.duplicate for receipt in receipts) == 1
        assert len(outbox()) == 1
        counts = row_counts(ledger_url)
        assert (counts["messages"], counts["contact_points"], counts["ledger"]) == (1, 1, 3)


class TestManyMessages:
    def test_receipts_come_in_the_order_of_the_messages(self, gate: Gateway) -> None:
        texts = [f"Message {number}" for number in range(20)]

        receipts = list(gate.submit_many(newsletter(text=text, dedupe_key=text) for text in texts))
        found = [gate.explain(receipt.message_id) for receipt in receipts]

        assert len({one.message_id for one in found}) == 20
        ordered = gate.submit_many(
            [order_update(idempotency_key="a", metadata={"n": 1}), order_update(metadata={"n": 2})]
        )
        assert [gate.explain(receipt.message_id).metadata["n"] for receipt in ordered] == [1, 2]

    def test_nothing_happens_until_receipts_are_asked_for(self, gate: Gateway, ledger_url: str) -> None:
        read = 0

        def messages() -> Iterator[Message]:
            nonlocal read
            for number in range(1_200):
                read += 1
                yield order_update(to=f"person{number}@example.dk")

        receipts = gate.submit_many(messages())
        assert read == 0
        assert row_counts(ledger_url)["messages"] == 0

        next(receipts)
        assert read < 1_200
        assert 0 < row_counts(ledger_url)["messages"] < 1_200

        assert len({receipt.message_id for receipt in receipts}) == 1_199
        assert row_counts(ledger_url)["messages"] == 1_200

    def test_before_a_fault_all_are_in_and_after_it_none(self, gate: Gateway, ledger_url: str) -> None:
        def messages() -> Iterator[Message]:
            for number in range(700):
                yield order_update(idempotency_key=f"k{number}")
            yield order_update(merchant="nobody")
            yield order_update(idempotency_key="after")

        receipts = gate.submit_many(messages())
        taken: list[Receipt] = []
        with pytest.raises(InvalidMessage, match="nobody"):
            taken.extend(receipts)

        assert len({receipt.message_id for receipt in taken}) == 700
        assert row_counts(ledger_url)["messages"] == 700
        assert not gate.submit(order_update(idempotency_key="after")).duplicate

    def test_before_a_conflict_all_are_in_and_after_it_none(self, gate: Gateway, ledger_url: str) -> None:
        gate.submit(order_update(idempotency_key="k"))
        batch = [
            order_update(text="One."),
            order_update(text="Two."),
            order_update(text="Other content.", idempotency_key="k"),
            order_update(text="Three."),
        ]

        taken: list[Receipt] = []
        with pytest.raises(IdempotencyConflict):
            taken.extend(gate.submit_many(batch))

        assert len(taken) == 2
        assert row_counts(ledger_url)["messages"] == 3

    def test_a_fault_of_whoever_makes_the_messages_leaves_receipts_and_ledger_in_agreement(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        def messages() -> Iterator[Message]:
            yield from (order_update(text=f"Message {number}") for number in range(3))
            raise RuntimeError("the file is broken here")

        taken: list[Receipt] = []
        with pytest.raises(RuntimeError, match="broken here"):
            taken.extend(gate.submit_many(messages()))

        assert len(taken) == row_counts(ledger_url)["messages"]


class TestInTheCallersTransaction:
    def test_a_commit_hands_the_message_over(self, gate: Gateway, ledger_url: str, outbox: Outbox) -> None:
        with plain_engine(ledger_url) as engine:
            with engine.begin() as conn:
                conn.execute(sa.text("CREATE TABLE orders (number INTEGER)"))
                conn.execute(sa.text("INSERT INTO orders VALUES (1001)"))
                receipt = gate.submit(order_update(idempotency_key="k"), connection=conn)
            assert receipt.status is Status.QUEUED
            assert gate.drain() == 1
            assert [sent["message_id"] for sent in outbox()] == [receipt.message_id]
            with engine.connect() as conn:
                assert conn.execute(sa.text("SELECT number FROM orders")).scalars().all() == [1001]

    def test_a_rollback_leaves_nothing(self, gate: Gateway, ledger_url: str, outbox: Outbox) -> None:
        before = row_counts(ledger_url)
        with plain_engine(ledger_url) as engine, engine.connect() as conn, conn.begin() as transaction:
            receipt = gate.submit(order_update(), connection=conn)
            transaction.rollback()

        assert row_counts(ledger_url) == before
        assert gate.drain() == 0
        with pytest.raises(NotFound):
            gate.status(receipt.message_id)
        assert outbox() == []

    def test_nobody_sees_it_before_the_commit(self, gate: Gateway, ledger_url: str) -> None:
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            receipt = gate.submit(order_update(), connection=conn)
            with pytest.raises(NotFound):
                gate.status(receipt.message_id)

    def test_the_same_key_is_seen_within_the_transaction(self, gate: Gateway, ledger_url: str) -> None:
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            first = gate.submit(order_update(idempotency_key="k"), connection=conn)
            again = gate.submit(order_update(idempotency_key="k"), connection=conn)
            with pytest.raises(IdempotencyConflict):
                gate.submit(order_update(text="Other.", idempotency_key="k"), connection=conn)
            assert (again.message_id, again.duplicate) == (first.message_id, True)
        assert gate.drain() == 1

    def test_a_conflict_leaves_the_callers_transaction_usable(self, gate: Gateway, ledger_url: str) -> None:
        gate.submit(order_update(idempotency_key="k"))
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            with pytest.raises(IdempotencyConflict):
                gate.submit(order_update(text="Other.", idempotency_key="k"), connection=conn)
            gate.submit(order_update(text="Third."), connection=conn)
        assert gate.drain() == 2


class TestTwoGateways:
    def test_on_one_ledger_know_the_same_messages(self, open_gate: OpenGate) -> None:
        one, other = open_gate(), open_gate()
        receipt = one.submit(order_update(idempotency_key="k"))

        assert other.status(receipt.message_id) is Status.QUEUED
        assert other.submit(order_update(idempotency_key="k")).duplicate
        assert other.drain() == 1
        assert one.status(receipt.message_id) is Status.SENT

    def test_a_naive_clock_is_refused(self, open_gate: OpenGate, clock: SimulatedClock) -> None:
        gate = open_gate()
        clock.now = datetime(2026, 3, 2, 10)  # noqa: DTZ001  # what must be refused
        with pytest.raises(InvalidMessage, match="clock"):
            gate.submit(order_update())
        clock.now = datetime(2026, 3, 2, 10, tzinfo=UTC)
        gate.submit(order_update())
