"""Consent: events, what they cover, and whether someone may be written to at a given instant.

DESIGN.md section 4 in code. Permissions are read narrowly, refusals widely. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from notifygate.address import ContactPoint
from notifygate.errors import InvalidConsent, InvalidMessage
from notifygate.message import check_aware, check_unicode
from notifygate.policy import ANY, PENDING_FOR, Accepts, Policy, PurposeClass

# A refusal of a class covers the classes in its set: a review request is marketing in the eyes of the law
# (Danish Consumer Ombudsman's guidance on customer surveys; Bundesgerichtshof VI ZR 225/17).
_REFUSED_WITH: dict[str, frozenset[PurposeClass]] = {
    PurposeClass.SERVICE: frozenset({PurposeClass.SERVICE}),
    PurposeClass.REVIEW: frozenset({PurposeClass.REVIEW}),
    PurposeClass.MARKETING: frozenset({PurposeClass.MARKETING, PurposeClass.REVIEW}),
}


class State(StrEnum):
    """What a consent event says."""

    GRANTED = "granted"
    SOFT_OPT_IN = "soft_opt_in"
    REQUESTED = "requested"
    WITHDRAWN = "withdrawn"
    OBJECTED = "objected"
    REFUSED = "refused"
    INVALIDATED = "invalidated"


PERMISSIONS = frozenset({State.GRANTED, State.SOFT_OPT_IN, State.REQUESTED})
REFUSALS = frozenset({State.WITHDRAWN, State.OBJECTED, State.REFUSED})
_TEXTS = (
    *("party", "channel", "purpose", "basis", "source", "evidence"),
    *("notice_version", "sale_ref", "invalidates", "actor"),
)
_STATE_OF_GROUND = {Accepts.CONSENT: State.GRANTED, Accepts.SOFT_OPT_IN: State.SOFT_OPT_IN}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentEvent:
    """One thing that a person said, or that was set down about what they said. Immutable.

    `party` is a merchant, a group or `*`; `channel` is `sms`, `email` or `*`; `purpose` is a purpose, a class or
    `*`. A permission must name one of each; a refusal may be as broad as it likes. `event_id` and `recorded_at`
    are given by the ledger. `invalidates` is the id of the permission that an `invalidated` event voids.
    `evidence` says where the proof is kept (a form's URL, a file's hash), `notice_version` what the person was
    shown, `actor` who recorded it. `includes_service` makes a refusal hold for service messages as well.
    """

    state: State | str
    contact_point: ContactPoint | str = field(repr=False)
    party: str = ANY
    channel: str = ANY
    purpose: str = ANY
    occurred_at: datetime | None = None
    recorded_at: datetime | None = None
    expires_at: datetime | None = None
    basis: str | None = None
    source: str | None = None
    evidence: str | None = None
    notice_version: str | None = None
    sale_ref: str | None = None
    opt_out_offered: bool | None = None
    includes_service: bool = False
    invalidates: str | None = None
    actor: str | None = None
    event_id: str | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "state", State(self.state))
        except ValueError as error:
            raise InvalidConsent("state", f"must be one of {', '.join(State)}") from error
        for name in ("occurred_at", "recorded_at", "expires_at"):
            try:
                object.__setattr__(self, name, check_aware(name, getattr(self, name)))
            except InvalidMessage as error:
                raise InvalidConsent(error.field, error.problem) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRecord:
    """A consent event as the ledger holds it: ids instead of addresses, all times known."""

    event_id: str
    state: State
    contact_point_id: str
    party: str
    channel: str
    purpose: str
    occurred_at: datetime
    recorded_at: datetime
    expires_at: datetime | None = None
    includes_service: bool = False
    invalidates: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The question: may this merchant write to this contact point, on this channel, for this purpose?"""

    contact_point_id: str
    merchant: str
    channel: str
    purpose: str


class Standing(StrEnum):
    """The answer, in one word."""

    PERMITTED = "permitted"
    REFUSED = "refused"
    PENDING = "pending"
    EXPIRED = "expired"
    INVALIDATED = "invalidated"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """Where a query stands at an instant, and the event that says so (None where nothing does)."""

    standing: Standing
    event: ConsentRecord | None = None

    @property
    def permitted(self) -> bool:
        return self.standing is Standing.PERMITTED


