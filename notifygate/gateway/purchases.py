"""`gate.purchases`: the other names of a purchase, and asks and reviews that happened elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from notifygate.address import ContactPoint
from notifygate.errors import InvalidMessage
from notifygate.ids import new_id
from notifygate.ledger import journal, messages, people, purchases
from notifygate.ledger.database import LedgerConflict
from notifygate.message import Purchase, check_aware
from notifygate.runtime import Runtime

# It goes into the ledger, where no address may stand.
_NAME = re.compile(r"\w[\w .,&'/-]{0,79}")
_MANY_DIGITS = re.compile(r"\d[\d .-]{5,}")


class Purchases:
    """What the gateway is told about purchases. Obtained as `gate.purchases`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def alias(self, purchase: Purchase, carrier: str, reference: str) -> None:
        """Record that a carrier (or platform) knows a purchase by its own reference, such as a parcel number.

        From then on both names mean one purchase, and asks made under either count for it, also those made before.
        Raises `InvalidMessage` for a seller or carrier that is not in the config.
        """
        self._check_merchant("purchase.seller", purchase.seller)
        self._check_merchant("carrier", carrier)
        other = Purchase(carrier, reference)

        def write(conn: sa.Connection) -> None:
            now = self._runtime.clock()
            is_news = purchases.is_news(conn, purchase)
            purchases.ensure(conn, [purchase], now)
            ours, theirs = (purchase.seller, purchase.order_id), (other.seller, other.order_id)
            found = self._locked(conn, ours, theirs)
            purchase_id, joined = found[ours], found.get(theirs)
            if joined == purchase_id:
                self._note(conn, purchase, purchase_id, now, is_news=is_news)
                return
            if joined is None:
                purchases.add_name(conn, purchase_id, *theirs)
                if self._locked(conn, ours, theirs) != {ours: purchase_id, theirs: purchase_id}:
                    raise LedgerConflict("the purchase was given a name by another just now")
            else:
                purchases.merge(conn, into=purchase_id, other=joined)
            body = {"carrier": carrier, "joined": joined, **purchases.dates_told(purchase)}
            journal.append(conn, [_entry(journal.Kind.ALIAS, purchase_id, carrier, now, body)])

        self._runtime.ledger.transact(write)

    def record_ask(
        self,
        purchase: Purchase,
        by: str,
        at: datetime,
        *,
        contact_point: ContactPoint | str | None = None,
    ) -> None:
        """Record a review request that was made without the gateway, so that it counts.

        `by` is who asked, in the config or not. With `contact_point` it counts for the person as well as for the
        purchase. Raises `InvalidMessage`, also for a time in the future.
        """
        self._check_merchant("purchase.seller", purchase.seller)
        asked_at = self._past("at", at)
        if not _NAME.fullmatch(by) or _MANY_DIGITS.search(by):
            raise InvalidMessage("by", "must be the name of who asked, such as 'trustpilot', and no address")
        point = None if contact_point is None else self._runtime.point(contact_point)

        def write(conn: sa.Connection) -> None:
            now = self._runtime.clock()
            point_id = None
            if point is not None:
                point_id = people.ensure(conn, self._runtime.ledger.fingerprints, [point], now)[point]
                people.lock_persons_of(conn, [point_id])
            purchase_id = self._ensure(conn, purchase, now)
            ask = {
                "ask_id": new_id("ask"),
                "purchase_id": purchase_id,
                "slot": next(iter(purchases.free_slots(conn, [purchase_id])[purchase_id])),
                "by": by,
                "asked_at": asked_at,
                "contact_point_id": point_id,
            }
            purchases.add_asks(conn, [ask])
            body = {"by": by, "asked_at": asked_at.isoformat(), **purchases.dates_told(purchase)}
            journal.append(conn, [_entry(journal.Kind.ASK, purchase_id, by, now, body, point_id)])

        self._runtime.ledger.transact(write)

    def record_review(self, purchase: Purchase, at: datetime) -> None:
        """Record that a review of a purchase exists, which ends the asking. What it says is nobody's business here.

        Raises `InvalidMessage`, also for a time in the future.
        """
        self._check_merchant("purchase.seller", purchase.seller)
        reviewed_at = self._past("at", at)

        def write(conn: sa.Connection) -> None:
            now = self._runtime.clock()
            purchase_id = self._ensure(conn, purchase, now)
            purchases.set_reviewed(conn, purchase_id, reviewed_at)
            body = {"reviewed_at": reviewed_at.isoformat(), **purchases.dates_told(purchase)}
            journal.append(conn, [_entry(journal.Kind.REVIEW, purchase_id, None, now, body)])

        self._runtime.ledger.transact(write)

    def open_case(self, purchase: Purchase) -> None:
        """Record that the seller is sorting something out about a purchase, whatever it is.

        It makes a difference only where the policy says `hold_for_cases`. Raises `InvalidMessage`.
        """
        self._set_case(purchase, is_open=True)

    def close_case(self, purchase: Purchase) -> None:
        """Record that a case is closed, with whatever outcome: requests that it held are decided afresh.

        Raises `InvalidMessage`.
        """
        self._set_case(purchase, is_open=False)

    def _set_case(self, purchase: Purchase, *, is_open: bool) -> None:
        self._check_merchant("purchase.seller", purchase.seller)

        def write(conn: sa.Connection) -> None:
            now = self._runtime.clock()
            is_news = purchases.is_news(conn, purchase)
            purchase_id = self._ensure(conn, purchase, now)
            was_open = purchases.facts(conn, [purchase_id])[purchase_id].case_open_since is not None
            if was_open == is_open:
                self._note(conn, purchase, purchase_id, now, is_news=is_news)
                return
            purchases.set_case(conn, purchase_id, now if is_open else None)
            kind = journal.Kind.CASE_OPENED if is_open else journal.Kind.CASE_CLOSED
            body = purchases.dates_told(purchase)
            journal.append(conn, [_entry(kind, purchase_id, None, now, body)])

        self._runtime.ledger.transact(write)
        if not is_open:
            self._runtime.ledger.transact(lambda conn: self._wake(conn, purchase))

    @staticmethod
    def _note(
        conn: sa.Connection, purchase: Purchase, purchase_id: str, now: datetime, *, is_news: bool
    ) -> None:
        """Let the ledger say when a purchase or its dates became known, where no other row does."""
        if is_news:
            body = purchases.dates_told(purchase)
            journal.append(conn, [_entry(journal.Kind.PURCHASE, purchase_id, None, now, body)])

    def _wake(self, conn: sa.Connection, purchase: Purchase) -> None:
        # In a transaction of its own: messages are never locked after a purchase.
        now = self._runtime.clock()
        messages.wake(conn, self._ensure(conn, purchase, now), now)

    def _ensure(self, conn: sa.Connection, purchase: Purchase, now: datetime) -> str:
        """The id of a purchase, which is created if it is new, and held until the transaction ends."""
        purchases.ensure(conn, [purchase], now)
        name = (purchase.seller, purchase.order_id)
        return self._locked(conn, name)[name]

    @staticmethod
    def _locked(conn: sa.Connection, *names: tuple[str, str]) -> dict[tuple[str, str], str]:
        """The purchases behind those names that are known, held until the transaction ends."""
        found = purchases.find_names(conn, names)
        purchases.lock(conn, {purchase_id for _, purchase_id in found.values()})
        # INVARIANT(lock before looking): while we waited, one may have been joined with another.
        if purchases.find_names(conn, names) != found:
            raise LedgerConflict("a purchase was joined with another just now")
        return {name: purchase_id for name, (_, purchase_id) in found.items()}

    def _check_merchant(self, name: str, merchant: str) -> None:
        if merchant not in self._runtime.config.policy.merchants:
            raise InvalidMessage(name, f"no merchant {merchant!r} in the config")

    def _past(self, name: str, at: datetime) -> datetime:
        when = check_aware(name, at)
        if when is None:
            raise InvalidMessage(name, "a timezone-aware datetime is wanted")
        if when > self._runtime.clock():
            raise InvalidMessage(name, "lies in the future; record what has happened")
        return when


def _entry(
    kind: journal.Kind,
    purchase_id: str,
    merchant: str | None,
    now: datetime,
    body: Mapping[str, object],
    contact_point_id: str | None = None,
) -> journal.Row:
    return journal.Row(
        kind=kind,
        at=now,
        purchase_id=purchase_id,
        merchant=merchant,
        contact_point_id=contact_point_id,
        body=body,
    )
