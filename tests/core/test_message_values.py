"""Messages and their parts: frozen, checked as they are made, silent about addresses and texts."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from notifygate.errors import InvalidMessage, NotifygateError
from notifygate.message import (
    MAX_BODY_CHARACTERS,
    MAX_KEY_CHARACTERS,
    MAX_SMS_CHARACTERS,
    MAX_SUBJECT_CHARACTERS,
    WAITING,
    Email,
    Message,
    Purchase,
    Receipt,
    Sms,
    Status,
    check_aware,
)

AT = datetime(2026, 5, 12, 12, tzinfo=UTC)
NAIVE = datetime(2026, 5, 12, 12)  # noqa: DTZ001  # naive on purpose
EMAIL = Email(to="anna@example.dk", subject="Your order", text="It is on its way.", html="<p>It is.</p>")
SMS = Sms(to="+4520123456", text="It is on its way.")
PURCHASE = Purchase("m1", "1001", purchased_at=AT, delivered_at=AT + timedelta(days=1))
WHOLE: dict[str, Any] = {
    "merchant": "m1",
    "purpose": "review_request",
    "content": EMAIL,
    "role": "recipient",
    "purchase": PURCHASE,
    "idempotency_key": "review-1001",
    "dedupe_key": "key",
    "send_after": AT,
    "expires_at": AT + timedelta(days=1),
    "timezone": "Europe/Copenhagen",
    "language": "da",
    "metadata": {"order": 1001, "vip": True, "note": None, "sum": 1.5},
}
BARE: dict[str, Any] = {"merchant": "m1", "purpose": "order_update", "content": SMS}
VALUES = [
    EMAIL,
    SMS,
    PURCHASE,
    Message(**WHOLE),
    Message(**BARE),
    Receipt(message_id="m", status=Status.QUEUED),
]
CONTROLS = ["\r", "\n", "\r\n", "\x00", "\x0b", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"]


def fault(kind: Any, /, *args: Any, **values: Any) -> str:
    """The argument that the refusal names."""
    with pytest.raises(InvalidMessage) as caught:
        kind(*args, **values)
    return caught.value.field


def email(**changes: Any) -> dict[str, Any]:
    return {"to": "anna@example.dk", "subject": "Hello", "text": "Text"} | changes


def test_a_message_may_hold_everything_or_only_what_it_needs() -> None:
    message = Message(**BARE)
    assert (message.role, message.purchase, dict(message.metadata)) == ("buyer", None, {})
    assert Message(**WHOLE).metadata["order"] == 1001


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_frozen(value: Any) -> None:
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)
    with pytest.raises((AttributeError, TypeError)):
        value.another = 1


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_survive_pickling_and_copying_and_can_be_in_sets(value: Any) -> None:
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value), replace(value)):
        assert again == value
        assert type(again) is type(value)
        assert hash(again) == hash(value)
        assert len({value, again}) == 1


def test_the_first_two_fields_of_contents_and_purchases_may_be_given_by_position() -> None:
    assert Email("anna@example.dk", "Hello", text="Text") == Email(**email())
    assert Sms("+4520123456", "Text") == Sms(to="+4520123456", text="Text")
    assert Purchase("m1", "1001") == Purchase(seller="m1", order_id="1001")


def test_all_other_fields_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        Email("anna@example.dk", "Hello", "Text")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Purchase("m1", "1001", AT)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Message("m1", "order_update", SMS)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Receipt("m", Status.QUEUED)  # type: ignore[call-arg]


# Times.


@pytest.mark.parametrize("name", ["send_after", "expires_at"])
@pytest.mark.parametrize("value", [NAIVE, "2026-05-12", 5, date(2026, 5, 12)])
def test_a_message_takes_only_aware_datetimes(name: str, value: Any) -> None:
    assert fault(Message, **BARE | {name: value}) == name


@pytest.mark.parametrize("name", ["purchased_at", "delivered_at"])
@pytest.mark.parametrize("value", [NAIVE, "2026-05-12", 5, date(2026, 5, 12)])
def test_a_purchase_takes_only_aware_datetimes(name: str, value: Any) -> None:
    assert fault(Purchase, "m1", "1001", **{name: value}) == f"purchase.{name}"


class Nowhere(tzinfo):
    """A zone that does not know its offset: its datetimes are naive (Python docs, datetime)."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        return None


def test_a_zone_without_offset_is_no_zone() -> None:
    assert fault(check_aware, "at", AT.replace(tzinfo=Nowhere())) == "at"


