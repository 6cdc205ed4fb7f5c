"""The figures that workers keep, for Prometheus.

The shell calls the functions at the end. They do nothing until `start` was called, which only worker processes with
`monitoring.listen` do; `prometheus_client` is not even imported before.

Label values come from closed sets: never an address, an id, or text that somebody wrote.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from notifygate.address import Channel
from notifygate.decision import Decision, Reason
from notifygate.errors import NotifygateError
from notifygate.message import Result
from notifygate.policy import PurposeClass

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

ErrorPlace = Literal["job", "channel", "sweep"]

_QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_HAND_OFFS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WAITS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: its name as it is scraped, and what it says. `buckets` are of histograms."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


DECISIONS = Metric(
    name="notifygate_decisions_total",
    kind="counter",
    labels=("outcome", "purpose_class"),
    meaning="Decisions that were committed.",
)
REASONS = Metric(
    name="notifygate_decision_reasons_total",
    kind="counter",
    labels=("outcome", "reason", "purpose_class"),
    meaning="Determining findings of those decisions: one decision may have several.",
)
DECISION_SECONDS = Metric(
    name="notifygate_decision_seconds",
    kind="histogram",
    buckets=_QUICK,
    meaning="What deciding one message took: its batch's transaction, divided by the messages in it.",
)
BATCH_SIZE = Metric(
    name="notifygate_decision_batch_messages",
    kind="histogram",
    buckets=_SIZES,
    meaning="Messages that were decided in one transaction.",
)
WAIT_SECONDS = Metric(
    name="notifygate_queue_wait_seconds",
    kind="histogram",
    labels=("queue",),
    buckets=_WAITS,
    meaning="How long messages had been due when they were decided.",
)
ATTEMPTS = Metric(
    name="notifygate_attempts_total",
    kind="counter",
    labels=("result", "channel"),
    meaning="Attempts whose end was recorded.",
)
HAND_OFF_SECONDS = Metric(
    name="notifygate_hand_off_seconds",
    kind="histogram",
    labels=("channel",),
    buckets=_HAND_OFFS,
    meaning="From handing a message to the channel's driver to its answer.",
)
SWEEPS = Metric(
    name="notifygate_sweeps_total",
    kind="counter",
    meaning="Sweeps of the schedulers that went through.",
)
SWEPT = Metric(
    name="notifygate_swept_messages_total",
    kind="counter",
    meaning="Messages that the schedulers put on the queue.",
)
RELOADS = Metric(
    name="notifygate_config_reloads_total",
    kind="counter",
    labels=("result",),
    meaning="Changed configs that a worker process took up or refused.",
)
ERRORS = Metric(
    name="notifygate_errors_total",
    kind="counter",
    labels=("place",),
    meaning="Jobs, drivers and sweeps that broke off.",
)
KEPT_BY_WORKERS = (
    DECISIONS,
    REASONS,
    DECISION_SECONDS,
    BATCH_SIZE,
    WAIT_SECONDS,
    ATTEMPTS,
    HAND_OFF_SECONDS,
    SWEEPS,
    SWEPT,
    RELOADS,
    ERRORS,
)

LEDGER_UP = Metric(name="notifygate_ledger_up", kind="gauge", meaning="Whether the ledger answers.")
BROKER_UP = Metric(name="notifygate_broker_up", kind="gauge", meaning="Whether the queue answers.")
BACKLOG = Metric(
    name="notifygate_due_backlog",
    kind="gauge",
    labels=("queue",),
    meaning="Messages that are due now and not decided.",
)
AGE = Metric(
    name="notifygate_queue_age_seconds",
    kind="gauge",
    labels=("queue",),
    meaning="How long the oldest of them has been due; 0 if there is none.",
)
DEFERRED = Metric(
    name="notifygate_deferred", kind="gauge", meaning="Messages that wait for a later time to be decided."
)
IN_DOUBT = Metric(
    name="notifygate_in_doubt", kind="gauge", meaning="Messages that may or may not have arrived."
)
HELD = Metric(
    name="notifygate_reservations_held",
    kind="gauge",
    meaning="Reservations under way: being handed over, or left by a worker that died.",
)
UNSEALED = Metric(
    name="notifygate_log_unsealed",
    kind="gauge",
    meaning="Rows of the send log that are not sealed yet.",
)
JOBS = Metric(
    name="notifygate_queue_jobs",
    kind="gauge",
    labels=("queue",),
    meaning="Jobs on the queue that no worker has fetched, each of up to 100 messages.",
)
READ_AT_SCRAPE = (LEDGER_UP, BROKER_UP, BACKLOG, AGE, DEFERRED, IN_DOUBT, HELD, UNSEALED, JOBS)


@dataclass(frozen=True, slots=True)
class _Instruments:
    counters: Mapping[str, Counter]
    histograms: Mapping[str, Histogram]


_instruments: _Instruments | None = None


def require() -> None:
    """Raise a `NotifygateError` where the package that keeps the figures is not installed."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise NotifygateError(
            "monitoring.listen: needs a package that is not installed: pip install 'notifygate[metrics]'"
        )


