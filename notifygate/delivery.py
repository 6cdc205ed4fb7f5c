"""Handing reserved messages to the providers, and recording what became of them.

DESIGN.md sections 7.3 and 7.4. Providers are called outside any transaction. Only this module calls a channel.
"""

from __future__ import annotations

import html
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from notifygate import logs, metrics
from notifygate.address import Channel
from notifygate.channels import ChannelDriver, HandOff, HandOffOutcome, Inquiry, LooksUp
from notifygate.config import Config
from notifygate.errors import LedgerError
from notifygate.failpoints import FailPoint, reach
from notifygate.ledger import journal, messages, purchases
from notifygate.ledger.database import Ledger
from notifygate.ledger.messages import Reservation, StoredMessage
from notifygate.message import Result, Status
from notifygate.policy import PurposeClass
from notifygate.resting import Rests
from notifygate.together import Together

logger = logging.getLogger(__name__)

LOOKED_UP_AFTER = timedelta(seconds=30)
"""How long after a doubt began its driver is first asked to look it up."""

LEASE_RAN_OUT = "lease ran out"
"""The detail of an attempt that nobody recorded in time."""

# Outcomes are recorded in groups, so that a batch costs few commits, but soon, so that a crash leaves few in doubt.
_RECORD_AT_MOST = 100
_RECORD_AFTER_S = 0.5
_TOGETHER = 200

_IN_DOUBT_AFTER_FAULT = HandOffOutcome(result=Result.IN_DOUBT, detail="the driver broke off")
_LEASE_RAN_OUT = HandOffOutcome(result=Result.IN_DOUBT, detail=LEASE_RAN_OUT)
_NOT_HANDED_OVER = HandOffOutcome(result=Result.FAILED, detail="not handed over in time", attempted=False)
_RECORD_AGAIN_AFTER_S = 1.0
_JITTER = 1.2
_RECORD_FOR_AT_MOST_S = 60.0


class Ended(NamedTuple):
    """The end of an attempt, to be recorded; `number` counts the attempts of its message."""

    attempt_id: str
    message: StoredMessage
    number: int
    outcome: HandOffOutcome