def test_times_are_kept_in_utc_and_mean_the_same_instant() -> None:
    local = datetime(2026, 5, 12, 14, tzinfo=ZoneInfo("Europe/Copenhagen"))
    message = Message(**BARE | {"send_after": local})
    assert message.send_after == AT
    assert message.send_after is not None
    assert message.send_after.tzinfo is UTC
    assert check_aware("at", None) is None


@pytest.mark.parametrize(
    "value",
    [
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    ],
    ids=["after the last", "before the first"],
)
def test_a_time_that_utc_cannot_hold_is_refused_by_name(value: datetime) -> None:
    assert fault(check_aware, "at", value) == "at"


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_message_cannot_expire_before_it_may_be_sent(seconds: int) -> None:
    times = {"send_after": AT, "expires_at": AT + timedelta(seconds=seconds)}
    assert fault(Message, **BARE | times) == "expires_at"


# Texts.


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
@pytest.mark.parametrize("place", ["begin{}", "{}end", "mid{}dle"])
def test_a_header_holds_one_line(control: str, place: str) -> None:
    if place == "{}end":
        place = "end{}"
    text = place.format(control)
    assert fault(Email, **email(to=text)) == "content.to"
    assert fault(Email, **email(subject=text)) == "content.subject"
    assert fault(Sms, to=text, text="x") == "content.to"
    assert fault(Purchase, text, "1001") == "purchase.seller"
    assert fault(Purchase, "m1", text) == "purchase.order_id"
    for name in ("merchant", "purpose", "idempotency_key", "dedupe_key", "timezone", "language"):
        assert fault(Message, **BARE | {name: text}) == name


def test_a_text_may_have_many_lines_but_no_nul() -> None:
    assert Sms("+4520123456", "one\ntwo\r\n\tthree\u2028").text
    assert Email(**email(text="one\ntwo", html="<p>\n</p>")).html
    assert fault(Sms, "+4520123456", "a\x00b") == "content.text"
    assert fault(Email, **email(text="a\x00b")) == "content.text"
    assert fault(Email, **email(html="a\x00b")) == "content.html"


@pytest.mark.parametrize("empty", ["", " ", "\n\t"])
def test_nothing_is_empty(empty: str) -> None:
    assert fault(Email, **email(to=empty)) == "content.to"
    assert fault(Email, **email(subject=empty)) == "content.subject"
    assert fault(Email, **email(text=empty)) == "content.text"
    assert fault(Email, **email(html=empty)) == "content.html"
    assert fault(Sms, empty, "x") == "content.to"
    assert fault(Sms, "+4520123456", empty) == "content.text"
    assert fault(Purchase, empty, "1001") == "purchase.seller"
    assert fault(Message, **BARE | {"merchant": empty}) == "merchant"
    assert fault(Message, **BARE | {"idempotency_key": empty}) == "idempotency_key"


@pytest.mark.parametrize("half", ["\ud800", "a\udc00b", "\ude00\ud83d"], ids=ascii)
def test_half_a_surrogate_pair_is_refused_everywhere(half: str) -> None:
    assert fault(Email, **email(to=half)) == "content.to"
    assert fault(Email, **email(subject=half)) == "content.subject"
    assert fault(Email, **email(text=half)) == "content.text"
    assert fault(Email, **email(html=half)) == "content.html"
    assert fault(Sms, half, "x") == "content.to"
    assert fault(Sms, "+4520123456", half) == "content.text"
    assert fault(Purchase, "m1", half) == "purchase.order_id"
    assert fault(Message, **BARE | {"dedupe_key": half}) == "dedupe_key"


@pytest.mark.parametrize("metadata", [{"note": "\ud800"}, {"\udfff": 1}], ids=ascii)
def test_half_a_surrogate_pair_is_refused_in_metadata_too(metadata: dict[str, Any]) -> None:
    """It is kept in the ledger, and no database takes it: the error must come at the door."""
    assert fault(Message, **BARE | {"metadata": metadata}) == "metadata"


def test_characters_beyond_the_basic_plane_are_welcome() -> None:
    assert Sms("+4520123456", "Tillykke 🎂").text == "Tillykke 🎂"


