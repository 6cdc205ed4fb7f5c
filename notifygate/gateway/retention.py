"""`gate.retention`: removing personal data that is older than the config lets it become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from notifygate.gateway import erasure
from notifygate.ledger import ageing, erasing, holds, journal, partitions, people
from notifygate.ledger.ageing import Ageing
from notifygate.runtime import Runtime

_BATCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What a run of retention did for one kind.

    `before` is how much was older than `cutoff` when it began, `removed` how much of it went, `on_hold` how much of
    the rest a legal hold keeps. They count messages, contact points, consent events, or rows of the send log.
    """

    kind: str
    keep: timedelta
    cutoff: datetime
    before: int
    removed: int
    on_hold: int
    dry_run: bool

    @property
    def after(self) -> int:
        """How much older than `cutoff` is left."""
        return self.before if self.dry_run else max(0, self.before - self.removed)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "keep_days": self.keep.days,
            "cutoff": self.cutoff.isoformat(),
            "before": self.before,
            "removed": self.removed,
            "after": self.after,
            "on_hold": self.on_hold,
            "dry_run": self.dry_run,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A kind of rows that age, and how a batch of them that is too old is dealt with."""

    rows: Ageing
    remove: Callable[[sa.Connection, sa.ColumnElement[bool], datetime], int]


class Retention:
    """What ages out, and when. Obtained as `gate.retention`. Nothing is removed that the config does not name."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run(self, *, dry_run: bool = False, batch: int = _BATCH) -> Iterator[Removal]:
        """Remove what is older than `[retention]` of the config says, kind by kind; yield what was done for each.

        Nothing happens until that is iterated over. It works in short transactions of `batch` rows: breaking off and
        running it again is safe. Messages that wait, are under way or in doubt are left alone, and so are persons on
        legal hold, and all that decisions look at. With `dry_run` it only counts.
        """
        kept_for = self._runtime.config.settings.retention
        for name, kind in _KINDS.items():
            keep: timedelta | None = getattr(kept_for, name)
            if keep is not None:
                yield self._of_kind(name, kind, keep, dry_run=dry_run, batch=batch)
        if kept_for.send_log is not None:
            removal = remove_send_log(self._runtime, kept_for.send_log, dry_run=dry_run)
            if not dry_run:
                self._record(removal.to_json() | {"complete": True})
            yield removal

    def _of_kind(self, name: str, kind: _Kind, keep: timedelta, *, dry_run: bool, batch: int) -> Removal:
        ledger = self._runtime.ledger
        cutoff = self._runtime.clock() - keep
        with ledger.read() as conn:
            before = kind.rows.count(conn, cutoff)
            on_hold = kind.rows.count_on_hold(conn, cutoff)
        result = partial(
            Removal, kind=name, keep=keep, cutoff=cutoff, before=before, on_hold=on_hold, dry_run=dry_run
        )
        if dry_run:
            return result(removed=before - on_hold)
        removed = 0
        is_complete = False
        try:
            for count in self._batches(kind, cutoff, batch):
                removed += count
            is_complete = True
        finally:
            # Also where it was broken off: what went is gone.
            body = {
                "kind": name,
                "keep_days": keep.days,
                "cutoff": cutoff.isoformat(),
                "before": before,
                "removed": removed,
                "on_hold": on_hold,
                "complete": is_complete,
            }
            self._record(body)
        return result(removed=removed)

    def _batches(self, kind: _Kind, cutoff: datetime, batch: int) -> Iterator[int]:
        ledger, after = self._runtime.ledger, ""
        while True:
            with ledger.read() as conn:
                found = kind.rows.find(conn, cutoff, after=after, limit=batch)
            if not found:
                return
            yield ledger.transact(partial(self._remove, kind=kind, cutoff=cutoff, found=found))
            after = found[-1][0]

    def _remove(
        self, conn: sa.Connection, *, kind: _Kind, cutoff: datetime, found: list[tuple[str, str]]
    ) -> int:
        points = sorted({point for _, point in found})
        ids = [one for one, _ in found]
        kind.rows.hold(conn, ids)
        person_of = people.lock_persons_of(conn, points)
        # INVARIANT(no hold overlooked): a hold is placed under the person's lock, so it is seen here or comes later.
        theirs = people.point_ids_of(conn, set(person_of.values()))
        held = {theirs[hold.contact_point_id] for hold in holds.in_force(conn, theirs)}
        free = [point for point in points if person_of[point] not in held]
        return kind.remove(conn, kind.rows.still(ids, cutoff, free), self._runtime.clock())

    def _record(self, body: Mapping[str, Any]) -> None:
        row = journal.Row(
            kind=journal.Kind.RETENTION, at=self._runtime.clock(), reason=str(body["kind"]), body=body
        )
        self._runtime.ledger.transact(lambda conn: journal.append(conn, [row]))


def remove_send_log(runtime: Runtime, keep: timedelta, *, dry_run: bool) -> Removal:
    """Drop the whole months of the send log that ended before what is kept.

    Each month dropped is a row of the kind `dropped`, which names the rows, their positions and their leaves. A month
    with a row about a person on legal hold stays, and so do those after it.
    """
    ledger, now = runtime.ledger, runtime.clock()
    month = partitions.month_of(now - keep)
    if not dry_run:
        runtime.sealer.seal(patiently=True)
    with ledger.read() as conn:
        free = sum(part.rows for part in partitions.older_than(conn, month))
        on_hold = partitions.rows_between(conn, partitions.may_go_before(conn, month), month)
    if dry_run:
        removed = free
    else:
        dropped = partitions.drop_before(ledger, month, now, actor="retention")
        removed = sum(part.rows for part in dropped)
    return Removal(
        kind="send_log",
        keep=keep,
        cutoff=month,
        before=free + on_hold,
        removed=removed,
        on_hold=on_hold,
        dry_run=dry_run,
    )


def _forget_persons(conn: sa.Connection, chosen: sa.ColumnElement[bool], now: datetime) -> int:
    """Take away what an erasure takes away, without its mark: nobody asked never to be written to again.

    The contact points must be held: only then is whoever writes to one of them waited for.
    """
    ids = erasing.chosen_points(conn, chosen)
    known = people.points_of(conn, set(people.persons_of(conn, ids).values()))
    silent = [point for point in known if point.contact_point_id in ids]
    if silent:
        erasure.take_away(conn, silent, now)
    return len(silent)


# The texts first: who is not heard of any more then has fewer of them.
_KINDS: Mapping[str, _Kind] = {
    "texts": _Kind(rows=ageing.TEXTS, remove=lambda conn, chosen, now: erasing.forget_texts(conn, chosen)),
    "consent_texts": _Kind(
        rows=ageing.CONSENT_TEXTS,
        remove=lambda conn, chosen, now: erasing.forget_consent_texts(conn, chosen),
    ),
    "contact_points": _Kind(rows=ageing.CONTACT_POINTS, remove=_forget_persons),
}