class Delivery:
    """Hands messages to the channel drivers. One a process; safe to share between threads."""

    def __init__(
        self,
        ledger: Ledger,
        config: Config,
        drivers: Mapping[Channel, ChannelDriver],
        clock: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._drivers = drivers
        self._clock = clock
        self._urgent = Together(
            partial(self._record_all, is_urgent=True), then=self._tell_all, at_most=_TOGETHER
        )
        self._other = Together(self._record_all, then=self._tell_all, at_most=_TOGETHER)
        self.rests = Rests(clock)

    def deliver(self, reservations: Sequence[Reservation], *, is_urgent: bool = False) -> list[Ended]:
        """Hand over each reserved message once; record outcomes soon, and return the last ones, still to be recorded.

        What `is_urgent` is recorded before what is not.

        Raises `LedgerError` where outcomes cannot be recorded: their leases then run out, into doubt.
        """
        impossible = [
            _ended(one, outcome) for one in reservations if (outcome := self._cannot_hand_over(one.message))
        ]
        self.record(impossible, is_urgent=is_urgent)
        left_out = {one.attempt_id for one in impossible}
        possible = [one for one in reservations if one.attempt_id not in left_out]
        try:
            orders = self._orders(possible)
        except LedgerError:
            # Nothing was handed over: that must not end as a doubt.
            return [_ended(one, _NOT_HANDED_OVER) for one in possible]
        ended: list[Ended] = []
        for channel in sorted({reservation.message.channel for reservation in possible}):
            batch = [one for one in possible if one.message.channel is channel]
            self.record(ended, is_urgent=is_urgent)  # of the channel before: this one may be slow
            ended, recorded_at = [], time.monotonic()
            for one in self._hand_off(self._drivers[channel], batch, orders):
                ended.append(one)
                is_time = time.monotonic() - recorded_at > _RECORD_AFTER_S
                if len(ended) > _RECORD_AT_MOST or is_time:  # a whole group may wait for the next turn
                    self.record(ended, is_urgent=is_urgent)
                    ended, recorded_at = [], time.monotonic()
        return ended

    def channels_that_look_up(self) -> list[Channel]:
        """The channels whose driver can ask the provider what became of a hand-off."""
        return [
            channel
            for channel, driver in self._drivers.items()
            if isinstance(driver, LooksUp) and driver.looks_up
        ]

    def look_up(self, channel: Channel, inquiry: Inquiry) -> HandOffOutcome | None:
        """Ask a channel's provider what became of a hand-off; None where it cannot say now."""
        driver = self._drivers[channel]
        if not isinstance(driver, LooksUp):
            return None
        try:
            outcome = driver.look_up(inquiry)
        except Exception as error:  # noqa: BLE001  # a driver's bug, whatever it is: the doubt stays
            _tell_of_bug(error)
            return None
        if outcome is None or outcome.result not in (Result.ACCEPTED, Result.FAILED):
            return None
        return outcome

    def expire_leases(self, limit: int = 500) -> int:
        """Put in doubt what was reserved and never recorded; return how many."""

        def expire(conn: sa.Connection) -> list[Ended]:
            now = self._clock()
            expired = [
                Ended(attempt_id, message, message.attempts, _LEASE_RAN_OUT)
                for attempt_id, message in messages.expired_leases(conn, now, limit)
            ]
            if expired:
                self._write(conn, expired, now)
                reach(FailPoint.LEASES_EXPIRED)
            return expired

        expired = self._ledger.transact(expire)
        for one in expired:
            told = {"message_id": one.message.message_id, "attempt_id": one.attempt_id}
            logger.warning("lease_ran_out", extra=told)
            _tell(one)
        return len(expired)

    def _cannot_hand_over(self, message: StoredMessage) -> HandOffOutcome | None:
        """Why a message cannot even be tried: the config has changed since it was submitted."""
        if message.channel not in self._drivers:
            return HandOffOutcome(result=Result.FAILED, detail=f"no channel {message.channel} in the config")
        if self._config.settings.sender(message.merchant, message.channel) is None:
            return HandOffOutcome(result=Result.FAILED, detail="the merchant has no sender in the config")
        if message.address is None or message.deliver_to is None or message.text is None:
            return HandOffOutcome(result=Result.REJECTED, detail="its address or text was erased")
        return None

    def _hand_off(
        self, driver: ChannelDriver, batch: Sequence[Reservation], orders: Mapping[str, tuple[str, str]]
    ) -> Iterator[Ended]:
        pulled: list[Reservation] = []
        pulled_at: list[float] = []

        def hand_offs() -> Iterator[HandOff]:
            for reservation in batch:
                # INVARIANT(no hand-off after the lease): by then others count the message as in doubt.
                if self._clock() >= reservation.lease_until:
                    return
                pulled.append(reservation)
                pulled_at.append(time.monotonic())
                reach(FailPoint.HAND_OFF_STARTED)
                yield self._compose(reservation, orders)

        done = 0
        try:
            for outcome in driver.send(hand_offs()):
                reach(FailPoint.HAND_OFF_ANSWERED)
                metrics.handed_off(batch[done].message.channel, time.monotonic() - pulled_at[done])
                self._take_note(batch[done].message.channel, outcome)
                yield _ended(pulled[done], outcome)
                done += 1
        except Exception as error:  # noqa: BLE001  # a driver's bug, whatever it is
            # A driver that raises has a bug. What it may have sent is in doubt; the rest was not sent.
            _tell_of_bug(error)
        for index, reservation in enumerate(batch[done:], start=done):
            yield _ended(reservation, _IN_DOUBT_AFTER_FAULT if index < len(pulled) else _NOT_HANDED_OVER)

    def _take_note(self, channel: Channel, outcome: HandOffOutcome) -> None:
        if outcome.channel_down:
            self.rests.found_down(channel)
        elif outcome.attempted:
            self.rests.found_up(channel)

    def _compose(self, reservation: Reservation, orders: Mapping[str, tuple[str, str]]) -> HandOff:
        message = reservation.message
        settings = self._config.settings
        to = message.deliver_to if message.channel is Channel.EMAIL else message.address
        text, html_text = message.text or "", message.html
        order = orders.get(message.purchase_id or "")
        if order is not None:
            text, html_text = self._with_footer(message, *order)
        return HandOff(
            message_id=message.message_id,
            attempt_id=reservation.attempt_id,
            channel=message.channel,
            to=to or "",
            sender=settings.sender(message.merchant, message.channel) or "",
            subject=message.subject,
            text=text,
            html=html_text,
            at=self._clock(),
        )

    def _with_footer(self, message: StoredMessage, seller: str, order: str) -> tuple[str, str | None]:
        """Say who asks, who sold, and what: one line, added where the text does not hold all three."""
        merchants = self._config.policy.merchants
        named = {
            "merchant": merchants[message.merchant].name,
            "seller": merchants[seller].name if seller in merchants else seller,
            "order": order,
        }
        text, rich = message.text or "", message.html
        line = self._config.settings.footer(message.language).format(**named)
        if not _holds_all(text, named.values()):
            text = f"{text.rstrip()}\n\n{line}"
        if rich is not None and not _holds_all(html.unescape(rich), named.values()):
            paragraph = f"<p>{html.escape(line)}</p>"
            body, closing, rest = rich.rpartition("</body>")
            rich = f"{body}{paragraph}{closing}{rest}" if closing else f"{rich}{paragraph}"
        return text, rich

    def _asks(self, message: StoredMessage) -> bool:
        """Whether a message is a review request, by the policy of now."""
        purpose = self._config.policy.purposes.get(message.purpose)
        return purpose is not None and purpose.purpose_class is PurposeClass.REVIEW

    def _orders(self, reservations: Sequence[Reservation]) -> Mapping[str, tuple[str, str]]:
        wanted = {
            one.message.purchase_id
            for one in reservations
            if one.message.purchase_id and self._asks(one.message)
        }
        if not wanted:
            return {}
        with self._ledger.read() as conn:
            return purchases.order_ids(conn, wanted)

    def record(self, ended: Sequence[Ended], *, is_urgent: bool = False) -> None:
        """Record outcomes in a transaction of their own, and while the ledger is out of reach try again for a minute.

        Raises `LedgerError` then: what is known of these hand-offs is lost, and they are in doubt.
        """
        if not ended:
            return
        give_up_at = time.monotonic() + _RECORD_FOR_AT_MOST_S
        while True:
            try:
                (self._urgent if is_urgent else self._other)(ended)
            except LedgerError:
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(_RECORD_AGAIN_AFTER_S)
            else:
                return

    def _record_all(self, groups: Sequence[Sequence[Ended]], *, is_urgent: bool = False) -> list[None]:
        """Record the outcomes that several threads have, in one transaction."""
        ended = [one for group in groups for one in group]
        self._ledger.transact(
            lambda conn: self.write(conn, ended), hurries=len(groups) > 1, is_urgent=is_urgent
        )
        return [None] * len(groups)

    def _tell_all(self, groups: Sequence[Sequence[Ended]], recorded: Sequence[None]) -> None:
        self.tell([one for group in groups for one in group])

    def write(self, conn: sa.Connection, ended: Sequence[Ended]) -> None:
        """Write outcomes in the transaction at hand. Once that is committed, `tell` must be called."""
        self._write(conn, ended, self._clock())
        reach(FailPoint.RECORD_WRITTEN)

    def tell(self, ended: Sequence[Ended]) -> None:
        """Count and log outcomes that were committed."""
        reach(FailPoint.RECORD_COMMITTED)
        for one in ended:
            _tell(one)

    def _write(self, conn: sa.Connection, ended: Sequence[Ended], now: datetime) -> None:
        held = messages.hold_attempts(conn, [one.attempt_id for one in ended])
        attempts, statuses, released, entries = [], [], [], []
        for one in ended:
            state, is_open = held.get(one.attempt_id, (None, False))
            if not is_open and state == one.outcome.result:
                continue  # recorded before, by a commit whose answer was lost
            entries.append(_entry(one, now))
            if not is_open:
                continue
            status = self._status_after(one, now)
            statuses.append(status)
            attempts.append(_end(one, now, blocks=status["status"] in (Status.SENT, Status.IN_DOUBT)))
            if one.outcome.result in (Result.REJECTED, Result.FAILED):
                released.append(one.attempt_id)
        messages.end_attempts(conn, attempts)
        purchases.release_asks(conn, released)
        messages.set_status(conn, statuses)
        journal.append(conn, entries)

    def _status_after(self, one: Ended, now: datetime) -> dict[str, Any]:
        message, outcome = one.message, one.outcome
        purpose = self._config.policy.purposes.get(message.purpose)
        resend = purpose is not None and purpose.on_doubt == "resend"
        row: dict[str, Any] = {
            "message_id": message.message_id,
            "reason": outcome.detail or None,
            "due_at": message.due_at,
            "sweep_at": message.sweep_at,
            "attempts": one.number,
        }
        if outcome.result is Result.ACCEPTED:
            return row | {"status": Status.SENT.value, "reason": None}
        if outcome.result is Result.IN_DOUBT and not resend:
            return row | {"status": Status.IN_DOUBT.value, "sweep_at": now + LOOKED_UP_AFTER}
        delivery = self._config.settings.delivery
        if not outcome.attempted:
            row["attempts"] = one.number - 1
        elif outcome.result is Result.REJECTED or one.number >= delivery.max_attempts:
            ended = Status.IN_DOUBT if outcome.result is Result.IN_DOUBT else Status.FAILED
            return row | {"status": ended.value, "sweep_at": now + LOOKED_UP_AFTER}
        again_at = now + self._back_off(one.number, outcome.retry_after)
        return row | {"status": Status.QUEUED.value, "due_at": again_at, "sweep_at": again_at}

    def _back_off(self, attempts: int, at_least: timedelta | None) -> timedelta:
        """How long to wait after so many attempts: doubling, with up to a fifth more so that crowds disperse."""
        delivery = self._config.settings.delivery
        doubled: timedelta = delivery.retry_after * 2 ** min(attempts - 1, 30)
        wait = min(doubled, delivery.retry_at_most / _JITTER) * random.uniform(1.0, _JITTER)
        return max(wait, at_least or timedelta(0))


def _tell_of_bug(error: Exception) -> None:
    """Count and log that a driver raised, without its own words: they may quote the message."""
    metrics.broke_off("channel")
    raised = {"error": type(error).__name__, "where": logs.where(error)}
    logger.error("channel_driver_raised", extra=raised)


def _tell(one: Ended) -> None:
    """Count and log the end of an attempt, once it is recorded."""
    result, channel = one.outcome.result, one.message.channel
    metrics.attempt_ended(result, channel)
    level = logging.DEBUG if result is Result.ACCEPTED else logging.INFO
    if logger.isEnabledFor(level):
        told = {"message_id": one.message.message_id, "attempt_id": one.attempt_id, "channel": channel.value}
        logger.log(
            level, "attempt_ended", extra=told | {"result": result.value, "detail": one.outcome.detail}
        )


def _holds_all(text: str, names: Iterable[str]) -> bool:
    folded = text.casefold()
    return all(name.casefold() in folded for name in names)


def _ended(reservation: Reservation, outcome: HandOffOutcome) -> Ended:
    if outcome.provider_id and _names_recipient(outcome.provider_id, reservation.message):
        # INVARIANT(no address in the send log): nothing could take it away there.
        outcome = replace(outcome, provider_id=None)
    if not f"{outcome.detail}{outcome.provider_id or ''}".isprintable():
        # What no database holds would keep the outcomes of the whole group from being recorded.
        named = outcome.provider_id and _printable(outcome.provider_id)
        outcome = replace(outcome, detail=_printable(outcome.detail), provider_id=named)
    return Ended(reservation.attempt_id, reservation.message, reservation.number, outcome)


def _names_recipient(provider_id: str, message: StoredMessage) -> bool:
    """Whether what a provider calls a message by is made of the address that it went to."""
    folded = provider_id.casefold()
    known = (message.address, message.deliver_to)
    return any(one.lstrip("+").casefold() in folded for one in known if one)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _end(one: Ended, now: datetime, *, blocks: bool) -> dict[str, Any]:
    return {
        "attempt_id": one.attempt_id,
        "state": one.outcome.result.value,
        "detail": one.outcome.detail,
        "provider_id": one.outcome.provider_id,
        "ended_at": now,
        "blocks": blocks,
    }


def _entry(one: Ended, now: datetime) -> journal.Row:
    message, outcome = one.message, one.outcome
    return journal.Row(
        kind=journal.Kind.ATTEMPT,
        at=now,
        message_id=message.message_id,
        contact_point_id=message.contact_point_id,
        purchase_id=message.purchase_id,
        merchant=message.merchant,
        purpose=message.purpose,
        channel=message.channel.value,
        outcome=outcome.result.value,
        reason=outcome.detail or None,
        body={
            "attempt_id": one.attempt_id,
            "number": one.number,
            "detail": outcome.detail,
            "provider_id": outcome.provider_id,
        },
    )
