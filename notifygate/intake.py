"""Taking messages in: parse, normalise, check against the policy, and insert into the ledger."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from notifygate.address import Channel, ContactPoint
from notifygate.config import Config
from notifygate.errors import IdempotencyConflict, InvalidMessage
from notifygate.failpoints import FailPoint, reach
from notifygate.fingerprint import Fingerprints, normalised
from notifygate.ids import new_id
from notifygate.ledger import journal, messages, people, purchases
from notifygate.message import Email, Message, Receipt, Status
from notifygate.policy import PurposeClass

_ENCODER = json.JSONEncoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A message that was found to be in order, with what was derived from it."""

    message: Message
    point: ContactPoint
    purpose_class: PurposeClass
    dedupe_key: str
    request_fingerprint: str

    @property
    def name(self) -> tuple[str, str] | None:
        """The key that makes the request unique, if it has one."""
        key = self.message.idempotency_key
        return (self.message.merchant, key) if key is not None else None


def prepare(message: Message, config: Config, fingerprints: Fingerprints) -> Prepared:
    """Check a message against the config. Raises `InvalidMessage` that names the argument at fault."""
    policy = config.policy
    if message.merchant not in policy.merchants:
        raise InvalidMessage("merchant", _unknown("merchant", message.merchant, policy.merchants))
    purpose = policy.purposes.get(message.purpose)
    if purpose is None:
        raise InvalidMessage("purpose", _unknown("purpose", message.purpose, policy.purposes))
    _check_purchase(message, purpose.purpose_class, config)
    _check_zone(message.timezone)
    point = _contact_point(message, config)
    _check_channel(message, point.channel, config)
    content = message.content
    if message.dedupe_key is not None:
        dedupe_key = fingerprints.of("dedupe key", message.dedupe_key)
    else:
        dedupe_key = fingerprints.of("content", normalised(content.text))
    return Prepared(
        message=message,
        point=point,
        purpose_class=purpose.purpose_class,
        dedupe_key=dedupe_key,
        request_fingerprint=fingerprints.of("request", *_what_is_asked(message, point)),
    )


def accept(
    conn: sa.Connection,
    batch: Sequence[Prepared],
    fingerprints: Fingerprints,
    now: datetime,
    *,
    queue_within: timedelta,
) -> list[Receipt]:
    """Insert messages in the transaction at hand; return their receipts, in order.

    A request whose idempotency key is known gets the first receipt again. `queue_within` is how long the scheduler
    leaves new messages to whoever puts them on the queue.

    Raises `IdempotencyConflict` for a key that was used for other content, before anything is inserted, and
    `IntegrityError` where another transaction uses the same key just now.
    """
    known = messages.by_keys(conn, [prepared.name for prepared in batch if prepared.name is not None])
    receipts: list[Receipt] = []
    new: list[tuple[str, Prepared]] = []
    for prepared in batch:
        earlier = known.get(prepared.name) if prepared.name is not None else None
        if earlier is not None:
            receipts.append(_same_again(prepared, *earlier))
            continue
        message_id = new_id("msg")
        new.append((message_id, prepared))
        receipts.append(Receipt(message_id=message_id, status=Status.QUEUED))
        if prepared.name is not None:
            known[prepared.name] = (message_id, Status.QUEUED, prepared.request_fingerprint)
    if new:
        _insert(conn, new, fingerprints, now, queue_within)
    return receipts


def _insert(
    conn: sa.Connection,
    new: Sequence[tuple[str, Prepared]],
    fingerprints: Fingerprints,
    now: datetime,
    queue_within: timedelta,
) -> None:
    points = people.take_in(conn, fingerprints, [prepared.point for _, prepared in new], now)
    named = [prepared.message.purchase for _, prepared in new if prepared.message.purchase is not None]
    names = purchases.ensure(conn, named, now)
    rows, entries = [], []
    for message_id, prepared in new:
        purchase = prepared.message.purchase
        name_id, purchase_id = names[(purchase.seller, purchase.order_id)] if purchase else (None, None)
        row = _row(message_id, prepared, points.ids[prepared.point], name_id, now, queue_within)
        if prepared.point in points.erased:
            row |= messages.STRIPPED  # it will be denied, and nothing about an erased person may pile up
        rows.append(row)
        entries.append(_entry(row, prepared, purchase_id, now))
    messages.insert(conn, rows)
    journal.append(conn, entries)
    reach(FailPoint.SUBMIT_INSERTED)


