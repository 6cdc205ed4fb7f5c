"""A message in a replay: the request, and its two lives, the one that was logged and the one that is simulated."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from notifygate.decision import Finding
from notifygate.ledger.journal import read_body
from notifygate.ledger.replays import Logged
from notifygate.message import WAITING, Result, Status
from notifygate.policy import PurposeClass
from notifygate.restoring import RESTORED
from notifygate.snapshot import Request

Because = tuple[tuple[str, str], ...]
"""Rule and reason of each determining finding."""

_HANDED_OVER = {Result.ACCEPTED.value: Status.SENT, Result.IN_DOUBT.value: Status.IN_DOUBT}
_known_reasons: dict[Because, Because] = {}


@dataclass(slots=True, eq=False, kw_only=True)
class Life:
    """Where a message stands. `due` is None for one that waits for the next try after a failure.

    `sent` holds the attempts that count: id and when they were reserved.
    """

    status: Status
    due: datetime | None
    decisions: int = 0
    sent: tuple[tuple[str, datetime], ...] = ()
    because: Because = ()

    @property
    def waits(self) -> bool:
        return self.status in WAITING

    @property
    def sent_at(self) -> datetime | None:
        """When the message was first reserved, if it was sent, is in flight or in doubt."""
        return self.sent[0][1] if self.sent else None

    def drop(self, attempt_id: str) -> None:
        """That attempt came to nothing."""
        self.sent = tuple(one for one in self.sent if one[0] != attempt_id)

    def settle(self, outcome: str, because: Because, until: datetime | None) -> None:
        """What a decision makes of it, but for an allow."""
        self.decisions += 1
        self.because = because
        if until is not None and outcome == "defer":
            self.status, self.due = Status.DEFERRED, until
        elif outcome == "deny":
            is_over = all(rule == "expiry" for rule, _ in because)
            self.status = Status.EXPIRED if is_over else Status.DENIED

    def allow(self, attempt_id: str, at: datetime) -> None:
        """A decision lets it be sent."""
        self.decisions += 1
        self.because = ()
        self.status = Status.SENDING
        self.sent = (*self.sent, (attempt_id, at))


@dataclass(slots=True, eq=False, kw_only=True)
class Replayed:
    """A message of the replay. `content` is what the rule of that name finds; None where it need not look."""

    request: Request
    purpose_class: PurposeClass
    purchase_id: str | None
    logged: Life
    simulated: Life
    content: Finding | None = None
    is_erased: bool = False

    @property
    def follows(self) -> bool:
        """Whether the simulation waits for the very decision that the log goes on with."""
        logged, simulated = self.logged, self.simulated
        return (
            logged.waits
            and simulated.waits
            and logged.due == simulated.due
            and logged.decisions == simulated.decisions
        )

    def begin_alike(self) -> None:
        """Let the simulated life begin where the logged one stands."""
        self.simulated = replace(self.logged)


def submitted(row: Logged) -> Replayed:
    """The message that a row of kind `submitted` tells of."""
    body = read_body(row.body)
    send_after = instant(body["send_after"])
    due = send_after if send_after is not None and send_after > row.at else row.at
    return Replayed(
        request=Request(
            message_id=row.message_id or "",
            merchant=sys.intern(row.merchant or ""),
            purpose=sys.intern(row.purpose or ""),
            role=body["role"],
            channel=sys.intern(row.channel or ""),
            contact_point_id=row.contact_point_id or "",
            dedupe_key=body["dedupe_key"],
            submitted_at=row.at,
            send_after=send_after,
            expires_at=instant(body["expires_at"]),
            timezone=body["timezone"],
            country=body["country"],
            zones=tuple(map(sys.intern, body["zones"])),
        ),
        purpose_class=PurposeClass(body["class"]),
        purchase_id=row.purchase_id,
        logged=Life(status=Status.QUEUED, due=due),
        simulated=Life(status=Status.QUEUED, due=due),
    )


def log_decision(life: Life, row: Logged, body: Mapping[str, Any]) -> None:
    """Go on with a logged life by a logged decision."""
    if row.outcome == "allow":
        life.allow(body["attempt_id"], row.at)
    else:
        made_it = [finding for finding in body["findings"] if finding["outcome"] == row.outcome]
        because = reasons((finding["rule"], finding["reason"]) for finding in made_it)
        life.settle(row.outcome or "", because, instant(body.get("until")))


def log_attempt(life: Life, row: Logged, body: Mapping[str, Any], *, is_sent_again: bool) -> None:
    """Go on with a logged life by the logged end of an attempt, unless that came too late to count.

    Of one that a restored ledger had to doubt nothing else is logged.
    """
    if row.reason == RESTORED:
        life.sent = (*life.sent, (body["attempt_id"], row.at))
        life.status = Status.IN_DOUBT
        return
    is_last = bool(life.sent) and life.sent[-1][0] == body["attempt_id"]
    if not is_last or life.status not in (Status.SENDING, Status.IN_DOUBT):
        return
    if row.outcome in _HANDED_OVER:
        life.status = _HANDED_OVER[row.outcome]
        if row.outcome == Result.IN_DOUBT.value and is_sent_again:
            life.status, life.due = Status.QUEUED, None
        return
    life.drop(body["attempt_id"])
    life.status, life.due = Status.FAILED, None
    if row.outcome == Result.FAILED.value:
        life.status = Status.QUEUED


def log_resolution(life: Life, row: Logged, body: Mapping[str, Any]) -> None:
    """Go on with a life by what a doubt turned out to be."""
    if row.outcome == Result.ACCEPTED.value:
        life.status = Status.SENT
        return
    life.drop(body["attempt_id"])
    if body["again"]:
        life.status, life.due = Status.QUEUED, row.at
    else:
        life.status = Status.FAILED


def reasons(pairs: Any) -> Because:
    """Rules and reasons; the same ones are one object, since millions of messages have few."""
    found: Because = tuple((str(rule), str(reason)) for rule, reason in pairs)
    return _known_reasons.setdefault(found, found)


def instant(text: str | None) -> datetime | None:
    """An instant as a body has it, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
