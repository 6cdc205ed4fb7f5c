"""Many consent events at once: each is checked as one alone is, and a few hundred share a transaction."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from notifygate.address import ContactPoint
from notifygate.config.values import nearest
from notifygate.consent import (
    PERMISSIONS,
    REFUSALS,
    ConsentEvent,
    ConsentRecord,
    State,
    check_event,
    check_text,
    is_undone,
)
from notifygate.errors import InvalidConsent, InvalidContactPoint, LedgerError
from notifygate.gateway.consent_writing import append_events
from notifygate.ids import new_id
from notifygate.ledger import consent_imports, consents, journal, people
from notifygate.ledger.consent_imports import TakenIn
from notifygate.policy import ANY, PurposeClass
from notifygate.runtime import Runtime

IMPORT_BATCH = 500
"""How many rows share a transaction: their persons are locked for some tens of milliseconds."""

# Those fields outlast an erasure.
_ADDRESS = re.compile(r"[^\s@:/]+@[^\s@:/]+\.\w|\+[0-9][0-9 ()./-]{6,}")
_LONGEST_KEY = 500
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,79}")
_NUMBER = re.compile(r"[0-9][0-9 ./-]{5,}")
_CONTENT = tuple(
    one.name for one in fields(ConsentEvent) if one.name not in ("event_id", "recorded_at", "contact_point")
)
_SAME = (
    *("state", "party", "channel", "purpose", "occurred_at", "expires_at"),
    *("includes_service", "invalidates"),
)
_EVENT_ID = "evt_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRow:
    """An event to take in, and the key that names it at its source; without one, what it says is its name.

    `event.invalidates` may be the key of a row from the same source, or the id of an event of this ledger.
    """

    event: ConsentEvent
    key: str | None = None


class ImportOutcome(StrEnum):
    """What became of a row."""

    WRITTEN = "written"
    KNOWN = "known"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of a row. `field` and `problem` say why it was rejected; never an address.

    `event_id` is None for a rejected row, and for all that a dry run would write.
    """

    outcome: ImportOutcome
    event_id: str | None = None
    field: str = ""
    problem: str = ""


