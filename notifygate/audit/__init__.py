"""`gate.log`: finding things in the send log, telling the story of a message, and exporting."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from notifygate.address import Channel, ContactPoint
from notifygate.audit.export import Exported, Format, write_export
from notifygate.audit.exported import Checked, check_export, checkpoint_of, unlike_sealed
from notifygate.audit.policies import PolicyText
from notifygate.audit.progress import Progress
from notifygate.audit.proving import Proofs
from notifygate.audit.simulate import WhatIf, simulate
from notifygate.audit.story import Story, read_story
from notifygate.config import Config
from notifygate.errors import InvalidMessage, NotFound
from notifygate.ledger import journal, messages, people, purchases
from notifygate.ledger.journal import Kind, Row
from notifygate.message import check_aware
from notifygate.runtime import Runtime

__all__ = ["Exported", "Format", "Kind", "Log", "PolicyText", "Row", "Story"]

_PAGE = 500
_HASH_LENGTH = 64
_SHORTEST_PREFIX = 6


class Log:
    """The append-only send log, for reading. Obtained as `gate.log`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def search(
        self,
        *,
        contact_point: ContactPoint | str | None = None,
        person: str | None = None,
        purchase: tuple[str, str] | None = None,
        kind: Kind | str | None = None,
        message_id: str | None = None,
        attempt_id: str | None = None,
        merchant: str | None = None,
        purpose: str | None = None,
        channel: Channel | str | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        policy: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        limit: int | None = 100,
    ) -> Iterator[Row]:
        """Rows that match all the conditions given, newest first, at most `limit` (None for all).

        `contact_point` finds the rows of all contact points of its person, and so does `person`, the person's id.
        `purchase` is `(party, reference)`, where any name that the purchase goes by will do. `attempt_id` finds the
        rows that name the attempt. `policy` is a hash, or the first six or more of its characters. `since` is the
        first instant that counts, `until` the first that does not. `after` is the position of the last row of the
        page before: what follows is older.

        Raises `InvalidMessage`, naming the condition that makes no sense.
        """
        conditions: dict[str, Any] = {
            **_period(since, until),
            "kind": _kind(kind),
            "message_id": message_id,
            "merchant": merchant,
            "purpose": purpose,
            "channel": _channel(channel),
            "outcome": outcome,
            "reason": reason,
            "policy": self._policy_hash(policy),
        }
        if limit is not None and limit < 1:
            raise InvalidMessage("limit", "must be 1 or more, or None for all")
        if contact_point is not None and person is not None:
            raise InvalidMessage("person", "is found by contact_point as well; give one of the two")
        if contact_point is not None:
            contact_point = self._runtime.point(contact_point)
        return self._pages(contact_point, person, purchase, attempt_id, conditions, after, limit)

    def of_message(self, message_id: str) -> tuple[Row, ...]:
        """All rows about one message, oldest first. Raises `NotFound`."""
        with self._runtime.ledger.read() as conn:
            rows = journal.of_message(conn, message_id)
        if not rows:
            raise NotFound(f"no message {message_id!r}")
        return tuple(rows)

    def story(self, message_id: str) -> Story:
        """All that is known of one message, by its id or that of an attempt to send it: who asked for it, each
        decision with all findings, the consent behind it, the rules then in force, and what was sent.

        Raises `NotFound`.
        """
        with self._runtime.ledger.read() as conn:
            return read_story(conn, message_id)

    def policy(self, policy_hash: str) -> PolicyText:
        """The policy with that hash, as it was when it decided. Raises `NotFound`."""
        with self._runtime.ledger.read() as conn:
            found = journal.policies_seen(conn, [policy_hash])
        if policy_hash not in found:
            raise NotFound(f"no policy {policy_hash!r} has decided anything in this ledger")
        text, first_seen_at = found[policy_hash]
        return PolicyText(hash=policy_hash, text=text, first_seen_at=first_seen_at)

    def export(
        self,
        to: str | Path,
        *,
        format: Format | str | None = None,
        kind: Kind | str | None = None,
        merchant: str | None = None,
        purpose: str | None = None,
        channel: Channel | str | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        policy: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Exported:
        """Write all rows that match to a file, oldest first, with a manifest beside it; return what was written.

        `to` is a file, or a folder in which the file is named by the time. `format` is csv, jsonl or parquet; by
        default the file's name tells. However long the log is, a few thousand rows are in memory at a time. Neither
        file is there before it is whole, and none is overwritten without `force`. The manifest holds a checkpoint made
        afterwards, that all rows can be proved against; null where this machine has no key to sign with, and no other
        has signed. `progress` is called with how many positions of the log are done, and how many there are.

        Rows that are added meanwhile are left out, and so may be a row whose transaction was not over at the beginning.
        Raises `InvalidMessage` for a condition that makes no sense, `ExportError`, and `LedgerError`, also where the
        seals are not those that were signed.
        """
        return write_export(
            self._runtime.ledger,
            Path(to),
            form=format,
            conditions={
                **_period(since, until),
                "kind": _kind(kind),
                "merchant": merchant,
                "purpose": purpose,
                "channel": _channel(channel),
                "outcome": outcome,
                "reason": reason,
                "policy": self._policy_hash(policy),
            },
            now=self._runtime.clock(),
            sign=self._sign,
            force=force,
            progress=progress,
        )

    def check_export(self, manifest: str | Path, *, progress: Progress = lambda done, of: None) -> Checked:
        """Read an export again: is it what its manifest says, and is each row what the send log has sealed?

        The log is verified as well, against the checkpoint in the manifest; `progress` is told of that. Raises
        `ExportError` for what is no manifest, and `LedgerError`.
        """
        path = Path(manifest)
        found = check_export(path)
        if not found.is_whole:
            return found
        checkpoint = checkpoint_of(path)
        checkpoints = [checkpoint] if checkpoint else []
        verified = Proofs(self._runtime).verify(checkpoints=checkpoints, progress=progress)
        if not verified.is_intact:
            problem = (
                "the send log itself is not intact, or not that of the manifest: see 'notifygate log verify'"
            )
            return Checked(rows=found.rows, problems=(problem,))
        return Checked(rows=found.rows, problems=tuple(unlike_sealed(self._runtime.ledger, path)))

    def _sign(self) -> str | None:
        made = self._runtime.sealer.sign_all()
        return made.note if made else None

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
        contact_point: ContactPoint | None,
        person: str | None,
        purchase: tuple[str, str] | None,
        attempt_id: str | None,
        conditions: dict[str, Any],
        after: int | None,
        limit: int | None,
    ) -> Iterator[Row]:
        conditions |= {
            "contact_point_ids": self._points_of(contact_point, person),
            "purchase_id": self._purchase_id(purchase),
        }
        if attempt_id is not None:
            with self._runtime.ledger.read() as conn:
                message_id = messages.message_of(conn, attempt_id)
            if message_id is None or conditions["message_id"] not in (None, message_id):
                return
            conditions |= {"attempt_id": attempt_id, "message_id": message_id}
        left, last = limit, after
        while left is None or left > 0:
            page = _PAGE if left is None else min(_PAGE, left)
            with self._runtime.ledger.read() as conn:
                rows = list(journal.search(conn, **conditions, after_position=last, limit=page))
            yield from rows
            if len(rows) < page:
                return
            last = rows[-1].position
            left = None if left is None else left - page

    def _points_of(self, point: ContactPoint | None, person: str | None) -> list[str] | None:
        if point is None and person is None:
            return None
        with self._runtime.ledger.read() as conn:
            if point is not None:
                person = people.person_by_mailbox(conn, self._runtime.ledger.fingerprints, point)
            return [known.contact_point_id for known in people.points_of(conn, [person])] if person else []

    def _purchase_id(self, purchase: tuple[str, str] | None) -> str | None:
        if purchase is None:
            return None
        with self._runtime.ledger.read() as conn:
            found = purchases.find_names(conn, [purchase])
        return found[purchase][1] if found else "unknown"

    def _policy_hash(self, policy: str | None) -> str | None:
        """The hash that a prefix means. One that no policy begins with stays as it is, and matches nothing."""
        if policy is None or len(policy) >= _HASH_LENGTH:
            return policy
        if len(policy) < _SHORTEST_PREFIX:
            raise InvalidMessage(
                "policy", f"must be a hash, or at least its first {_SHORTEST_PREFIX} characters"
            )
        with self._runtime.ledger.read() as conn:
            found = journal.policies_like(conn, policy, limit=2)
        if len(found) > 1:
            raise InvalidMessage(
                "policy", f"{policy!r} begins the hashes of several policies; give more of it"
            )
        return found[0] if found else policy


def _period(since: datetime | None, until: datetime | None) -> dict[str, datetime | None]:
    begins, ends = check_aware("since", since), check_aware("until", until)
    if begins is not None and ends is not None and begins >= ends:
        raise InvalidMessage("until", "must lie after since")
    return {"since": begins, "until": ends}


def _kind(kind: Kind | str | None) -> str | None:
    if kind is None:
        return None
    try:
        return Kind(kind).value
    except ValueError as error:
        raise InvalidMessage("kind", f"must be one of {', '.join(one.value for one in Kind)}") from error


def _channel(channel: Channel | str | None) -> str | None:
    if channel is None:
        return None
    try:
        return Channel(channel).value
    except ValueError as error:
        raise InvalidMessage("channel", f"must be {' or '.join(one.value for one in Channel)}") from error