def _row(
    message_id: str,
    prepared: Prepared,
    contact_point_id: str,
    purchase_name_id: str | None,
    now: datetime,
    queue_within: timedelta,
) -> dict[str, Any]:
    message, content = prepared.message, prepared.message.content
    subject, html = (content.subject, content.html) if isinstance(content, Email) else (None, None)
    waits = message.send_after is not None and message.send_after > now
    due_at = message.send_after if waits else now
    return {
        "message_id": message_id,
        "merchant": message.merchant,
        "purpose": message.purpose,
        "purpose_class": prepared.purpose_class.value,
        "role": message.role,
        "channel": prepared.point.channel.value,
        "contact_point_id": contact_point_id,
        "deliver_to": content.to.strip(),
        "subject": subject,
        "text": content.text,
        "html": html,
        "dedupe_key": prepared.dedupe_key,
        "idempotency_key": message.idempotency_key,
        "request_fingerprint": prepared.request_fingerprint,
        "purchase_name_id": purchase_name_id,
        "timezone": message.timezone,
        "language": message.language,
        "metadata": json.dumps(dict(message.metadata), ensure_ascii=False) if message.metadata else "{}",
        "submitted_at": now,
        "send_after": message.send_after,
        "expires_at": message.expires_at,
        "status": Status.QUEUED.value,
        "due_at": due_at,
        "sweep_at": due_at if waits else now + queue_within,
        "attempts": 0,
    }


def _entry(row: Mapping[str, Any], prepared: Prepared, purchase_id: str | None, now: datetime) -> journal.Row:
    message, point = prepared.message, prepared.point
    return journal.Row(
        kind=journal.Kind.SUBMITTED,
        at=now,
        message_id=row["message_id"],
        contact_point_id=row["contact_point_id"],
        purchase_id=purchase_id,
        merchant=message.merchant,
        purpose=message.purpose,
        channel=point.channel.value,
        body={
            "role": message.role,
            "class": prepared.purpose_class.value,
            "request_fingerprint": prepared.request_fingerprint,
            "dedupe_key": prepared.dedupe_key,
            "send_after": _shown(message.send_after),
            "expires_at": _shown(message.expires_at),
            "timezone": message.timezone,
            "language": message.language,
            "country": point.country,
            "zones": list(point.zones),
            **purchases.dates_told(message.purchase),
        },
    )


def _shown(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _same_again(prepared: Prepared, message_id: str, status: Status, fingerprint: str) -> Receipt:
    if fingerprint != prepared.request_fingerprint:
        raise IdempotencyConflict(prepared.message.merchant, message_id)
    return Receipt(message_id=message_id, status=status, duplicate=True)


def _what_is_asked(message: Message, point: ContactPoint) -> list[str]:
    """What makes two requests the same: who writes what to whom, about which purchase.

    Times and metadata are left out: a request that is handed over again after a fault may well carry new ones.
    """
    content, purchase = message.content, message.purchase
    parts: list[str | None] = [
        message.merchant,
        message.purpose,
        message.role,
        str(point),
        content.subject if isinstance(content, Email) else None,
        content.text,
        content.html if isinstance(content, Email) else None,
        purchase.seller if purchase else None,
        purchase.order_id if purchase else None,
        message.dedupe_key,
    ]
    return ["null" if part is None else _ENCODER.encode(part) for part in parts]


def _contact_point(message: Message, config: Config) -> ContactPoint:
    if isinstance(message.content, Email):
        return ContactPoint.email(message.content.to, name="content.to")
    return ContactPoint.sms(
        message.content.to, region=config.settings.gateway.default_region, name="content.to"
    )


def _check_channel(message: Message, channel: Channel, config: Config) -> None:
    if config.settings.channel(channel) is None:
        raise InvalidMessage("content", f"there is no [channels.{channel}] in the config")
    if config.settings.sender(message.merchant, channel) is None:
        key = "email_from" if channel is Channel.EMAIL else "sms_sender"
        raise InvalidMessage(
            "merchant", f"{message.merchant!r} has no {key} in the config, to send {channel} as"
        )


def _check_purchase(message: Message, purpose_class: PurposeClass, config: Config) -> None:
    if message.purchase is None:
        if purpose_class is PurposeClass.REVIEW:
            raise InvalidMessage("purchase", "a review request must say which purchase it is about")
        return
    if message.purchase.seller not in config.policy.merchants:
        seller = message.purchase.seller
        raise InvalidMessage("purchase.seller", _unknown("merchant", seller, config.policy.merchants))


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no {what} {name!r} in the config{hint}"


def _check_zone(zone: str | None) -> None:
    if zone is None:
        return
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidMessage("timezone", "not an IANA time zone; write it as Europe/Copenhagen") from error
