"""The append-only rows: the send log itself. Written here, read here, never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
import sqlalchemy as sa

from notifygate.ledger import rows, searching
from notifygate.ledger.database import Ledger
from notifygate.ledger.schema import (
    NO_STEP_SQL,
    ledger,
    messages,
    policies,
)
from notifygate.policy import Policy


class Kind(StrEnum):
    """What a ledger row records."""

    SUBMITTED = "submitted"
    DECISION = "decision"
    ATTEMPT = "attempt"
    RESOLUTION = "resolution"
    RESTORED = "restored"
    DROPPED = "dropped"
    CANCELLED = "cancelled"
    CONSENT = "consent"
    SUPPRESSION = "suppression"
    UNSUPPRESSION = "unsuppression"
    LINK = "link"
    UNLINK = "unlink"
    PURCHASE = "purchase"
    ALIAS = "alias"
    ASK = "ask"
    REVIEW = "review"
    CASE_OPENED = "case_opened"
    CASE_CLOSED = "case_closed"
    IMPORTED = "imported"
    HELD = "held"
    HOLD_RELEASED = "hold_released"
    DISCLOSED = "disclosed"
    ERASED = "erased"
    RETENTION = "retention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the ledger. `body` is JSON-compatible; it holds ids and facts, never an address or a text."""

    kind: Kind
    at: datetime
    body: Mapping[str, Any]
    message_id: str | None = None
    contact_point_id: str | None = None
    purchase_id: str | None = None
    merchant: str | None = None
    purpose: str | None = None
    channel: str | None = None
    outcome: str | None = None
    reason: str | None = None
    policy: str | None = None
    position: int | None = None

    def to_json(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in _COLUMNS if name not in ("at", "body")}
        return {"position": self.position, **shown, "at": self.at.isoformat(), "body": dict(self.body)}


_COLUMNS = tuple(column.name for column in ledger.columns if column.name != "position")
_LOT = 5_000  # positions


def append(conn: sa.Connection, entries: Sequence[Row]) -> None:
    """Add rows at the end."""
    rows.insert(conn, ledger, [_to_columns(entry) for entry in entries])


def newest(conn: sa.Connection) -> Row | None:
    """The last row; None for an empty ledger."""
    row = conn.execute(sa.select(ledger).order_by(ledger.c.position.desc()).limit(1)).one_or_none()
    return _from_columns(row) if row else None


def at_position(conn: sa.Connection, position: int) -> Row | None:
    """The row at a position, if there is one."""
    row = conn.execute(sa.select(ledger).where(ledger.c.position == position)).one_or_none()
    return _from_columns(row) if row else None


def was_restored_since(conn: sa.Connection, since: datetime) -> bool:
    """Whether it is recorded that the ledger was restored from a backup, at `since` or later."""
    query = sa.select(ledger.c.position).where(ledger.c.at >= since, ledger.c.kind == Kind.RESTORED.value)
    return conn.execute(query.limit(1)).one_or_none() is not None


def know_policy(conn: sa.Connection, policy: Policy, now: datetime) -> None:
    """Keep the text of a policy, so that its hash can be read for ever."""
    if policy_text(conn, policy.hash) is None:
        row = {"hash": policy.hash, "text": policy.text, "first_seen_at": now}
        rows.insert_new(conn, policies, [row])


def policy_text(conn: sa.Connection, policy_hash: str) -> str | None:
    """The canonical text of the policy with that hash."""
    found: str | None = conn.execute(
        sa.select(policies.c.text).where(policies.c.hash == policy_hash)
    ).scalar()
    return found


def of_message(conn: sa.Connection, message_id: str) -> list[Row]:
    """All rows about one message, oldest first."""
    query = sa.select(ledger).where(ledger.c.message_id == message_id).order_by(ledger.c.position)
    return [_from_columns(row) for row in conn.execute(query)]


def search(
    conn: sa.Connection,
    *,
    contact_point_ids: Sequence[str] | None = None,
    purchase_id: str | None = None,
    attempt_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after_position: int | None = None,
    limit: int,
    **equal: str | None,
) -> Iterator[Row]:
    """Rows that match all the conditions given, newest first.

    `since` is the first instant that counts and `until` the first that does not. `equal` compares the columns
    kind, message_id, merchant, purpose, channel, outcome, reason and policy. `attempt_id` goes with a message_id.
    `after_position` is the position of the last row already seen.
    """
    wanted = {name: value for name, value in equal.items() if value is not None}
    conditions = _matching(wanted, since, until)
    if attempt_id is not None:
        conditions.append(ledger.c.body.contains(attempt_id, autoescape=True))
    if after_position is not None:
        conditions.append(ledger.c.position < after_position)
    if contact_point_ids is not None:
        if purchase_id is not None:
            conditions.append(ledger.c.purchase_id == purchase_id)
        both = _of_contact_points(conn, contact_point_ids, conditions)
        found = conn.execute(sa.select(both).order_by(both.c.position.desc()).limit(limit)).all()
    elif purchase_id is not None:
        found = _newest(conn, [ledger.c.purchase_id == purchase_id, *conditions], limit)
    elif "message_id" in wanted:
        found = _newest(conn, conditions, limit)
    else:
        found = searching.newest(conn, wanted, since, until, before=after_position, limit=limit)
    for row in found:
        yield _from_columns(row)


