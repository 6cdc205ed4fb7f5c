"""Contact points: one address on one channel, in canonical form.

A contact point is what consent, suppression and caps are about. It is the E.164 number, or the email address
with case-folded local part and IDNA domain. Several contact points may be variants of one mailbox or telephone
line (`anna+shop@`, dots at Gmail, the mobile prefixes of Mexico and Argentina): they share a `mailbox`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import PhoneNumberType
from phonenumbers.timezone import time_zones_for_number

from notifygate.errors import InvalidContactPoint

# Types that can be reached by SMS. Premium-rate, toll-free, shared-cost and personal numbers are left out:
# they cost the recipient or the sender extra, and are what toll fraud is made of.
_SMS_TYPES = frozenset(
    {
        PhoneNumberType.MOBILE,
        PhoneNumberType.FIXED_LINE_OR_MOBILE,
        PhoneNumberType.VOIP,
        PhoneNumberType.PAGER,
    }
)
_TYPE_NAMES = {
    PhoneNumberType.FIXED_LINE: "a land line",
    PhoneNumberType.PREMIUM_RATE: "a premium-rate number",
    PhoneNumberType.TOLL_FREE: "a toll-free number",
    PhoneNumberType.SHARED_COST: "a shared-cost number",
    PhoneNumberType.PERSONAL_NUMBER: "a personal (follow-me) number",
    PhoneNumberType.UAN: "a company access number",
    PhoneNumberType.VOICEMAIL: "a voice mailbox",
}
_UNKNOWN_ZONE = "Etc/Unknown"
_LONGEST_EMAIL = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets
_GMAIL_DOMAINS = frozenset({"gmail.com", "googlemail.com"})
# Mexico dropped the mobile prefix 1 in 2019 and both forms still circulate; Argentina writes mobiles with and
# without 9. ITU-T national numbering plan notices; phonenumbers resources, regions MX and AR.
_MEXICO_WITH_1 = re.compile(r"\+521(\d{10})")
_ARGENTINA_WITHOUT_9 = re.compile(r"\+54(?!9)(\d{10})")


class Channel(StrEnum):
    """A way to reach a person."""

    SMS = "sms"
    EMAIL = "email"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactPoint:
    """One address on one channel.

    `address` is canonical: two spellings of one contact point are equal. `mailbox` is the canonical address
    with variants folded: contact points that share it belong to one person from birth. `country` is an
    ISO 3166-1 code and `zones` are IANA names; both are empty for email, where the address does not tell.
    """

    channel: Channel
    address: str = field(repr=False)
    mailbox: str = field(repr=False)
    country: str | None = None
    zones: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.channel}:{self.address}"

    @classmethod
    def parse(cls, raw: str | ContactPoint, *, region: str | None = None) -> ContactPoint:
        """Read `sms:+4520123456` or `email:anna@example.dk`.

        `region` (ISO 3166-1 alpha-2) is assumed for phone numbers without a country code.
        Raises `InvalidContactPoint`, which never repeats the address.
        """
        if isinstance(raw, ContactPoint):
            return raw
        channel, colon, rest = raw.partition(":")
        if colon and channel == Channel.SMS:
            return cls.sms(rest, region=region)
        if colon and channel == Channel.EMAIL:
            return cls.email(rest)
        raise InvalidContactPoint("contact_point", "write sms:NUMBER or email:ADDRESS")

    @classmethod
    def sms(cls, raw: str, *, region: str | None = None, name: str = "contact_point") -> Self:
        """Read a phone number that can receive SMS; see `parse` for `region` and errors."""
        try:
            number = phonenumbers.parse(raw, region)
        except phonenumbers.NumberParseException as error:
            wanted = "write it with its country code, as +45 20 12 34 56"
            raise InvalidContactPoint(name, f"not a phone number; {wanted}") from error
        if number.extension:
            raise InvalidContactPoint(name, "a phone number with an extension cannot receive SMS")
        address = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        line = _line(address)
        # The folded form is the one that the numbering plan knows; validity and type are read off that.
        number = phonenumbers.parse(line, None)
        if not phonenumbers.is_valid_number(number):
            raise InvalidContactPoint(
                name, "not a phone number in use in its country; write it as +45 20 12 34 56"
            )
        kind = phonenumbers.number_type(number)
        if kind not in _SMS_TYPES:
            found = _TYPE_NAMES.get(kind, "a number of unknown type")
            raise InvalidContactPoint(name, f"{found} cannot receive SMS; give a mobile number")
        zones = tuple(zone for zone in time_zones_for_number(number) if zone != _UNKNOWN_ZONE)
        country = phonenumbers.region_code_for_number(number)
        return cls(channel=Channel.SMS, address=address, mailbox=line, country=country, zones=zones)

    @classmethod
    def email(cls, raw: str, *, name: str = "contact_point") -> Self:
        """Read an email address, without any DNS look-up; see `parse` for errors."""
        try:
            checked = validate_email(raw.strip(), check_deliverability=False)
        except EmailNotValidError as error:
            # The validator's own sentence may quote characters of the address, so it is not passed on.
            raise InvalidContactPoint(name, "not an email address; write it as name@domain") from error
        local = unicodedata.normalize("NFC", checked.local_part.casefold())
        domain = (checked.ascii_domain or checked.domain).lower()
        address = f"{local}@{domain}"
        if len(address.encode()) > _LONGEST_EMAIL:
            raise InvalidContactPoint(name, f"an email address has at most {_LONGEST_EMAIL} bytes")
        return cls(channel=Channel.EMAIL, address=address, mailbox=_mailbox(local, domain))


def _line(e164: str) -> str:
    """The telephone line behind a number: one form for numbers that are written in two."""
    if match := _MEXICO_WITH_1.fullmatch(e164):
        return f"+52{match[1]}"
    if match := _ARGENTINA_WITHOUT_9.fullmatch(e164):
        mobile = f"+549{match[1]}"
        number = phonenumbers.parse(mobile, None)
        if (
            phonenumbers.is_valid_number(number)
            and phonenumbers.number_type(number) == PhoneNumberType.MOBILE
        ):
            return mobile
    return e164


def _mailbox(local: str, domain: str) -> str:
    """The mailbox behind an address: no sub-address (RFC 5233), and Gmail's dots and second domain folded."""
    base = local.partition("+")[0] or local
    if domain in _GMAIL_DOMAINS:
        return f"{base.replace('.', '')}@gmail.com"
    return f"{base}@{domain}"
