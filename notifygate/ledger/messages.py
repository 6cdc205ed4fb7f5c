"""Messages and the reservations made for them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from notifygate.address import Channel
from notifygate.ledger import rows
from notifygate.ledger.schema import (
    HELD_SQL,
    IN_DOUBT_SQL,
    SERVICE_SQL,
    WAITING_SQL,
    contact_points,
    ledger,
    mailboxes,
    messages,
    purchase_names,
    reservations,
)
from notifygate.message import MetadataValue, Result, Status
from notifygate.policy import PurposeClass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message as the ledger has it. The address and the texts are None once the person was erased."""

    message_id: str
    merchant: str
    purpose: str
    purpose_class: PurposeClass
    role: Literal["buyer", "recipient"]
    channel: Channel
    contact_point_id: str
    person_id: str
    address: str | None = field(repr=False)
    deliver_to: str | None = field(repr=False)
    subject: str | None = field(repr=False)
    text: str | None = field(repr=False)
    html: str | None = field(repr=False)
    dedupe_key: str
    idempotency_key: str | None
    request_fingerprint: str
    purchase_name_id: str | None
    purchase_id: str | None
    timezone: str | None
    language: str | None
    metadata: Mapping[str, MetadataValue] = field(repr=False)
    submitted_at: datetime
    send_after: datetime | None
    expires_at: datetime | None
    status: Status
    reason: str | None
    due_at: datetime
    sweep_at: datetime
    attempts: int
    country: str | None
    zones: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The right to hand one message to a provider once, until `lease_until`. `number` counts a message's attempts."""

    attempt_id: str
    message: StoredMessage
    number: int
    reserved_at: datetime
    lease_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One hand-off to a provider; `state` is `held` while it is under way."""

    attempt_id: str
    message_id: str
    reserved_at: datetime
    state: str
    detail: str | None
    provider_id: str | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A message that may or may not have been accepted by the provider, with the attempt that left it so.

    `attempts` is how often it was tried in all. `reserved_at` is when this attempt began, `since` when it was put in
    doubt, `detail` why.
    """

    message_id: str
    attempt_id: str
    merchant: str
    purpose: str
    channel: Channel
    contact_point_id: str
    purchase_id: str | None
    attempts: int
    reserved_at: datetime
    since: datetime | None
    detail: str | None
    provider_id: str | None


STRIPPED: Mapping[str, Any] = {
    "deliver_to": None,
    "subject": None,
    "text": None,
    "html": None,
    "metadata": "{}",
    "idempotency_key": None,
}
"""What a message is without anything that was typed about its recipient. An idempotency key may hold an address."""

_AMONG_THE_NEWEST = 10_000  # rows of the send log
_COLUMNS = (
    *messages.c,
    purchase_names.c.purchase_id,
    mailboxes.c.person_id,
    contact_points.c.address,
    contact_points.c.country,
    contact_points.c.zones,
)
_NAMES = tuple(column.name for column in _COLUMNS)
_SELECT = (
    sa.select(*_COLUMNS)
    .join(contact_points, contact_points.c.contact_point_id == messages.c.contact_point_id)
    .join(mailboxes, mailboxes.c.mailbox_id == contact_points.c.mailbox_id)
    .outerjoin(purchase_names, purchase_names.c.name_id == messages.c.purchase_name_id)
)
_IS_WAITING = sa.text(WAITING_SQL)

_BY_KEYS = rows.Query(
    sa.select(
        messages.c.merchant,
        messages.c.idempotency_key,
        messages.c.message_id,
        messages.c.status,
        messages.c.request_fingerprint,
    ).where(rows.is_pair(messages.c.merchant, messages.c.idempotency_key, rows.listed("keys")))
)
_IS_FRESH = sa.and_(
    messages.c.status == Status.QUEUED.value, messages.c.attempts == 0, messages.c.send_after.is_(None)
)
_CLAIM = rows.Query(
    _SELECT.where(
        rows.is_among(messages.c.message_id, rows.listed("ids")),
        _IS_WAITING,
        _IS_FRESH | (messages.c.due_at <= rows.instant("now")),
        ~rows.is_among(messages.c.channel, rows.listed("without")),
    )
    .order_by(messages.c.message_id)
    .with_for_update(of=messages, skip_locked=True)
)
_HOLD_ATTEMPTS = rows.Query(
    sa.select(reservations.c.attempt_id, reservations.c.state, reservations.c.blocks)
    .where(rows.is_among(reservations.c.attempt_id, rows.listed("ids")))
    # In one order for all, so that nobody waits in a ring.
    .order_by(reservations.c.attempt_id)
    .with_for_update()
)


