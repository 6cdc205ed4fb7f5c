"""Judging a run from outside: by what was submitted, what arrived, and the ledger's tables read with plain SQL.

Nothing of the code under test takes part. `read` collects the evidence, `judge` is a function of it alone.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from support.tables import plain_engine

from soak.story import NEWS_A_WEEK, Request

Name = tuple[str, str]

_FINAL = frozenset({"sent", "denied", "expired", "failed", "in_doubt"})
_COUNTED = frozenset({"sent", "in_doubt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A message that a sink took. `at` is in microseconds since 1970; `reserved` is as `soak.sinks` says."""

    message_id: str
    attempt_id: str
    at: int
    reserved: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    message_id: str
    merchant: str
    idempotency_key: str | None
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRow:
    """`reserved_at` is in microseconds since 1970."""

    attempt_id: str
    message_id: str
    reserved_at: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known about a run. A receipt is merchant, key and message id.

    `decided` are the attempts that the send log has a decision for, `recorded` those whose end it tells, with how.
    """

    requests: Sequence[Request]
    receipts: Sequence[tuple[str, str, str]]
    arrivals: Sequence[Arrival]
    messages: Sequence[MessageRow]
    reservations: Sequence[ReservationRow]
    decided: frozenset[str]
    recorded: frozenset[tuple[str, str]]
    decisions: Counter[str] = field(default_factory=Counter)
    log_faults: Sequence[str] = ()
    """What is wrong with the proof of the send log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found. `faults` names everything that must not be, with the ids of those it befell."""

    faults: dict[str, list[str]]
    hand_offs: int
    submitted: int
    receipts: int
    reserved_seen: int
    login_codes_again: int
    in_doubt: int
    in_doubt_arrived: int
    statuses: dict[str, int]
    decisions: dict[str, int]

    @property
    def is_good(self) -> bool:
        return not any(self.faults.values())


LOST = ("not in the ledger", "not ended", "sent and not arrived")
"""The faults that mean a lost message."""

TWICE = ("arrived twice", "purchase asked about twice", "person asked twice", "issue received twice")
"""The faults that mean something got to somebody twice."""


def judge(evidence: Evidence) -> Verdict:
    """Compare the evidence with itself."""
    known = _Known(evidence)
    faults = {
        "not in the ledger": _missing(known),
        "in the ledger twice": _doubled(known),
        "submitted by nobody": _ghosts(known),
        "receipt for another message": _wrong_receipts(known),
        "not ended": [row.message_id for row in evidence.messages if row.status not in _FINAL],
        "still held": [row.message_id for row in evidence.reservations if row.state == "held"],
        "arrived without a reservation": _unreserved(known),
        "reserved without a logged decision": _undecided(known),
        "ended without a log entry": _unrecorded(known),
        "sent and not arrived": _not_arrived(known),
        "arrived and not counted as sent": _not_counted(known),
        "arrived twice": _arrived_twice(known),
        "purchase asked about twice": _more_than_one(_asks(known, "purchase")),
        "person asked twice": _more_than_one(_asks(known, "person")),
        "arrived after a refusal": _refused(known),
        "newsletters over the cap": _over_the_cap(known),
        "issue received twice": _same_issue(known),
        "send log altered or not sealed": list(evidence.log_faults),
    }
    in_doubt = [row.message_id for row in evidence.messages if row.status == "in_doubt"]
    codes = [
        message_id
        for message_id, request in known.request_of.items()
        if request.may_arrive_twice and known.times[message_id] > 1
    ]
    return Verdict(
        faults={what: sorted(set(ids)) for what, ids in faults.items()},
        hand_offs=len(evidence.arrivals),
        submitted=len(evidence.requests),
        receipts=len(evidence.receipts),
        reserved_seen=sum(arrival.reserved is True for arrival in evidence.arrivals),
        login_codes_again=sum(known.times[message_id] - 1 for message_id in codes),
        in_doubt=len(in_doubt),
        in_doubt_arrived=sum(known.times[message_id] > 0 for message_id in in_doubt),
        statuses=dict(sorted(Counter(row.status for row in evidence.messages).items())),
        decisions=dict(sorted(evidence.decisions.items())),
    )


class _Known:
    """The evidence, arranged for looking things up."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.by_name = {request.name: request for request in evidence.requests}
        self.rows_of: defaultdict[Name, list[str]] = defaultdict(list)
        for row in evidence.messages:
            self.rows_of[(row.merchant, row.idempotency_key or "")].append(row.message_id)
        self.request_of = {
            message_id: self.by_name[name]
            for name, ids in self.rows_of.items()
            if name in self.by_name
            for message_id in ids
        }
        self.times = Counter(arrival.message_id for arrival in evidence.arrivals)

    def arrived(self) -> Iterator[tuple[str, Request]]:
        """Every arrival of a request that is known: message id and request."""
        for arrival in self.evidence.arrivals:
            if arrival.message_id in self.request_of:
                yield arrival.message_id, self.request_of[arrival.message_id]


def _missing(known: _Known) -> list[str]:
    """Of these there is no message id to tell: they are named by merchant and key."""
    names = {*known.by_name, *((merchant, key) for merchant, key, _ in known.evidence.receipts)}
    return [f"{merchant} {key}" for merchant, key in names if (merchant, key) not in known.rows_of]


