"""Answering a data subject (GDPR Art. 15): everything that the ledger holds about one person, as JSON or a page."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from notifygate.address import Channel, ContactPoint
from notifygate.audit import pages
from notifygate.config import Config, HttpSettings, KannelSettings, SmtpSettings
from notifygate.errors import NotFound
from notifygate.ledger import consents, holds, journal, people, subjects
from notifygate.message import Status
from notifygate.runtime import Runtime

_INTERNAL = ("mailbox_id", "purchase_name_id", "sweep_at", "contact_point_id", "purchase_id", "position")
_SENT = (Status.SENT, Status.DELIVERED, Status.BOUNCED)  # what a provider took
_CATEGORIES = (
    "contact points (telephone numbers, email addresses) and which of them belong together",
    "messages: their texts, when they were asked for, what was decided about each and why, what became of it",
    "consent, objections and other refusals, with when and how they were given",
    "do-not-send marks, such as after a bounce or a complaint",
    "purchases that messages were about: the seller's order number, other references, dates",
    "review requests that were made",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Everything that is held about one person. `contact_point_ids` is what the ledger calls their addresses."""

    contact_point_ids: tuple[str, ...]
    held: Mapping[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-compatible values; instants are ISO 8601 in UTC."""
        return dict(self.held)

    def to_html(self) -> str:
        """The same as one page for the person to read, with nothing loaded from elsewhere."""
        filters = {"when": _when, "words": _words}
        return pages.render("notifygate.audit", "subject.html", filters, **self.held)

    def counts(self) -> dict[str, int]:
        """How many entries there are, by kind."""
        return {name: len(value) for name, value in self.held.items() if isinstance(value, list)}


def disclose(runtime: Runtime, point: ContactPoint, *, with_holds: bool) -> Subject:
    """Read all about the person behind a contact point, and record that it was handed out. See `People.export`."""
    with runtime.ledger.read() as conn:
        person = people.person_by_mailbox(conn, runtime.ledger.fingerprints, point)
        found = (
            _read(conn, runtime.config, person, runtime.clock(), with_holds=with_holds) if person else None
        )
    if found is None:
        raise NotFound("nothing is held about this contact point")
    now = runtime.clock()
    entries = [
        journal.Row(kind=journal.Kind.DISCLOSED, at=now, contact_point_id=point_id, body={})
        for point_id in found.contact_point_ids
    ]
    runtime.ledger.transact(lambda conn: journal.append(conn, entries))
    return found


def _read(
    conn: sa.Connection, config: Config, person: str, now: datetime, *, with_holds: bool
) -> Subject | None:
    points = subjects.points(conn, person)
    if not points:
        return None
    name_of = {point["contact_point_id"]: _name(point) for point in points}
    mailbox_of: defaultdict[str, list[str]] = defaultdict(list)
    for point in points:
        mailbox_of[point["mailbox_id"]].append(name_of[point["contact_point_id"]])
    ids = list(name_of)
    messages = subjects.all_messages(conn, ids)
    asks = subjects.asks_of(conn, ids)
    purchases = subjects.purchases_of(
        conn, {one["purchase_id"] for one in (*messages, *asks) if one["purchase_id"]}
    )
    order_of = {one["purchase_id"]: f"{one['seller']} {one['order_id']}" for one in purchases}
    events = consents.history(conn, ids)
    held: dict[str, Any] = {
        "made_at": now,
        "about": list(name_of.values()),
        "processing": _processing(config, messages, events),
        "contact_points": [
            {"contact_point": _name(point), "since": point["created_at"]} | _pick(point, "country", "zones")
            for point in points
        ],
        "links": [
            {
                "between": [_theirs(mailbox_of, link["mailbox_a"]), _theirs(mailbox_of, link["mailbox_b"])],
            }
            | _pick(link, "evidence", "linked_at", "unlinked_at")
            for link in subjects.links(conn, mailbox_of)
        ],
        "messages": _messages(conn, messages, ids, name_of, order_of),
        "purchases": [_without(purchase) for purchase in purchases],
        "consent": [
            {"contact_point": name_of[event["contact_point_id"]]} | _without(event) for event in events
        ],
        "do_not_send_marks": [
            {"contact_point": name_of[mark["contact_point_id"]]} | _without(mark)
            for mark in subjects.marks(conn, ids)
        ],
        "review_requests": [_without(ask) | {"purchase": order_of.get(ask["purchase_id"])} for ask in asks],
        "log": [
            {"contact_point": name_of[row["contact_point_id"]]} | _logged(row)
            for row in subjects.log(conn, ids, with_holds=with_holds)
        ],
    }
    if with_holds:
        held["legal_holds"] = [
            {
                "contact_point": name_of[hold.contact_point_id],
                "placed_at": hold.placed_at,
                "released_at": hold.released_at,
            }
            for hold in holds.of_points(conn, ids)
        ]
    return Subject(contact_point_ids=tuple(ids), held=_plain(held))


def _messages(
    conn: sa.Connection,
    messages: Sequence[subjects.Record],
    point_ids: Sequence[str],
    name_of: Mapping[str, str],
    order_of: Mapping[str, str],
) -> list[dict[str, Any]]:
    decided: defaultdict[str, list[Any]] = defaultdict(list)
    for decision in subjects.decisions(conn, [one["message_id"] for one in messages]):
        decided[decision.pop("message_id")].append(decision)
    tried: defaultdict[str, list[Any]] = defaultdict(list)
    for attempt in subjects.attempts(conn, point_ids):
        tried[attempt.pop("message_id")].append(attempt)
    return [
        {"contact_point": name_of[message["contact_point_id"]]}
        | _without(message)
        | {
            "metadata": json.loads(message["metadata"]),
            "purchase": order_of.get(message["purchase_id"] or ""),
            "decisions": decided[message["message_id"]],
            "attempts": tried[message["message_id"]],
        }
        for message in messages
    ]


def _processing(
    config: Config, messages: Sequence[subjects.Record], events: Sequence[subjects.Record]
) -> dict[str, Any]:
    """What Art. 15(1) asks to be told beside the data, as far as the config and the ledger know it."""
    policy = config.policy
    told: Counter[tuple[str, str, str]] = Counter(map(_scope, messages))
    sent: Counter[tuple[str, str, str]] = Counter(_scope(one) for one in messages if one["status"] in _SENT)
    doubtful: Counter[tuple[str, str, str]] = Counter(
        _scope(one) for one in messages if one["status"] == Status.IN_DOUBT
    )
    group_of = {name: merchant.group for name, merchant in policy.merchants.items()}
    parties = {event["party"] for event in events}
    named = {merchant for merchant, _, _ in told}
    named |= {one for one in group_of if one in parties or group_of[one] in parties}
    return {
        "categories": list(_CATEGORIES),
        "merchants": [
            {
                "merchant": merchant,
                "name": policy.merchants[merchant].name if merchant in policy.merchants else merchant,
                "kind": policy.merchants[merchant].kind.value if merchant in policy.merchants else None,
                "group": group_of.get(merchant),
                "purposes": [
                    _purpose(config, purpose)
                    | {
                        name: {
                            one[2]: counted[one] for one in sorted(counted) if one[:2] == (merchant, purpose)
                        }
                        for name, counted in (("messages", told), ("sent", sent), ("in_doubt", doubtful))
                    }
                    for purpose in sorted({one[1] for one in told if one[0] == merchant})
                ],
                "source": _sources(merchant, group_of.get(merchant), events),
            }
            for merchant in sorted(named)
        ],
        "providers": [
            {"channel": channel.value, "provider": _provider(config, channel)}
            for channel in Channel
            if config.settings.channel(channel) is not None
        ],
        "retention": _retention(config),
        "automated_decisions": (
            "Whether a message may be sent is decided by fixed rules: consent, do-not-send marks, how often and at "
            "what hours. Each decision below names the rules and what they found. There is no profiling."
        ),
        "rights": [
            "to have it corrected (Art. 16), erased (Art. 17), or its use restricted (Art. 18)",
            "to receive what you provided in a form that machines read (Art. 20)",
            "to object, and to take back a consent at any time (Art. 21, Art. 7(3))",
            "to complain to the data protection authority of your country (Art. 77)",
        ],
    }


def _purpose(config: Config, purpose: str) -> dict[str, Any]:
    known = config.policy.purposes.get(purpose)
    return {
        "purpose": purpose,
        "class": known.purpose_class.value if known else None,
        "permission": sorted(one.value for one in known.accepts) or ["none"] if known else None,
    }


def _scope(message: subjects.Record) -> tuple[str, str, str]:
    return message["merchant"], message["purpose"], message["channel"]


def _sources(merchant: str, group: str | None, events: Iterable[subjects.Record]) -> list[str]:
    """Where the data came from, as far as it is known: Art. 15(1)(g)."""
    said = {
        str(event["source"]) for event in events if event["source"] and event["party"] in (merchant, group)
    }
    return ["handed over by the merchant with each message", *sorted(f"consent: {one}" for one in said)]


def _provider(config: Config, channel: Channel) -> str:
    settings = config.settings.channel(channel)
    match settings:
        case SmtpSettings():
            return f"mail server {settings.host}"
        case HttpSettings() | KannelSettings():
            return f"text message gateway {urlsplit(settings.url).hostname}"
        case _:
            return "none: messages on this channel stay on our own machine"


def _retention(config: Config) -> dict[str, str]:
    def said(period: timedelta | None) -> str:
        return f"{period.days} days" if period else "no fixed period: until it is erased"

    kept = config.settings.retention
    return {
        "texts of messages, after the message ended": said(kept.texts),
        "contact points, after you were last heard of": said(kept.contact_points),
        "what was noted when consent was given or refused": said(kept.consent_texts),
        "the send log, which holds no address and no text": said(kept.send_log),
    }


def _logged(row: subjects.Record) -> dict[str, Any]:
    # Who of the staff did something is not about this person (CJEU C-579/21).
    body = {name: value for name, value in row["body"].items() if name != "actor"}
    return _without(row) | {"body": body}


def _name(point: subjects.Record) -> str:
    return f"{point['channel']}:{point['address'] or '(erased)'}"


def _theirs(mailbox_of: Mapping[str, Sequence[str]], mailbox_id: str) -> list[str]:
    """The contact points of a mailbox of this person; one that was linked and is another person's is not shown."""
    return list(mailbox_of.get(mailbox_id, ["(a contact point that is no longer linked)"]))


def _pick(record: subjects.Record, *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names}


def _without(record: subjects.Record) -> dict[str, Any]:
    """A record without what only the database needs."""
    return {name: value for name, value in record.items() if name not in _INTERNAL}


def _plain(value: Any) -> Any:
    """JSON-compatible, with instants in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _when(text: str | None) -> str:
    """An instant for a reader: `2026-03-02 10:00 UTC`."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else ""


def _words(text: str | None) -> str:
    """A name of ours as words: `review_request` as `review request`."""
    return (text or "").replace("_", " ")