class ConsentImport:
    """One run of an import. Obtained from `gate.consent.importing`, as a context manager.

    At its end one ledger row of the kind `imported` is written, with the counts and `file_sha256`.
    """

    def __init__(self, runtime: Runtime, source: str, *, actor: str | None, dry_run: bool) -> None:
        if not _SOURCE.fullmatch(source) or _NUMBER.fullmatch(source):
            raise InvalidConsent(
                "source",
                "name the system that the events come from in letters, digits, spaces and . _ : / -, at most 80; "
                "it is kept in the log, so it must name no person",
            )
        if actor is not None:
            check_text("actor", actor)
        self._runtime = runtime
        self._source = source
        self._actor = actor
        self._rehearsal = _Rehearsal() if dry_run else None
        self.file_sha256: str | None = None
        """The hash of the file that the rows come from, for the log; set it before the end."""
        self.counts: Counter[ImportOutcome] = Counter()
        self.written: Counter[tuple[str, str, str]] = Counter()
        """How many events were written, or would be, by state, party and purpose."""
        self.refused_again = 0
        """How many of those are refusals without a date that were taken in before and undone since."""
        self.reasons: Counter[tuple[str, str]] = Counter()
        """How many rows were rejected, by field and problem."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rehearsal is not None:
            self._rehearsal.close()
        elif kind is None:
            self._log(finished=True)
        else:
            with suppress(LedgerError):  # what broke it off is told, and matters more
                self._log(finished=False)

    def take(self, rows: Sequence[ImportRow]) -> list[Imported]:
        """Take in some rows in one transaction; return what became of each, in order. Raises `LedgerError`."""
        prepared = [self._prepare(row) for row in rows]
        ledger = self._runtime.ledger
        if self._rehearsal is None:
            verdicts = ledger.transact(lambda conn: self._write(conn, prepared))
        else:
            with ledger.read() as conn:
                verdicts = self._judge(conn, prepared)
            self._rehearsal.remember(verdicts)
        for verdict in verdicts:
            result = verdict.result
            if result.outcome is ImportOutcome.REJECTED:
                self.reject(result.field, result.problem)
                continue
            self.counts[result.outcome] += 1
            self.refused_again += verdict.is_repeat
            if verdict.event is not None:
                self.written[str(verdict.event.state), verdict.event.party, verdict.event.purpose] += 1
        if self._rehearsal is None:
            return [verdict.result for verdict in verdicts]
        return [
            replace(one.result, event_id=None) if one.event is not None else one.result for one in verdicts
        ]

    def reject(self, field: str, problem: str) -> None:
        """Count a row that was rejected before it could be handed over."""
        self.counts[ImportOutcome.REJECTED] += 1
        self.reasons[field, problem] += 1

    def _log(self, *, finished: bool) -> None:
        row = journal.Row(
            kind=journal.Kind.IMPORTED,
            at=self._runtime.clock(),
            outcome="finished" if finished else "broken off",
            body={
                "source": self._source,
                "file_sha256": self.file_sha256,
                **{outcome.value: self.counts[outcome] for outcome in ImportOutcome},
            },
        )
        self._runtime.ledger.transact(lambda conn: journal.append(conn, [row]))

    def _prepare(self, row: ImportRow) -> _Prepared:
        """All that can be found out about a row without the ledger, so that nothing is locked meanwhile."""
        event, policy = row.event, self._runtime.config.policy
        try:
            for name in ("event_id", "recorded_at"):
                if getattr(event, name) is not None:
                    raise InvalidConsent(name, "is given by the ledger; leave it out")
            if row.key is not None:
                check_text("row_key", row.key)
                if not 0 < len(row.key) <= _LONGEST_KEY:
                    raise InvalidConsent("row_key", f"must have 1 to {_LONGEST_KEY} characters")
            point = self._runtime.point(event.contact_point)
            if event.state is not State.INVALIDATED:
                _check_named("party", event.party, {ANY, *policy.merchants, *policy.groups})
                _check_named("purpose", event.purpose, {ANY, *PurposeClass, *policy.purposes})
                _check_named("channel", event.channel, {ANY, "sms", "email"})
            check_event(event, point, policy)
            for name in ("basis", "notice_version"):
                if _ADDRESS.search(getattr(event, name) or ""):
                    raise InvalidConsent(name, "holds an address; are the columns the right ones?")
            if event.state in PERMISSIONS and event.occurred_at is None:
                # Given now, it would be newer than whatever was refused before.
                raise InvalidConsent(
                    "occurred_at", "is missing: a permission in a file says when it was given"
                )
        except (InvalidConsent, InvalidContactPoint) as error:
            return _Prepared(fault=_rejected(error.field, error.problem))
        prints = self._runtime.ledger.fingerprints
        content_print = prints.of("consent import content", self._source, _content(event, point))
        return _Prepared(
            event=replace(event, source=event.source or self._source, actor=event.actor or self._actor),
            point=point,
            key=row.key,
            row_print=self._print(row.key or content_print),
            content_print=content_print,
            target_print=self._print(event.invalidates) if event.invalidates else None,
        )

    def _print(self, key: str) -> str:
        return self._runtime.ledger.fingerprints.of("consent import", self._source, key)

    def _write(self, conn: sa.Connection, prepared: Sequence[_Prepared]) -> list[_Verdict]:
        now = self._runtime.clock()
        verdicts = self._judge(conn, prepared)
        new = [one for one in verdicts if one.event is not None]
        if not new:
            return verdicts
        fingerprints = self._runtime.ledger.fingerprints
        points = {one.point for one in new if one.point is not None}
        ids = people.ensure(conn, fingerprints, points, now)
        events = []
        for one in new:
            point_id = one.contact_point_id or (ids[one.point] if one.point is not None else None)
            if one.event is not None and point_id is not None:
                events.append((one.event, point_id))
        # A decision about a person is made either wholly before these events or wholly after them.
        people.lock_persons_of(conn, {point_id for _, point_id in events})
        append_events(conn, events, now)
        consent_imports.insert(
            conn,
            [(one.row_print, one.taken) for one in new if one.taken is not None and not one.is_repeat],
            now,
        )
        return verdicts

    def _judge(self, conn: sa.Connection, prepared: Sequence[_Prepared]) -> list[_Verdict]:
        """What is to become of each row, by what the ledger holds and the rows before it say."""
        prints = {one.row_print for one in prepared} | {one.target_print or "" for one in prepared}
        known = consent_imports.find(conn, prints)
        if self._rehearsal is not None:
            known |= self._rehearsal.find(prints)
        undated = {
            known[one.row_print].event_id
            for one in prepared
            if one.row_print in known and one.event is not None and _is_undated_refusal(one.event)
        }
        wanted = {one.key for one in prepared if one.key and one.key.startswith(_EVENT_ID)}
        wanted |= {one.event.invalidates for one in prepared if one.event and one.event.invalidates}
        wanted |= {known[one.target_print].event_id for one in prepared if one.target_print in known}
        held = consents.get_all(conn, [name for name in wanted if name])
        points = {one.point for one in prepared if one.key in held and one.point is not None}
        found = _Found(
            known=known,
            held=held,
            undone=self._undone(conn, undated),
            point_ids=people.find_all(conn, self._runtime.ledger.fingerprints, points),
        )
        verdicts = []
        for one in prepared:
            verdict = self._judge_one(one, found)
            if verdict.event is not None and verdict.taken is not None:
                found.known[one.row_print] = verdict.taken
                found.fresh[verdict.taken.event_id] = verdict
            verdicts.append(verdict)
        return verdicts

    def _undone(self, conn: sa.Connection, event_ids: set[str]) -> set[str]:
        """Those of some refusals that a newer permission has undone."""
        if not event_ids:
            return set()
        points = {row["contact_point_id"] for row in consents.get_all(conn, event_ids).values()}
        person_of = people.point_ids_of(conn, set(people.persons_of(conn, points).values()))
        events: defaultdict[str, list[ConsentRecord]] = defaultdict(list)
        for point_id, records in consents.records_of(conn, person_of).items():
            events[person_of[point_id]] += records
        now, policy = self._runtime.clock(), self._runtime.config.policy
        return {
            record.event_id
            for of_person in events.values()
            for record in of_person
            if record.event_id in event_ids and is_undone(record, of_person, policy, now)
        }

    def _judge_one(self, row: _Prepared, found: _Found) -> _Verdict:
        if row.event is None or row.point is None:
            return _Verdict(result=row.fault or _rejected("row", "cannot be read"))
        if (before := found.known.get(row.row_print)) is not None:
            if before.content_print != row.content_print:
                problem = "was used before for other content from this source; a new event needs a new key"
                return _Verdict(result=_rejected("row_key", problem))
            # Of what was undone nobody knows if it is said once more or an old file: a doubt must never permit.
            if before.event_id not in found.undone:
                return _Verdict(result=Imported(outcome=ImportOutcome.KNOWN, event_id=before.event_id))
        if (ours := found.held.get(row.key or "")) is not None:
            is_about_it = found.point_ids.get(row.point) == ours["contact_point_id"]
            if not is_about_it or any(ours[name] != getattr(row.event, name) for name in _SAME):
                problem = "is an event of this ledger, which says something else"
                return _Verdict(result=_rejected("row_key", problem))
            return _Verdict(result=Imported(outcome=ImportOutcome.KNOWN, event_id=ours["event_id"]))
        event = row.event
        point: ContactPoint | None = row.point
        point_id = None
        if event.state is State.INVALIDATED:
            target = self._target(row, found)
            if target is None:
                problem = (
                    "is neither the key of a permission that was imported from this source before, nor the id of a "
                    "permission in the ledger"
                )
                return _Verdict(result=_rejected("invalidates", problem))
            # It belongs to the contact point whose permission it voids, whatever point it was told for.
            party, channel, purpose = (target.scope[name] for name in _SCOPE)
            event = replace(event, party=party, channel=channel, purpose=purpose, invalidates=target.event_id)
            point_id = target.contact_point_id
            point = None if point_id is not None else target.point or point
        event_id = new_id("evt")
        return _Verdict(
            result=Imported(outcome=ImportOutcome.WRITTEN, event_id=event_id),
            event=replace(event, event_id=event_id),
            point=point,
            contact_point_id=point_id,
            row_print=row.row_print,
            taken=TakenIn(content_print=row.content_print, event_id=event_id),
            is_repeat=before is not None,
        )

    def _target(self, row: _Prepared, found: _Found) -> _Target | None:
        """The permission that a row voids: one imported before, one of the same batch, or one of the ledger."""
        taken = found.known.get(row.target_print or "")
        event_id = taken.event_id if taken else (row.event.invalidates or "") if row.event else ""
        if (verdict := found.fresh.get(event_id)) is not None and verdict.event is not None:
            state, scope = str(verdict.event.state), _scope(verdict.event)
            target = _Target(event_id=event_id, scope=scope, point=verdict.point)
        elif (stored := found.held.get(event_id)) is not None:
            state, scope = stored["state"], {name: stored[name] for name in _SCOPE}
            target = _Target(event_id=event_id, scope=scope, contact_point_id=stored["contact_point_id"])
        elif self._rehearsal is not None and (rehearsed := self._rehearsal.event(event_id)) is not None:
            state, scope = rehearsed
            target = _Target(event_id=event_id, scope=scope)
        else:
            return None
        return target if state in (State.GRANTED, State.SOFT_OPT_IN) else None


_SCOPE = ("party", "channel", "purpose")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A row as far as it is known without the ledger: an event and its fingerprints, or a fault."""

    fault: Imported | None = None
    event: ConsentEvent | None = None
    point: ContactPoint | None = None
    key: str | None = None
    row_print: str = ""
    content_print: str = ""
    target_print: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What is to become of a row; one to be written has its `event`, and what to remember it by.

    One that `is_repeat` is remembered already.
    """

    result: Imported
    event: ConsentEvent | None = None
    point: ContactPoint | None = None
    contact_point_id: str | None = None
    row_print: str = ""
    taken: TakenIn | None = None
    is_repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What bears on some rows: events and rows taken in before, by id and by print, and what the rows so far become."""

    known: dict[str, TakenIn]
    held: dict[str, dict[str, Any]]
    undone: set[str]
    point_ids: dict[ContactPoint, str]
    fresh: dict[str, _Verdict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    event_id: str
    scope: dict[str, str]
    point: ContactPoint | None = None
    contact_point_id: str | None = None


class _Rehearsal:
    """What a dry run would have written so far, in a file that the system removes: memory stays flat."""

    def __init__(self) -> None:
        # An empty name is a private database on disk; a batch at a time is read on whichever thread takes it.
        self._conn = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._conn.execute("PRAGMA synchronous = OFF")
        self._conn.execute(
            "CREATE TABLE taken (row_print TEXT PRIMARY KEY, content_print TEXT, event_id TEXT, state TEXT, "
            "party TEXT, channel TEXT, purpose TEXT)"
        )
        self._conn.execute("CREATE INDEX taken_event ON taken (event_id)")

    def close(self) -> None:
        self._conn.close()

    def remember(self, verdicts: Iterable[_Verdict]) -> None:
        new = [
            (
                one.row_print,
                one.taken.content_print,
                one.taken.event_id,
                str(one.event.state),
                *_scope(one.event).values(),
            )
            for one in verdicts
            if one.event is not None and one.taken is not None
        ]
        self._conn.execute("BEGIN")
        self._conn.executemany("INSERT INTO taken VALUES (?, ?, ?, ?, ?, ?, ?)", new)
        self._conn.execute("COMMIT")

    def find(self, row_prints: Iterable[str]) -> dict[str, TakenIn]:
        query = (
            "SELECT row_print, content_print, event_id FROM taken "
            "WHERE row_print IN (SELECT value FROM json_each(?))"
        )
        rows = self._conn.execute(query, (json.dumps(list(row_prints)),))
        return {row[0]: TakenIn(content_print=row[1], event_id=row[2]) for row in rows}

    def event(self, event_id: str) -> tuple[str, dict[str, str]] | None:
        query = "SELECT state, party, channel, purpose FROM taken WHERE event_id = ?"
        row = self._conn.execute(query, (event_id,)).fetchone()
        return (row[0], dict(zip(_SCOPE, row[1:], strict=True))) if row else None


def _is_undated_refusal(event: ConsentEvent) -> bool:
    return event.state in REFUSALS and event.occurred_at is None


def _scope(event: ConsentEvent) -> dict[str, str]:
    return {name: getattr(event, name) for name in _SCOPE}


def _rejected(field: str, problem: str) -> Imported:
    return Imported(outcome=ImportOutcome.REJECTED, field=field, problem=problem)


def _check_named(field: str, value: object, known: Iterable[str]) -> None:
    """Check a name here, because the check of one event repeats it: in shifted columns it may be an address."""
    options = sorted(str(one) for one in known)
    if value in options:
        return
    near = nearest(value, options)
    hint = f'did you mean "{near}"?' if near else f"there are {', '.join(options)}"
    raise InvalidConsent(field, f"no such {field} in the config; {hint}")


def _content(event: ConsentEvent, point: ContactPoint) -> str:
    """What a row says, as a text that is the same however it was written."""

    def plain(value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime) else value

    said = {name: plain(getattr(event, name)) for name in _CONTENT}
    return json.dumps(said | {"contact_point": str(point)}, sort_keys=True)
