"""Figures for reports: the send log and its tables counted by the database, over a period.

A message counts once in a period, by its *last word* there: the newest of its rows in the send log that lies in the
period. So a period that is over gives the same figures whenever it is counted, but for what its docstring says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from notifygate.consent import REFUSALS, ConsentRecord, State
from notifygate.ledger import rows
from notifygate.ledger.journal import Kind, read_body
from notifygate.ledger.schema import (
    COUNTED_SQL,
    IN_DOUBT_SQL,
    IS_RARE_SQL,
    WENT_OTHERWISE_SQL,
    asks,
    consent_events,
    contact_points,
    ledger,
    mailboxes,
    messages,
    person_links,
    policies,
    purchase_names,
    purchases,
    reservations,
    to_micros,
)
from notifygate.message import WAITING, Result, Status
from notifygate.policy import PurposeClass

_STEPS = [
    kind.value for kind in (Kind.SUBMITTED, Kind.DECISION, Kind.ATTEMPT, Kind.RESOLUTION, Kind.CANCELLED)
]
_PAGE = 500
_A_DAY = 86_400_000_000  # microseconds
_EPOCH = date(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_NOT_ENDED = [*(status.value for status in WAITING), Status.SENDING.value]

# What a message came to, the best first: of several review requests about a purchase the best one counts.
SENT, IN_DOUBT, DEFERRED, WAITS, DENIED, FAILED, EXPIRED, CANCELLED = OUTCOMES = (
    "sent",
    "in_doubt",
    "deferred",
    "waiting",
    "denied",
    "failed",
    "expired",
    "cancelled",
)
"""`waiting` is what waits for its first decision, for the end of a hand-off, or for another try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is counted: rows dated from `since` on and before `until`, of one merchant or of all (None)."""

    since: datetime
    until: datetime
    merchant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Messages that came to the same, by the day of their last word."""

    day: date
    merchant: str
    purpose: str
    channel: str
    outcome: str
    reason: str | None
    is_review: bool
    seller: str | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligible:
    """Purchases about which one asker handed over review requests, by the best that came of these.

    `purchases` counts them for each asker, `of_all` a purchase only where no other asker's request came to more.
    """

    asker: str
    seller: str | None
    outcome: str
    reason: str | None
    purchases: int
    of_all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """A reservation that was not given back, and may so have reached somebody. `ended_at` is None while it is held."""

    message_id: str
    contact_point_id: str
    merchant: str
    purpose: str
    purpose_class: PurposeClass
    channel: str
    reserved_at: datetime
    lease_until: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """Two mailboxes that belong to one person, from one instant to another."""

    a: str
    b: str
    linked_at: datetime
    unlinked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A row of the send log, in as much as tells what became of a doubt."""

    position: int
    message_id: str
    kind: str
    at: datetime
    outcome: str | None
    reason: str | None
    body: Mapping[str, Any]


def freeze(conn: sa.Connection) -> None:
    """Let all that the transaction reads be of one moment. To be called before anything else."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def volumes(
    conn: sa.Connection, span: Span, offsets: Sequence[tuple[datetime, timedelta]]
) -> Iterator[Volume]:
    """All messages with a word in the period, by what they came to.

    `offsets` are the offsets from UTC of the zone in which days are counted, each with the instant it holds from on.
    """
    last = _last_words(span)
    is_review = last.c.purpose_class == PurposeClass.REVIEW.value
    # In a query of its own, so that what is grouped by is a name: PostgreSQL takes two equal parameters for two values.
    told: sa.Subquery = sa.select(
        _local_day(last.c.at, offsets).label("day"),
        last.c.merchant,
        last.c.purpose,
        last.c.channel,
        last.c.outcome,
        last.c.reason,
        sa.case((is_review, 1), else_=0).label("is_review"),
        # Only of review requests: others would be told apart by what no figure needs.
        sa.case((is_review, last.c.seller)).label("seller"),
    ).subquery()
    query: sa.Select[Any] = sa.select(*told.c, sa.func.count()).group_by(*told.c)
    for row in _stream(conn, query):
        day, merchant, purpose, channel, outcome, reason, is_asking, seller, count = tuple(row)
        yield Volume(
            day=_EPOCH + timedelta(days=day),
            merchant=merchant or "",
            purpose=purpose or "",
            channel=channel or "",
            outcome=outcome,
            reason=reason,
            is_review=bool(is_asking),
            seller=seller,
            count=count,
        )


