"""Asking the ledger and the queue how they are, without ever being kept waiting by them.

For the endpoint that `monitor` serves: probes ask in threads of their own, answer in bounded time, and keep an answer
for a moment, so that it makes no difference how often somebody looks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy.engine import make_url

from notifygate import broker as brokers
from notifygate import metrics
from notifygate.config import GatewaySettings
from notifygate.errors import BrokerError, LedgerError
from notifygate.ledger import gauges
from notifygate.ledger.database import Ledger

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

logger = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_WITHIN_S = 2.0
_STATE_KEPT_S = 1.0
_FIGURES_KEPT_S = 5.0
_QUEUES = {"service": brokers.SERVICE_QUEUE, "bulk": brokers.BULK_QUEUE}
# So that a connection to a server that vanished ends by itself, and with it the thread that waits for it.
_POSTGRESQL_OPTIONS = {
    "connect_timeout": "2",
    "tcp_user_timeout": "5000",
    "application_name": "notifygate monitor",
}


class Probe(Generic[T]):
    """Asks a question that may hang or fail; None is then the answer. Safe to share between threads.

    An answer takes `within_s` at most, and is kept for `keep_s`. While a question hangs no other is asked.
    """

    def __init__(self, ask: Callable[[], T], *, within_s: float, keep_s: float) -> None:
        self._ask = ask
        self._within_s = within_s
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._asked: _Asked[T] | None = None

    def ask(self) -> _Asked[T]:
        """Begin to ask, unless that was done within the last `keep_s`, or is being done."""
        with self._lock:
            asked = self._asked
            if asked is None or asked.is_older_than(self._keep_s):
                asked = self._asked = _Asked(self._ask)
        return asked

    def answer(self) -> T | None:
        """What was found within the last `keep_s`, or is found now."""
        return self.ask().wait(self._within_s)


class _Asked(Generic[T]):
    """A question that is being asked, or was."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._found: T | None = None
        self._started_at = time.monotonic()
        self._ended_at = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="notifygate-probe", daemon=True).start()

    def is_older_than(self, seconds: float) -> bool:
        return self._ended.is_set() and time.monotonic() - self._ended_at > seconds

    def wait(self, within_s: float) -> T | None:
        """The answer, if there is one so long after the question at the latest."""
        self._ended.wait(max(0.0, self._started_at + within_s - time.monotonic()))
        return self._found

    def _run(self) -> None:
        try:
            self._found = self._ask()
        except (LedgerError, BrokerError) as error:
            logger.debug("probe_unanswered", extra={"error": str(error)})
        except Exception as error:  # noqa: BLE001  # whatever it is, there is no answer
            # Not the error's own words: they may hold a password of a URL.
            logger.error("probe_failed", extra={"error": type(error).__name__})  # noqa: TRY400
        finally:
            self._ended_at = time.monotonic()
            self._ended.set()


class Probes:
    """What can be asked about one gateway: whether ledger and queue are ready, and how much waits."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._ledger = Ledger(_patient_url(settings.ledger))
        self._ledger_state = Probe(self._ask_ledger, within_s=ANSWER_WITHIN_S, keep_s=_STATE_KEPT_S)
        self._broker_state = Probe(self._ask_broker, within_s=ANSWER_WITHIN_S, keep_s=_STATE_KEPT_S)
        self._backlog = Probe(self._ask_backlog, within_s=ANSWER_WITHIN_S, keep_s=_FIGURES_KEPT_S)
        self._jobs = Probe(self._ask_jobs, within_s=ANSWER_WITHIN_S, keep_s=_FIGURES_KEPT_S)

    def readiness(self) -> Mapping[str, str]:
        """The state of the ledger (`ok`, `down` or `wrong schema`) and of the queue (`ok` or `down`)."""
        self._broker_state.ask()  # both at the same time
        return {
            "ledger": self._ledger_state.answer() or "down",
            "broker": self._broker_state.answer() or "down",
        }

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, for a registry of prometheus_client. Those of what is down are left out."""
        self._backlog.ask()
        self._jobs.ask()
        state = self.readiness()
        found = self._backlog.answer() if state["ledger"] == "ok" else None
        yield _gauge(metrics.LEDGER_UP, {(): float(found is not None)})
        if found is not None:
            queues = {"service": found.service, "bulk": found.bulk}
            yield _gauge(metrics.BACKLOG, {(name,): one.due for name, one in queues.items()})
            ages = {(name,): one.age.total_seconds() if one.age else 0.0 for name, one in queues.items()}
            yield _gauge(metrics.AGE, ages)
            yield _gauge(metrics.DEFERRED, {(): found.deferred})
            yield _gauge(metrics.IN_DOUBT, {(): found.in_doubt})
            yield _gauge(metrics.HELD, {(): found.held})
            yield _gauge(metrics.UNSEALED, {(): found.unsealed})
        jobs = self._jobs.answer() if state["broker"] == "ok" else None
        yield _gauge(metrics.BROKER_UP, {(): float(state["broker"] == "ok")})
        if jobs is not None:
            yield _gauge(metrics.JOBS, {(name,): count for name, count in jobs.items()})

    def _ask_ledger(self) -> str:
        return "ok" if self._ledger.is_usable() else "wrong schema"

    def _ask_broker(self) -> str:
        brokers.ping(self._settings)
        return "ok"

    def _ask_backlog(self) -> gauges.Gauges:
        with self._ledger.read() as conn:
            return gauges.read(conn, datetime.now(UTC))

    def _ask_jobs(self) -> Mapping[str, int]:
        broker = brokers.open_broker(self._settings)
        try:
            return {name: brokers.length(broker, queue) for name, queue in _QUEUES.items()}
        finally:
            # Opened for this question: a connection to RabbitMQ belongs to the thread that asks.
            if broker is not None:
                broker.close()


def _patient_url(url: str) -> str:
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return url
    own = {name: value for name, value in _POSTGRESQL_OPTIONS.items() if name not in parsed.query}
    return parsed.update_query_dict(own).render_as_string(hide_password=False)


def _gauge(metric: metrics.Metric, values: Mapping[Any, float]) -> GaugeMetricFamily:
    """A metric with its values, by their labels."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
