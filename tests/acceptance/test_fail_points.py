"""A process is killed at each fail point in turn; then the system is started again, and must come out even.

The oracle is what arrived, and the ledger's own rows as the database has them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from support import crashing
from support.clock import A_MONDAY_MORNING, SimulatedClock
from support.fixtures import ConfigFile, Outbox, StartWorkers
from support.messages import ANNA_EMAIL, order_update
from support.processes import environment, wait_until
from support.redis_server import RedisServer
from support.sinks import MailSink, SmsSink
from support.tables import contents

from notifygate import Gateway, Sms, Status
from notifygate.broker import ACTORS, length, open_broker
from notifygate.config import Config, load
from notifygate.failpoints import VARIABLE, FailPoint, armed

KINDS = ("review", "news", "update", "code")
ONE_MORE = {"code": "sent"}  # its purpose says that doubt is resolved by sending again
AFTER_THE_LEASES = A_MONDAY_MORNING + timedelta(minutes=10)

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What must hold for four messages that are on their way together when the process is killed."""

    deed: str
    before: tuple[tuple[str, FailPoint | None], ...] = ()
    """What others did before, and where they broke off."""
    found: str | None
    """The status of all four after the crash; None where the ledger knows of none."""
    arrived: int = 0
    """How many had arrived by then."""
    on_queue: bool = False
    """Whether the queue holds work after the crash."""
    ends: str = "sent"
    """The status of those that are not sent again in doubt, when all is worked off."""


SUBMITTED: tuple[tuple[str, FailPoint | None], ...] = (("submit", None),)
RESERVED = (*SUBMITTED, ("drain", FailPoint.DECIDE_COMMITTED))
IN_DOUBT = (*RESERVED, ("drain", None))

CASES = {
    FailPoint.SUBMIT_INSERTED: Case(deed="submit", found=None),
    FailPoint.SUBMIT_COMMITTED: Case(deed="submit", found="queued"),
    FailPoint.SUBMIT_QUEUED: Case(deed="submit", found="queued", on_queue=True),
    FailPoint.SWEEP_CLAIMED: Case(before=SUBMITTED, deed="sweep", found="queued"),
    FailPoint.SWEEP_QUEUED: Case(before=SUBMITTED, deed="sweep", found="queued", on_queue=True),
    FailPoint.DECIDE_CLAIMED: Case(before=SUBMITTED, deed="drain", found="queued"),
    FailPoint.DECIDE_WRITTEN: Case(before=SUBMITTED, deed="drain", found="queued"),
    FailPoint.DECIDE_COMMITTED: Case(before=SUBMITTED, deed="drain", found="sending", ends="in_doubt"),
    FailPoint.HAND_OFF_STARTED: Case(before=SUBMITTED, deed="drain", found="sending", ends="in_doubt"),
    FailPoint.HAND_OFF_ANSWERED: Case(
        before=SUBMITTED, deed="drain", found="sending", arrived=1, ends="in_doubt"
    ),
    FailPoint.RECORD_WRITTEN: Case(
        before=SUBMITTED, deed="drain", found="sending", arrived=4, ends="in_doubt"
    ),
    FailPoint.RECORD_COMMITTED: Case(before=SUBMITTED, deed="drain", found="sent", arrived=4),
    FailPoint.LEASES_EXPIRED: Case(before=RESERVED, deed="drain", found="sending", ends="in_doubt"),
    FailPoint.DOUBT_RESOLVED: Case(before=IN_DOUBT, deed="resolve", found="in_doubt", ends="in_doubt"),
    FailPoint.SEAL_WRITTEN: Case(before=SUBMITTED, deed="drain", found="sent", arrived=4),
    FailPoint.CHECKPOINT_WRITTEN: Case(before=SUBMITTED, deed="drain", found="sent", arrived=4),
}