def submitted(conn: sa.Connection, span: Span) -> int:
    """How many messages were submitted in the period."""
    query = sa.select(sa.func.count()).select_from(ledger)
    return int(conn.execute(query.where(ledger.c.kind == Kind.SUBMITTED.value, *_within(span))).scalar_one())


def concerned(conn: sa.Connection, span: Span, reasons: Collection[str]) -> dict[str, tuple[int, int]]:
    """How many purchases and how many persons the review requests were about that were denied for each reason."""
    last = _last_words(span)
    query = (
        sa.select(
            last.c.reason,
            sa.func.count(last.c.purchase_id.distinct()),
            sa.func.count(mailboxes.c.person_id.distinct()),
        )
        .outerjoin(contact_points, contact_points.c.contact_point_id == last.c.contact_point_id)
        .outerjoin(mailboxes, mailboxes.c.mailbox_id == contact_points.c.mailbox_id)
        .where(
            last.c.outcome == DENIED,
            last.c.purpose_class == PurposeClass.REVIEW.value,
            last.c.reason.in_(list(reasons)),
        )
        .group_by(last.c.reason)
    )
    return {reason: (bought, persons) for reason, bought, persons in conn.execute(query)}


def eligible(conn: sa.Connection, span: Span) -> list[Eligible]:
    """The purchases about which a review request had a word in the period, by what came of it."""
    last = _last_words(span)
    place = sa.case(
        *((last.c.outcome == outcome, number) for number, outcome in enumerate(OUTCOMES)), else_=len(OUTCOMES)
    )
    best = (place, last.c.position.desc())
    one = last.c.purchase_id
    ranked = (
        sa.select(
            last.c.merchant,
            last.c.seller,
            last.c.outcome,
            last.c.reason,
            sa.func.row_number().over(partition_by=[one, last.c.merchant], order_by=best).label("of_asker"),
            sa.func.row_number().over(partition_by=one, order_by=best).label("of_all"),
        )
        .where(last.c.purpose_class == PurposeClass.REVIEW.value, one.is_not(None))
        .subquery()
    )
    by = (ranked.c.merchant, ranked.c.seller, ranked.c.outcome, ranked.c.reason)
    query = (
        sa.select(*by, sa.func.count(), sa.func.count(sa.case((ranked.c.of_all == 1, 1))))
        .where(ranked.c.of_asker == 1)
        .group_by(*by)
    )
    return [
        Eligible(
            asker=row[0] or "", seller=row[1], outcome=row[2], reason=row[3], purchases=row[4], of_all=row[5]
        )
        for row in conn.execute(query)
    ]


def asks_made(conn: sa.Connection, span: Span) -> list[tuple[str, str, bool, int]]:
    """The asks made in the period: by whom, of whose customers, whether made elsewhere, and how many.

    An ask that is found later not to have gone out is no longer counted.
    """
    made = (
        sa.select(
            asks.c.by,
            purchases.c.seller,
            sa.case((asks.c.message_id.is_(None), 1), else_=0).label("elsewhere"),
        )
        .join(purchases, purchases.c.purchase_id == asks.c.purchase_id)
        .where(asks.c.asked_at >= span.since, asks.c.asked_at < span.until)
    )
    if span.merchant is not None:
        made = made.where(asks.c.by == span.merchant)
    listed = made.subquery()
    query: sa.Select[Any] = sa.select(*listed.c, sa.func.count()).group_by(*listed.c)
    return [(row[0], row[1], bool(row[2]), row[3]) for row in conn.execute(query)]