def _doubled(known: _Known) -> list[str]:
    return [message_id for ids in known.rows_of.values() if len(ids) > 1 for message_id in ids]


def _ghosts(known: _Known) -> list[str]:
    recorded = {row.message_id for row in known.evidence.messages}
    unknown = recorded - known.request_of.keys()
    return [*unknown, *(known.times.keys() - recorded)]


def _wrong_receipts(known: _Known) -> list[str]:
    return [
        message_id
        for merchant, key, message_id in known.evidence.receipts
        if known.rows_of.get((merchant, key)) not in (None, [message_id])
    ]


def _unreserved(known: _Known) -> list[str]:
    reserved = {row.attempt_id: row for row in known.evidence.reservations}
    found = []
    for arrival in known.evidence.arrivals:
        row = reserved.get(arrival.attempt_id)
        is_its_own = row is not None and row.message_id == arrival.message_id
        if not is_its_own or row is None or row.reserved_at > arrival.at or arrival.reserved is False:
            found.append(arrival.message_id)
    return found


def _undecided(known: _Known) -> list[str]:
    rows = known.evidence.reservations
    return [row.message_id for row in rows if row.attempt_id not in known.evidence.decided]


def _unrecorded(known: _Known) -> list[str]:
    return [
        row.message_id
        for row in known.evidence.reservations
        if row.state != "held" and (row.attempt_id, row.state) not in known.evidence.recorded
    ]


def _not_arrived(known: _Known) -> list[str]:
    return [
        row.message_id
        for row in known.evidence.messages
        if row.status == "sent" and not known.times[row.message_id]
    ]


def _not_counted(known: _Known) -> list[str]:
    """A message that arrived takes its place in caps and asks only while it counts as sent or in doubt."""
    return [
        row.message_id
        for row in known.evidence.messages
        if known.times[row.message_id] and row.status not in _COUNTED
    ]


def _arrived_twice(known: _Known) -> list[str]:
    return [
        message_id
        for message_id, request in known.arrived()
        if known.times[message_id] > 1 and not request.may_arrive_twice
    ]


def _asks(known: _Known, of: str) -> Iterator[tuple[object, str]]:
    for message_id, request in known.arrived():
        if request.purpose == "review_request":
            yield getattr(request, of), message_id


def _more_than_one(found: Iterable[tuple[object, str]]) -> list[str]:
    return _more_than(1, found)


def _more_than(limit: int, found: Iterable[tuple[object, str]]) -> list[str]:
    grouped: defaultdict[object, list[str]] = defaultdict(list)
    for key, message_id in found:
        grouped[key].append(message_id)
    return [message_id for ids in grouped.values() if len(ids) > limit for message_id in ids]


def _refused(known: _Known) -> list[str]:
    return [message_id for message_id, request in known.arrived() if request.refused]


def _over_the_cap(known: _Known) -> list[str]:
    news = (
        ((request.merchant, request.person), message_id)
        for message_id, request in known.arrived()
        if request.purpose == "newsletter"
    )
    return _more_than(NEWS_A_WEEK, news)


def _same_issue(known: _Known) -> list[str]:
    news = (
        ((request.merchant, request.person, request.text), message_id)
        for message_id, request in known.arrived()
        if request.purpose == "newsletter"
    )
    return _more_than_one(news)


def read(
    *,
    ledger: str,
    requests: Iterable[Request],
    receipts: Iterable[Path],
    arrivals: Iterable[Path],
    log_faults: Iterable[str] = (),
) -> Evidence:
    """Collect what is to be known after a run, once nothing runs any more."""
    with plain_engine(ledger) as engine, engine.connect() as conn:
        messages = conn.execute(sa.text("SELECT message_id, merchant, idempotency_key, status FROM messages"))
        message_rows = [MessageRow(**row._mapping) for row in messages]
        reserved = conn.execute(
            sa.text("SELECT attempt_id, message_id, reserved_at, state FROM reservations")
        )
        reservation_rows = [ReservationRow(**row._mapping) for row in reserved]
        logged = conn.execute(
            sa.text("SELECT kind, outcome, body FROM ledger WHERE kind IN ('decision', 'attempt')")
        )
        log = [(row.kind, row.outcome, json.loads(row.body)["attempt_id"]) for row in logged]
    return Evidence(
        requests=list(requests),
        receipts=[(line[0], line[1], line[2]) for path in receipts for line in _lines(path)],
        arrivals=[Arrival(**line) for path in arrivals for line in _lines(path)],
        messages=message_rows,
        reservations=reservation_rows,
        decided=frozenset(attempt_id for kind, _, attempt_id in log if kind == "decision" and attempt_id),
        recorded=frozenset((attempt_id, outcome) for kind, outcome, attempt_id in log if kind == "attempt"),
        decisions=Counter(outcome for kind, outcome, _ in log if kind == "decision"),
        log_faults=list(log_faults),
    )


def _lines(path: Path) -> Iterator[Any]:
    """The lines of JSON in a file that only grew."""
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line)
