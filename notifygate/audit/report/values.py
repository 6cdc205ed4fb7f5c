"""What a report says, as frozen values. Ids and counts only: nothing in it is personal data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From `since` on and before `until`, both in UTC. Days are counted by the clocks of `timezone`."""

    since: datetime
    until: datetime
    timezone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUsed:
    """A policy that decided in the period, by its hash. `first_seen_at` is None where its text is not kept."""

    hash: str
    first_seen_at: datetime | None
    decisions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Messages that came to the same. `reason` is the first reason of a denial, an expiry or a deferral."""

    merchant: str
    purpose: str
    channel: str
    outcome: str
    reason: str | None
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Messages by what they came to, on the day of their last word in the period."""

    day: date
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volumes:
    """How many messages were `submitted` in the period, and what those came to that had a word in it."""

    submitted: int
    messages: int
    outcomes: Mapping[str, int]
    by: tuple[Volume, ...]
    days: tuple[Day, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AsksMade:
    """Review requests made by one asker about the sales of one seller; `elsewhere` are those that it reported."""

    asker: str
    seller: str
    here: int
    elsewhere: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prevented:
    """Review requests that were denied, or wait, because of another ask.

    `because` is `purchase` (it was asked about before), `person` (they were asked lately) or `precedence` (another
    asker goes first). `seller` is None where the purchase is no longer known.
    """

    because: str
    reason: str
    asker: str
    seller: str | None
    denied: int
    deferred: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Concerned:
    """How many purchases and persons the denied second asks were about."""

    reason: str
    purchases: int
    persons: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """The asks made, and the second asks prevented."""

    made: int
    made_by: tuple[AsksMade, ...]
    prevented: Mapping[str, int]
    waiting: Mapping[str, int]
    prevented_by: tuple[Prevented, ...]
    concerned: tuple[Concerned, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterRefusal:
    """A message and a refusal that covers it. `delay` is how long after the refusal it was reserved, or handed over."""

    message_id: str
    refusal_id: str
    refused_at: datetime
    reserved_at: datetime
    delay: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class OptOuts:
    """Refusals recorded in the period, and the messages that went out in spite of them, up to now.

    `breaches` were reserved after the refusal: there should be none. `in_flight` were reserved before it, and their
    hand-off ended after it. Of both, those with the longest delays are listed.
    """

    refusals: int
    by_state: Mapping[str, int]
    breaches: int
    longest_breach: timedelta | None
    breaches_listed: tuple[AfterRefusal, ...]
    in_flight: int
    longest_in_flight: timedelta | None
    in_flight_listed: tuple[AfterRefusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtEnded:
    """Doubts opened in the period that ended since: `how` and with what `verdict` (`sent` or `not_sent`)."""

    how: str
    verdict: str | None
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """Hand-offs put in doubt in the period, what became of them since, and what is in doubt now."""

    opened: int
    ended: tuple[DoubtEnded, ...]
    still_open: int
    open_now: int
    oldest_since: datetime | None
    oldest_message_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Purchases that came to the same, for the same reason."""

    outcome: str
    reason: str | None
    purchases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EligibleOf:
    """The purchases that one asker wanted to ask about, and what came of it; `by` adds up to `purchases`.

    `asked` are those that were sent, and those in doubt, which count as sent.
    """

    merchant: str
    purchases: int
    asked: int
    outcomes: Mapping[str, int]
    by: tuple[Standing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neutrality:
    """Who of those that could be asked was asked: over all askers, by asker, and by the seller of the purchase.

    For an asker a purchase counts by the best that came of its own requests; over all, and for the seller, by the best
    that came of anybody's.
    """

    purchases: int
    asked: int
    outcomes: Mapping[str, int]
    by: tuple[Standing, ...]
    by_asker: tuple[EligibleOf, ...]
    by_seller: tuple[EligibleOf, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Figures over a period. `merchant` is None where they are those of all.

    `log_begins` is the instant before which months of the send log were dropped, where that lies in the period.
    """

    period: Period
    merchant: str | None
    made_at: datetime
    version: str
    ledger_id: str
    log_begins: datetime | None
    policies: tuple[PolicyUsed, ...]
    volumes: Volumes
    asks: Asks
    opt_outs: OptOuts
    doubts: Doubts
    neutrality: Neutrality

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-compatible values: instants in ISO 8601, spans in seconds."""
        shown: dict[str, Any] = _plain(self)
        return shown


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {_name(one.name): _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, date):  # a datetime is one, too
        return value.isoformat()
    return value


_SPANS = frozenset({"delay", "longest_breach", "longest_in_flight"})


def _name(name: str) -> str:
    """A field's name, with its unit where JSON does not show it."""
    return f"{name}_seconds" if name in _SPANS else name
