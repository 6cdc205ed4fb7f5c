"""How the values of a scenario file are written, and the tables that steps and questions share.

Names are looked up in the policy, and contact points parsed, while a file is read: so a slip of the pen is a
fault at its key, and never a scenario that passes because it asks about nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, ValidationInfo, model_validator

from notifygate.address import Channel, ContactPoint
from notifygate.config import Config, values
from notifygate.config.schema import Table
from notifygate.decision import Outcome
from notifygate.errors import InvalidContactPoint, InvalidMessage
from notifygate.message import Email, Message, Purchase, Sms, Status
from notifygate.policy import ANY, PurposeClass

INSTANT_HINT = "2026-03-02T10:00:00+01:00"

_EARLIEST, _LATEST = 2000, 2199  # zone and holiday data mean something within these years


def _instant(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise ValueError(  # noqa: TRY004  # pydantic takes no TypeError
            f"must be a date and a time with its offset from UTC, without quotes, such as {INSTANT_HINT}"
        )
    if value.utcoffset() is None:
        raise ValueError(
            f"has no offset from UTC, so it could be any of many instants; add it: {INSTANT_HINT}"
        )
    if not _EARLIEST <= value.year <= _LATEST:
        raise ValueError(f"must lie in the years {_EARLIEST} to {_LATEST}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text in quotes, and not empty")
    return value


def _contact(value: Any, info: ValidationInfo) -> ContactPoint:
    region = _config(info).settings.gateway.default_region
    try:
        return ContactPoint.parse(_text(value), region=region)
    except InvalidContactPoint as error:
        raise ValueError(error.problem) from error


def _pair(value: Any, info: ValidationInfo) -> tuple[ContactPoint, ContactPoint]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError('must be a list of two, such as ["email:anna@example.dk", "sms:+4520123456"]')
    return _contact(value[0], info), _contact(value[1], info)


def _merchant(value: Any, info: ValidationInfo) -> str:
    return _named("merchant", value, _config(info).policy.merchants)


def _purpose(value: Any, info: ValidationInfo) -> str:
    return _named("purpose", value, _config(info).policy.purposes)


def _party(value: Any, info: ValidationInfo) -> str:
    policy = _config(info).policy
    return _named("merchant or group", value, (*policy.merchants, *policy.groups), also=(ANY,))


def _scope(value: Any, info: ValidationInfo) -> str:
    return _named("purpose or class", value, (*_config(info).policy.purposes, *PurposeClass), also=(ANY,))


def _outcome(value: Any) -> Outcome:
    return Outcome(values.one_of(Outcome)(value))


def _status(value: Any) -> Status:
    return Status(values.one_of(Status)(value))


def _named(what: str, value: Any, known: Iterable[str], *, also: tuple[str, ...] = ()) -> str:
    name, options = _text(value), sorted(str(one) for one in known)
    if name in options or name in also:
        return name
    near = values.nearest(name, options)
    hint = f'did you mean "{near}"?' if near else f"there are {', '.join(options)}"
    raise ValueError(f"no {what} in the config is named {values.shown(name)}; {hint}")


def _config(info: ValidationInfo) -> Config:
    config = (info.context or {}).get("config")
    if not isinstance(config, Config):
        raise TypeError("scenarios are read against a config")
    return config


Instant = Annotated[datetime, PlainValidator(_instant)]
Text = Annotated[str, PlainValidator(_text)]
Contact = Annotated[ContactPoint, PlainValidator(_contact)]
Pair = Annotated[tuple[ContactPoint, ContactPoint], PlainValidator(_pair)]
MerchantName = Annotated[str, PlainValidator(_merchant)]
PurposeName = Annotated[str, PlainValidator(_purpose)]
Party = Annotated[str, PlainValidator(_party)]
Scope = Annotated[str, PlainValidator(_scope)]
ChannelName = Annotated[str, BeforeValidator(values.one_of(("sms", "email", ANY)))]
Zone = Annotated[str, PlainValidator(values.zone)]


class Form(Table):
    """A table of a scenario file. Unknown keys are faults; nothing is turned into what it is not."""

    model_config = ConfigDict(strict=True)


class PurchaseForm(Form):
    """A purchase, under the name that its seller or a carrier knows it by."""

    seller: MerchantName
    order_id: Text
    purchased_at: Instant | None = None
    delivered_at: Instant | None = None

    def purchase(self) -> Purchase:
        """The same, as the gateway takes it."""
        return Purchase(
            self.seller, self.order_id, purchased_at=self.purchased_at, delivered_at=self.delivered_at
        )


class RequestForm(Form):
    """A message that somebody would like to send."""

    merchant: MerchantName
    purpose: PurposeName
    to: Contact
    role: Annotated[Literal["buyer", "recipient"], BeforeValidator(values.one_of(("buyer", "recipient")))] = (
        "buyer"
    )
    subject: Text | None = None
    text: Text | None = None
    html: Text | None = None
    purchase: PurchaseForm | None = None
    idempotency_key: Text | None = None
    dedupe_key: Text | None = None
    send_after: Instant | None = None
    expires_at: Instant | None = None
    timezone: Zone | None = None
    language: Text | None = None

    def message(self, number: int) -> Message:
        """The same, as the gateway takes it. `number` makes the text one of its own where none is given.

        Raises `InvalidMessage` naming the key.
        """
        return Message(
            merchant=self.merchant,
            purpose=self.purpose,
            content=self._content(self.text or f"This is message {number} of the scenario."),
            role=self.role,
            purchase=self.purchase.purchase() if self.purchase else None,
            idempotency_key=self.idempotency_key,
            dedupe_key=self.dedupe_key,
            send_after=self.send_after,
            expires_at=self.expires_at,
            timezone=self.timezone,
            language=self.language,
        )

    def _content(self, text: str) -> Email | Sms:
        if self.to.channel is Channel.EMAIL:
            return Email(self.to.address, self.subject or "A message", text=text, html=self.html)
        for key in ("subject", "html"):
            if getattr(self, key) is not None:
                raise InvalidMessage(key, "a text message has none; leave it out")
        return Sms(self.to.address, text)


class Expect(Form):
    """The right answer. `reasons` in any order, but all of them; what is None is not looked at."""

    outcome: Annotated[Outcome, PlainValidator(_outcome)]
    reasons: list[Text] = Field(default_factory=list)
    until: Instant | None = None
    status: Annotated[Status, PlainValidator(_status)] | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.outcome is Outcome.ALLOW and self.reasons:
            raise ValueError('reasons belong to "deny" and "defer"; leave them out')
        if self.outcome is not Outcome.ALLOW and not self.reasons:
            raise ValueError(
                f'name the reasons of this {self.outcome}, such as reasons = ["consent_missing"]'
            )
        if self.until is not None and self.outcome is not Outcome.DEFER:
            raise ValueError('until belongs to "defer"; leave it out')
        return self
