"""The Dramatiq side: two actors, and the scheduler that lives in each worker process.

`notifygate worker` and `dramatiq worker` both end here, in `setup`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial

import dramatiq
from dramatiq.middleware import Middleware

from notifygate import __version__, config, logs, metrics, metrics_folder, monitor
from notifygate import broker as brokers
from notifygate.embedded import EmbeddedRedis
from notifygate.errors import BrokerError, NotifygateError
from notifygate.lane import ServiceLane
from notifygate.reloading import Reloader
from notifygate.runtime import Runtime

logger = logging.getLogger(__name__)

_SWITCH_EVERY_S = 0.0005
_PRIORITY = {brokers.SERVICE_QUEUE: 0, brokers.BULK_QUEUE: 10}


class WorkerLife(Middleware):
    """Ties a runtime to a worker process: what runs beside the work starts and stops with it."""

    runtime: Runtime
    reloader: Reloader
    embedded: EmbeddedRedis | None = None

    def __init__(self) -> None:
        self._lane = ServiceLane()

    def work(self, message_ids: list[str], *, is_urgent: bool = False) -> None:
        """Decide and hand over the messages of one job. Raises a `NotifygateError` where that broke off."""
        try:
            self.runtime.work(message_ids, is_urgent=is_urgent)
        except NotifygateError:
            metrics.broke_off("job")
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, its words must not get out
            metrics.broke_off("job")
            # Dramatiq logs what is raised here. Not chained: the error's own words may quote a message.
            raise NotifygateError(f"a job broke off: {type(error).__name__} at {logs.where(error)}") from None

    @property
    def forks(self) -> list[Callable[[], int]]:
        """What Dramatiq runs in a process beside the workers."""
        return [monitor.serve] if self.runtime.config.settings.monitoring.listen else []

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if not self._lane.is_for(worker):
            self._lane.prepare(broker, worker)

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._lane.is_for(worker):
            return
        self._lane.start()
        self.runtime.scheduler.start()
        self.reloader.start()
        loaded = self.runtime.config
        gateway = loaded.settings.gateway
        told = {"version": __version__, "policy": loaded.policy.hash}
        told |= {"ledger": gateway.ledger_shown, "queue": gateway.broker_shown}
        logger.info("worker_started", extra=told)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._lane.is_for(worker):
            return
        self.runtime.stop_working()
        self._lane.begin_to_stop()
        self.reloader.stop()
        self.runtime.scheduler.stop()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._lane.is_for(worker):
            return
        self._lane.finish_stopping()
        self.runtime.sealer.work_quietly(is_last=True)
        self.runtime.close()
        if self.embedded is not None:
            self.embedded.stop()


def setup() -> dramatiq.Broker:
    """Make this process a worker: read the config, open the broker, declare the actors.

    The config is $NOTIFYGATE_CONFIG, else ./notifygate.toml. Where it cannot be used the process ends with exit
    code 2 and a line that says why.
    """
    try:
        return _set_up()
    except NotifygateError as error:
        print(f"notifygate: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _set_up() -> dramatiq.Broker:
    loaded = config.load()
    gateway, monitoring = loaded.settings.gateway, loaded.settings.monitoring
    logs.set_up(monitoring.log_format)
    if monitoring.listen is not None:
        metrics.start(metrics_folder.join(gateway.data_dir))
    # A thread that has an answer of the database or a provider must not wait long for one that computes.
    sys.setswitchinterval(_SWITCH_EVERY_S)
    life = WorkerLife()
    broker = brokers.open_broker(gateway, middleware=[life])
    if broker is None:
        raise BrokerError('gateway.broker: is "none", so there is no queue to work off; set it, or use drain')
    if gateway.broker == "embedded":
        life.embedded = EmbeddedRedis(gateway.data_dir)
        life.embedded.start()
    try:
        life.runtime = Runtime(loaded, broker=broker, embedded=life.embedded)
        life.runtime.mark.check()
    except BaseException:
        if life.embedded is not None:
            life.embedded.stop()
        raise
    life.reloader = Reloader(life.runtime)
    for queue, name in brokers.ACTORS.items():
        dramatiq.Actor(
            partial(life.work, is_urgent=queue == brokers.SERVICE_QUEUE),
            broker=broker,
            actor_name=name,
            queue_name=queue,
            priority=_PRIORITY[queue],
            options={"max_retries": 0},
        )
    dramatiq.set_broker(broker)
    return broker