@pytest.mark.parametrize(
    ("make", "longest", "named"),
    [
        (lambda text: Email(**email(to=text)), 320, "content.to"),
        (lambda text: Email(**email(subject=text)), MAX_SUBJECT_CHARACTERS, "content.subject"),
        (lambda text: Email(**email(text=text)), MAX_BODY_CHARACTERS, "content.text"),
        (lambda text: Email(**email(html=text)), MAX_BODY_CHARACTERS, "content.html"),
        (lambda text: Sms(text, "x"), 64, "content.to"),
        (lambda text: Sms("+4520123456", text), MAX_SMS_CHARACTERS, "content.text"),
        (lambda text: Purchase(text, "1001"), MAX_KEY_CHARACTERS, "purchase.seller"),
        (lambda text: Purchase("m1", text), MAX_KEY_CHARACTERS, "purchase.order_id"),
        (lambda text: Message(**BARE | {"merchant": text}), MAX_KEY_CHARACTERS, "merchant"),
        (lambda text: Message(**BARE | {"idempotency_key": text}), MAX_KEY_CHARACTERS, "idempotency_key"),
        (lambda text: Message(**BARE | {"dedupe_key": text}), MAX_KEY_CHARACTERS, "dedupe_key"),
    ],
    ids=[
        "to",
        "subject",
        "text",
        "html",
        "sms to",
        "sms text",
        "seller",
        "order",
        "merchant",
        "key",
        "dedupe",
    ],
)
def test_each_text_has_a_longest_length(make: Any, longest: int, named: str) -> None:
    assert make("x" * longest)
    assert fault(make, "x" * (longest + 1)) == named


@pytest.mark.parametrize("wrong", [None, 5, b"bytes", ["x"], True])
def test_texts_are_text(wrong: Any) -> None:
    assert fault(Email, **email(to=wrong)) == "content.to"
    assert fault(Email, **email(text=wrong)) == "content.text"
    assert fault(Sms, "+4520123456", wrong) == "content.text"
    assert fault(Message, **BARE | {"merchant": wrong}) == "merchant"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("content", "text"),
        ("content", None),
        ("content", {"to": "x"}),
        ("purchase", ("m1", "1001")),
        ("purchase", "1001"),
        ("role", "seller"),
        ("role", None),
        ("role", ["buyer"]),
        ("idempotency_key", 5),
        ("metadata", [("a", 1)]),
        ("metadata", "x"),
        ("metadata", {1: "a"}),
        ("metadata", {"a": ["b"]}),
        ("metadata", {"a": {"b": 1}}),
        ("metadata", {"a": b"x"}),
        ("metadata", None),
    ],
)
def test_whatever_is_of_the_wrong_kind_is_refused_by_name(name: str, wrong: Any) -> None:
    assert fault(Message, **BARE | {name: wrong}) == name


# Metadata.


def test_metadata_is_a_read_only_copy() -> None:
    given = {"a": 1}
    message = Message(**BARE | {"metadata": given})
    given["a"] = 2
    assert message.metadata["a"] == 1
    with pytest.raises(TypeError):
        message.metadata["a"] = 3  # type: ignore[index]
    unpickled = pickle.loads(pickle.dumps(message))
    with pytest.raises(TypeError):
        unpickled.metadata["a"] = 3


def test_messages_that_differ_in_metadata_are_unequal() -> None:
    one, other = (Message(**BARE | {"metadata": {"a": number}}) for number in (1, 2))
    assert one != other


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused_in_metadata(number: float) -> None:
    assert fault(Message, **BARE | {"metadata": {"a": number}}) == "metadata"


# Silence.


def test_no_repr_shows_an_address_or_a_text() -> None:
    for value in VALUES:
        shown = repr(value)
        for secret in ("anna", "20123456", "on its way", "Your order", "1001, 'vip'"):
            assert secret not in shown


def test_no_error_shows_an_address_or_a_text() -> None:
    secret = "secret\x00"
    for kind, args, values in (
        (Email, (), email(to=secret)),
        (Email, (), email(subject=secret)),
        (Email, (), email(text=secret)),
        (Sms, (secret, "x"), {}),
        (Sms, ("+4520123456", "secret" * 400), {}),
        (Sms, ("+4520123456", "secret\ud800"), {}),
        (Message, (), BARE | {"content": "secret"}),
        (Message, (), BARE | {"metadata": {"secret": ["secret"]}}),
    ):
        with pytest.raises(InvalidMessage) as caught:
            kind(*args, **values)
        assert "secret" not in str(caught.value) + repr(caught.value)


def test_the_error_is_one_of_ours_and_a_value_error() -> None:
    with pytest.raises(NotifygateError):
        Sms("", "x")
    with pytest.raises(ValueError, match="is empty"):
        Sms("", "x")


def test_only_what_was_not_decided_yet_is_waiting() -> None:
    assert {Status.QUEUED, Status.DEFERRED} == WAITING
