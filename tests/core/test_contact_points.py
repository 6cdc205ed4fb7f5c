"""Contact points: what is one address, what is one mailbox or line, and what is no usable address at all."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import FrozenInstanceError, fields

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifygate.address import Channel, ContactPoint
from notifygate.errors import InvalidContactPoint, InvalidMessage, NotifygateError

ANNA = ContactPoint.email("anna@example.dk")
PHONE = ContactPoint.sms("+4520123456")


def problem(raw: str, *, region: str | None = None) -> str:
    """The sentence of the refusal."""
    with pytest.raises(InvalidContactPoint) as caught:
        ContactPoint.parse(raw, region=region)
    assert caught.value.field == "contact_point"
    return caught.value.problem


# Phone numbers.


@pytest.mark.parametrize(
    "raw",
    ["+4520123456", "+45 20 12 34 56", " +45 20-12-34-56 ", "+45(20)123456", "tel:+45-20-12-34-56",
     "\uff0b\uff14\uff15\uff12\uff10\uff11\uff12\uff13\uff14\uff15\uff16"],
)  # fmt: skip
def test_every_way_to_write_a_number_is_one_contact_point(raw: str) -> None:
    point = ContactPoint.parse(f"sms:{raw}")
    assert str(point) == "sms:+4520123456"
    assert point == PHONE
    assert hash(point) == hash(PHONE)


@pytest.mark.parametrize("raw", ["20123456", "20 12 34 56", "004520123456", "+4520123456"])
def test_a_number_without_country_code_is_read_in_the_default_region(raw: str) -> None:
    assert ContactPoint.sms(raw, region="DK") == PHONE


def test_a_number_with_a_country_code_ignores_the_default_region() -> None:
    assert ContactPoint.sms("+4520123456", region="US") == PHONE


def test_without_a_default_region_the_country_code_must_be_written() -> None:
    assert "country code" in problem("sms:20123456")


def test_a_number_knows_its_country_and_zones() -> None:
    assert (PHONE.channel, PHONE.country, PHONE.zones) == (Channel.SMS, "DK", ("Europe/Copenhagen",))
    assert len(ContactPoint.sms("+61412345678").zones) > 1
    assert "Etc/Unknown" not in ContactPoint.sms("+61412345678").zones


def _example(region: str, kind: int) -> str | None:
    number = phonenumbers.example_number_for_type(region, kind)
    if number is None:
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@pytest.mark.parametrize("region", ["DK", "SE", "DE", "GB", "US", "FR", "IN", "BR", "MX", "AR", "AU", "JP"])
def test_a_mobile_number_of_any_country_can_receive_sms(region: str) -> None:
    raw = _example(region, phonenumbers.PhoneNumberType.MOBILE)
    assert raw is not None
    point = ContactPoint.sms(raw)
    assert point.address == raw
    assert point.country == region


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("+4689123456", "a land line"),
        ("+493012345678", "a land line"),
        ("+4590123456", "a premium-rate number"),
        ("+4580123456", "a toll-free number"),
        ("+19002345678", "a premium-rate number"),
        ("+18002345678", "a toll-free number"),
        ("+447012345678", "a personal (follow-me) number"),
        ("+49180123456", "a shared-cost number"),
        ("+445512345678", "a company access number"),
        ("+4520123456 ext. 5", "extension"),
        ("+4520123456;ext=5", "extension"),
        ("+4511111", "not a phone number in use"),
        ("+99912345678", "not a phone number"),
        ("112", "not a phone number"),
        ("", "not a phone number"),
        ("hello", "not a phone number"),
        ("+", "not a phone number"),
        ("+45" + "2" * 300, "not a phone number"),
    ],
)
def test_a_number_that_cannot_receive_sms_is_refused_in_clear_words(raw: str, words: str) -> None:
    assert words in problem(f"sms:{raw}", region=None)


@pytest.mark.parametrize("raw", ["+4520123456\r\nBcc: x", "+4520123456\x00x", "+4520123456\u2028x"])
def test_a_number_with_anything_after_a_line_break_is_refused(raw: str) -> None:
    assert "not a phone number" in problem(f"sms:{raw}")


@pytest.mark.parametrize(
    "raw", ["Anna <+4520123456>", "\r\n+4520123456", "+4520123456x", "<b>+4520123456</b>"]
)
def test_whatever_stands_around_a_number_never_gets_into_the_address(raw: str) -> None:
    """The library reads the number out of its surroundings, and only that number is ever handed to a provider."""
    point = _parses(f"sms:{raw}", None)
    assert point in (None, PHONE)


@pytest.mark.parametrize(
    ("one", "other", "mailbox"),
    [
        ("+5215512345678", "+525512345678", "+525512345678"),
        ("+541123456789", "+5491123456789", "+5491123456789"),
    ],
    ids=["Mexico", "Argentina"],
)
def test_a_line_that_is_written_in_two_ways_is_two_contact_points_in_one_mailbox(
    one: str, other: str, mailbox: str
) -> None:
    points = [ContactPoint.sms(raw) for raw in (one, other)]
    assert points[0] != points[1]
    assert [point.address for point in points] == [one, other]
    assert {point.mailbox for point in points} == {mailbox}
    assert len({(point.country, point.zones) for point in points}) == 1


def test_other_countries_numbers_are_their_own_mailbox() -> None:
    for raw in ("+4520123456", "+12125552368", "+5511912345678", "+447911123456"):
        point = ContactPoint.sms(raw)
        assert point.mailbox == point.address == raw


# Email addresses.


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("Anna@Example.DK", "anna@example.dk"),
        (" anna@example.dk ", "anna@example.dk"),
        ("STRASSE@example.de", "strasse@example.de"),
        ("straße@example.de", "strasse@example.de"),
        ("anna@Bücher.example.com", "anna@xn--bcher-kva.example.com"),
        ("anna@xn--bcher-kva.example.com", "anna@xn--bcher-kva.example.com"),
        ("rene\u0301@example.dk", "ren\u00e9@example.dk"),
        ("REN\u00c9@example.dk", "ren\u00e9@example.dk"),
        ("anna+shop@example.dk", "anna+shop@example.dk"),
        ("a.n.n.a@gmail.com", "a.n.n.a@gmail.com"),
        ("o'hara@example.ie", "o'hara@example.ie"),
    ],
)
def test_an_email_address_has_one_canonical_form(raw: str, address: str) -> None:
    point = ContactPoint.parse(f"email:{raw}")
    assert str(point) == f"email:{address}"
    assert (point.channel, point.country, point.zones) == (Channel.EMAIL, None, ())


@pytest.mark.parametrize(
    ("raw", "mailbox"),
    [
        ("anna@example.dk", "anna@example.dk"),
        ("anna+shop@example.dk", "anna@example.dk"),
        ("Anna+a+b@example.dk", "anna@example.dk"),
        ("+tag@example.dk", "+tag@example.dk"),
        ("a.nna@example.dk", "a.nna@example.dk"),
        ("a.n.n.a@gmail.com", "anna@gmail.com"),
        ("A.Nna+shop@googlemail.com", "anna@gmail.com"),
        ("anna@GoogleMail.com", "anna@gmail.com"),
        ("anna@gmail.com.example.dk", "anna@gmail.com.example.dk"),
    ],
)
def test_variants_of_a_mailbox_share_it(raw: str, mailbox: str) -> None:
    assert ContactPoint.email(raw).mailbox == mailbox


def test_variants_of_a_mailbox_are_different_contact_points() -> None:
    variants = ["anna@gmail.com", "a.nna@gmail.com", "anna+x@gmail.com", "anna@googlemail.com"]
    points = {ContactPoint.email(raw) for raw in variants}
    assert len(points) == len(variants)
    assert len({point.mailbox for point in points}) == 1


INJECTIONS = [
    "anna@example.dk\r\nBcc: eve@example.dk",
    "anna@example.dk\nBcc: eve@example.dk",
    "anna\r@example.dk",
    "anna\x00@example.dk",
    "anna@example.dk\x00",
    "anna\u2028@example.dk",
    "anna@exam\u2028ple.dk",
    "anna\u2029@example.dk",
    "anna\x85@example.dk",
    "Anna <anna@example.dk>",
    '"Anna" <anna@example.dk>',
    "<anna@example.dk>",
    "anna@example.dk, eve@example.dk",
    "anna@example.dk;eve@example.dk",
    "anna@example.dk eve@example.dk",
    "mailto:anna@example.dk",
    '"anna\r\nx"@example.dk',
    "anna(comment)@example.dk",
]


@pytest.mark.parametrize("raw", INJECTIONS)
def test_what_could_smuggle_in_a_header_or_a_second_recipient_is_refused(raw: str) -> None:
    assert "not an email address" in problem(f"email:{raw}")


@pytest.mark.parametrize(
    "raw",
    ["", "anna", "@example.dk", "anna@", "anna@localhost", "anna@[127.0.0.1]", '"a b"@example.dk',
     "anna@example..dk", "anna@-example.dk", "a@b@example.dk", "a..b@example.dk", ".a@example.dk",
     "anna@" + "x" * 250 + ".dk", "\ud800@example.dk", "anna@\ud800.dk"],
)  # fmt: skip
def test_what_is_no_email_address_is_refused(raw: str) -> None:
    assert "not an email address" in problem(f"email:{raw}")


def test_an_address_that_folding_makes_too_long_for_an_address_is_refused() -> None:
    raw = "\u0149" * 110 + "@example.dk"  # 231 bytes as typed, 341 when folded; 254 is the most (RFC 5321)
    try:
        point = ContactPoint.email(raw)
    except InvalidContactPoint:
        return
    assert ContactPoint.parse(str(point)) == point


# Both.


@pytest.mark.parametrize(
    "raw",
    ["", "anna@example.dk", "+4520123456", "SMS:+4520123456", "fax:+4520123456", "sms", " sms:+4520123456"],
)
def test_the_channel_must_be_written(raw: str) -> None:
    assert "sms:NUMBER" in problem(raw)


def test_a_contact_point_parses_to_itself() -> None:
    assert ContactPoint.parse(ANNA) is ANNA


def test_a_contact_point_is_frozen_keyword_only_and_survives_pickling() -> None:
    with pytest.raises(FrozenInstanceError):
        ANNA.address = "eve@example.dk"  # type: ignore[misc]
    with pytest.raises(TypeError):
        ContactPoint(Channel.EMAIL, "a@b.dk", "a@b.dk")  # type: ignore[call-arg]
    for point in (ANNA, PHONE):
        assert pickle.loads(pickle.dumps(point)) == point


def test_the_repr_shows_no_address() -> None:
    assert "anna" not in repr(ANNA)
    assert "20123456" not in repr(PHONE)
    assert {field.name for field in fields(ContactPoint) if not field.repr} == {"address", "mailbox"}


@pytest.mark.parametrize(
    "raw",
    ["email:anna.secret@", "email:anna.secret@localhost", "email:Anna <anna.secret@example.dk>", "sms:secret",
     "sms:+45901234567890", "sms:+4590123456", "sms:+18002345678", "anna.secret@example.dk"],
)  # fmt: skip
def test_no_error_repeats_the_address(raw: str) -> None:
    with pytest.raises(InvalidContactPoint) as caught:
        ContactPoint.parse(raw)
    error: BaseException | None = caught.value
    while error is not None:
        shown = "".join(traceback.format_exception_only(error)) + repr(error)
        for part in ("secret", "901234", "800234"):
            assert part not in shown
        error = error.__cause__ or error.__context__


def test_the_error_names_the_argument_that_it_was_given() -> None:
    with pytest.raises(InvalidContactPoint) as caught:
        ContactPoint.email("anna", name="content.to")
    assert caught.value.field == "content.to"
    with pytest.raises(InvalidContactPoint) as caught:
        ContactPoint.sms("anna", name="content.to")
    assert caught.value.field == "content.to"
    assert isinstance(caught.value, InvalidMessage | NotifygateError | ValueError)


def _parses(raw: str, region: str | None) -> ContactPoint | None:
    try:
        return ContactPoint.parse(raw, region=region)
    except InvalidContactPoint:
        return None


some_text = st.text(max_size=40) | st.text(alphabet="+0123456789 ().-;ext=tel:@a.\r\n\x00", max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(("", "sms:", "email:")), some_text, st.sampled_from((None, "DK", "US", "ZZ", "")))
def test_parsing_any_text_gives_a_contact_point_or_invalid_contact_point(
    channel: str, text: str, region: str | None
) -> None:
    point = _parses(channel + text, region)
    if point is not None:
        assert ContactPoint.parse(str(point)) == point


local = st.text(
    alphabet=st.characters(categories=("L", "M", "N")) | st.sampled_from("abcXYZ.+-_'"),
    min_size=1,
    max_size=12,
)
domains = st.sampled_from(
    ("example.dk", "Gmail.com", "googlemail.com", "bücher.example.com", "ΣΊΣΥΦΟΣ.example.gr")
)


@settings(max_examples=300, deadline=None)
@given(local, domains)
def test_the_canonical_form_of_an_email_address_is_its_own_canonical_form(name: str, domain: str) -> None:
    point = _parses(f"email:{name}@{domain}", None)
    if point is not None:
        assert ContactPoint.parse(str(point)) == point
        assert ContactPoint.email(point.mailbox).mailbox == point.mailbox


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS)), st.integers(0, 10**11), st.integers(6, 11))
def test_the_canonical_form_of_a_number_is_its_own_canonical_form(
    region: str, digits: int, length: int
) -> None:
    point = _parses(f"sms:{digits:011d}"[: 4 + length], region)
    if point is not None:
        assert point.address.startswith("+")
        assert ContactPoint.parse(str(point)) == point
        assert ContactPoint.sms(point.mailbox).mailbox == point.mailbox


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_the_example_numbers_of_every_region_come_back_as_themselves(region: str) -> None:
    for kind in range(11):
        raw = _example(region, kind)
        point = _parses(f"sms:{raw}", None) if raw else None
        if point is not None:
            assert ContactPoint.parse(str(point)) == point
            assert point.address == raw