def insert(conn: sa.Connection, new: Sequence[Mapping[str, Any]]) -> None:
    """Insert messages. Raises `IntegrityError` for an idempotency key that is taken."""
    rows.insert(conn, messages, new)


def by_keys(
    conn: sa.Connection, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str, Status, str]]:
    """For each `(merchant, idempotency_key)` that is known: message id, status and request fingerprint."""
    if not keys:
        return {}
    return {
        (merchant, key): (message_id, Status(status), fingerprint)
        for merchant, key, message_id, status, fingerprint in _BY_KEYS(conn, keys=keys)
    }


def get(conn: sa.Connection, message_id: str) -> StoredMessage | None:
    """One message, if it is known."""
    row = conn.execute(_SELECT.where(messages.c.message_id == message_id)).one_or_none()
    return _stored(row) if row else None


def due(
    conn: sa.Connection,
    now: datetime,
    limit: int,
    *,
    after: tuple[datetime, str] | None = None,
    without: Collection[Channel] = (),
) -> list[tuple[datetime, str]]:
    """When messages whose time has come were due, and their ids, the longest waiting first.

    With `after`, those that come after one that was read before. Messages of the channels `without` are left out.
    """
    columns = messages.c
    query = sa.select(columns.due_at, columns.message_id).where(_IS_WAITING, columns.due_at <= now)
    if after is not None:
        last_at, last_id = after
        later = sa.and_(columns.due_at == last_at, columns.message_id > last_id)
        query = query.where(columns.due_at >= last_at, (columns.due_at > last_at) | later)
    if without:
        query = query.where(columns.channel.not_in(without))
    found = conn.execute(query.order_by(columns.due_at, columns.message_id).limit(limit))
    return [(row.due_at, row.message_id) for row in found]


def next_due(conn: sa.Connection) -> datetime | None:
    """The earliest instant at which a waiting message is to be decided."""
    query = sa.select(messages.c.due_at).where(_IS_WAITING).order_by(messages.c.due_at).limit(1)
    found: datetime | None = conn.execute(query).scalar()
    return found


def count_in_doubt(conn: sa.Connection) -> int:
    """How many messages may or may not have arrived."""
    query = sa.select(sa.func.count()).select_from(messages).where(sa.text(IN_DOUBT_SQL))
    return int(conn.execute(query).scalar_one())


def count_lost(conn: sa.Connection, now: datetime) -> int:
    """How many messages were reserved by a process that has not recorded anything within its lease."""
    query = sa.select(sa.func.count()).select_from(reservations)
    return int(conn.execute(query.where(sa.text(HELD_SQL), reservations.c.lease_until < now)).scalar_one())


def claim(
    conn: sa.Connection,
    message_ids: Collection[str],
    now: datetime,
    *,
    without: Collection[Channel] = (),
    one_of: Collection[Channel] = (),
) -> list[StoredMessage]:
    """Those of the messages that are to be decided now, held until the transaction ends.

    One that another worker holds is left to it: the queue may deliver an id twice. One that was never decided and
    bears no `send_after` is due by being submitted, even where this machine's clock is behind. Messages of the
    channels `without` are left alone, and of each of `one_of` all but one.
    """
    held = _CLAIM(conn, ids=message_ids, now=now, without=[channel.value for channel in without])
    found = sorted(map(_stored, held), key=lambda message: (message.due_at, message.message_id))
    return list(_thinned(found, one_of))


def _thinned(found: Iterable[StoredMessage], one_of: Collection[Channel]) -> Iterator[StoredMessage]:
    """Of each of some channels the first only."""
    seen: set[Channel] = set()
    for message in found:
        if message.channel not in one_of or message.channel not in seen:
            yield message
        seen.add(message.channel)