def policies_used(conn: sa.Connection, span: Span) -> list[tuple[str, datetime | None, int]]:
    """The policies that decided in the period: hash, when the ledger first saw it, and how many decisions."""
    used = (
        sa.select(ledger.c.policy, sa.func.count().label("decisions"))
        .where(ledger.c.kind == Kind.DECISION.value, ledger.c.policy.is_not(None), *_within(span))
        .group_by(ledger.c.policy)
        .subquery()
    )
    query = (
        sa.select(used.c.policy, policies.c.first_seen_at, used.c.decisions)
        .outerjoin(policies, policies.c.hash == used.c.policy)
        .order_by(policies.c.first_seen_at, used.c.policy)
    )
    return [(row[0], row[1], row[2]) for row in conn.execute(query)]


def dropped_before(conn: sa.Connection) -> datetime | None:
    """Before which instant months of the send log were dropped, as it says itself; None where none was."""
    query = sa.select(ledger.c.body).where(sa.text(IS_RARE_SQL), ledger.c.kind == Kind.DROPPED.value)
    ends = (datetime.fromisoformat(read_body(body)["until"]) for body in conn.execute(query).scalars())
    return max(ends, default=None)


def refusals(
    conn: sa.Connection, span: Span, parties: Collection[str] | None
) -> Iterator[list[ConsentRecord]]:
    """The refusals recorded in the period, a page at a time; with `parties` only those that name one of these."""
    columns = consent_events.c
    query = sa.select(*(columns[one.name] for one in fields(ConsentRecord))).where(
        columns.state.in_([state.value for state in REFUSALS]),
        columns.recorded_at >= span.since,
        columns.recorded_at < span.until,
    )
    if parties is not None:
        query = query.where(columns.party.in_(list(parties)))
    query, after = query.order_by(columns.event_id).limit(_PAGE), ""
    while True:
        found = conn.execute(query.where(columns.event_id > after)).all()
        if found:
            yield [
                ConsentRecord(**dict(row._mapping) | {"state": State(row._mapping["state"])}) for row in found
            ]
        if len(found) < _PAGE:
            return
        after = found[-1]._mapping["event_id"]


def ties_of(conn: sa.Connection, mailbox_ids: Collection[str]) -> list[Tie]:
    """All links that were ever made with some mailboxes, with those linked to them, and so on."""
    known: set[str] = set()
    fresh = set(mailbox_ids)
    found: dict[str, Tie] = {}
    columns = person_links.c
    while fresh:
        query = sa.select(
            columns.link_id, columns.mailbox_a, columns.mailbox_b, columns.linked_at, columns.unlinked_at
        ).where(rows.is_among(columns.mailbox_a, fresh) | rows.is_among(columns.mailbox_b, fresh))
        for link_id, a, b, linked_at, unlinked_at in conn.execute(query):
            found[link_id] = Tie(a=a, b=b, linked_at=linked_at, unlinked_at=unlinked_at)
        known |= fresh
        fresh = {end for tie in found.values() for end in (tie.a, tie.b)} - known
    return list(found.values())


def mailboxes_of(conn: sa.Connection, contact_point_ids: Collection[str]) -> dict[str, str]:
    """The mailbox of each contact point."""
    query = sa.select(contact_points.c.contact_point_id, contact_points.c.mailbox_id)
    chosen = rows.is_among(contact_points.c.contact_point_id, contact_point_ids)
    return {str(row[0]): str(row[1]) for row in conn.execute(query.where(chosen))}


def points_in(conn: sa.Connection, mailbox_ids: Collection[str]) -> dict[str, str]:
    """The contact points of some mailboxes, each with its mailbox."""
    query = sa.select(contact_points.c.contact_point_id, contact_points.c.mailbox_id)
    chosen = rows.is_among(contact_points.c.mailbox_id, mailbox_ids)
    return {str(row[0]): str(row[1]) for row in conn.execute(query.where(chosen))}


