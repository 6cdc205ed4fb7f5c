"""A ledger that was restored from a backup: nothing that may have gone out since the backup goes out again.

The backup shows messages waiting that were sent before the loss. `put_in_doubt` makes them doubts: counted as sent,
shown to people, and not sent again by themselves. So that this is not forgotten, workers leave a mark of the newest
row that they saw in the data folder, and refuse to work on a ledger that lacks that row.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from notifygate import whole_files
from notifygate.errors import LedgerError
from notifygate.ids import new_id
from notifygate.ledger import journal, messages, partitions, purchases
from notifygate.ledger.database import Ledger
from notifygate.ledger.messages import StoredMessage
from notifygate.message import Status
from notifygate.policy import Policy, PurposeClass

logger = logging.getLogger(__name__)

RESTORED = "restored from a backup"
"""The detail of an attempt that nobody knows to have been made."""

_BATCH = 500
_NAME = "ledger-seen.json"
_LATER = timedelta(seconds=10)  # what was sent after the last note was made
_NOT_AGAIN_FOR_S = 0.7  # less than a tick of the scheduler


class Restoration:
    """What is done once to a restored ledger, before anything is sent from it."""

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        clock: Callable[[], datetime],
        attest: Callable[[datetime], str | None] = lambda at: None,
    ) -> None:
        """`attest` signs that the ledger was restored at an instant, where this machine has a key to sign with."""
        self._ledger = ledger
        self._policy = policy
        self._clock = clock
        self._attest = attest

    def put_in_doubt(self, until: datetime) -> int:
        """Put in doubt what the backup shows as waiting and was due at `until`, when the lost ledger ended.

        Messages of purposes that are sent again where in doubt stay as they are. Returns how many were put in doubt.
        Breaking off and doing it again is safe.
        """
        total, after = 0, ""
        while batch := self._ledger.transact(partial(self._take, until=until, after=after)):
            count, after = batch
            total += count
        now = self._clock()
        row = journal.Row(
            kind=journal.Kind.RESTORED,
            at=now,
            body={"in_doubt": total, "until": until.isoformat(), "attested": self._attest(now)},
        )
        self._ledger.transact(lambda conn: journal.append(conn, [row]))
        return total

    def would_be_in_doubt(self, until: datetime) -> int:
        """How many messages `put_in_doubt` would put in doubt now."""
        total, after = 0, ""
        with self._ledger.begin() as conn:
            while found := messages.may_have_gone_out(conn, until, after=after, limit=_BATCH):
                total += len(self._held(found))
                after = found[-1].message_id
            conn.rollback()
        return total

    def _take(self, conn: sa.Connection, *, until: datetime, after: str) -> tuple[int, str] | None:
        """Put a batch in doubt; return how many, and the id to go on from; None at the end."""
        found = messages.may_have_gone_out(conn, until, after=after, limit=_BATCH)
        if not found:
            return None
        doubted = [(new_id("att"), message) for message in self._held(found)]
        purchases.lock(conn, {message.purchase_id for _, message in doubted if message.purchase_id})
        now = self._clock()
        messages.add_doubts(conn, doubted, now, detail=RESTORED)
        asks = self._asks(conn, doubted, now)
        purchases.add_asks(conn, asks)
        messages.set_status(conn, [_status_after(message, now) for _, message in doubted])
        asked = {ask["attempt_id"]: {"ask_id": ask["ask_id"]} for ask in asks}
        journal.append(
            conn,
            [_entry(attempt_id, message, now, asked.get(attempt_id, {})) for attempt_id, message in doubted],
        )
        return len(doubted), found[-1].message_id

    def _held(self, found: Sequence[StoredMessage]) -> list[StoredMessage]:
        """Those that are not sent again where in doubt."""
        purposes = self._policy.purposes
        return [
            message
            for message in found
            if message.purpose not in purposes or purposes[message.purpose].on_doubt == "hold"
        ]

    def _asks_now(self, message: StoredMessage) -> bool:
        """Whether a message is a review request, by the policy of now where that knows its purpose."""
        purpose = self._policy.purposes.get(message.purpose)
        kind = message.purpose_class if purpose is None else purpose.purpose_class
        return kind is PurposeClass.REVIEW

    def _asks(
        self, conn: sa.Connection, doubted: Sequence[tuple[str, StoredMessage]], now: datetime
    ) -> list[dict[str, Any]]:
        """The asks that may have been made: they take the places of their purchases, as far as those are free."""
        asking = [
            (attempt_id, message, message.purchase_id)
            for attempt_id, message in doubted
            if self._asks_now(message) and message.purchase_id is not None
        ]
        slots = {
            purchase_id: iter(free)
            for purchase_id, free in purchases.free_slots(conn, {one for _, _, one in asking}).items()
        }
        return [
            {
                "ask_id": new_id("ask"),
                "purchase_id": purchase_id,
                "slot": next(slots[purchase_id]),
                "by": message.merchant,
                "asked_at": now,
                "message_id": message.message_id,
                "attempt_id": attempt_id,
                "contact_point_id": message.contact_point_id,
            }
            for attempt_id, message, purchase_id in asking
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The newest row of a ledger when it was last looked at."""

    ledger: str
    position: int
    row: str
    at: datetime


