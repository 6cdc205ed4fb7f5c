"""From what people write in a file to a `Message`.

Two forms, which mean the same: nested, as `Message(...)` itself is built, and flat, with all fields side by side.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from notifygate.cli.records import Fault, Unreadable, shown_name

if TYPE_CHECKING:
    from notifygate.message import Email, Message, Purchase, Sms
    from notifygate.policy import Policy

CONTENT = ("channel", "to", "subject", "text", "html")
PURCHASE = ("seller", "order_id", "purchased_at", "delivered_at")
_OWN = (
    "merchant",
    "purpose",
    "role",
    "idempotency_key",
    "dedupe_key",
    "send_after",
    "expires_at",
    "timezone",
    "language",
)
COLUMNS = (*_OWN[:3], *CONTENT, *PURCHASE, *_OWN[3:])
"""What a CSV file may have as columns."""

FIELDS = (*COLUMNS, "content", "purchase", "metadata")
"""What a JSON object may have as fields."""

_REQUIRED = ("merchant", "purpose", "to", "text")
_INSTANTS = ("send_after", "expires_at")
_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class Wrong(Exception):
    """A record is no message; `fault` says why."""

    def __init__(self, name: str, problem: str) -> None:
        self.fault = Fault(name, problem)
        super().__init__(str(self.fault))


def check_header(header: Sequence[str]) -> None:
    """Check the columns of a CSV file. Raises `Unreadable` naming the column at fault."""
    named = [name for name in header if not name.startswith("_")]
    for place, name in enumerate(header, 1):
        if name not in COLUMNS and not name.startswith("_"):
            raise Unreadable(f"column {place}, {shown_name(name)}: {_unknown(name, COLUMNS)}")
        if header.index(name) != place - 1:
            raise Unreadable(f"column {place}, {name}: is there twice")
    if missing := [name for name in _REQUIRED if name not in named]:
        raise Unreadable(f"the first line must name the columns; missing: {', '.join(missing)}")


def message_of(fields: Mapping[str, Any], policy: Policy) -> Message:
    """The message that a record stands for. Fields that begin with _ are passed over.

    Raises `Wrong`, at the field as it was written.
    """
    from notifygate.errors import InvalidMessage
    from notifygate.message import Message

    given = {name: value for name, value in fields.items() if not name.startswith("_") and value is not None}
    _refuse_unknown(given, FIELDS)
    content, names = _part(given, "content", CONTENT)
    purchase, purchase_names = _part(given, "purchase", PURCHASE)
    names |= purchase_names
    own: dict[str, Any] = {name: given[name] for name in (*_OWN, "metadata") if name in given}
    check_named(own, "merchant", policy.merchants)
    check_named(own, "purpose", policy.purposes)
    for name in _INSTANTS:
        own[name] = _instant(name, own.get(name))
    try:
        made = _content(content, names)
        bought = _purchase(purchase, names, policy) if purchase else None
        return Message(content=made, purchase=bought, **own)
    except InvalidMessage as error:
        raise Wrong(names.get(error.field, error.field), error.problem) from error


def _part(
    given: Mapping[str, Any], whole: str, parts: Collection[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of a part, wherever they stand; and how each was written, by its name in `Message`."""
    nested = given.get(whole, {})
    if not isinstance(nested, dict):
        raise Wrong(whole, f"an object is wanted, not {_kind(nested)}")
    _refuse_unknown(nested, parts, within=whole)
    found = {name: value for name, value in nested.items() if value is not None}
    names = {f"{whole}.{name}": f"{whole}.{name}" if whole in given else name for name in parts}
    for name in parts:
        if name in given:
            if name in found:
                raise Wrong(name, f"is given twice; it is in {whole} as well")
            found[name] = given[name]
            names[f"{whole}.{name}"] = name
    return found, names


