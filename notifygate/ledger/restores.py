"""What the send log says of its having been restored from a backup.

Whoever can change the ledger can write such a row. That what was signed before the restore need no longer be the
beginning of the log is believed only where a key says so, which is not in the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import orjson
import sqlalchemy as sa

from notifygate.ledger import journal, seals
from notifygate.ledger.schema import from_micros
from notifygate.notes import NoteError, Verifier, restored_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One restore: when it was recorded, and when a trusted key says that it was made; None where none does."""

    position: int
    at: datetime
    signed_at: datetime | None


def told_of(conn: sa.Connection, ledger_id: str, trusted: Collection[Verifier]) -> Iterator[Told]:
    """All restores that the send log tells of, oldest first."""
    for row in seals.rows_of_kind(conn, journal.Kind.RESTORED.value):
        try:
            found = orjson.loads(row.data)
            at, note = from_micros(found["at"]), found["body"].get("attested")
        except (ValueError, TypeError, AttributeError, OverflowError):
            continue  # it was altered, which is a finding of its own
        signed_at = None
        if isinstance(note, str):
            with suppress(NoteError):
                signed_at = restored_at(note, ledger_id, trusted)
        yield Told(position=row.position, at=at, signed_at=signed_at)
