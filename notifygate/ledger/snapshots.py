"""Loading what a batch of decisions looks at: a few statements for the whole batch, not a few for each message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import sqlalchemy as sa

from notifygate.consent import ConsentRecord
from notifygate.ledger import consents, purchases, rows, suppressions
from notifygate.ledger.schema import COUNTED_SQL, from_micros, reservations, to_micros
from notifygate.policy import PurposeClass
from notifygate.snapshot import Ask, Handover, PurchaseFacts, Snapshot, Suppression

_HANDOVERS = rows.Query(
    sa.select(
        reservations.c.contact_point_id,
        reservations.c.message_id,
        reservations.c.merchant,
        reservations.c.purpose,
        reservations.c.purpose_class,
        reservations.c.channel,
        reservations.c.dedupe_key,
        sa.type_coerce(reservations.c.reserved_at, sa.BigInteger),
    )
    .where(
        rows.is_among(reservations.c.contact_point_id, rows.listed("points")),
        reservations.c.reserved_at > rows.instant("since"),
        sa.text(COUNTED_SQL),
    )
    .order_by(reservations.c.reserved_at, reservations.c.attempt_id)
)
_CLASSES = {one.value: one for one in PurposeClass}


@dataclass(slots=True, kw_only=True)
class PersonView:
    """What is known of one person while a batch is decided; allowed messages are added as they are decided."""

    consent: list[ConsentRecord] = field(default_factory=list)
    suppressions: list[Suppression] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)

    def snapshot(self, purchase: PurchaseFacts | None) -> Snapshot:
        """The view as it stands now, as the rules read it."""
        return Snapshot(
            consent=tuple(self.consent),
            suppressions=tuple(self.suppressions),
            handovers=tuple(self.handovers),
            asks=tuple(self.asks),
            purchase=purchase,
        )


def load(
    conn: sa.Connection, person_of: Mapping[str, str], *, since: datetime, now: datetime
) -> dict[str, PersonView]:
    """A view of each person, with handovers reserved after `since`.

    `person_of` holds all contact points of these persons, by their ids, with the person of each. What another
    machine's clock dates after `now` counts as made now: it is in the ledger, so it has happened.
    """
    views = {person_id: PersonView() for person_id in person_of.values()}
    points = person_of.keys()
    for point, records in consents.records_of(conn, points).items():
        views[person_of[point]].consent.extend(records)
    for mark in suppressions.of_points(conn, points, now):
        views[person_of[mark.contact_point_id]].suppressions.append(mark)
    for point, handovers in _handovers(conn, points, since, now).items():
        views[person_of[point]].handovers.extend(handovers)
    for point, made in purchases.asks_of_points(conn, points).items():
        views[person_of[point]].asks.extend(replace(ask, at=min(ask.at, now)) for ask in made)
    return views


def _handovers(
    conn: sa.Connection, contact_point_ids: Collection[str], since: datetime, now: datetime
) -> dict[str, list[Handover]]:
    # Of these there may be hundreds for one message, so that each is made with as little as can be.
    found: defaultdict[str, list[Handover]] = defaultdict(list)
    latest = to_micros(now)
    known = _HANDOVERS(conn, points=contact_point_ids, since=since)
    for point_id, message_id, merchant, purpose, kind, channel, dedupe_key, reserved_at in known:
        found[point_id].append(
            Handover(
                message_id=message_id,
                merchant=merchant,
                purpose=purpose,
                purpose_class=_CLASSES[kind],
                channel=channel,
                dedupe_key=dedupe_key,
                at=from_micros(min(reserved_at, latest)),
            )
        )
    return found
