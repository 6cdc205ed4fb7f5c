"""The Dramatiq side: two actors, and the scheduler that lives in each worker process.

`notifygate worker` and `dramatiq worker` both end here, in `setup`.
"""

from __future__ import annotations

import sys
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware

from notifygate import broker as brokers
from notifygate import config
from notifygate.embedded import EmbeddedRedis
from notifygate.errors import BrokerError, NotifygateError
from notifygate.reloading import Reloader
from notifygate.runtime import Runtime

_PRIORITY = {brokers.SERVICE_QUEUE: 0, brokers.BULK_QUEUE: 10}


class WorkerLife(Middleware):
    """Ties a runtime to a worker process: what runs beside the work starts and stops with it."""

    runtime: Runtime
    reloader: Reloader
    embedded: EmbeddedRedis | None = None

    def work(self, message_ids: list[str]) -> None:
        """Decide and hand over the messages of one job."""
        self.runtime.work(message_ids)

    def after_worker_boot(self, broker: dramatiq.Broker, worker: Any) -> None:
        self.runtime.scheduler.start()
        self.reloader.start()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:
        self.reloader.stop()
        self.runtime.scheduler.stop()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:
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
    gateway = loaded.settings.gateway
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
            life.work,
            broker=broker,
            actor_name=name,
            queue_name=queue,
            priority=_PRIORITY[queue],
            options={"max_retries": 0},
        )
    dramatiq.set_broker(broker)
    return broker