def handovers_to(
    conn: sa.Connection, contact_point_ids: Collection[str], since: datetime, merchant: str | None
) -> Iterator[Handover]:
    """What was handed over to some contact points, or may have been, and ended after an instant."""
    columns = reservations.c
    query = sa.select(*(columns[one.name] for one in fields(Handover))).where(
        rows.is_among(columns.contact_point_id, contact_point_ids),
        sa.text(COUNTED_SQL),
        (columns.reserved_at > since) | columns.ended_at.is_(None) | (columns.ended_at > since),
    )
    if merchant is not None:
        query = query.where(columns.merchant == merchant)
    for row in _stream(conn, query.order_by(columns.reserved_at, columns.attempt_id)):
        values = dict(row._mapping)
        yield Handover(**values | {"purpose_class": PurposeClass(values["purpose_class"])})


def doubts_opened(conn: sa.Connection, span: Span) -> Iterator[list[Step]]:
    """The attempts that were put in doubt in the period, a page at a time, each with its first such row."""
    query = (
        _select_steps()
        .where(
            ledger.c.kind == Kind.ATTEMPT.value,
            ledger.c.outcome == Result.IN_DOUBT.value,
            sa.text(WENT_OTHERWISE_SQL),
            *_within(span),
        )
        .order_by(ledger.c.position)
        .limit(_PAGE)
    )
    after = 0
    while True:
        found = [_step(row) for row in conn.execute(query.where(ledger.c.position > after))]
        if found:
            yield found
        if len(found) < _PAGE:
            return
        after = found[-1].position


def steps_of(conn: sa.Connection, message_ids: Collection[str]) -> dict[str, list[Step]]:
    """The decisions, attempts and resolutions of some messages, oldest first."""
    kinds = [Kind.DECISION.value, Kind.ATTEMPT.value, Kind.RESOLUTION.value]
    chosen = rows.is_among(ledger.c.message_id, message_ids)
    found: dict[str, list[Step]] = {message_id: [] for message_id in message_ids}
    for row in conn.execute(
        _select_steps().where(chosen, ledger.c.kind.in_(kinds)).order_by(ledger.c.position)
    ):
        found[row.message_id].append(_step(row))
    return found


def doubts_open(conn: sa.Connection, merchant: str | None) -> tuple[int, datetime | None, str | None]:
    """How many messages are in doubt now; since when the oldest has been, and its id."""
    since = reservations.c.reserved_at
    query = (
        sa.select(since, messages.c.message_id)
        .join(reservations, reservations.c.message_id == messages.c.message_id)
        .where(
            sa.text(f"messages.{IN_DOUBT_SQL}"),
            reservations.c.state == Result.IN_DOUBT.value,
            reservations.c.blocks,
        )
    )
    if merchant is not None:
        query = query.where(messages.c.merchant == merchant)
    count = int(conn.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one())
    oldest = conn.execute(query.order_by(since, messages.c.message_id).limit(1)).one_or_none()
    return (count, oldest[0], oldest[1]) if oldest else (count, None, None)


def _within(span: Span) -> list[sa.ColumnElement[bool]]:
    conditions = [ledger.c.at >= span.since, ledger.c.at < span.until]
    if span.merchant is not None:
        conditions.append(ledger.c.merchant == span.merchant)
    return conditions


