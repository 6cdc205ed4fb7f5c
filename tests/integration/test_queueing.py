"""The queue carries ids to the workers and may be lost at any moment: what goes on it, and what sweeps put back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta

import fakeredis
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from support.channel import FAILED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import ANNA_EMAIL, newsletter, order_update
from support.redis_server import RedisServer

from notifygate import BrokerError, Gateway, Status
from notifygate import broker as brokers
from notifygate import scheduler as schedulers
from notifygate.broker import WorkQueue
from notifygate.policy import PurposeClass


@pytest.fixture
def redis_client(real_redis: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(real_redis.socket)) as client:
        yield client


@pytest.fixture
def queued_gate(open_gate: OpenGate, real_redis: RedisServer) -> Gateway:
    """A gateway with a queue, and no workers."""
    return open_gate(gateway={"broker": real_redis.url})


def forget_the_failure(gate: Gateway) -> None:
    """Save the wait of a few seconds after which a queue that was down is tried again."""
    gate._runtime.queue._left_alone_until = 0.0


def jobs(client: redis.Redis) -> dict[str, list[list[str]]]:
    """The ids of each job on each queue."""
    return {
        queue: [json.loads(content)["args"][0] for content in client.hvals(f"notifygate:{queue}.msgs")]
        for queue in (brokers.SERVICE_QUEUE, brokers.BULK_QUEUE)
    }


def ids(client: redis.Redis) -> list[str]:
    return [one for found in jobs(client).values() for job in found for one in job]


class TestSubmit:
    def test_puts_service_messages_on_a_queue_of_their_own(
        self, queued_gate: Gateway, redis_client: redis.Redis
    ) -> None:
        code = queued_gate.submit(order_update(purpose="login_code"))
        news = queued_gate.submit(newsletter())

        assert jobs(redis_client) == {
            brokers.SERVICE_QUEUE: [[code.message_id]],
            brokers.BULK_QUEUE: [[news.message_id]],
        }

    def test_puts_a_batch_on_it_in_jobs_of_at_most_a_hundred(
        self, queued_gate: Gateway, redis_client: redis.Redis
    ) -> None:
        receipts = list(
            queued_gate.submit_many(order_update(to=f"person{number}@example.dk") for number in range(250))
        )

        found = jobs(redis_client)[brokers.SERVICE_QUEUE]
        assert sorted(len(job) for job in found) == [50, 100, 100]
        assert sorted(ids(redis_client)) == sorted(receipt.message_id for receipt in receipts)

    def test_puts_nothing_but_ids_on_it(self, queued_gate: Gateway, redis_client: redis.Redis) -> None:
        queued_gate.submit(order_update(text="A secret.", idempotency_key="k", metadata={"note": "m"}))

        [content] = redis_client.hvals(f"notifygate:{brokers.SERVICE_QUEUE}.msgs")
        assert b"example.dk" not in content
        assert b"secret" not in content

    def test_puts_duplicates_and_what_is_for_later_not_on_it(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        first = queued_gate.submit(order_update(idempotency_key="k"))
        queued_gate.submit(order_update(idempotency_key="k"))
        queued_gate.submit(order_update(send_after=clock.now + timedelta(hours=1)))

        assert ids(redis_client) == [first.message_id]


class TestSweep:
    def test_leaves_alone_what_is_on_the_queue_until_it_seems_lost(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        receipt = queued_gate.submit(order_update())
        redis_client.flushall()
        scheduler = queued_gate._runtime.scheduler

        clock.advance(seconds=59)
        assert scheduler.sweep() == 0
        clock.advance(seconds=1)
        assert scheduler.sweep() == 1
        assert ids(redis_client) == [receipt.message_id]
        assert scheduler.sweep() == 0

    def test_queues_what_has_become_due(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        receipt = queued_gate.submit(order_update(send_after=clock.now + timedelta(hours=1)))
        scheduler = queued_gate._runtime.scheduler

        clock.advance(hours=1, microseconds=-1)
        assert scheduler.sweep() == 0
        clock.advance(microseconds=1)
        assert scheduler.sweep() == 1
        assert ids(redis_client) == [receipt.message_id]

    def test_queues_what_is_to_be_tried_again_at_its_time(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        install(queued_gate, ScriptedChannel(FAILED))
        receipt = queued_gate.submit(order_update())
        queued_gate.drain()
        redis_client.flushall()
        due = queued_gate.next_due()
        assert due is not None

        clock.set(due)
        assert queued_gate._runtime.scheduler.sweep() == 1
        assert ids(redis_client) == [receipt.message_id]

    def test_queues_what_the_callers_own_transaction_submitted(
        self, queued_gate: Gateway, redis_client: redis.Redis
    ) -> None:
        with queued_gate._runtime.ledger.begin() as conn:
            receipt = queued_gate.submit(order_update(), connection=conn)
        assert ids(redis_client) == []

        assert queued_gate._runtime.scheduler.sweep() == 1
        assert ids(redis_client) == [receipt.message_id]

    def test_queues_more_than_a_batch(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        later = clock.now + timedelta(hours=1)
        list(
            queued_gate.submit_many(
                order_update(to=f"person{number}@example.dk", send_after=later) for number in range(1_100)
            )
        )
        clock.set(later)

        assert queued_gate._runtime.scheduler.sweep() == 1_100
        assert len(set(ids(redis_client))) == 1_100

    def test_leaves_what_has_ended(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        queued_gate.cancel(queued_gate.submit(order_update()).message_id)
        queued_gate.submit(newsletter())
        queued_gate.drain()
        redis_client.flushall()
        clock.advance(days=1)

        assert queued_gate._runtime.scheduler.sweep() == 0


class TestALongQueue:
    @pytest.fixture(autouse=True)
    def _two_jobs_are_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(brokers, "_LONG_JOBS", dict.fromkeys(brokers.ACTORS, 2))

    def campaign(self, gate: Gateway, count: int) -> list[str]:
        requests = (newsletter(to=f"person{number}@example.dk") for number in range(count))
        return [receipt.message_id for receipt in gate.submit_many(requests)]

    def test_is_not_fed_again_with_what_it_holds(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        message_ids = self.campaign(queued_gate, 250)
        for _ in range(5):
            clock.advance(minutes=10)
            assert queued_gate._runtime.scheduler.sweep() == 0

        assert sorted(ids(redis_client)) == sorted(message_ids)

    def test_that_is_wiped_is_filled_again_at_the_next_sweep(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        message_ids = self.campaign(queued_gate, 250)
        clock.advance(minutes=10)
        queued_gate._runtime.scheduler.sweep()
        redis_client.flushall()

        assert queued_gate._runtime.scheduler.sweep() == 250
        assert sorted(ids(redis_client)) == sorted(message_ids)

    def test_is_not_one_that_only_holds_what_nobody_can_fetch(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        self.campaign(queued_gate, 250)
        redis_client.delete(f"notifygate:{brokers.BULK_QUEUE}")
        assert len(ids(redis_client)) == 250
        clock.advance(minutes=10)

        assert queued_gate._runtime.scheduler.sweep() == 250

    def test_keeps_no_service_message_waiting(
        self, queued_gate: Gateway, clock: SimulatedClock, redis_client: redis.Redis
    ) -> None:
        later = clock.now + timedelta(hours=1)
        self.campaign(queued_gate, 250)
        code = queued_gate.submit(order_update(purpose="login_code", send_after=later))
        clock.set(later)

        assert queued_gate._runtime.scheduler.sweep() == 1
        assert jobs(redis_client)[brokers.SERVICE_QUEUE] == [[code.message_id]]

    def test_takes_from_the_ledger_in_order_as_it_empties(
        self,
        queued_gate: Gateway,
        clock: SimulatedClock,
        redis_client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(schedulers, "_BATCH", 100)
        now = clock.now
        message_ids = [
            receipt.message_id
            for receipt in queued_gate.submit_many(
                newsletter(to=f"p{number}@example.dk", send_after=now + timedelta(minutes=number + 1))
                for number in range(500)
            )
        ]
        clock.advance(days=1)
        for first in (0, 200):
            assert queued_gate._runtime.scheduler.sweep() == 200
            assert sorted(ids(redis_client)) == sorted(message_ids[first : first + 200])
            redis_client.flushall()


class TestAQueueThatIsDown:
    def test_is_no_error_at_submit_and_is_made_good_by_a_sweep(
        self, open_gate: OpenGate, redis_server: RedisServer
    ) -> None:
        gate = open_gate(gateway={"broker": redis_server.url})
        receipt = gate.submit(order_update())
        assert gate.status(receipt.message_id) is Status.QUEUED

        redis_server.start()
        forget_the_failure(gate)
        assert gate._runtime.scheduler.sweep() == 1
        with redis.Redis(unix_socket_path=str(redis_server.socket)) as client:
            assert ids(client) == [receipt.message_id]

    def test_loses_nothing_that_a_sweep_had_taken(
        self, open_gate: OpenGate, clock: SimulatedClock, redis_server: RedisServer
    ) -> None:
        gate = open_gate(gateway={"broker": redis_server.url})
        receipt = gate.submit(order_update(send_after=clock.now + timedelta(hours=1)))
        clock.advance(hours=1)
        with pytest.raises(BrokerError):
            gate._runtime.scheduler.sweep()

        redis_server.start()
        forget_the_failure(gate)
        assert gate._runtime.scheduler.sweep() == 1
        with redis.Redis(unix_socket_path=str(redis_server.socket)) as client:
            assert ids(client) == [receipt.message_id]


class TestWorkQueue:
    """By itself, on a fake and on a real Redis."""

    TAKEN = tuple((f"msg_{number}", PurposeClass.SERVICE) for number in range(250))

    @pytest.fixture(params=["fake", "real"])
    def client(self, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
        if request.param == "fake":
            pytest.importorskip(
                "lupa", reason="fakeredis runs scripts with lupa: pip install 'fakeredis[lua]'"
            )
            opened: redis.Redis = fakeredis.FakeRedis()
        else:
            server: RedisServer = request.getfixturevalue("real_redis")
            opened = redis.Redis(unix_socket_path=str(server.socket))
        with opened:
            yield opened

    @pytest.fixture
    def queue(self, client: redis.Redis) -> WorkQueue:
        broker = RedisBroker(client=client, middleware=[], namespace="notifygate")  # type: ignore[no-untyped-call]  # dramatiq leaves this constructor untyped
        return WorkQueue(broker)

    def test_makes_jobs_of_at_most_a_hundred_ids(self, queue: WorkQueue, client: redis.Redis) -> None:
        queue.put(self.TAKEN)

        found = jobs(client)
        assert sorted(len(job) for job in found[brokers.SERVICE_QUEUE]) == [50, 100, 100]
        assert found[brokers.BULK_QUEUE] == []
        assert sorted(ids(client)) == sorted(message_id for message_id, _ in self.TAKEN)

    def test_keeps_service_apart_from_all_else(self, queue: WorkQueue, client: redis.Redis) -> None:
        queue.put([(f"msg_{kind}", kind) for kind in PurposeClass])

        assert jobs(client) == {
            brokers.SERVICE_QUEUE: [["msg_service"]],
            brokers.BULK_QUEUE: [["msg_marketing", "msg_review"]],
        }

    def test_of_nothing_puts_nothing(self, queue: WorkQueue, client: redis.Redis) -> None:
        queue.put([])

        assert client.dbsize() == 0

    def test_without_a_broker_does_nothing(self) -> None:
        WorkQueue(None).put(self.TAKEN)

    def test_leaves_a_broker_that_failed_alone_for_a_while(self) -> None:
        class Counting(StubBroker):
            tried = 0

            def enqueue(self, message, *, delay=None):  # type: ignore[no-untyped-def]  # as in dramatiq
                self.tried += 1
                raise ConnectionError

        broker = Counting(middleware=[])
        queue = WorkQueue(broker)
        for _ in range(3):
            with pytest.raises(BrokerError):
                queue.put(self.TAKEN)
        assert broker.tried == 1

        queue._left_alone_until = time.monotonic()
        with pytest.raises(BrokerError):
            queue.put(self.TAKEN)
        assert broker.tried == 2


def test_a_job_is_worked_off_and_its_ids_may_come_twice(
    queued_gate: Gateway, redis_client: redis.Redis
) -> None:
    queued_gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
    receipts = [queued_gate.submit(order_update()), queued_gate.submit(newsletter())]
    sent = install(queued_gate, ScriptedChannel())
    found = ids(redis_client)

    assert queued_gate._runtime.work([*found, *found, "msg_unknown"]) == 2
    assert queued_gate._runtime.work(found) == 0
    assert sorted(hand_off.message_id for hand_off in sent.taken) == sorted(
        receipt.message_id for receipt in receipts
    )