def claim_for_queue(
    conn: sa.Connection, now: datetime, *, service: bool, again_after: timedelta, limit: int
) -> list[tuple[str, PurposeClass]]:
    """Take messages that are due and that the queue does not have, or seems to have lost, the longest waiting first.

    They are of the class service, or of all others. None is taken again before `again_after` has passed.
    """
    condition = sa.text(SERVICE_SQL if service else f"NOT ({SERVICE_SQL})")
    held = (
        sa.select(messages.c.message_id, messages.c.purpose_class)
        .where(_IS_WAITING, condition, messages.c.sweep_at <= now)
        .order_by(messages.c.sweep_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = [(str(row[0]), PurposeClass(row[1])) for row in conn.execute(held)]
    ids = [message_id for message_id, _ in taken]
    chosen = rows.is_among(messages.c.message_id, ids)
    conn.execute(sa.update(messages).where(chosen).values(sweep_at=now + again_after))
    return taken


def queue_again(conn: sa.Connection, message_ids: Collection[str], at: datetime) -> None:
    """Let the scheduler put messages on the queue from `at` on."""
    chosen = rows.is_among(messages.c.message_id, message_ids)
    conn.execute(sa.update(messages).where(chosen, _IS_WAITING).values(sweep_at=at))


def wake(conn: sa.Connection, purchase_id: str, now: datetime) -> None:
    """Let the deferred messages about a purchase be decided afresh now."""
    names = sa.select(purchase_names.c.name_id).where(purchase_names.c.purchase_id == purchase_id)
    conn.execute(
        sa.update(messages)
        .where(
            messages.c.purchase_name_id.in_(names),
            messages.c.status == Status.DEFERRED.value,
            messages.c.due_at > now,
        )
        .values(due_at=now, sweep_at=now)
    )


def set_status(conn: sa.Connection, changed: Sequence[Mapping[str, Any]]) -> None:
    """Set status, reason, due_at, sweep_at and attempts of messages that the transaction holds.

    Each row has `message_id` and those five.
    """
    rows.change(conn, messages, "message_id", changed)


def strip(conn: sa.Connection, message_ids: Collection[str]) -> None:
    """Take the texts of messages away that were denied as their person is erased, and the addresses they were for."""
    if not message_ids:
        return
    chosen = rows.is_among(messages.c.message_id, message_ids)
    conn.execute(sa.update(messages).where(chosen).values(STRIPPED))
    theirs = sa.select(messages.c.contact_point_id).where(chosen)
    conn.execute(
        sa.update(contact_points)
        .where(contact_points.c.contact_point_id.in_(theirs), contact_points.c.address.is_not(None))
        .values(address=None)
    )


def cancel(conn: sa.Connection, message_id: str, reason: str) -> bool:
    """Cancel a message that still waits; say whether it did."""
    done = conn.execute(
        sa.update(messages)
        .where(messages.c.message_id == message_id, _IS_WAITING)
        .values(status=Status.CANCELLED.value, reason=reason)
    )
    return done.rowcount == 1


def reserve(conn: sa.Connection, reserved: Sequence[Reservation]) -> None:
    """Write reservations. The database refuses a second one that blocks the same message."""
    new = [
        _reservation(one.attempt_id, one.message, reserved_at=one.reserved_at, lease_until=one.lease_until)
        for one in reserved
    ]
    rows.insert(conn, reservations, new)


def add_doubts(
    conn: sa.Connection, doubted: Sequence[tuple[str, StoredMessage]], now: datetime, *, detail: str
) -> None:
    """Write attempts that may have been made: attempt id and message. They count and block as sent ones do."""
    new = [
        _reservation(attempt_id, message, reserved_at=now, lease_until=now)
        | {"state": Result.IN_DOUBT.value, "detail": detail, "ended_at": now}
        for attempt_id, message in doubted
    ]
    rows.insert(conn, reservations, new)


def hold_attempts(conn: sa.Connection, attempt_ids: Collection[str]) -> dict[str, tuple[str, bool]]:
    """The state of each attempt, and whether its end may still be written; held until the transaction ends.

    It may where the attempt is held, or in doubt and not followed by another.
    """
    return {
        attempt_id: (state, blocks and state in ("held", "in_doubt"))
        for attempt_id, state, blocks in _HOLD_ATTEMPTS(conn, ids=attempt_ids)
    }


def end_attempts(conn: sa.Connection, ended: Sequence[Mapping[str, Any]]) -> None:
    """Write how attempts ended that the transaction holds.

    Each row has `attempt_id`, `state`, `detail`, `provider_id`, `ended_at` and `blocks`: whether no other may follow.
    """
    rows.change(conn, reservations, "attempt_id", ended)


def expired_leases(conn: sa.Connection, now: datetime, limit: int) -> list[tuple[str, StoredMessage]]:
    """Reservations whose lease ran out before anything was recorded: attempt id and message, held."""
    held = (
        sa.select(reservations.c.attempt_id, reservations.c.message_id)
        .where(sa.text(HELD_SQL), reservations.c.lease_until < now)
        .order_by(reservations.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    by_message = {str(row[1]): str(row[0]) for row in conn.execute(held)}
    query = _SELECT.where(rows.is_among(messages.c.message_id, by_message))
    return [
        (by_message[stored.message_id], stored)
        for stored in map(_stored, conn.execute(query.order_by(messages.c.message_id)))
    ]


def may_have_gone_out(conn: sa.Connection, until: datetime, *, after: str, limit: int) -> list[StoredMessage]:
    """Messages that waited and were due at `until`, held, in the order of their ids and after one of them."""
    columns = messages.c
    held = (
        sa.select(columns.message_id)
        .where(_IS_WAITING, columns.due_at <= until, columns.message_id > after)
        .order_by(columns.message_id)
        .limit(limit)
        .with_for_update()
    )
    ids = [str(row[0]) for row in conn.execute(held)]
    query = _SELECT.where(rows.is_among(columns.message_id, ids)).order_by(columns.message_id)
    return [_stored(row) for row in conn.execute(query)]


def doubts(
    conn: sa.Connection,
    *,
    merchant: str | None = None,
    purpose: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> list[Doubt]:
    """The messages in doubt that match, the oldest attempt first."""
    query = _select_doubts()
    for column, value in ((messages.c.merchant, merchant), (messages.c.purpose, purpose)):
        if value is not None:
            query = query.where(column == value)
    if since is not None:
        query = query.where(reservations.c.reserved_at >= since)
    query = query.order_by(reservations.c.reserved_at, reservations.c.attempt_id).limit(limit)
    return [_doubt(row) for row in conn.execute(query)]


def hold_doubt(conn: sa.Connection, message_id: str, attempt_id: str | None = None) -> Doubt | None:
    """The doubt about a message, held until the transaction ends; None where it is in none.

    With `attempt_id`, only where it is that attempt which is in doubt.
    """
    held = sa.select(messages.c.message_id).where(messages.c.message_id == message_id, sa.text(IN_DOUBT_SQL))
    if conn.execute(held.with_for_update()).one_or_none() is None:
        return None
    query = _select_doubts().where(messages.c.message_id == message_id)
    if attempt_id is not None:
        query = query.where(reservations.c.attempt_id == attempt_id)
    row = conn.execute(query).one_or_none()
    return _doubt(row) if row else None


def claim_doubt(
    conn: sa.Connection,
    now: datetime,
    channels: Collection[Channel],
    *,
    soonest: timedelta,
    latest: timedelta,
) -> Doubt | None:
    """Take the doubt of some channels that has waited longest of those to be looked up now, if there is one.

    It is taken again after as long as it has lasted, but not before `soonest` and not later than `latest`.
    """
    held = (
        sa.select(messages.c.message_id)
        .where(sa.text(IN_DOUBT_SQL), messages.c.sweep_at <= now, messages.c.channel.in_(channels))
        .order_by(messages.c.sweep_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    message_id = conn.execute(held).scalar()
    if message_id is None:
        return None
    row = conn.execute(_select_doubts().where(messages.c.message_id == message_id)).one_or_none()
    doubt = _doubt(row) if row else None
    wait = latest if doubt is None else min(max(now - doubt.reserved_at, soonest), latest)
    conn.execute(sa.update(messages).where(messages.c.message_id == message_id).values(sweep_at=now + wait))
    return doubt


def last_accepted(conn: sa.Connection, channel: Channel) -> Attempt | None:
    """The newest attempt on a channel that the provider accepted, if there is one among the newest."""
    newest = (
        sa.select(ledger.c.message_id, ledger.c.kind, ledger.c.channel, ledger.c.outcome, ledger.c.position)
        .order_by(ledger.c.position.desc())
        .limit(_AMONG_THE_NEWEST)
    ).subquery()
    found = conn.execute(
        sa.select(newest.c.message_id)
        .where(
            newest.c.kind == "attempt",
            newest.c.channel == channel.value,
            newest.c.outcome == Result.ACCEPTED.value,
        )
        .order_by(newest.c.position.desc())
        .limit(1)
    ).scalar()
    if found is None:
        return None
    accepted = [one for one in attempts_of(conn, found) if one.state == Result.ACCEPTED.value]
    return accepted[-1] if accepted else None


def resolve_attempt(
    conn: sa.Connection,
    attempt_id: str,
    result: Result,
    *,
    detail: str,
    provider_id: str | None,
    now: datetime,
) -> None:
    """Write what became of an attempt in doubt: `accepted`, or `failed`, which lets another follow."""
    conn.execute(
        sa.update(reservations)
        .where(reservations.c.attempt_id == attempt_id, reservations.c.state == Result.IN_DOUBT.value)
        .values(
            state=result.value,
            detail=detail,
            provider_id=provider_id,
            ended_at=now,
            blocks=result is Result.ACCEPTED,
        )
    )


def attempts_of(conn: sa.Connection, message_id: str) -> list[Attempt]:
    """The attempts made for a message, oldest first."""
    columns = reservations.c
    query = (
        sa.select(
            columns.attempt_id,
            columns.message_id,
            columns.reserved_at,
            columns.state,
            columns.detail,
            columns.provider_id,
            columns.ended_at,
        )
        .where(columns.message_id == message_id)
        .order_by(columns.reserved_at, columns.attempt_id)
    )
    return [Attempt(**row._mapping) for row in conn.execute(query)]


def message_of(conn: sa.Connection, attempt_id: str) -> str | None:
    """The id of the message that an attempt was made for."""
    query = sa.select(reservations.c.message_id).where(reservations.c.attempt_id == attempt_id)
    found: str | None = conn.execute(query).scalar()
    return found


def _reservation(
    attempt_id: str, message: StoredMessage, *, reserved_at: datetime, lease_until: datetime
) -> dict[str, Any]:
    return {
        "attempt_id": attempt_id,
        "message_id": message.message_id,
        "contact_point_id": message.contact_point_id,
        "merchant": message.merchant,
        "purpose": message.purpose,
        "purpose_class": message.purpose_class.value,
        "channel": message.channel.value,
        "dedupe_key": message.dedupe_key,
        "reserved_at": reserved_at,
        "lease_until": lease_until,
        "state": "held",
        "blocks": True,
    }


def _select_doubts() -> sa.Select[Any]:
    """Messages in doubt with the attempt that leaves them so, which is the one that blocks another."""
    return (
        sa.select(
            messages.c.message_id,
            reservations.c.attempt_id,
            messages.c.merchant,
            messages.c.purpose,
            messages.c.channel,
            messages.c.contact_point_id,
            purchase_names.c.purchase_id,
            messages.c.attempts,
            reservations.c.reserved_at,
            reservations.c.ended_at.label("since"),
            reservations.c.detail,
            reservations.c.provider_id,
        )
        .join(reservations, reservations.c.message_id == messages.c.message_id)
        .outerjoin(purchase_names, purchase_names.c.name_id == messages.c.purchase_name_id)
        .where(
            sa.text(f"messages.{IN_DOUBT_SQL}"),
            reservations.c.state == Result.IN_DOUBT.value,
            reservations.c.blocks,
        )
    )


def _doubt(row: sa.Row[Any]) -> Doubt:
    columns = dict(row._mapping)
    return Doubt(**columns | {"channel": Channel(columns["channel"])})


def _stored(row: Sequence[Any]) -> StoredMessage:
    columns = dict(zip(_NAMES, row, strict=True))
    columns["purpose_class"] = PurposeClass(columns["purpose_class"])
    columns["channel"] = Channel(columns["channel"])
    columns["status"] = Status(columns["status"])
    metadata = columns["metadata"]
    columns["metadata"] = json.loads(metadata) if metadata != "{}" else {}
    columns["zones"] = tuple(columns["zones"].split())
    return StoredMessage(**columns)