@pytest.mark.parametrize("point", list(FailPoint))
def test_after_a_kill_at_any_point_nothing_is_lost_and_nothing_is_sent_twice(
    point: FailPoint,
    config_file: ConfigFile,
    redis_server: RedisServer,
    ledger_url: str,
    outbox: Outbox,
) -> None:
    case = CASES[point]
    config = config_with_permissions(config_file, redis_server)
    now = A_MONDAY_MORNING
    for deed, stopped_at in case.before:  # with no queue: what is submitted waits in the ledger
        do_here(deed, config, at=now, stopped_at=stopped_at)
        now = AFTER_THE_LEASES if stopped_at else now
    redis_server.start()

    do(case.deed, config, at=now, killed_at=point)

    found = statuses(ledger_url)
    expected = dict.fromkeys(KINDS, case.found) if case.found else {}
    if point is FailPoint.DOUBT_RESOLVED:
        expected |= {"code": "queued"}
    assert found == expected
    already = arrivals(outbox, ledger_url)
    assert already.total() == case.arrived
    assert (jobs_queued(config) > 0) is case.on_queue

    work_all_off(config, known=bool(found))

    ended = statuses(ledger_url)
    assert ended == dict.fromkeys(KINDS, case.ends) | ONE_MORE
    arrived = arrivals(outbox, ledger_url)
    for kind in KINDS:
        if ended[kind] == "in_doubt":
            assert arrived[kind] == already[kind]  # in doubt is never sent again
        elif kind == "code" and case.ends == "in_doubt":
            assert arrived[kind] == already[kind] + 1
        else:
            assert arrived[kind] == 1
    assert_even(ledger_url, outbox)


def test_every_fail_point_has_a_case() -> None:
    assert set(CASES) == set(FailPoint)


@pytest.mark.parametrize("ends", ["sent", "sent again", "failed"])
@ON_SQLITE
def test_a_doubt_that_a_kill_left_unresolved_can_be_resolved_again(
    ends: str, config_file: ConfigFile, redis_server: RedisServer, ledger_url: str, outbox: Outbox
) -> None:
    config = config_with_permissions(config_file, redis_server)
    do_here("submit", config)
    do_here("drain", config, stopped_at=FailPoint.DECIDE_COMMITTED)
    do_here("drain", config, at=AFTER_THE_LEASES)
    redis_server.start()
    do("resolve", config, at=AFTER_THE_LEASES, killed_at=FailPoint.DOUBT_RESOLVED)

    with Gateway.open(config, clock=SimulatedClock(AFTER_THE_LEASES)) as gate:
        verdict = "sent" if ends == "sent" else "not_sent"
        for doubt in gate.doubt.list():
            gate.doubt.resolve(
                doubt.message_id, verdict, evidence="ticket 7", send_again=ends == "sent again"
            )
    work_all_off(config)

    status = "sent" if ends.startswith("sent") else "failed"
    assert statuses(ledger_url) == dict.fromkeys(KINDS, status) | ONE_MORE
    once = 1 if ends == "sent again" else 0
    assert arrivals(outbox, ledger_url) == +Counter(review=once, news=once, update=once, code=1)


@ON_POSTGRESQL
def test_what_a_sweep_claimed_and_did_not_queue_is_queued_after_requeue_after(
    config_file: ConfigFile, redis_server: RedisServer
) -> None:
    config = config_with_permissions(config_file, redis_server)
    do_here("submit", config)
    redis_server.start()
    do("sweep", config, killed_at=FailPoint.SWEEP_CLAIMED)

    clock = SimulatedClock()
    with Gateway.open(config, clock=clock) as gate:
        sweep = gate._runtime.scheduler.sweep
        assert sweep() == 2  # the service messages were claimed; the other two were not yet
        clock.advance(seconds=59)
        assert sweep() == 0
        clock.advance(seconds=1)
        assert sweep() == 4


@ON_SQLITE
def test_a_kill_in_the_midst_of_a_batch_leaves_each_message_as_far_as_it_came(
    config_file: ConfigFile, redis_server: RedisServer, ledger_url: str, outbox: Outbox
) -> None:
    config = config_with_permissions(config_file, redis_server)
    do_here("submit", config)
    redis_server.start()
    do("drain", config, killed_at=f"{FailPoint.HAND_OFF_STARTED}:3")

    assert arrivals(outbox, ledger_url).total() == 2
    already = arrivals(outbox, ledger_url)
    work_all_off(config)

    assert arrivals(outbox, ledger_url) == already + Counter(code=1)
    assert_even(ledger_url, outbox)