def _last_words(span: Span) -> sa.Subquery:
    """The last word on each message in the period, with what it says, and what the message was about."""
    newest = (
        sa.select(sa.func.max(ledger.c.position).label("position"))
        .where(ledger.c.kind.in_(_STEPS), ledger.c.message_id.is_not(None), *_within(span))
        .group_by(ledger.c.message_id)
        .subquery()
    )
    is_refusal = sa.and_(ledger.c.kind == Kind.DECISION.value, ledger.c.outcome != "allow")
    return (
        sa.select(
            ledger.c.position,
            ledger.c.at,
            ledger.c.contact_point_id,
            ledger.c.merchant,
            ledger.c.purpose,
            ledger.c.channel,
            messages.c.purpose_class,
            # By its name: two purchases that were found to be one have the same since.
            purchase_names.c.purchase_id,
            purchases.c.seller,
            _came_to().label("outcome"),
            # A decision's own only: that of an attempt is the provider's free text.
            sa.case((is_refusal, ledger.c.reason)).label("reason"),
        )
        .join(newest, newest.c.position == ledger.c.position)
        .outerjoin(messages, messages.c.message_id == ledger.c.message_id)
        .outerjoin(purchase_names, purchase_names.c.name_id == messages.c.purchase_name_id)
        .outerjoin(purchases, purchases.c.purchase_id == purchase_names.c.purchase_id)
        .where(ledger.c.at >= span.since, ledger.c.at < span.until)
        .subquery("last_words")
    )


def _came_to() -> sa.Case[str]:
    kind, outcome, reason = ledger.c.kind, ledger.c.outcome, ledger.c.reason
    later = ledger.alias("later")
    is_followed = (
        sa.select(later.c.position)
        .where(later.c.message_id == ledger.c.message_id, later.c.position > ledger.c.position)
        .where(later.c.kind.in_(_STEPS))
        .exists()
    )
    # The row of a failed attempt does not say whether another try follows it.
    after_failure = sa.case(
        (is_followed | messages.c.status.in_(_NOT_ENDED), WAITS),
        (messages.c.status == Status.SENT.value, SENT),
        (messages.c.status == Status.IN_DOUBT.value, IN_DOUBT),
        else_=FAILED,
    )
    is_decision = kind == Kind.DECISION.value
    return sa.case(
        (kind == Kind.CANCELLED.value, CANCELLED),
        (sa.and_(is_decision, outcome == "deny", reason == "expired"), EXPIRED),
        (sa.and_(is_decision, outcome == "deny"), DENIED),
        (sa.and_(is_decision, outcome == "defer"), DEFERRED),
        (is_decision | (kind == Kind.SUBMITTED.value), WAITS),
        (outcome == Result.ACCEPTED.value, SENT),
        (outcome == Result.IN_DOUBT.value, IN_DOUBT),
        (outcome == Result.REJECTED.value, FAILED),
        else_=after_failure,
    )


def _local_day(
    at: sa.ColumnElement[datetime], offsets: Sequence[tuple[datetime, timedelta]]
) -> sa.ColumnElement[int]:
    """The number of the day since 1970 that an instant lies in, by the clocks of the zone."""
    micros = sa.type_coerce(at, sa.BigInteger())
    days = [(micros + _number(offset // _MICROSECOND)) // _number(_A_DAY) for _, offset in offsets]
    *spans, last = days
    if not spans:
        return last
    ends = [_number(to_micros(begins)) for begins, _ in offsets[1:]]
    return sa.case(*((micros < end, day) for end, day in zip(ends, spans, strict=True)), else_=last)


def _number(value: int) -> sa.ColumnElement[int]:
    """A number that is written into the statement: so that PostgreSQL knows its type."""
    return sa.literal_column(str(value), sa.BigInteger())


def _stream(conn: sa.Connection, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
    yield from conn.execute(query.execution_options(yield_per=_PAGE))


def _select_steps() -> sa.Select[Any]:
    return sa.select(
        ledger.c.position,
        ledger.c.message_id,
        ledger.c.kind,
        ledger.c.at,
        ledger.c.outcome,
        ledger.c.reason,
        ledger.c.body,
    )


def _step(row: sa.Row[Any]) -> Step:
    values = dict(row._mapping)
    return Step(**values | {"body": read_body(values["body"])})
