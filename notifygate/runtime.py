"""All parts of a gateway put together from one config: what the facade, the workers and the scheduler share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import dramatiq

from notifygate.address import Channel, ContactPoint
from notifygate.broker import WorkQueue, open_broker
from notifygate.channels import ChannelDriver
from notifygate.channels.console import ConsoleChannel
from notifygate.channels.file import FileChannel
from notifygate.channels.http import HttpChannel
from notifygate.channels.kannel import KannelChannel
from notifygate.channels.null import NullChannel
from notifygate.channels.smtp import SmtpChannel
from notifygate.config import (
    Config,
    ConsoleSettings,
    EmailSettings,
    FileSettings,
    HttpSettings,
    KannelSettings,
    NullSettings,
    SmsSettings,
    SmtpSettings,
)
from notifygate.delivery import Delivery
from notifygate.doubt import Doubts
from notifygate.embedded import EmbeddedRedis
from notifygate.errors import BrokerError
from notifygate.gate import Gate
from notifygate.ledger import messages
from notifygate.ledger.database import Ledger
from notifygate.policy import PurposeClass
from notifygate.scheduler import Scheduler

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]
_DRAIN_BATCH = 100
# Few enough that what is decided is handed over at once: a refusal that comes between the two comes too late.
_DECIDED_AT_ONCE = 25


def system_clock() -> datetime:
    """The instant now, in UTC."""
    return datetime.now(UTC)


class Runtime:
    """The working parts of one gateway in one process. Safe to share between threads, not between processes."""

    def __init__(
        self,
        config: Config,
        clock: Clock = system_clock,
        *,
        broker: dramatiq.Broker | None = None,
        embedded: EmbeddedRedis | None = None,
    ) -> None:
        self.config = config
        self.clock = clock
        settings = config.settings
        secret = settings.gateway.secret
        self.ledger = Ledger(settings.gateway.ledger, secret=secret.get_secret_value() if secret else None)
        self.drivers: dict[Channel, ChannelDriver] = {}
        try:
            self.gate = Gate(self.ledger, config.policy, clock, lease=settings.delivery.lease)
            self.queue = WorkQueue(broker or open_broker(settings.gateway), embedded=embedded)
            self.drivers = open_channels(config)
            self.ledger.prepare()
        except BaseException:
            for driver in self.drivers.values():
                driver.close()
            self.ledger.close()
            raise
        self.delivery = Delivery(self.ledger, config, self.drivers, clock)
        self.doubts = Doubts(self.ledger, self.delivery, clock)
        self.scheduler = Scheduler(
            self.ledger, self.delivery, self.doubts, self.queue, settings.delivery, clock
        )

    def close(self) -> None:
        self.scheduler.stop()
        for driver in self.drivers.values():
            driver.close()
        self.queue.close()
        self.ledger.close()

    def point(self, raw: ContactPoint | str) -> ContactPoint:
        """Read a contact point, in the configured region. Raises `InvalidContactPoint`."""
        return ContactPoint.parse(raw, region=self.config.settings.gateway.default_region)

    def enqueue(self, taken: Sequence[tuple[str, PurposeClass]]) -> None:
        """Put new messages on the queue; where it is down, leave them to the scheduler."""
        try:
            self.queue.put(taken)
        except BrokerError as error:
            # An embedded queue runs while workers do; that it is down is nothing to be warned of.
            level = logging.INFO if self.config.settings.gateway.broker == "embedded" else logging.WARNING
            logger.log(level, "queue_down_at_submit", extra={"messages": len(taken), "error": str(error)})
            ids = [message_id for message_id, _ in taken]
            self.ledger.transact(lambda conn: messages.queue_again(conn, ids, self.clock()))

    def work(self, message_ids: Sequence[str]) -> int:
        """Decide messages and hand over what is allowed; return how many were decided.

        Ids that are unknown, or not due, or in another worker's hands are passed over, and so are those of a channel
        whose provider was found down a moment ago.
        """
        rests = self.delivery.rests
        count, left = 0, list(message_ids)
        while left:
            size = (
                1 if rests.over() else _DECIDED_AT_ONCE
            )  # one message finds out whether the provider is back
            batch, left = left[:size], left[size:]
            decided = self.gate.decide(batch, without=rests.resting())
            self.delivery.deliver(decided.reservations)
            count += decided.count
        return count

    def drain(self, limit: int | None = None) -> int:
        """Work off all that is due now, in this process; return how many messages were decided."""
        self.delivery.expire_leases()
        self.doubts.look_up()
        total, passed_over = 0, None
        while limit is None or total < limit:
            batch = _DRAIN_BATCH if limit is None else min(_DRAIN_BATCH, limit - total)
            with self.ledger.read() as conn:
                resting = self.delivery.rests.resting()
                due = messages.due(conn, self.clock(), batch, after=passed_over, without=resting)
            if not due:
                break
            decided = self.work([message_id for _, message_id in due])
            # Where none was decided, all are in other workers' hands: leave them there, and look behind them.
            passed_over = None if decided else due[-1]
            total += decided
        return total


def open_channels(config: Config) -> dict[Channel, ChannelDriver]:
    """A driver for each channel that the config sets up. Raises `ChannelError`."""
    settings = config.settings
    wanted = {Channel.EMAIL: settings.email, Channel.SMS: settings.sms}
    opened: dict[Channel, ChannelDriver] = {}
    try:
        for channel, found in wanted.items():
            if found is not None:
                opened[channel] = _open(found)
    except BaseException:
        for driver in opened.values():
            driver.close()
        raise
    return opened


def _open(settings: EmailSettings | SmsSettings) -> ChannelDriver:
    match settings:
        case SmtpSettings():
            return SmtpChannel(
                host=settings.host,
                port=settings.port,
                tls=settings.tls,
                username=settings.username,
                password=_revealed(settings),
                timeout_s=settings.timeout.total_seconds(),
                ca_file=_path(settings.ca_file),
            )
        case HttpSettings():
            return HttpChannel(
                url=settings.url,
                method=settings.method,
                query=settings.query,
                headers=settings.headers,
                form=settings.form,
                json=settings.json_body,
                body=settings.body,
                username=settings.username,
                password=_revealed(settings),
                secrets={name: secret.get_secret_value() for name, secret in settings.secrets.items()},
                accepted_statuses=settings.accepted_statuses,
                provider_id_path=settings.provider_id_path,
                timeout_s=settings.timeout.total_seconds(),
                ca_file=_path(settings.ca_file),
            )
        case KannelSettings():
            return KannelChannel(
                url=settings.url,
                username=settings.username,
                password=_revealed(settings) or "",
                timeout_s=settings.timeout.total_seconds(),
                ca_file=_path(settings.ca_file),
            )
        case FileSettings():
            return FileChannel(settings.path)
        case ConsoleSettings():
            return ConsoleChannel()
        case NullSettings():
            return NullChannel()


def _revealed(settings: SmtpSettings | HttpSettings | KannelSettings) -> str | None:
    return settings.password.get_secret_value() if settings.password else None


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