@pytest.mark.parametrize(
    ("databases", "point", "channel"),
    [
        ("sqlite", FailPoint.HAND_OFF_STARTED, "sms"),
        ("postgresql", FailPoint.HAND_OFF_ANSWERED, "email"),
        ("postgresql", FailPoint.RECORD_WRITTEN, "sms"),
        ("sqlite", FailPoint.RECORD_COMMITTED, "email"),
    ],
    indirect=["databases"],
)
def test_a_worker_killed_at_work_is_followed_by_one_that_sends_nothing_twice(
    point: FailPoint,
    channel: str,
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    sms_sink: SmsSink,
    start_workers: StartWorkers,
) -> None:
    config = config_file(
        gateway={"broker": real_redis.url},
        channels=servers,
        delivery={"lease": "1s", "requeue_after": "1s", "retry_after": "1s"},
    )
    sink: MailSink | SmsSink = smtp_server if channel == "email" else sms_sink
    workers = start_workers(config, processes=1, threads=1, env={VARIABLE: point})
    requests = [worker_message(channel, key) for key in ("update", "code")]
    with Gateway.open(config) as gate:
        update, code = (receipt.message_id for receipt in gate.submit_many(requests))
        workers.wait()  # nobody asked it to end
        assert {str(gate.status(one)) for one in (update, code)} == {CASES[point].found}
        already = Counter(sink.message_ids)
        assert already.total() == min(CASES[point].arrived, 2)

        assert all(receipt.duplicate for receipt in gate.submit_many(requests))
        start_workers(config, processes=1, threads=1)
        ends = Status(CASES[point].ends)
        wait_until(lambda: gate.status(update) is ends, what="the update comes to its end")
        wait_until(lambda: gate.status(code) is Status.SENT, what="the code is sent")

    arrived = Counter(sink.message_ids)
    assert arrived[update] == already[update]
    assert arrived[code] == already[code] + (ends is Status.IN_DOUBT)


