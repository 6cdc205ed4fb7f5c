"""Which rows with personal data are too old to be kept, by kind."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from notifygate.ledger import erasing, holds, people, rows
from notifygate.ledger.schema import consent_events, contact_points, messages


@dataclass(frozen=True, slots=True)
class Ageing:
    """Rows of one table that age, each about a contact point; `is_old` says which are older than an instant."""

    table: sa.Table
    is_old: Callable[[datetime], sa.ColumnElement[bool]]

    @property
    def _key(self) -> sa.Column[str]:
        return next(iter(self.table.primary_key.columns))

    def count(self, conn: sa.Connection, cutoff: datetime) -> int:
        """How many rows are too old."""
        return self._count(conn, self.is_old(cutoff))

    def count_on_hold(self, conn: sa.Connection, cutoff: datetime) -> int:
        """How many of them a legal hold keeps."""
        is_held = rows.is_among(self.table.c.contact_point_id, holds.held_points(conn))
        return self._count(conn, sa.and_(self.is_old(cutoff), is_held))

    def find(self, conn: sa.Connection, cutoff: datetime, *, after: str, limit: int) -> list[tuple[str, str]]:
        """The ids and contact points of some that no hold keeps, in the order of their ids and after one of them."""
        is_held = rows.is_among(self.table.c.contact_point_id, holds.held_points(conn))
        query = (
            sa.select(self._key, self.table.c.contact_point_id)
            .where(self.is_old(cutoff), self._key > after, ~is_held)
            .order_by(self._key)
            .limit(limit)
        )
        return [(str(row[0]), str(row[1])) for row in conn.execute(query)]

    def hold(self, conn: sa.Connection, ids: Collection[str]) -> None:
        """Hold what is held before persons, until the transaction ends."""
        if self.table is messages:
            erasing.hold_messages(conn, rows.is_among(self._key, ids))
        elif self.table is contact_points:
            # INVARIANT(nobody is silent who is written to just now): at whichever of their contact points.
            erasing.hold(conn, people.point_ids_of(conn, set(people.persons_of(conn, ids).values())))

    def still(
        self, ids: Collection[str], cutoff: datetime, contact_point_ids: Collection[str]
    ) -> sa.ColumnElement[bool]:
        """Those of some rows that are too old still, and about one of some contact points."""
        about = rows.is_among(self.table.c.contact_point_id, contact_point_ids)
        return sa.and_(rows.is_among(self._key, ids), self.is_old(cutoff), about)

    def _count(self, conn: sa.Connection, chosen: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(self.table).where(chosen)
        return int(conn.execute(query).scalar_one())


TEXTS = Ageing(messages, erasing.ended_before)
CONSENT_TEXTS = Ageing(consent_events, erasing.typed_before)
CONTACT_POINTS = Ageing(contact_points, erasing.silent_since)
