"""The queue that carries work to the workers: only ids travel on it, and it may be lost at any moment.

Two queues, so that a campaign never keeps a login code waiting: `notifygate-service` for messages of the class
`service`, and `notifygate-bulk` for all others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, Retries
from redis.backoff import NoBackoff
from redis.retry import Retry

from notifygate.config import GatewaySettings
from notifygate.embedded import EmbeddedRedis
from notifygate.errors import BrokerError
from notifygate.policy import PurposeClass

logger = logging.getLogger(__name__)

SERVICE_QUEUE = "notifygate-service"
BULK_QUEUE = "notifygate-bulk"
ACTORS = {SERVICE_QUEUE: "process_service", BULK_QUEUE: "process_bulk"}
"""The actor that works off each queue."""

IDS_PER_JOB = 100
_CONNECT_TIMEOUT_S = 2.0
_ANSWER_TIMEOUT_S = 3.0
_LEAVE_ALONE_S = 5.0
# A campaign's jobs have a hundred messages each, and of service messages most have one.
_LONG_JOBS = {SERVICE_QUEUE: 1_000, BULK_QUEUE: 100}

T = TypeVar("T")


def open_broker(
    settings: GatewaySettings, *, middleware: Sequence[Middleware] = ()
) -> dramatiq.Broker | None:
    """The Dramatiq broker that the config names, not yet connected; None for `none`.

    Raises `BrokerError` where the package that speaks its protocol is not installed.
    """
    if settings.broker == "none":
        return None
    # Retrying is the ledger's business, and a time limit must not break into a hand-off: no other middleware.
    parts = [Retries(max_retries=0), *middleware]
    if settings.broker.startswith(("amqp://", "amqps://")):
        return _open_rabbitmq(settings.broker, parts)
    url = settings.broker
    if url == "embedded":
        url = EmbeddedRedis(settings.data_dir).url
    pool = redis.ConnectionPool.from_url(
        url,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        socket_timeout=_ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
    )
    client = redis.Redis(connection_pool=pool)
    return RedisBroker(  # type: ignore[no-untyped-call]  # dramatiq leaves this constructor untyped
        client=client, middleware=parts, namespace="notifygate"
    )


def ping(settings: GatewaySettings) -> str:
    """Try whether the queue answers; return a line that says what was found. Raises `BrokerError`."""
    broker = open_broker(settings)
    if broker is None:
        return "none: only drain works messages off"
    try:
        if isinstance(broker, RedisBroker):
            version = broker.client.info("server")["redis_version"]
            return f"Redis {version} answers at {settings.broker_shown}"
        broker.declare_queue(SERVICE_QUEUE, ensure=True)  # type: ignore[call-arg]  # RabbitMQ's own argument
    except Exception as error:
        found = f"does not answer ({type(error).__name__})"
        if settings.broker == "embedded":
            found = "Redis is not running: it does while workers do"
        raise BrokerError(f"{settings.broker_shown} {found}") from error
    finally:
        broker.close()
    return f"RabbitMQ answers at {settings.broker_shown}"


class WorkQueue:
    """Puts message ids on the queues. Safe to share between threads.

    After a failure the queue is left alone for a few seconds, so that an application that submits much is not
    slowed by each try.
    """

    def __init__(self, broker: dramatiq.Broker | None, *, embedded: EmbeddedRedis | None = None) -> None:
        self._broker = broker
        self._embedded = embedded
        self._lock = threading.Lock()
        self._left_alone_until = 0.0

    def put(self, taken: Sequence[tuple[str, PurposeClass]]) -> None:
        """Queue messages by id. Raises `BrokerError` where the queue is down; some may then be queued already."""
        broker = self._broker
        if broker is None or not taken:
            return

        def put() -> None:
            for job in _jobs(taken):
                broker.enqueue(job)

        self._trying(put)

    def is_long(self, queue: str) -> bool:
        """Whether a queue holds so many jobs that more would only wait there. Raises `BrokerError` as `put` does."""
        return self._trying(lambda: length(self._broker, queue)) >= _LONG_JOBS[queue]

    def is_left_alone(self) -> bool:
        """Whether the queue failed a moment ago, and is not tried now."""
        return time.monotonic() < self._left_alone_until

    def close(self) -> None:
        if self._broker is not None:
            self._broker.close()

    def _trying(self, use: Callable[[], T]) -> T:
        """Use the broker, unless it failed a moment ago."""
        if self.is_left_alone():
            raise BrokerError("the queue was down a moment ago")
        try:
            return use()
        except Exception as error:
            # Each broker has its own errors, and some come from below it: whatever it is, the ledger has the message.
            with self._lock:
                self._left_alone_until = time.monotonic() + _LEAVE_ALONE_S
            if self._embedded is not None:
                self._embedded.start()
            raise BrokerError(f"the queue cannot be used ({type(error).__name__})") from error


def length(broker: dramatiq.Broker | None, queue: str) -> int:
    """How many jobs of a queue no worker has fetched yet."""
    if isinstance(broker, RedisBroker):
        # Not dramatiq's own count: that is of the jobs' contents, which may outlive the list of what is to be fetched.
        return int(broker.client.llen(f"{broker.namespace}:{queue}"))
    if broker is not None and hasattr(
        broker, "get_queue_message_counts"
    ):  # RabbitMQ, whose package may be missing
        try:
            return int(broker.get_queue_message_counts(queue)[0])
        except Exception:
            del broker.connection  # type: ignore[attr-defined]  # else it is broken for ever: only enqueueing drops it
            raise
    return 0


def _jobs(taken: Sequence[tuple[str, PurposeClass]]) -> Iterator[dramatiq.Message[Any]]:
    for queue, actor in ACTORS.items():
        ids = [
            message_id
            for message_id, kind in taken
            if (kind is PurposeClass.SERVICE) == (queue == SERVICE_QUEUE)
        ]
        for start in range(0, len(ids), IDS_PER_JOB):
            yield dramatiq.Message(
                queue_name=queue,
                actor_name=actor,
                args=(ids[start : start + IDS_PER_JOB],),
                kwargs={},
                options={},
            )


def _open_rabbitmq(url: str, middleware: list[Middleware]) -> dramatiq.Broker:
    try:
        from dramatiq.brokers.rabbitmq import RabbitmqBroker
    except ImportError as error:
        raise BrokerError(
            "gateway.broker: RabbitMQ needs a package that is not installed: pip install 'notifygate[rabbitmq]'"
        ) from error
    return RabbitmqBroker(url=url, middleware=middleware, confirm_delivery=True)
