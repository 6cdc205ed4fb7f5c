"""What a replay of the send log reads: rows in the order they were written, and what was known before them.

Everything is read in pages or for so many ids at a time, each in a transaction of its own that keeps no writer waiting.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from notifygate.ledger import rows
from notifygate.ledger.database import Ledger
from notifygate.ledger.schema import (
    COUNTED_SQL,
    WAITING_SQL,
    asks,
    contact_points,
    ledger,
    messages,
    person_links,
    purchases,
    reservations,
    suppressions,
)
from notifygate.snapshot import Suppression, SuppressionReason

PAGE = 2_000
_CHUNK = 1_000
_TEXTS = 100


class Logged(NamedTuple):
    """A row of the send log. `body` is the JSON text, and empty where it was not asked for."""

    position: int
    kind: str
    at: datetime
    message_id: str | None
    contact_point_id: str | None
    purchase_id: str | None
    merchant: str | None
    purpose: str | None
    channel: str | None
    outcome: str | None
    reason: str | None
    policy: str | None
    body: str


class Mark(NamedTuple):
    """A do-not-send mark, in force or not."""

    suppression: Suppression
    removed_at: datetime | None


class KnownPurchase(NamedTuple):
    """A purchase as it is known now."""

    purchase_id: str
    seller: str
    known_since: datetime
    purchased_at: datetime | None
    delivered_at: datetime | None
    reviewed_at: datetime | None
    case_open_since: datetime | None


class KnownAsk(NamedTuple):
    """An ask as it is known now."""

    ask_id: str
    purchase_id: str
    by: str
    asked_at: datetime
    message_id: str | None
    attempt_id: str | None
    contact_point_id: str | None


class Counted(NamedTuple):
    """A reservation that counts."""

    attempt_id: str
    contact_point_id: str
    message_id: str
    merchant: str
    purpose: str
    purpose_class: str
    channel: str
    dedupe_key: str
    reserved_at: datetime


class Link(NamedTuple):
    """Two mailboxes that belong, or belonged, to one person."""

    link_id: str
    mailbox_a: str
    mailbox_b: str
    linked_at: datetime
    unlinked_at: datetime | None


class Text(NamedTuple):
    """What a message says; all three are None once it was erased."""

    message_id: str
    subject: str | None
    text: str | None
    html: str | None


_ROW = tuple(ledger.c[name] for name in Logged._fields)
_STEPS = ("decision", "attempt")
_IS_MANY = ledger.c.kind.in_(_STEPS) & (ledger.c.outcome != "in_doubt")
_LIGHT = (*_ROW[:-1], sa.case((_IS_MANY, ""), else_=ledger.c.body).label("body"))
_WAITS = sa.text(WAITING_SQL)


def span(source: Ledger, since: datetime) -> tuple[int, int] | None:
    """The positions of the first row at `since` or later, and of the last row of all; None where there is no such."""
    with source.read() as conn:
        first = conn.execute(sa.select(sa.func.min(ledger.c.position)).where(ledger.c.at >= since)).scalar()
        last = conn.execute(sa.select(sa.func.max(ledger.c.position))).scalar()
    return None if first is None or last is None else (first, last)


def bounds(source: Ledger) -> tuple[datetime, datetime] | None:
    """The instants of the first and the last row; None for an empty log."""
    with source.read() as conn:
        found = [
            conn.execute(sa.select(ledger.c.at).order_by(order).limit(1)).scalar()
            for order in (ledger.c.position, ledger.c.position.desc())
        ]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def stream(source: Ledger, first: int, last: int, *, light: bool = False) -> Iterator[list[Logged]]:
    """The rows from one position to another, in order, in pages; if `light`, without the bodies of the many."""
    columns, after = (_LIGHT if light else _ROW), first - 1
    while after < last:
        query = (
            sa.select(*columns)
            .where(ledger.c.position > after, ledger.c.position <= last)
            .order_by(ledger.c.position)
            .limit(PAGE)
        )
        with source.read() as conn:
            page = [Logged._make(row) for row in conn.execute(query)]
        if not page:
            return
        yield page
        after = page[-1].position


def of_messages(source: Ledger, ids: Iterable[str], before: datetime) -> Iterator[list[Logged]]:
    """For each of some messages its rows from before an instant, oldest first."""
    order = (ledger.c.message_id, ledger.c.position)
    found: list[Logged] = []
    for row in _chunked(source, _ROW, ledger.c.message_id, ids, ledger.c.at < before, order=order):
        logged = Logged._make(row)
        if found and found[-1].message_id != logged.message_id:
            yield found
            found = []
        found.append(logged)
    if found:
        yield found


def about_purchases(source: Ledger, ids: Iterable[str], before: datetime) -> list[Logged]:
    """What was told about some purchases before an instant, in order."""
    told = ledger.c.kind.not_in(_STEPS)
    read = _chunked(source, _ROW, ledger.c.purchase_id, ids, ledger.c.at < before, told)
    return sorted((Logged._make(row) for row in read), key=lambda row: row.position)


def purchases_of(source: Ledger, message_ids: Iterable[str], before: datetime) -> dict[str, str]:
    """The purchase that each of some messages is about, as it was known just before an instant."""
    columns = (ledger.c.message_id, ledger.c.purchase_id)
    told = (ledger.c.at < before, ledger.c.purchase_id.is_not(None))
    read = _chunked(source, columns, ledger.c.message_id, message_ids, *told, order=(ledger.c.position,))
    return dict(tuple(row) for row in read)


def joinings(source: Ledger) -> list[Logged]:
    """All rows that say that two names mean one purchase, in order."""
    query = sa.select(*_ROW).where(ledger.c.kind == "alias").order_by(ledger.c.position)
    with source.read() as conn:
        return [Logged._make(row) for row in conn.execute(query)]


def waiting_since_before(source: Ledger, since: datetime) -> Iterator[str]:
    """Messages that wait now and were submitted before an instant."""
    columns, after = messages.c, ""
    while True:
        query = (
            sa.select(columns.message_id)
            .where(_WAITS, columns.submitted_at < since, columns.message_id > after)
            .order_by(columns.message_id)
            .limit(PAGE)
        )
        with source.read() as conn:
            page = list(conn.execute(query).scalars())
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1]


def still_waiting(source: Ledger, ids: Iterable[str]) -> set[str]:
    """Those of some messages that wait now."""
    column = messages.c.message_id
    return {message_id for (message_id,) in _chunked(source, (column,), column, ids, _WAITS)}


def texts(source: Ledger, ids: Collection[str]) -> Iterator[Text]:
    """What some messages say, few at a time: texts may be long."""
    columns = tuple(messages.c[name] for name in Text._fields)
    for row in _chunked(source, columns, messages.c.message_id, ids, size=_TEXTS):
        yield Text._make(row)


def mailboxes_of(source: Ledger, point_ids: Iterable[str]) -> dict[str, str]:
    """The mailbox of each contact point."""
    columns = (contact_points.c.contact_point_id, contact_points.c.mailbox_id)
    read = _chunked(source, columns, contact_points.c.contact_point_id, point_ids)
    return dict(tuple(row) for row in read)


def points_of(source: Ledger, mailbox_ids: Iterable[str]) -> dict[str, str]:
    """All contact points of some mailboxes, each with its mailbox."""
    columns = (contact_points.c.contact_point_id, contact_points.c.mailbox_id)
    read = _chunked(source, columns, contact_points.c.mailbox_id, mailbox_ids)
    return dict(tuple(row) for row in read)


def links(source: Ledger) -> list[Link]:
    """All links that were ever made."""
    query = sa.select(*(person_links.c[name] for name in Link._fields)).order_by(
        person_links.c.linked_at, person_links.c.link_id
    )
    with source.read() as conn:
        return [Link._make(row) for row in conn.execute(query)]


def marks(source: Ledger, point_ids: Iterable[str]) -> Iterator[Mark]:
    """All do-not-send marks that some contact points ever had."""
    names = ("suppression_id", "contact_point_id", "reason", "created_at", "expires_at", "removed_at")
    columns = tuple(suppressions.c[name] for name in names)
    for *row, removed_at in _chunked(source, columns, suppressions.c.contact_point_id, point_ids):
        told = dict(zip(names, row, strict=False))
        told["reason"] = SuppressionReason(told["reason"])
        yield Mark(Suppression(**told), removed_at)


def counted(
    source: Ledger, point_ids: Iterable[str], *, since: datetime, before: datetime
) -> Iterator[Counted]:
    """The reservations of some contact points that count now and were made in a span, `since` not in it."""
    columns = tuple(reservations.c[name] for name in Counted._fields)
    within = (reservations.c.reserved_at > since, reservations.c.reserved_at < before, sa.text(COUNTED_SQL))
    order = (reservations.c.reserved_at, reservations.c.attempt_id)
    for row in _chunked(source, columns, reservations.c.contact_point_id, point_ids, *within, order=order):
        yield Counted._make(row)


def known_purchases(source: Ledger, purchase_ids: Iterable[str]) -> Iterator[KnownPurchase]:
    """Some purchases as they are known now."""
    columns = tuple(purchases.c[name] for name in KnownPurchase._fields)
    for row in _chunked(source, columns, purchases.c.purchase_id, purchase_ids):
        yield KnownPurchase._make(row)


def known_asks(
    source: Ledger, *, purchase_ids: Iterable[str], point_ids: Iterable[str]
) -> dict[str, KnownAsk]:
    """All asks about some purchases and of some contact points, by their ids."""
    columns = tuple(asks.c[name] for name in KnownAsk._fields)
    found: dict[str, KnownAsk] = {}
    for column, ids in ((asks.c.purchase_id, purchase_ids), (asks.c.contact_point_id, point_ids)):
        for row in _chunked(source, columns, column, ids):
            ask = KnownAsk._make(row)
            found[ask.ask_id] = ask
    return found


def by_chunks(ids: Iterable[str], size: int = _CHUNK) -> Iterator[list[str]]:
    """Ids, so many at a time, in sorted order, so that an index is read from one end to the other."""
    ordered = sorted(ids)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _chunked(
    source: Ledger,
    columns: tuple[sa.ColumnElement[Any], ...],
    column: sa.ColumnElement[Any],
    ids: Iterable[str],
    *conditions: sa.ColumnElement[bool] | sa.TextClause,
    order: tuple[sa.ColumnElement[Any], ...] = (),
    size: int = _CHUNK,
) -> Iterator[Any]:
    for chunk in by_chunks(ids, size):
        query = sa.select(*columns).where(rows.is_among(column, chunk), *conditions).order_by(*order)
        with source.read() as conn:
            found = conn.execute(query).all()
        yield from found
