"""What a replay found: how many more and fewer messages would be sent, for what reasons, and which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from notifygate.audit.simulate.messages import Because, Life, Replayed
from notifygate.message import WAITING

ASSUMPTIONS = (
    "People are taken to have acted as they did: whoever would have been written to less might not have opted out, "
    "and whoever would have been written to more might have.",
    "Applications are taken to have handed over and cancelled what they did.",
    "Providers are taken to have accepted what was not sent then; of what was sent then, the outcome is as it was.",
)
"""What no replay can know."""


class Effect(StrEnum):
    """What the changed policy does to a message."""

    MORE = "more"
    FEWER = "fewer"
    MOVED = "moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a message stood at the end of the period. `because` is the last denial or deferral: rule and reason."""

    status: str
    sent_at: datetime | None = None
    because: Because = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "sent_at": self.sent_at.isoformat() if self.sent_at else None,
            "because": [{"rule": rule, "reason": reason} for rule, reason in self.because],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One message that the changed policy treats differently. `moved` is sent both ways, at another time."""

    message_id: str
    effect: Effect
    merchant: str
    purpose: str
    purpose_class: str
    channel: str
    submitted_at: datetime
    before: Standing
    after: Standing

    def to_json(self) -> dict[str, Any]:
        return {
            "message_id": self.message_id,
            "effect": self.effect.value,
            "merchant": self.merchant,
            "purpose": self.purpose,
            "class": self.purpose_class,
            "channel": self.channel,
            "submitted_at": self.submitted_at.isoformat(),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
        }


@dataclass(slots=True, kw_only=True)
class Tally:
    """How many messages were sent, would be, and how these differ. `more - fewer` is `after - before`."""

    before: int = 0
    after: int = 0
    more: int = 0
    fewer: int = 0
    moved: int = 0

    def add(self, before: Standing, after: Standing, effect: Effect | None) -> None:
        self.before += before.sent_at is not None
        self.after += after.sent_at is not None
        self.more += effect is Effect.MORE
        self.fewer += effect is Effect.FEWER
        self.moved += effect is Effect.MOVED

    def to_json(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("before", "after", "more", "fewer", "moved")}


@dataclass(slots=True, kw_only=True)
class WhatIf:
    """What would have become of the messages of a period under another policy.

    `sent` counts all of them, the others count them by merchant, purpose, class, and by rule and reason: for `fewer`
    that which would stop them, for `more` that which stopped them. `more_waited` of those that are sent more waited
    still when the period ended, and `fewer_wait` of those that are sent less would wait still.
    """

    since: datetime
    until: datetime
    policy: str
    logged_by: Mapping[str, int]
    decisions: int
    messages: int = 0
    sent: Tally = field(default_factory=Tally)
    more_waited: int = 0
    fewer_wait: int = 0
    otherwise_stopped: int = 0
    by_rule: dict[tuple[str, str], Tally] = field(default_factory=dict)
    by_merchant: dict[str, Tally] = field(default_factory=dict)
    by_purpose: dict[str, Tally] = field(default_factory=dict)
    by_class: dict[str, Tally] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    texts_erased: int = 0
    left_out: int = 0

    @property
    def allows_more(self) -> bool:
        """Whether any message that was not sent would be."""
        return self.sent.more > 0

    def to_json(self) -> dict[str, Any]:
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "policy": self.policy,
            "logged_by": dict(self.logged_by),
            "messages": self.messages,
            "decisions": self.decisions,
            "sent": self.sent.to_json(),
            "more_waited": self.more_waited,
            "fewer_wait": self.fewer_wait,
            "otherwise_stopped": self.otherwise_stopped,
            "by_rule": [
                {"rule": rule, "reason": reason, "more": tally.more, "fewer": tally.fewer}
                for (rule, reason), tally in self.by_rule.items()
            ],
            "by_merchant": {name: tally.to_json() for name, tally in self.by_merchant.items()},
            "by_purpose": {name: tally.to_json() for name, tally in self.by_purpose.items()},
            "by_class": {name: tally.to_json() for name, tally in self.by_class.items()},
            "texts_erased": self.texts_erased,
            "left_out": self.left_out,
            "assumptions": list(ASSUMPTIONS),
            "changes": [change.to_json() for change in self.changes],
        }


def compare(found: WhatIf, messages: Iterable[Replayed]) -> WhatIf:
    """Fill in what became of the messages of a replay, one way and the other."""
    by_rule: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
    groups: tuple[defaultdict[str, Tally], ...] = (defaultdict(Tally), defaultdict(Tally), defaultdict(Tally))
    changes = []
    for message in messages:
        before, after = _standing(message.logged), _standing(message.simulated)
        effect = _effect(before, after)
        request = message.request
        names = (request.merchant, request.purpose, message.purpose_class.value)
        found.messages += 1
        found.sent.add(before, after, effect)
        for group, name in zip(groups, names, strict=True):
            group[name].add(before, after, effect)
        if effect is None:
            both_stopped = before.sent_at is None and after.sent_at is None
            found.otherwise_stopped += both_stopped and _why(before) != _why(after)
            continue
        if effect is not Effect.MOVED:
            stopped = before if effect is Effect.MORE else after
            by_rule[_why(stopped)].add(before, after, effect)
            found.more_waited += effect is Effect.MORE and before.status in WAITING
            found.fewer_wait += effect is Effect.FEWER and after.status in WAITING
        changes.append(
            Change(
                message_id=request.message_id,
                effect=effect,
                merchant=request.merchant,
                purpose=request.purpose,
                purpose_class=message.purpose_class.value,
                channel=request.channel,
                submitted_at=request.submitted_at,
                before=before,
                after=after,
            )
        )
    found.by_rule = dict(sorted(by_rule.items(), key=lambda item: (-item[1].more - item[1].fewer, item[0])))
    found.by_merchant, found.by_purpose, found.by_class = (_sorted(group) for group in groups)
    found.changes = tuple(sorted(changes, key=lambda change: (change.submitted_at, change.message_id)))
    return found


def _standing(life: Life) -> Standing:
    return Standing(status=life.status.value, sent_at=life.sent_at, because=life.because)


def _effect(before: Standing, after: Standing) -> Effect | None:
    if before.sent_at == after.sent_at:
        return None
    if before.sent_at is None:
        return Effect.MORE
    return Effect.FEWER if after.sent_at is None else Effect.MOVED


def _why(stopped: Standing) -> tuple[str, str]:
    """Rule and reason of what stopped a message; where no rule did, how it ended."""
    return stopped.because[0] if stopped.because else ("", stopped.status)


def _sorted(group: Mapping[str, Tally]) -> dict[str, Tally]:
    return dict(sorted(group.items(), key=lambda item: (-item[1].before, item[0])))
