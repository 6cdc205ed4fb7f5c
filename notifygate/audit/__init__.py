"""`gate.log`: finding things in the send log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from notifygate.address import ContactPoint
from notifygate.audit.simulate import Progress, WhatIf, simulate
from notifygate.config import Config
from notifygate.errors import InvalidMessage, NotFound
from notifygate.ledger import journal, people, purchases
from notifygate.ledger.journal import Kind, Row
from notifygate.message import check_aware
from notifygate.runtime import Runtime

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """A policy that decided something: its hash and its canonical JSON text."""

    hash: str
    text: str


class Log:
    """The append-only send log, for reading. Obtained as `gate.log`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def search(
        self,
        *,
        contact_point: ContactPoint | str | None = None,
        purchase: tuple[str, str] | None = None,
        kind: Kind | str | None = None,
        message_id: str | None = None,
        merchant: str | None = None,
        purpose: str | None = None,
        channel: str | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        policy: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 100,
    ) -> Iterator[Row]:
        """Rows that match all the conditions given, newest first, at most `limit` (None for all).

        `contact_point` finds the rows of all contact points of its person. `purchase` is `(party, reference)`, where
        any name that the purchase goes by will do. `since` is the first instant that counts, `until` the first that
        does not. Raises `InvalidMessage`, naming the condition that makes no sense.
        """
        conditions: dict[str, Any] = {
            "since": check_aware("since", since),
            "until": check_aware("until", until),
            "kind": _kind(kind),
            "message_id": message_id,
            "merchant": merchant,
            "purpose": purpose,
            "channel": channel,
            "outcome": outcome,
            "reason": reason,
            "policy": policy,
        }
        if limit is not None and limit < 1:
            raise InvalidMessage("limit", "must be 1 or more, or None for all")
        return self._pages(contact_point, purchase, conditions, limit)

    def of_message(self, message_id: str) -> tuple[Row, ...]:
        """All rows about one message, oldest first. Raises `NotFound`."""
        with self._runtime.ledger.read() as conn:
            rows = journal.of_message(conn, message_id)
        if not rows:
            raise NotFound(f"no message {message_id!r}")
        return tuple(rows)

    def policy(self, policy_hash: str) -> PolicyText:
        """The policy with that hash, as it was when it decided. Raises `NotFound`."""
        with self._runtime.ledger.read() as conn:
            text = journal.policy_text(conn, policy_hash)
        if text is None:
            raise NotFound(f"no policy {policy_hash!r} has decided anything in this ledger")
        return PolicyText(hash=policy_hash, text=text)

    def simulate(
        self,
        config: Config | None = None,
        *,
        since: datetime,
        until: datetime | None = None,
        progress: Progress | None = None,
    ) -> WhatIf:
        """What would have become of the messages of a period under the policy of another config.

        `config` is one that `notifygate.config.load` has read; by default the gateway's own. The period goes from
        `since` to before `until`, by default now. Nothing is written or sent. `progress` is called with the rows gone
        through so far, and how many that will be.

        Raises `InvalidMessage` for a period that is none or lies in the future, and `NotFound` for one of which the log
        holds no message.
        """
        runtime = self._runtime
        now = runtime.clock()
        ends = check_aware("until", until) or now
        if ends > now:
            raise InvalidMessage("until", "lies in the future, of which nothing is logged")
        return simulate(runtime.ledger, config or runtime.config, since=since, until=ends, progress=progress)

    def _pages(
        self,
        contact_point: ContactPoint | str | None,
        purchase: tuple[str, str] | None,
        conditions: dict[str, Any],
        limit: int | None,
    ) -> Iterator[Row]:
        conditions |= {
            "contact_point_ids": self._points_of(contact_point),
            "purchase_id": self._purchase_id(purchase),
        }
        left, last = limit, None
        while left is None or left > 0:
            page = _PAGE if left is None else min(_PAGE, left)
            with self._runtime.ledger.read() as conn:
                rows = list(journal.search(conn, **conditions, after_position=last, limit=page))
            yield from rows
            if len(rows) < page:
                return
            last = rows[-1].position
            left = None if left is None else left - page

    def _points_of(self, contact_point: ContactPoint | str | None) -> list[str] | None:
        if contact_point is None:
            return None
        point = self._runtime.point(contact_point)
        with self._runtime.ledger.read() as conn:
            person = people.person_by_mailbox(conn, self._runtime.ledger.fingerprints, point)
            return [known.contact_point_id for known in people.points_of(conn, [person])] if person else []

    def _purchase_id(self, purchase: tuple[str, str] | None) -> str | None:
        if purchase is None:
            return None
        with self._runtime.ledger.read() as conn:
            found = purchases.find_names(conn, [purchase])
        return found[purchase][1] if found else "unknown"


def _kind(kind: Kind | str | None) -> str | None:
    if kind is None:
        return None
    try:
        return Kind(kind).value
    except ValueError as error:
        raise InvalidMessage("kind", f"must be one of {', '.join(one.value for one in Kind)}") from error
