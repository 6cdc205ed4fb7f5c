"""Reading everything that the ledger holds about one person, table by table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa

from notifygate.ledger import erasing, journal, rows
from notifygate.ledger.schema import (
    NO_STEP_SQL,
    asks,
    contact_points,
    ledger,
    mailboxes,
    messages,
    person_links,
    purchase_names,
    purchases,
    reservations,
    suppressions,
)

_AT_ONCE = 500
_STEPS = (journal.Kind.DECISION.value, journal.Kind.ATTEMPT.value)
_ABOUT_HOLDS = (journal.Kind.HELD.value, journal.Kind.HOLD_RELEASED.value)

Record = dict[str, Any]


def points(conn: sa.Connection, person_id: str) -> list[Record]:
    """The contact points of a person, oldest first."""
    columns = [contact_points.c[name] for name in _POINT]
    query = (
        sa.select(*columns)
        .join(mailboxes, mailboxes.c.mailbox_id == contact_points.c.mailbox_id)
        .where(mailboxes.c.person_id == person_id)
        .order_by(contact_points.c.created_at, contact_points.c.contact_point_id)
    )
    return _records(conn, query)


def links(conn: sa.Connection, mailbox_ids: Collection[str]) -> list[Record]:
    """The links ever made from some mailboxes, oldest first."""
    columns = person_links.c
    theirs = sa.or_(
        rows.is_among(columns.mailbox_a, mailbox_ids), rows.is_among(columns.mailbox_b, mailbox_ids)
    )
    return _records(conn, sa.select(person_links).where(theirs).order_by(columns.linked_at, columns.link_id))


def marks(conn: sa.Connection, point_ids: Collection[str]) -> list[Record]:
    """The do-not-send marks ever put on some contact points, oldest first."""
    columns = suppressions.c
    query = sa.select(suppressions).where(rows.is_among(columns.contact_point_id, point_ids))
    return _records(conn, query.order_by(columns.created_at, columns.suppression_id))


def all_messages(conn: sa.Connection, point_ids: Collection[str]) -> list[Record]:
    """The messages to some contact points with all that they hold, oldest first."""
    query = (
        sa.select(messages, purchase_names.c.purchase_id)
        .outerjoin(purchase_names, purchase_names.c.name_id == messages.c.purchase_name_id)
        .where(rows.is_among(messages.c.contact_point_id, point_ids))
        .order_by(messages.c.submitted_at, messages.c.message_id)
    )
    return _records(conn, query)


def attempts(conn: sa.Connection, point_ids: Collection[str]) -> list[Record]:
    """The attempts to hand over messages to some contact points, oldest first."""
    columns = reservations.c
    query = sa.select(
        columns.message_id,
        columns.attempt_id,
        columns.reserved_at,
        columns.state,
        columns.detail,
        columns.provider_id,
        columns.ended_at,
    ).where(erasing.attempts_of(point_ids))
    return _records(conn, query.order_by(columns.reserved_at, columns.attempt_id))


def asks_of(conn: sa.Connection, point_ids: Collection[str]) -> list[Record]:
    """The review requests that reached some contact points, oldest first."""
    columns = asks.c
    query = sa.select(
        columns.ask_id, columns.purchase_id, columns.by, columns.asked_at, columns.message_id
    ).where(rows.is_among(columns.contact_point_id, point_ids))
    return _records(conn, query.order_by(columns.asked_at, columns.ask_id))


def purchases_of(conn: sa.Connection, purchase_ids: Collection[str]) -> list[Record]:
    """Some purchases, each with all its `names`: party and reference."""
    named: dict[str, list[Record]] = {}
    columns = purchase_names.c
    query = sa.select(columns.purchase_id, columns.party, columns.reference)
    for row in conn.execute(
        query.where(rows.is_among(columns.purchase_id, purchase_ids)).order_by(columns.name_id)
    ):
        named.setdefault(row.purchase_id, []).append({"party": row.party, "reference": row.reference})
    found = sa.select(purchases).where(rows.is_among(purchases.c.purchase_id, purchase_ids))
    return [
        record | {"names": named.get(record["purchase_id"], [])}
        for record in _records(conn, found.order_by(purchases.c.known_since, purchases.c.purchase_id))
    ]


def decisions(conn: sa.Connection, message_ids: Sequence[str]) -> Iterator[Record]:
    """The bodies of all decisions about some messages, each with its `message_id`, oldest first for each."""
    for some in _chunks(message_ids):
        query = sa.select(ledger.c.message_id, ledger.c.body).where(
            rows.is_among(ledger.c.message_id, some), ledger.c.kind == journal.Kind.DECISION.value
        )
        for message_id, body in conn.execute(query.order_by(ledger.c.position)):
            yield journal.read_body(body) | {"message_id": message_id}


def log(conn: sa.Connection, point_ids: Collection[str], *, with_holds: bool) -> list[Record]:
    """All other rows of the send log about some contact points, oldest first.

    Decisions and attempts are left out, and rows about legal holds unless they are asked for.
    """
    left_out = _STEPS if with_holds else _STEPS + _ABOUT_HOLDS
    columns = ledger.c
    query = sa.select(ledger).where(
        rows.is_among(columns.contact_point_id, point_ids),
        sa.text(NO_STEP_SQL),
        columns.kind.not_in(left_out),
    )
    return [
        record | {"body": journal.read_body(record["body"])}
        for record in _records(conn, query.order_by(columns.position))
    ]


_POINT = ("contact_point_id", "channel", "address", "mailbox_id", "country", "zones", "created_at")


def _records(conn: sa.Connection, query: sa.Select[Any]) -> list[Record]:
    return [dict(row._mapping) for row in conn.execute(query)]


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    waiting = iter(ids)
    while some := list(islice(waiting, _AT_ONCE)):
        yield some