def effective(
    records: Iterable[ConsentRecord],
    query: Query,
    policy: Policy,
    at: datetime,
    *,
    accepts: frozenset[Accepts] = frozenset({Accepts.CONSENT, Accepts.SOFT_OPT_IN}),
) -> Effective:
    """Say whether `query` is permitted at instant `at`, by all the records given.

    `records` are events of the *person* whom the contact point belongs to, in any order: all that the ledger has
    for a decision, or for a question about the past those that were `recorded_by` then. `accepts` are the grounds
    that count. A refusal counts whatever its date; a permission dated in the future waits. Ties go to the refusal.
    """
    known = list(records)
    refusals = [record for record in known if refuses(record, query, policy)]
    voided = {record.invalidates for record in known if record.state is State.INVALIDATED}
    states = {_STATE_OF_GROUND[ground] for ground in accepts if ground in _STATE_OF_GROUND}

    asides: dict[Standing, ConsentRecord] = {}
    best: ConsentRecord | None = None
    blocker: ConsentRecord | None = None
    for record in sorted(known, key=lambda record: (record.occurred_at, record.event_id)):
        if record.state not in PERMISSIONS or not _permission_covers(record, query, policy):
            continue
        if record.occurred_at > at:
            continue
        if record.state is State.REQUESTED:
            # INVARIANT(requested permits nothing): a pending double opt-in never allows a send.
            if at < record.occurred_at + PENDING_FOR:
                asides[Standing.PENDING] = record
            continue
        if record.state not in states:
            continue
        if record.event_id in voided:
            asides[Standing.INVALIDATED] = record
            continue
        if record.expires_at is not None and at >= record.expires_at:
            asides[Standing.EXPIRED] = record
            continue
        overruling = [refusal for refusal in refusals if not _outlives(record, refusal, policy)]
        if overruling:
            blocker = max(overruling, key=lambda refusal: (refusal.occurred_at, refusal.event_id))
        else:
            best = record
    if best is not None:
        return Effective(standing=Standing.PERMITTED, event=best)
    if blocker is None and refusals:
        blocker = max(refusals, key=lambda refusal: (refusal.occurred_at, refusal.event_id))
    if blocker is not None:
        return Effective(standing=Standing.REFUSED, event=blocker)
    for standing in (Standing.PENDING, Standing.EXPIRED, Standing.INVALIDATED):
        if standing in asides:
            return Effective(standing=standing, event=asides[standing])
    return Effective(standing=Standing.MISSING)


def pending_requests(
    records: Iterable[ConsentRecord], query: Query, policy: Policy, at: datetime
) -> list[ConsentRecord]:
    """The double opt-ins that may be confirmed at instant `at`, oldest first.

    They are those made at the contact point, for the merchant and channel of the query and for any purpose, not older
    than `PENDING_FOR`, and with no refusal that covers them since. `query.purpose` is not looked at.
    """
    known = list(records)
    found = []
    for record in known:
        asked = replace(query, purpose=record.purpose)
        if (
            record.state is State.REQUESTED
            and _permission_covers(record, asked, policy)
            and record.occurred_at <= at < record.occurred_at + PENDING_FOR
            and not refused_since(known, record, asked, policy)
        ):
            found.append(record)
    return sorted(found, key=lambda record: (record.occurred_at, record.event_id))


def refused_since(
    records: Iterable[ConsentRecord], permission: ConsentRecord, query: Query, policy: Policy
) -> bool:
    """Whether a refusal that covers the query is as new as a permission, by either of its dates."""
    return any(
        refuses(record, query, policy)
        and max(record.occurred_at, record.recorded_at) >= permission.occurred_at
        for record in records
    )


def is_undone(refusal: ConsentRecord, records: Iterable[ConsentRecord], policy: Policy, at: datetime) -> bool:
    """Whether a later grant holds at an instant, in spite of a refusal and of all that forbid as much as it does.

    `records` are all events of the person, the refusal among them.
    """
    known = [
        record
        for record in records
        if record.state not in REFUSALS or record.includes_service >= refusal.includes_service
    ]
    return any(
        effective(known, _query_of(record), policy, at, accepts=frozenset({Accepts.CONSENT})).permitted
        for record in known
        if record.state is State.GRANTED and _outlives(record, refusal, policy)
    )


def _query_of(permission: ConsentRecord) -> Query:
    """The question that a permission answers."""
    return Query(
        contact_point_id=permission.contact_point_id,
        merchant=permission.party,
        channel=permission.channel,
        purpose=permission.purpose,
    )


def recorded_by(records: Iterable[ConsentRecord], at: datetime) -> list[ConsentRecord]:
    """What the ledger knew at an instant."""
    return [record for record in records if record.recorded_at <= at]


def service_refusal(
    records: Iterable[ConsentRecord], query: Query, policy: Policy, at: datetime
) -> ConsentRecord | None:
    """The newest refusal that `includes_service`, covers `query`, and was not undone by a later grant; else None.

    This is the question for a service message, which needs no permission.
    """
    known = list(records)
    refusals = [record for record in known if record.includes_service and refuses(record, query, policy)]
    if not refusals:
        return None
    remaining = [*refusals, *(record for record in known if record.state not in REFUSALS)]
    if effective(remaining, query, policy, at, accepts=frozenset({Accepts.CONSENT})).permitted:
        return None
    return max(refusals, key=lambda refusal: (refusal.occurred_at, refusal.event_id))