def in_order(
    database: Ledger, *, since: datetime | None = None, until: datetime | None = None, **equal: str | None
) -> Iterator[tuple[int, int, list[Row]]]:
    """All rows that match, oldest first, from a few thousand positions at a time.

    Yields how many positions are done, how many there are in all, and the rows among them. What is added after the
    beginning is not read. One lot is in memory at a time, and no transaction is open for longer than it takes to read
    it, so that an export of hours keeps nobody from tidying up.
    """
    conditions = _matching({name: value for name, value in equal.items() if value is not None}, since, until)
    with database.read() as conn:
        first, last = searching.positions_between(conn, since, until)
    start = first
    while start <= last:
        end = min(start + _LOT - 1, last)
        query = sa.select(ledger).where(ledger.c.position.between(start, end), *conditions)
        with database.read() as conn:
            found = [_from_columns(row) for row in conn.execute(query.order_by(ledger.c.position))]
            next_start = end + 1
            if not found:  # perhaps a gap, where months were dropped
                next_start = _first_position(conn, end) or last + 1
        yield end - first + 1, last - first + 1, found
        start = next_start


def policies_like(conn: sa.Connection, prefix: str, limit: int) -> list[str]:
    """The hashes of policies that begin with a prefix, at most `limit` of them."""
    query = sa.select(policies.c.hash).where(policies.c.hash.startswith(prefix, autoescape=True))
    return list(conn.execute(query.order_by(policies.c.hash).limit(limit)).scalars())


def policies_seen(conn: sa.Connection, hashes: Sequence[str]) -> dict[str, tuple[str, datetime]]:
    """The text of each policy that is known, and when it was first gone by."""
    query = sa.select(policies).where(rows.is_among(policies.c.hash, hashes))
    return {row.hash: (row.text, row.first_seen_at) for row in conn.execute(query)}


def every_policy(conn: sa.Connection) -> Iterator[tuple[Any, Any]]:
    """The hash and the text of every policy that has decided anything, as the table has them."""
    for row in conn.execute(sa.select(policies.c.hash, policies.c.text)):
        yield row.hash, row.text


def _newest(conn: sa.Connection, conditions: Sequence[sa.ColumnElement[bool]], limit: int) -> Sequence[Any]:
    query = sa.select(ledger).where(*conditions).order_by(ledger.c.position.desc()).limit(limit)
    return conn.execute(query).all()


def _matching(
    wanted: Mapping[str, str], since: datetime | None, until: datetime | None
) -> list[sa.ColumnElement[bool]]:
    conditions = [searching.is_equal(name, value) for name, value in wanted.items()]
    conditions += searching.implied(wanted)
    if since is not None:
        conditions.append(searching.plain(ledger.c.at) >= since)
    if until is not None:
        conditions.append(searching.plain(ledger.c.at) < until)
    return conditions


def _first_position(conn: sa.Connection, after: int) -> int | None:
    query = sa.select(ledger.c.position).where(ledger.c.position > after).order_by(ledger.c.position).limit(1)
    found: int | None = conn.execute(query).scalar()
    return found


def read_body(text: str) -> dict[str, Any]:
    """The body of a row, as the database has it."""
    found: dict[str, Any] = orjson.loads(text)
    return found


def _of_contact_points(
    conn: sa.Connection, contact_point_ids: Sequence[str], conditions: Sequence[sa.ColumnElement[bool]]
) -> sa.Subquery:
    """The rows about some contact points: decisions and attempts by their messages, all others by an index."""
    is_theirs = rows.is_among(ledger.c.contact_point_id, contact_point_ids)
    is_no_step, is_step = sa.text(NO_STEP_SQL), sa.text(f"NOT ({NO_STEP_SQL})")
    # In both tables: the month that held a message's submission may have been dropped.
    found = sa.union(
        sa.select(messages.c.message_id).where(rows.is_among(messages.c.contact_point_id, contact_point_ids)),
        sa.select(ledger.c.message_id).where(is_theirs, is_no_step, ledger.c.message_id.is_not(None)),
    )
    message_ids = list(conn.execute(found).scalars())
    is_of_a_message = rows.is_among(ledger.c.message_id, message_ids)
    return sa.union_all(
        sa.select(ledger).where(is_theirs, is_no_step, *conditions),
        sa.select(ledger).where(is_theirs, is_step, is_of_a_message, *conditions),
    ).subquery()


def _to_columns(row: Row) -> dict[str, Any]:
    columns = {name: getattr(row, name) for name in _COLUMNS}
    columns["kind"] = row.kind.value
    columns["body"] = orjson.dumps(row.body, option=orjson.OPT_SORT_KEYS).decode()
    return columns


def _from_columns(row: sa.Row[Any]) -> Row:
    columns = dict(row._mapping)
    return Row(**columns | {"kind": Kind(columns["kind"]), "body": read_body(columns["body"])})