def start(folder: Path) -> None:
    """Keep figures from now on, in files in `folder`, which all processes of one `dramatiq` command share.

    Raises a `NotifygateError` where the package is not installed.
    """
    global _instruments  # one process has one set of figures
    require()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    import prometheus_client
    from prometheus_client import values

    # A plug-in may have imported the package before the folder was known: it chose then to keep figures in memory.
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]  # untyped in the library
    registry = prometheus_client.CollectorRegistry()
    counters: dict[str, Counter] = {}
    histograms: dict[str, Histogram] = {}
    for metric in KEPT_BY_WORKERS:
        if metric.kind == "counter":
            counters[metric.name] = prometheus_client.Counter(
                metric.name, metric.meaning, metric.labels, registry=registry
            )
        else:
            histograms[metric.name] = prometheus_client.Histogram(
                metric.name, metric.meaning, metric.labels, registry=registry, buckets=metric.buckets
            )
    _instruments = _Instruments(counters, histograms)


def queue_of(purpose_class: PurposeClass) -> str:
    """The value of the label `queue`."""
    return "service" if purpose_class is PurposeClass.SERVICE else "bulk"


def decided(decisions: Iterable[tuple[PurposeClass, timedelta, Decision]], took_s: float) -> None:
    """Count one committed batch: of each message the class, how long it had been due, and the decision."""
    if _instruments is None:
        return
    counters, histograms = _instruments.counters, _instruments.histograms
    batch = list(decisions)
    if not batch:
        return
    histograms[BATCH_SIZE.name].observe(len(batch))
    for purpose_class, waited, decision in batch:
        outcome, kind = decision.outcome.value, purpose_class.value
        counters[DECISIONS.name].labels(outcome, kind).inc()
        for reason in decision.reasons:
            counters[REASONS.name].labels(outcome, _closed(reason), kind).inc()
        histograms[DECISION_SECONDS.name].observe(took_s / len(batch))
        # A message may be decided a moment before it is due by this machine's clock.
        wait_s = max(waited.total_seconds(), 0.0)
        histograms[WAIT_SECONDS.name].labels(queue_of(purpose_class)).observe(wait_s)


def attempt_ended(result: Result, channel: Channel) -> None:
    """Count one attempt that the log says has ended."""
    _count(ATTEMPTS, result.value, channel.value)


def handed_off(channel: Channel, took_s: float) -> None:
    """Measure one hand-off, however it ended."""
    if _instruments is not None:
        _instruments.histograms[HAND_OFF_SECONDS.name].labels(channel.value).observe(took_s)


def swept(queued: int) -> None:
    """Count one sweep, and the messages that it put on the queue."""
    if _instruments is not None:
        _instruments.counters[SWEEPS.name].inc()
        _instruments.counters[SWEPT.name].inc(queued)


def config_reloaded(result: Literal["reloaded", "refused"]) -> None:
    """Count one changed config."""
    _count(RELOADS, result)


def broke_off(place: ErrorPlace) -> None:
    """Count one error that somebody should look at."""
    _count(ERRORS, place)


def _count(metric: Metric, *labels: str) -> None:
    if _instruments is not None:
        _instruments.counters[metric.name].labels(*labels).inc()


def _closed(reason: str) -> str:
    """The reason code, or `other` for that of a plug-in: nobody knows how many of those there may be."""
    return str(reason) if reason in _REASONS else "other"


_REASONS = frozenset(reason.value for reason in Reason)