class LedgerMark:
    """What the workers of this machine last saw of the ledger, kept in the data folder."""

    def __init__(self, ledger: Ledger, data_dir: Path) -> None:
        self._ledger = ledger
        self._path = data_dir / _NAME
        self._position = 0
        self._made_at = -math.inf

    def check(self) -> None:
        """Raise `LedgerError` where the ledger lacks what was seen, and it is not recorded that it was restored.

        Another ledger than the one that was seen is none of this mark's business.
        """
        seen = self._read()
        if seen is None or seen.ledger != self._ledger.id:
            return
        with self._ledger.read() as conn:
            found = journal.at_position(conn, seen.position)
            if found is not None and _digest(found) == seen.row:
                return
            if journal.was_restored_since(conn, seen.at):
                return
            if partitions.was_dropped(conn, seen.position, seen.at):
                return
        raise LedgerError(
            f"the ledger lacks what the workers of this machine saw at {seen.at:%Y-%m-%d %H:%M:%S} UTC: it was "
            "restored from a backup, and what was sent since would be sent again. Run first: notifygate db restored "
            f"--until {seen.at + _LATER:%Y-%m-%dT%H:%M:%SZ}"
        )

    def make(self) -> None:
        """Note the newest row, at most once a second. Raises `LedgerError` as `check` does: the old note stays then.

        A data folder that cannot be written is told once, and is no reason to stop.
        """
        if time.monotonic() < self._made_at + _NOT_AGAIN_FOR_S:
            return
        self.check()
        self._made_at = time.monotonic()
        with self._ledger.read() as conn:
            newest = journal.newest(conn)
        if newest is None or newest.position is None or newest.position == self._position:
            return
        seen = {
            "ledger": self._ledger.id,
            "position": newest.position,
            "row": _digest(newest),
            "at": newest.at.isoformat(),
        }
        try:
            self._write(json.dumps(seen))
        except OSError as error:
            if self._position >= 0:
                logger.warning(
                    "ledger_mark_not_written", extra={"error": error.strerror or type(error).__name__}
                )
            self._position = -1
        else:
            self._position = newest.position

    def _write(self, text: str) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole_files.write(self._path, text)

    def _read(self) -> _Seen | None:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return _Seen(
                ledger=str(found["ledger"]),
                position=int(found["position"]),
                row=str(found["row"]),
                at=datetime.fromisoformat(found["at"]),
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{self._path} cannot be read ({type(error).__name__}); remove it if the ledger was not restored "
                "from a backup"
            ) from error


def _digest(row: journal.Row) -> str:
    text = json.dumps(row.to_json(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _status_after(message: StoredMessage, now: datetime) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "status": Status.IN_DOUBT.value,
        "reason": RESTORED,
        "due_at": message.due_at,
        "sweep_at": now,
        "attempts": message.attempts + 1,
    }


def _entry(attempt_id: str, message: StoredMessage, now: datetime, asked: Mapping[str, str]) -> journal.Row:
    return journal.Row(
        kind=journal.Kind.ATTEMPT,
        at=now,
        message_id=message.message_id,
        contact_point_id=message.contact_point_id,
        purchase_id=message.purchase_id,
        merchant=message.merchant,
        purpose=message.purpose,
        channel=message.channel.value,
        outcome=Status.IN_DOUBT.value,
        reason=RESTORED,
        body={
            "attempt_id": attempt_id,
            "number": message.attempts + 1,
            "detail": RESTORED,
            "provider_id": None,
            **asked,
        },
    )