@pytest.mark.parametrize("asked", ["nowhere", "submit", "submit.inserted:x", ":"])
def test_an_unknown_fail_point_is_refused_in_a_clear_line(tmp_path: Path, asked: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import notifygate.failpoints"],
        env=environment(tmp_path / "none.toml", **{VARIABLE: asked}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1
    assert f"{VARIABLE}: {asked!r} is no fail point; there are submit.inserted, " in last


@ON_SQLITE
def test_a_fail_point_without_a_number_stops_the_first_time(config_file: ConfigFile) -> None:
    ended = crashing.do("submit", config_file(), A_MONDAY_MORNING, fail_at="submit.inserted:")
    assert ended == -signal.SIGKILL


@ON_SQLITE
def test_without_the_variable_no_fail_point_stops_anything(
    config_file: ConfigFile, ledger_url: str, redis_server: RedisServer
) -> None:
    config = config_with_permissions(config_file, redis_server)
    redis_server.start()
    do("submit", config)
    do("drain", config)

    assert statuses(ledger_url) == dict.fromkeys(KINDS, "sent")


def config_with_permissions(config_file: ConfigFile, redis_server: RedisServer) -> Path:
    """A config with that Redis as its queue; the persons of all four messages have allowed them."""
    config = config_file(gateway={"broker": redis_server.url})
    with Gateway.open(config, clock=SimulatedClock(A_MONDAY_MORNING - timedelta(days=1))) as gate:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="review_request")
        gate.consent.grant("email:bodil@example.dk", party="cykelpartner", purpose="newsletter")
    return config


class Stopped(Exception):
    """A process that ends here, as far as the ledger can tell."""


def do_here(
    deed: str, config: Path, *, at: datetime = A_MONDAY_MORNING, stopped_at: FailPoint | None = None
) -> None:
    """Do it in this process, which is quicker; where a point is named, break off there."""

    def stop() -> None:
        raise Stopped

    with Gateway.open(config, clock=SimulatedClock(at)) as gate:
        if stopped_at is None:
            crashing.DEEDS[deed](gate, at)
            return
        with armed(stopped_at, stop), pytest.raises(Stopped):
            crashing.DEEDS[deed](gate, at)


def do(
    deed: str,
    config: Path,
    *,
    at: datetime = A_MONDAY_MORNING,
    killed_at: FailPoint | str | None = None,
) -> None:
    """Do it in a process of its own, which is killed at that point: that proves that the point was reached."""
    ended = crashing.do(deed, config, at, fail_at=killed_at or "")
    assert ended == (-signal.SIGKILL if killed_at else 0)


def work_all_off(config: Path, *, known: bool = True) -> None:
    """Start again: the application submits the same once more, leases run out, and all is worked off."""
    clock = SimulatedClock(AFTER_THE_LEASES)
    with Gateway.open(config, clock=clock) as gate:
        receipts = list(gate.submit_many(crashing.requests(A_MONDAY_MORNING)))
        assert [receipt.duplicate for receipt in receipts] == [known] * len(receipts)
        for _ in range(3):  # what is tried again waits for a while
            gate._runtime.scheduler.sweep()
            work_off_queue(gate)
            gate.drain()
            clock.advance(minutes=10)
        assert gate.next_due() is None


def work_off_queue(gate: Gateway) -> None:
    """Do what workers do with all jobs that are on the queue, stale ones too."""
    with queue_of(gate.config) as broker:
        for queue in ACTORS:
            consumer = broker.consume(queue, timeout=1)
            while (job := next(consumer)) is not None:
                gate._runtime.work(*job.args)
                consumer.ack(job)
            consumer.close()


def jobs_queued(config: Path) -> int:
    with queue_of(load(config)) as broker:
        return sum(length(broker, queue) for queue in ACTORS)


@contextmanager
def queue_of(config: Config) -> Iterator[dramatiq.Broker]:
    broker = open_broker(config.settings.gateway)
    assert broker is not None
    try:
        for queue in ACTORS:
            broker.declare_queue(queue)
        yield broker
    finally:
        broker.close()


def statuses(ledger_url: str) -> dict[str, object]:
    """The status of each message, by its idempotency key."""
    return {str(row["idempotency_key"]): row["status"] for row in contents(ledger_url)["messages"]}


def arrivals(outbox: Outbox, ledger_url: str) -> Counter[str]:
    """How often each kind has arrived."""
    kinds = {row["message_id"]: str(row["idempotency_key"]) for row in contents(ledger_url)["messages"]}
    return Counter(kinds[sent["message_id"]] for sent in outbox())


def assert_even(ledger_url: str, outbox: Outbox) -> None:
    """What arrived was reserved before, each reservation has its end, and the log has what the tables have."""
    tables = contents(ledger_url)
    reservations = {row["attempt_id"]: row for row in tables["reservations"]}
    sent = Counter(one["attempt_id"] for one in outbox())
    assert set(sent) <= set(reservations)
    assert set(sent.values()) <= {1}
    ends = {attempt: row["state"] for attempt, row in reservations.items()}
    assert set(ends.values()) <= {"accepted", "in_doubt"}
    assert {attempt for attempt, state in ends.items() if state == "accepted"} <= set(sent)
    logged = Counter((row["kind"], row["message_id"]) for row in tables["ledger"])
    attempts = Counter(("attempt", row["message_id"]) for row in reservations.values())
    for row in tables["messages"]:
        assert logged["submitted", row["message_id"]] == 1
        assert logged["attempt", row["message_id"]] == attempts["attempt", row["message_id"]]
    asks = tables["asks"]
    assert len(asks) == sum(row["purpose"] == "review_request" for row in reservations.values()) == 1


def worker_message(channel: str, key: str) -> Any:
    number = {"update": 1, "code": 2}[key]
    purpose = {"update": "order_update", "code": "login_code"}[key]
    if channel == "sms":
        content = Sms(f"+452012345{number}", "On its way.")
        return order_update(content=content, purpose=purpose, idempotency_key=key)
    return order_update(to=f"person{number}@example.dk", purpose=purpose, idempotency_key=key)
