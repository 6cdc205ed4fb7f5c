"""All parts of a gateway put together from one config: what the facade, the workers and the scheduler share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from notifygate.delivery import Delivery, Ended
from notifygate.doubt import Doubts
from notifygate.embedded import EmbeddedRedis
from notifygate.errors import BrokerError, ConfigError, ConfigFault, LedgerError
from notifygate.gate import Gate
from notifygate.ledger import messages
from notifygate.ledger.database import Ledger
from notifygate.policy import PurposeClass
from notifygate.restoring import LedgerMark
from notifygate.scheduler import Scheduler
from notifygate.sealing import Sealer
from notifygate.turns import Turns

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]
_DRAIN_BATCH = 100
# Few enough that what is decided is handed over at once: a refusal that comes between the two comes too late.
_DECIDED_AT_FIRST = 25
_DECIDED_AT_MOST = 100
_HANDED_OVER_WITHIN_S = 0.25
# The keys that a process goes by for as long as it lives.
_FOR_LIFE = {
    "gateway": ("ledger", "broker", "data_dir", "secret"),
    "monitoring": ("listen", "log_format"),
    "log": ("origin", "key"),
}


def system_clock() -> datetime:
    """The instant now, in UTC."""
    return datetime.now(UTC)


class Configured:
    """All that follows from one config: replaced as a whole when the config changes."""

    def __init__(
        self, ledger: Ledger, config: Config, clock: Clock, *, recognise: Callable[[], None]
    ) -> None:
        self.config = config
        self.gate = Gate(
            ledger, config.policy, clock, lease=config.settings.delivery.lease, recognise=recognise
        )
        self.drivers = open_channels(config)
        self.delivery = Delivery(ledger, config, self.drivers, clock)
        self.turns = Turns(ledger, self.gate, self.delivery)
        self.doubts = Doubts(ledger, self.delivery, clock)
        self.users = 0
        self.group_size = _DECIDED_AT_FIRST
        """How many messages are decided and reserved together."""

    def pace(self, count: int, took_s: float) -> None:
        """Let a group be as large as is handed over within about a quarter of a second.

        What a killed process had reserved is in doubt, and a refusal that comes after the decision comes too late.
        """
        if count:
            fits = int(_HANDED_OVER_WITHIN_S * count / max(took_s, 1e-6))
            self.group_size = max(1, min(fits, _DECIDED_AT_MOST))

    def close(self) -> None:
        for driver in self.drivers.values():
            driver.close()


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
        self.clock = clock
        self._lock = threading.Lock()
        self._recognised_at = 0
        self._is_stopping = False
        settings = config.settings
        secret = settings.gateway.secret
        self.ledger = Ledger(settings.gateway.ledger, secret=secret.get_secret_value() if secret else None)
        try:
            self.queue = WorkQueue(broker or open_broker(settings.gateway), embedded=embedded)
            self._configured = Configured(self.ledger, config, clock, recognise=self._recognise_ledger)
        except BaseException:
            self.ledger.close()
            raise
        try:
            self.ledger.prepare()
        except BaseException:
            self._configured.close()
            self.ledger.close()
            raise
        self.mark = LedgerMark(self.ledger, settings.gateway.data_dir)
        self.sealer = Sealer(self.ledger, lambda: self.config.settings.log, settings.gateway.data_dir, clock)
        self.scheduler = Scheduler(
            self.ledger,
            self.queue,
            clock,
            expire_leases=self.expire_leases,
            look_up=self.look_up,
            mark=self.mark.make,
            seal=self.sealer.work,
            requeue_after=lambda: self.config.settings.delivery.requeue_after,
        )

    @property
    def config(self) -> Config:
        """The config in force."""
        return self._configured.config

    @property
    def gate(self) -> Gate:
        return self._configured.gate

    @property
    def turns(self) -> Turns:
        return self._configured.turns

    @property
    def drivers(self) -> dict[Channel, ChannelDriver]:
        return self._configured.drivers

    @property
    def doubts(self) -> Doubts:
        return self._configured.doubts

    def reload(self, config: Config) -> None:
        """Go by another config from now on. What is under way is finished by the one before.

        Raises `ConfigError` where it changes what only a restart can change, `ChannelError` where a channel cannot be
        opened; then nothing has changed.
        """
        check_reload(config, instead_of=self.config)
        new = Configured(self.ledger, config, self.clock, recognise=self._recognise_ledger)
        with self._lock:
            before, self._configured = self._configured, new
            is_unused = before.users == 0
        if is_unused:
            before.close()

    def close(self) -> None:
        self.scheduler.stop()
        self._configured.close()
        self.queue.close()
        self.ledger.close()

    @contextmanager
    def _in_use(self) -> Iterator[Configured]:
        """What is configured now; its drivers stay open until the end of the block, whatever is configured then."""
        with self._lock:
            parts = self._configured
            parts.users += 1
        try:
            yield parts
        finally:
            with self._lock:
                parts.users -= 1
                is_over = parts is not self._configured and parts.users == 0
            if is_over:
                parts.close()

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
            self._leave_to_the_scheduler([message_id for message_id, _ in taken])

    def _leave_to_the_scheduler(self, message_ids: Sequence[str]) -> None:
        try:
            self.ledger.transact(lambda conn: messages.queue_again(conn, message_ids, self.clock()))
        except LedgerError as error:
            # The messages are committed: whoever submits must not be told otherwise, and do it again. They are swept
            # up a little later, as those are that a queue has lost.
            logger.warning("queued_later", extra={"messages": len(message_ids), "error": str(error)})

    def work(self, message_ids: Sequence[str], *, is_urgent: bool = False) -> int:
        """Decide messages and hand over what is allowed; return how many were decided. What `is_urgent` goes first.

        Ids that are unknown, or not due, or in another worker's hands are passed over, and so are those of a channel
        whose provider was found down a moment ago.
        """
        count, left = 0, list(message_ids)
        ended: list[Ended] = []
        while left and not self._is_stopping:
            # Taken up anew for each group, so that a changed config counts for the next.
            with self._in_use() as parts:
                rests = parts.delivery.rests
                size = parts.group_size
                if not is_urgent:
                    size = parts.turns.at_once(size)
                batch, left = left[:size], left[size:]
                with rests.trials() as trials:
                    decided = parts.turns.take(
                        ended, batch, is_urgent=is_urgent, without=rests.resting() - trials, one_of=trials
                    )
                    started_at = time.monotonic()
                    ended = parts.delivery.deliver(decided.reservations, is_urgent=is_urgent)
                    parts.pace(len(decided.reservations), time.monotonic() - started_at)
            count += decided.count
        with self._in_use() as parts:
            parts.turns.take(ended, (), is_urgent=is_urgent)
        if left:
            self._leave_to_the_scheduler(left)
        return count

    def stop_working(self) -> None:
        """Let `work` end after the group in hand; what is left of a job is queued again for others."""
        self._is_stopping = True

    def _recognise_ledger(self) -> None:
        """After any new connection, see that it is still the ledger it was: it may have been restored meanwhile."""
        if self.ledger.connections_made != self._recognised_at:
            self.mark.check()
            self._recognised_at = self.ledger.connections_made

    def expire_leases(self, limit: int = 500) -> int:
        """Put in doubt what was reserved and never recorded; return how many."""
        return self._configured.delivery.expire_leases(limit)

    def look_up(self) -> bool:
        """Ask the provider about a doubt whose turn it is; say whether there was one."""
        with self._in_use() as parts:
            return parts.doubts.look_up()

    def drain(self, limit: int | None = None) -> int:
        """Work off all that is due now, in this process; return how many messages were decided.

        Raises `LedgerError` where the ledger was restored from a backup, and not made safe since.
        """
        self.mark.check()
        self.expire_leases()
        while self.look_up():
            pass
        total, passed_over = 0, None
        while limit is None or total < limit:
            batch = _DRAIN_BATCH if limit is None else min(_DRAIN_BATCH, limit - total)
            with self.ledger.read() as conn:
                resting = self._configured.delivery.rests.resting()
                due = messages.due(conn, self.clock(), batch, after=passed_over, without=resting)
            if not due:
                break
            decided = self.work([message_id for _, message_id in due])
            # Where none was decided, all are in other workers' hands: leave them there, and look behind them.
            passed_over = None if decided else due[-1]
            total += decided
        self.mark.make()
        self.sealer.work_quietly()
        return total


def check_reload(config: Config, *, instead_of: Config) -> None:
    """Raise `ConfigError` where a config changes what only a restart can change, `ChannelError` for a bad channel."""
    faults = [
        ConfigFault(key=f"{table}.{key}", problem="takes effect only when the workers are started anew")
        for table, keys in _FOR_LIFE.items()
        for key in keys
        if getattr(getattr(config.settings, table), key) != getattr(getattr(instead_of.settings, table), key)
    ]
    if faults:
        raise ConfigError(str(config.source), faults)
    for driver in open_channels(config).values():
        driver.close()


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
                lookup_url=settings.lookup_url,
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