def refuses(record: ConsentRecord, query: Query, policy: Policy) -> bool:
    """Whether a refusal, made at any contact point of the person, covers the query."""
    return (
        record.state in REFUSALS
        and record.channel in (query.channel, ANY)
        and _party_within(query.merchant, record.party, policy)
        and _purpose_within(query.purpose, record.purpose, policy)
    )


def purposes_refused_with(purpose: str, policy: Policy) -> set[str]:
    """The classes whose refusal covers a purpose, or a class."""
    found = policy.purposes.get(purpose)
    wanted = found.purpose_class if found is not None else purpose
    return {str(scope) for scope, classes in _REFUSED_WITH.items() if wanted in classes}


def _permission_covers(record: ConsentRecord, query: Query, policy: Policy) -> bool:
    # INVARIANT(a grant covers exactly what it names): the contact point is compared, never the person.
    return (
        record.contact_point_id == query.contact_point_id
        and record.channel == query.channel
        and record.purpose == query.purpose
        and (record.party == query.merchant or record.party == policy.group_of(query.merchant))
        and record.party != ANY
    )


def _outlives(permission: ConsentRecord, refusal: ConsentRecord, policy: Policy) -> bool:
    """Whether a permission holds in spite of a refusal that covers the same query."""
    return (
        permission.state is State.GRANTED
        and permission.occurred_at > refusal.occurred_at
        and refusal.channel in (permission.channel, ANY)
        and _party_within(permission.party, refusal.party, policy)
        and _purpose_within(permission.purpose, refusal.purpose, policy)
    )


def _party_within(party: str, scope: str, policy: Policy) -> bool:
    return scope in (ANY, party) or (scope == policy.group_of(party) and party in policy.merchants)


def _purpose_within(purpose: str, scope: str, policy: Policy) -> bool:
    if scope in (ANY, purpose):
        return True
    found = policy.purposes.get(purpose)
    return found is not None and found.purpose_class in _REFUSED_WITH.get(scope, frozenset())


def check_text(name: str, value: object) -> None:
    """Refuse what is no text, or none that a ledger can hold. Raises `InvalidConsent`."""
    if not isinstance(value, str):
        raise InvalidConsent(name, f"text is wanted, not {type(value).__name__}")
    try:
        check_unicode(name, value)
    except InvalidMessage as error:
        raise InvalidConsent(error.field, error.problem) from error


def check_fields(event: ConsentEvent) -> None:
    """Refuse an event that must not be written whoever it is about. Raises `InvalidConsent`, naming the field."""
    for name in _TEXTS:
        if getattr(event, name) is not None:
            check_text(name, getattr(event, name))
    if event.state is State.INVALIDATED and event.invalidates is None:
        raise InvalidConsent("invalidates", "must be the id of the permission event that is void")


def check_event(event: ConsentEvent, contact_point: ContactPoint, policy: Policy) -> None:
    """Refuse an event that must not be written. Raises `InvalidConsent`, naming the field.

    A permission names one channel, one purpose and a merchant or group. `soft_opt_in` needs one merchant, the
    sale and the offer to opt out. A refusal may be broad, but what it names must exist: a refusal of a misspelt
    merchant would protect nobody.
    """
    merchants, groups = policy.merchants, policy.groups
    check_fields(event)
    if event.state is State.INVALIDATED:
        return
    if event.state in PERMISSIONS:
        for name in ("party", "channel", "purpose"):
            if getattr(event, name) == ANY:
                raise InvalidConsent(name, "a permission covers exactly what it names; '*' is for refusals")
        if event.purpose in set(PurposeClass):
            raise InvalidConsent("purpose", "a permission names one purpose, not a class of them")
        if event.channel != contact_point.channel:
            raise InvalidConsent(
                "channel", f"must be {contact_point.channel.value!r}, the channel of the contact point"
            )
        begins = event.occurred_at
        if event.expires_at is not None and begins is not None and event.expires_at <= begins:
            raise InvalidConsent("expires_at", "must be later than occurred_at, or it would never hold")
    elif event.expires_at is not None:
        raise InvalidConsent("expires_at", "a refusal holds until a later permission; leave it out")
    if event.state is State.SOFT_OPT_IN:
        if event.party not in merchants:
            raise InvalidConsent("party", "a soft opt-in holds for one merchant, the one that made the sale")
        if not event.sale_ref:
            raise InvalidConsent("sale_ref", "a soft opt-in needs the sale that it rests on")
        if event.opt_out_offered is not True:
            raise InvalidConsent("opt_out_offered", "must be true: without the offer it is no soft opt-in")
    if event.party != ANY and event.party not in merchants and event.party not in groups:
        raise InvalidConsent("party", f"no merchant or group {event.party!r} in the config")
    if event.channel not in ("sms", "email", ANY):
        raise InvalidConsent("channel", "must be 'sms', 'email' or '*'")
    known_purpose = event.purpose in policy.purposes or event.purpose in set(PurposeClass)
    if event.purpose != ANY and not known_purpose:
        raise InvalidConsent("purpose", f"no purpose or class {event.purpose!r} in the config")
