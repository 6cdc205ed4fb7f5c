"""Which rows of consent files were taken in before, known by keyed fingerprints."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from notifygate.ledger import rows
from notifygate.ledger.schema import consent_imports

_FIND = rows.Query(
    sa.select(consent_imports.c.row_print, consent_imports.c.content_print, consent_imports.c.event_id).where(
        rows.is_among(consent_imports.c.row_print, rows.listed("prints"))
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """A row that was taken in: what it said, as a fingerprint, and the event that it became."""

    content_print: str
    event_id: str


def find(conn: sa.Connection, row_prints: Collection[str]) -> dict[str, TakenIn]:
    """Those rows that were taken in before, by what names them."""
    return {
        row_print: TakenIn(content_print=content_print, event_id=event_id)
        for row_print, content_print, event_id in _FIND(conn, prints=row_prints)
    }


def insert(conn: sa.Connection, taken: Sequence[tuple[str, TakenIn]], now: datetime) -> None:
    """Remember rows. One that another transaction has taken in meanwhile is an `IntegrityError`."""
    # Sorted, so that two imports of the same file wait for each other in one direction only.
    rows.insert(
        conn,
        consent_imports,
        [
            {
                "row_print": row_print,
                "content_print": one.content_print,
                "event_id": one.event_id,
                "imported_at": now,
            }
            for row_print, one in sorted(taken, key=lambda pair: pair[0])
        ],
    )
