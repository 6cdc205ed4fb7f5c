"""`gate.consent`: recording what people allow and refuse, and asking where they stand."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa

from notifygate.address import ContactPoint
from notifygate.consent import (
    ConsentEvent,
    Effective,
    Query,
    Standing,
    State,
    check_event,
    check_fields,
    check_text,
    effective,
    recorded_by,
    refused_since,
    service_refusal,
)
from notifygate.errors import InvalidConsent, NotFound
from notifygate.gateway.consent_exports import Exported, export_events
from notifygate.gateway.consent_imports import IMPORT_BATCH, ConsentImport, Imported, ImportRow
from notifygate.gateway.consent_writing import STORED, append_event
from notifygate.ledger import consents, people
from notifygate.message import check_aware
from notifygate.policy import ANY, PENDING_FOR
from notifygate.runtime import Runtime

_BASIS = {State.GRANTED: "consent", State.SOFT_OPT_IN: "existing customer", State.REQUESTED: "double opt-in"}
_CONFIRMS = "confirms"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptIn:
    """A double opt-in that was begun. `token` goes into the confirmation message, as part of a link."""

    event_id: str
    token: str = field(repr=False)


class ConsentBook:
    """Consent events of all contact points. Obtained as `gate.consent`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def record(self, event: ConsentEvent) -> str:
        """Write one event; return its id. It holds for every decision made from now on.

        `occurred_at` defaults to now, and a permission's `channel` must be that of the contact point. `event_id`
        and `recorded_at` are given by the ledger. An event that `invalidates` a permission belongs to the contact
        point of that permission, whatever its own `contact_point` says. Raises `InvalidConsent` naming the field,
        `InvalidContactPoint`, and `NotFound` for an `invalidates` that is no known permission.
        """
        runtime = self._runtime
        # What is void may be a permission whose address is gone.
        point = None if event.state is State.INVALIDATED else runtime.point(event.contact_point)
        if event.event_id is not None:
            raise InvalidConsent("event_id", "is given by the ledger; leave it out")

        def write(conn: sa.Connection) -> str:
            now = runtime.clock()
            if event.recorded_at not in (None, now):
                raise InvalidConsent(
                    "recorded_at", "is the moment of recording, given by the ledger; leave it out"
                )
            if point is None:
                return self._invalidate(conn, event, now)
            check_event(event, point, runtime.config.policy)
            return self._write(conn, event, point, now)

        return runtime.ledger.transact(write)

    def grant(
        self,
        contact_point: ContactPoint | str,
        *,
        party: str,
        purpose: str,
        channel: str | None = None,
        **details: Any,
    ) -> str:
        """Record express consent, given to one merchant or group for one purpose; return the event's id.

        `channel` is that of the contact point. `details` are the other fields of `ConsentEvent`: keep at least
        `evidence`, `source` and `notice_version`, which are what proves it. Raises as `record` does.
        """
        return self._permit(State.GRANTED, contact_point, party, purpose, channel, details)

    def soft_opt_in(
        self,
        contact_point: ContactPoint | str,
        *,
        party: str,
        purpose: str,
        sale_ref: str,
        opt_out_offered: bool,
        channel: str | None = None,
        **details: Any,
    ) -> str:
        """Record that a customer was told at a sale that they would be written to, and could opt out.

        Source: ePrivacy Directive 2002/58/EC, Art. 13(2). Raises as `record` does.
        """
        proof = {"sale_ref": sale_ref, "opt_out_offered": opt_out_offered}
        return self._permit(State.SOFT_OPT_IN, contact_point, party, purpose, channel, proof | details)

    def request(
        self,
        contact_point: ContactPoint | str,
        *,
        party: str,
        purpose: str,
        channel: str | None = None,
        **details: Any,
    ) -> OptIn:
        """Begin a double opt-in: somebody typed this contact point in, and has yet to prove that it is theirs.

        It permits one message of a purpose that `confirms`, to carry the token, and nothing else. Within 7 days
        `confirm` turns it into a grant. Raises as `record` does.
        """
        event_id = self._permit(State.REQUESTED, contact_point, party, purpose, channel, details)
        return OptIn(event_id=event_id, token=f"{event_id}.{self._signature(event_id)}")

    def confirm(self, token: str, **details: Any) -> str:
        """Turn a double opt-in into a grant, dated now; return the grant's event id. A second time changes nothing.

        Raises `InvalidConsent` for a token that is not ours, that is older than 7 days, or whose request was followed
        by a refusal.
        """
        runtime = self._runtime
        check_text("token", token)
        event_id, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(event_id).encode()):
            raise InvalidConsent("token", "is not one that this gateway gave out")

        def write(conn: sa.Connection) -> str:
            now = runtime.clock()
            asked = consents.get(conn, event_id)
            if asked is None or asked["state"] != State.REQUESTED:
                raise InvalidConsent("token", "belongs to no double opt-in of this ledger")
            point_id = asked["contact_point_id"]
            person_id = people.lock_persons_of(conn, [point_id])[point_id]
            proof = f"{_CONFIRMS} {event_id}"
            points = [known.contact_point_id for known in people.points_of(conn, [person_id])]
            history = consents.history(conn, points)
            for row in history:
                if row["state"] == State.GRANTED and row["evidence"] == proof:
                    return str(row["event_id"])
            self._check_confirmable(conn, asked, points, now)
            point = people.point(conn, point_id)
            event = ConsentEvent(
                state=State.GRANTED,
                contact_point=str(point),
                **{"basis": "consent", "source": "double opt-in", "notice_version": asked["notice_version"]}
                | details
                | {name: asked[name] for name in ("party", "channel", "purpose")}
                | {"evidence": proof},
            )
            check_fields(event)
            return append_event(conn, event, point_id, now)

        return runtime.ledger.transact(write)

    def withdraw(
        self,
        contact_point: ContactPoint | str,
        *,
        party: str = ANY,
        channel: str = ANY,
        purpose: str = ANY,
        **details: Any,
    ) -> str:
        """Record that consent was withdrawn, for everything unless narrowed; return the event's id."""
        return self._refuse(State.WITHDRAWN, contact_point, party, channel, purpose, details)

    def object(
        self,
        contact_point: ContactPoint | str,
        *,
        party: str = ANY,
        channel: str = ANY,
        purpose: str = ANY,
        **details: Any,
    ) -> str:
        """Record an objection (GDPR Art. 21), to everything unless narrowed; return the event's id."""
        return self._refuse(State.OBJECTED, contact_point, party, channel, purpose, details)

    def refuse(
        self,
        contact_point: ContactPoint | str,
        *,
        party: str = ANY,
        channel: str = ANY,
        purpose: str = ANY,
        **details: Any,
    ) -> str:
        """Record that the person declined when asked (the no-thanks list); return the event's id."""
        return self._refuse(State.REFUSED, contact_point, party, channel, purpose, details)

    def invalidate(self, event_id: str, **details: Any) -> str:
        """Void a permission that should never have been written, from now on; return the new event's id.

        Where the address of its contact point is gone, `details` are kept without what was typed. Raises `NotFound`
        for an id that is no permission.
        """
        point = self.get(event_id).contact_point
        return self.record(
            ConsentEvent(state=State.INVALIDATED, contact_point=point, invalidates=event_id, **details)
        )

    def get(self, event_id: str) -> ConsentEvent:
        """One event by its id. That of an erased contact point is told as `email:(erased)`. Raises `NotFound`."""
        with self._runtime.ledger.read() as conn:
            row = consents.get(conn, event_id)
            point = people.point(conn, row["contact_point_id"]) if row else None
        if row is None or point is None:
            raise NotFound(f"no consent event {event_id!r}")
        return ConsentEvent(contact_point=str(point), **{name: row[name] for name in STORED})

    def importing(self, source: str, *, actor: str | None = None, dry_run: bool = False) -> ConsentImport:
        """Begin to take in many events: a context manager, whose `take` is given some hundreds of them at a time.

        `source` names the system that the events come from, and `actor` who imports them: both are written to events
        that name none themselves. A row that was taken in before from the same source is not written again,
        unless it is a refusal without a date that a newer permission has undone: a doubt must never permit. With
        `dry_run` all is checked and nothing written. Raises `InvalidConsent` for a source that could name a person,
        and an actor that is no text.
        """
        return ConsentImport(self._runtime, source, actor=actor, dry_run=dry_run)

    def import_events(
        self,
        rows: Iterable[ImportRow],
        *,
        source: str,
        actor: str | None = None,
        file_sha256: str | None = None,
        dry_run: bool = False,
    ) -> Iterator[Imported]:
        """Take in many events, a few hundred in a transaction; yield what became of each, in order.

        Nothing happens until the results are iterated over. A row that is not in order is a result, not an error.
        See `importing`, of which this is the short form.
        """
        with self.importing(source, actor=actor, dry_run=dry_run) as run:
            run.file_sha256 = file_sha256
            waiting = iter(rows)
            while batch := list(islice(waiting, IMPORT_BATCH)):
                yield from run.take(batch)

    def export(
        self,
        *,
        party: str | None = None,
        purpose: str | None = None,
        contact_point: ContactPoint | str | None = None,
        since: datetime | None = None,
    ) -> Iterator[Exported]:
        """All events, by person and in the order they were recorded, as one state of the ledger.

        `party` and `purpose` leave in all that bears on them: a refusal of everything, or of the class that a purpose
        is in, as well. `since` is the first instant of recording that counts. A refusal stands once for each contact
        point of its person, so that it is complete where the links between them are not known. Memory stays flat.

        Raises `InvalidConsent` for a party or purpose that is not in the config, `InvalidContactPoint`.
        """
        return export_events(
            self._runtime, party=party, purpose=purpose, contact_point=contact_point, since=since
        )

    def history(self, contact_point: ContactPoint | str) -> tuple[ConsentEvent, ...]:
        """All events of the person whom a contact point belongs to, in the order they were recorded."""
        point = self._runtime.point(contact_point)
        with self._runtime.ledger.read() as conn:
            person = people.person_by_mailbox(conn, self._runtime.ledger.fingerprints, point)
            points = people.points_of(conn, [person]) if person else []
            shown = {known.contact_point_id: str(known) for known in points}
            return tuple(
                ConsentEvent(
                    contact_point=shown[row["contact_point_id"]], **{name: row[name] for name in STORED}
                )
                for row in consents.history(conn, shown)
            )

    def effective(
        self,
        contact_point: ContactPoint | str,
        *,
        merchant: str,
        purpose: str,
        channel: str | None = None,
        at: datetime | None = None,
    ) -> Effective:
        """Whether a merchant has permission to write to a contact point for a purpose, and by which event.

        Only the grounds that the purpose accepts count; one that needs no permission has it unless it was refused.

        `channel` is that of the contact point. With `at`, the answer is the one that was right then: by what had
        been recorded by then. Raises `InvalidConsent` for a merchant or purpose that is not in the config.
        """
        runtime, point = self._runtime, self._runtime.point(contact_point)
        policy = runtime.config.policy
        if merchant not in policy.merchants:
            raise InvalidConsent("merchant", f"no merchant {merchant!r} in the config")
        if purpose not in policy.purposes:
            raise InvalidConsent("purpose", f"no purpose {purpose!r} in the config")
        when = check_aware("at", at) or runtime.clock()
        with runtime.ledger.read() as conn:
            fingerprints = runtime.ledger.fingerprints
            person = people.person_by_mailbox(conn, fingerprints, point)
            point_id = people.find(conn, fingerprints, point)
            ids = [known.contact_point_id for known in people.points_of(conn, [person])] if person else []
            records = [record for found in consents.records_of(conn, ids).values() for record in found]
        known = records if at is None else recorded_by(records, when)
        query = Query(
            contact_point_id=point_id or "unknown",
            merchant=merchant,
            channel=channel or point.channel,
            purpose=purpose,
        )
        accepts = policy.purposes[purpose].accepts
        if accepts:
            return effective(known, query, policy, when, accepts=accepts)
        refusal = service_refusal(known, query, policy, when)
        standing = Standing.PERMITTED if refusal is None else Standing.REFUSED
        return Effective(standing=standing, event=refusal)

    def _permit(
        self,
        state: State,
        contact_point: ContactPoint | str,
        party: str,
        purpose: str,
        channel: str | None,
        details: dict[str, Any],
    ) -> str:
        point = self._runtime.point(contact_point)
        return self.record(
            ConsentEvent(
                state=state,
                contact_point=point,
                party=party,
                channel=channel or point.channel.value,
                purpose=purpose,
                **{"basis": _BASIS[state]} | details,
            )
        )

    def _refuse(
        self,
        state: State,
        contact_point: ContactPoint | str,
        party: str,
        channel: str,
        purpose: str,
        details: dict[str, Any],
    ) -> str:
        return self.record(
            ConsentEvent(
                state=state,
                contact_point=contact_point,
                party=party,
                channel=channel,
                purpose=purpose,
                **details,
            )
        )

    def _check_confirmable(
        self, conn: sa.Connection, asked: dict[str, Any], points: list[str], now: datetime
    ) -> None:
        if now >= asked["occurred_at"] + PENDING_FOR:
            raise InvalidConsent("token", f"has expired: it could be used for {PENDING_FOR.days} days")
        records = [record for found in consents.records_of(conn, points).values() for record in found]
        permission = next(record for record in records if record.event_id == asked["event_id"])
        query = Query(
            contact_point_id=asked["contact_point_id"],
            merchant=asked["party"],
            channel=asked["channel"],
            purpose=asked["purpose"],
        )
        if refused_since(records, permission, query, self._runtime.config.policy):
            raise InvalidConsent("token", "can no longer be used: the person has refused since")

    def _signature(self, event_id: str) -> str:
        return self._runtime.ledger.fingerprints.of("double opt-in", event_id)

    def _invalidate(self, conn: sa.Connection, event: ConsentEvent, now: datetime) -> str:
        check_fields(event)
        found = consents.get(conn, event.invalidates or "")
        if found is None or found["state"] not in (State.GRANTED, State.SOFT_OPT_IN):
            raise NotFound(f"no permission {event.invalidates!r} that could be void")
        event = replace(event, **{name: found[name] for name in ("party", "channel", "purpose")})
        point_id = found["contact_point_id"]
        people.lock_persons_of(conn, [point_id])
        return append_event(conn, event, point_id, now)

    def _write(self, conn: sa.Connection, event: ConsentEvent, point: ContactPoint, now: datetime) -> str:
        point_id = people.ensure(conn, self._runtime.ledger.fingerprints, [point], now)[point]
        # A decision about this person is made either wholly before this event or wholly after it.
        people.lock_persons_of(conn, [point_id])
        return append_event(conn, event, point_id, now)