def _content(content: Mapping[str, Any], names: Mapping[str, str]) -> Email | Sms:
    from notifygate.message import Email, Sms

    for name in ("to", "text"):
        if name not in content:
            raise Wrong(names[f"content.{name}"], "missing")
    for name in ("to", "text", "subject", "html", "channel"):
        if name in content and not isinstance(content[name], str):
            raise Wrong(names[f"content.{name}"], f"text is wanted, not {_kind(content[name])}")
    channel, to = _channel(content, names)
    if channel == "sms" and "channel" not in content and not any(mark.isdigit() for mark in to):
        raise Wrong(names["content.to"], "is neither an email address nor a phone number")
    if channel == "email":
        if "subject" not in content:
            raise Wrong(names["content.subject"], "missing; an email needs one")
        return Email(to=to, subject=content["subject"], text=content["text"], html=content.get("html"))
    for name in ("subject", "html"):
        if name in content:
            raise Wrong(
                names[f"content.{name}"], "a text message has none; leave it out, or say channel email"
            )
    return Sms(to=to, text=content["text"])


def _channel(content: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str]:
    """The channel and the address. Where no channel is said, the address tells."""
    to: str = content["to"]
    prefix, colon, rest = to.partition(":")
    told = prefix.strip() if colon and prefix.strip() in ("sms", "email") else None
    said = content.get("channel")
    if said not in (None, "sms", "email"):
        raise Wrong(names["content.channel"], "must be sms or email")
    if said and told and said != told:
        raise Wrong(names["content.channel"], f"says {said}, and {names['content.to']} begins with {told}:")
    return said or told or ("email" if "@" in to else "sms"), rest if told else to


def _purchase(purchase: Mapping[str, Any], names: Mapping[str, str], policy: Policy) -> Purchase:
    from notifygate.message import Purchase

    values = dict(purchase)
    for name in ("seller", "order_id"):
        if name not in values:
            raise Wrong(names[f"purchase.{name}"], "missing; a purchase has a seller and an order_id")
        if not isinstance(values[name], str):
            raise Wrong(names[f"purchase.{name}"], f"text is wanted, not {_kind(values[name])}")
    check_named(values, "seller", policy.merchants, shown=names["purchase.seller"], what="merchant")
    for name in ("purchased_at", "delivered_at"):
        values[name] = _instant(names[f"purchase.{name}"], values.get(name))
    return Purchase(**values)


def _instant(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise Wrong(name, f"an instant such as 2026-05-01T12:00:00+02:00 is wanted, not {_kind(value)}")
    try:
        found = datetime.fromisoformat(value.strip())
    except ValueError as error:
        raise Wrong(name, "no instant; write it as 2026-05-01T12:00:00+02:00") from error
    if found.utcoffset() is None:
        raise Wrong(name, "has no time zone; write it as 2026-05-01T12:00:00+02:00 or ...Z")
    return found


def check_named(
    given: Mapping[str, Any],
    name: str,
    known: Iterable[str],
    *,
    shown: str | None = None,
    what: str | None = None,
) -> None:
    """Check a name against the config here, because the gateway's own error repeats it: in a file whose columns
    are shifted it may be an address.
    """
    from notifygate.config.values import nearest

    shown = shown or name
    if name not in given:
        raise Wrong(shown, "missing")
    value = given[name]
    if not isinstance(value, str):
        raise Wrong(shown, f"text is wanted, not {_kind(value)}")
    if value not in set(known):
        near = nearest(value, known)
        hint = f'did you mean "{near}"?' if near else f"there are {', '.join(sorted(known)) or 'none'}"
        raise Wrong(shown, f"no such {what or name} in the config; {hint}")


def _refuse_unknown(given: Mapping[str, Any], known: Collection[str], *, within: str = "") -> None:
    for name in given:
        if name not in known:
            shown = shown_name(name)
            raise Wrong(f"{within}.{shown}" if within else shown, _unknown(name, known))


def _unknown(name: str, known: Collection[str]) -> str:
    from notifygate.config.values import nearest

    near = nearest(name, known)
    return (
        f'unknown field; did you mean "{near}"?' if near else f"unknown field; known are {', '.join(known)}"
    )


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)
