"""The tables of a config file, as frozen models: every key, its form and its default.

Cross references between tables are not checked here (see `crosschecks`), so that one fault never hides
another. A field's description says what would be right, for the fault that it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, SecretStr

from notifygate.address import Channel
from notifygate.config import values
from notifygate.policy import Accepts, MerchantKind, Over, Per, PurposeClass

Count = Annotated[int, PlainValidator(values.whole(1))]
Domain = Annotated[str, PlainValidator(values.domain)]
ExistingFile = Annotated[Path, PlainValidator(values.existing)]
Header = Annotated[str, AfterValidator(values.header_name)]
Host = Annotated[str, PlainValidator(values.host)]
Json = Annotated[dict[str, Any] | list[Any], PlainValidator(values.json_document)]
Language = Annotated[str, AfterValidator(values.language)]
Line = Annotated[str, PlainValidator(values.line)]
Location = Annotated[Path, PlainValidator(values.location)]
Port = Annotated[int, PlainValidator(values.whole(1, 65_535))]
Status = Annotated[int, PlainValidator(values.whole(200, 299))]
Period = Annotated[timedelta, PlainValidator(values.period)]
Span = Annotated[timedelta, PlainValidator(values.span)]
Switch = Annotated[bool, PlainValidator(values.switch)]
Wait = Annotated[timedelta, PlainValidator(values.wait)]
WebUrl = Annotated[str, PlainValidator(values.web_url)]
Zone = Annotated[str, PlainValidator(values.zone)]

KindName = Annotated[MerchantKind, BeforeValidator(values.one_of(MerchantKind))]
ClassName = Annotated[PurposeClass, BeforeValidator(values.one_of(PurposeClass))]
ChannelName = Annotated[Channel, BeforeValidator(values.one_of(Channel))]
Ground = Annotated[Accepts, BeforeValidator(values.one_of(Accepts))]

FOOTERS: Mapping[str, str] = {
    "default": "{merchant} asks about your order {order} from {seller}.",
    "da": "{merchant} spørger om din ordre {order} hos {seller}.",
    "de": "{merchant} fragt nach Ihrer Bestellung {order} bei {seller}.",
    "nb": "{merchant} spør om din ordre {order} hos {seller}.",
    "sv": "{merchant} frågar om din order {order} hos {seller}.",
}
"""The line that a review request gets where its text does not name sender, seller and purchase."""

REVIEW_DOMAINS: tuple[str, ...] = (
    "bazaarvoice.com",
    "ekomi.com",
    "ekomi.de",
    "feefo.com",
    "g.page",
    "judge.me",
    "kiyoh.com",
    "provenexpert.com",
    "resellerratings.com",
    "reviews.co.uk",
    "reviews.io",
    "search.google.com",
    "sitejabber.com",
    "tripadvisor.com",
    "trustedshops.com",
    "trustedshops.de",
    "trustpilot.com",
    "trustpilot.dk",
    "yelp.com",
    "yotpo.com",
)
"""Sites where customers leave reviews: a service message that points at one is mis-declared."""

_PORTS = {"none": 25, "starttls": 587, "tls": 465}
_SPAN_HINT = 'a span such as "7d"'
_COUNT_HINT = "a whole number of at least 1"


class Table(BaseModel):
    """A table of the file. Unknown keys are faults, and values never show up in pydantic's own messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class GatewaySettings(Table):
    """`[gateway]`: where the ledger is, what carries the work, and what is assumed where nothing is said.

    `ledger` and `broker` may hold a password: show `ledger_shown` and `broker_shown` instead. `secret` keys
    the fingerprints in the ledger.
    """

    ledger: Annotated[str, PlainValidator(values.ledger)] = Field(
        "sqlite:///notifygate.db", validate_default=True, repr=False
    )
    broker: Annotated[str, PlainValidator(values.broker)] = Field("embedded", repr=False)
    default_region: Annotated[str, PlainValidator(values.region)] | None = None
    default_timezone: Zone | None = None
    data_dir: Location = Field(Path(".notifygate"), validate_default=True)
    secret: SecretStr | None = None
    secret_file: Location | None = None

    @property
    def ledger_shown(self) -> str:
        """The ledger's URL with any password masked."""
        return values.masked(self.ledger)

    @property
    def broker_shown(self) -> str:
        """The broker's URL with any password masked."""
        return values.masked(self.broker)


class DeliverySettings(Table):
    """`[delivery]`: how failed hand-offs are tried again, and when work counts as lost.

    A temporary failure is tried again after `retry_after`, then after longer and longer waits of at most
    `retry_at_most`, up to `max_attempts` in all. A reservation is worked off within its `lease`; what was
    queued and not taken up is queued again after `requeue_after`.
    """

    max_attempts: Count = 32
    retry_after: Span = timedelta(seconds=30)
    retry_at_most: Span = timedelta(hours=1)
    lease: Span = timedelta(minutes=5)
    requeue_after: Span = timedelta(seconds=60)


class MonitoringSettings(Table):
    """`[monitoring]`: what an operator sees of the workers.

    Without `listen` there is no endpoint for health and metrics, and nothing is measured.
    """

    listen: Annotated[values.Listen, PlainValidator(values.listen)] | None = None
    log_format: Annotated[Literal["text", "json"], BeforeValidator(values.one_of(("text", "json")))] = "text"


class LogSettings(Table):
    """`[log]`: how the send log proves that it was not altered.

    `origin` is what its checkpoints call it, by default after the ledger's id. `key` signs them: where none is given,
    one is made in `data_dir`. The newest checkpoint is copied to `checkpoint_file`.
    """

    origin: Annotated[str, PlainValidator(values.origin)] | None = None
    key: Annotated[SecretStr, PlainValidator(values.signing_key)] | None = None
    key_file: Location | None = None
    checkpoint_every: Span = timedelta(minutes=1)
    checkpoint_file: Location | None = None


class SmtpSettings(Table):
    """An SMTP server.

    Where no port is given it is the usual one: 25 without TLS, 587 with STARTTLS (RFC 6409), 465 with TLS
    from the start (RFC 8314).
    """

    driver: Literal["smtp"]
    host: Host = Field(description='the name of the mail server, such as "smtp.example.com"')
    tls: Annotated[
        Literal["none", "starttls", "tls"], BeforeValidator(values.one_of(("none", "starttls", "tls")))
    ] = "starttls"
    port: Port = Field(default_factory=lambda known: _PORTS[known["tls"]])
    username: Line | None = None
    password: SecretStr | None = None
    password_file: Location | None = None
    timeout: Span = timedelta(seconds=30)
    ca_file: ExistingFile | None = None


class HttpSettings(Table):
    """A gateway for text messages that is spoken to by HTTP, with templates for what it wants.

    At most one of `form`, `json_body` (`json` in the file) and `body` is set. Templates name a secret as
    `{secret.NAME}`. `accepted_statuses` is None for every 2xx. `lookup_url` is a template too: where the provider
    is asked what became of a message in doubt.
    """

    driver: Literal["http"]
    url: WebUrl = Field(description='the address of the gateway, such as "https://sms.example.com/send"')
    method: Annotated[
        Literal["GET", "POST", "PUT"], BeforeValidator(values.one_of(("GET", "POST", "PUT")))
    ] = "POST"
    query: Mapping[str, str] = Field(default_factory=dict)
    headers: Mapping[Header, Annotated[str, PlainValidator(values.header_value)]] = Field(
        default_factory=dict
    )
    form: Mapping[str, str] | None = None
    json_body: Json | None = Field(None, alias="json")
    body: str | None = None
    username: Line | None = None
    password: SecretStr | None = None
    password_file: Location | None = None
    secrets: Mapping[str, SecretStr] = Field(default_factory=dict)
    secrets_files: Mapping[str, Location] = Field(default_factory=dict)
    accepted_statuses: tuple[Status, ...] | None = None
    provider_id_path: Line | None = None
    lookup_url: WebUrl | None = None
    timeout: Span = timedelta(seconds=30)
    ca_file: ExistingFile | None = None


class KannelSettings(Table):
    """A Kannel SMS gateway, by its sendsms interface."""

    driver: Literal["kannel"]
    url: WebUrl = Field(description='such as "http://localhost:13013/cgi-bin/sendsms"')
    username: Line = Field(description="the name of a sendsms-user in Kannel's own config")
    password: SecretStr | None = None
    password_file: Location | None = None
    timeout: Span = timedelta(seconds=30)
    ca_file: ExistingFile | None = None


class FileSettings(Table):
    """Hand-offs are appended to a file, one JSON object a line; nothing leaves the machine."""

    driver: Literal["file"]
    path: Location = Field(description='a file to append to, such as "outbox.jsonl"')


class ConsoleSettings(Table):
    """Hand-offs are printed; nothing leaves the machine."""

    driver: Literal["console"]


class NullSettings(Table):
    """Hand-offs are accepted and forgotten; nothing leaves the machine."""

    driver: Literal["null"]


EmailSettings = Annotated[
    SmtpSettings | FileSettings | ConsoleSettings | NullSettings, Field(discriminator="driver")
]
SmsSettings = Annotated[
    HttpSettings | KannelSettings | FileSettings | ConsoleSettings | NullSettings,
    Field(discriminator="driver"),
]


class ChannelsTable(Table):
    """`[channels]`: how messages leave, by channel. A channel that is not named cannot be sent on."""

    email: EmailSettings | None = None
    sms: SmsSettings | None = None


class GroupTable(Table):
    """`[groups.NAME]`."""

    name: Line = Field(description='how customers know the group, such as "Interflora"')


class MerchantTable(Table):
    """`[merchants.NAME]`: an organisation that sends, and under what senders."""

    name: Line = Field(description='how customers know it, such as "Cykelpartner.dk"')
    kind: KindName = Field(description=values.either(MerchantKind))
    group: str | None = None
    asks_for_reviews: Switch = False
    email_from: Annotated[str, PlainValidator(values.email_from)] | None = Field(None, repr=False)
    sms_sender: Annotated[str, PlainValidator(values.sms_sender)] | None = None
    timezone: Zone | None = None


class CapTable(Table):
    """One frequency cap of a purpose."""

    limit: Count = Field(description=_COUNT_HINT)
    window: Span = Field(description=_SPAN_HINT)
    per: Annotated[Per, BeforeValidator(values.one_of(Per))] = Field(description=values.either(Per))
    purposes: tuple[str, ...] = ()
    classes: tuple[ClassName, ...] = ()
    channels: tuple[ChannelName, ...] = ()
    over: Annotated[Over, BeforeValidator(values.one_of(Over))] = Over.DENY


class PurposeTable(Table):
    """`[purposes.NAME]`: why messages are sent, and on what conditions."""

    purpose_class: ClassName = Field(alias="class", description=values.either(PurposeClass))
    permission: Annotated[tuple[Ground, ...], BeforeValidator(values.permission)] = Field(
        description='"none" (class service only) or a list such as ["consent", "soft_opt_in"]'
    )
    dedupe: Span | None = None
    caps: tuple[CapTable, ...] = ()
    quiet_hours: str | None = None
    audience: Annotated[
        Literal["buyer", "recipient"], BeforeValidator(values.one_of(("buyer", "recipient")))
    ] = "buyer"
    on_doubt: Annotated[Literal["hold", "resend"], BeforeValidator(values.one_of(("hold", "resend")))] = (
        "hold"
    )
    within: Span = timedelta(days=14)
    confirms: Switch = False


class QuietHoursTable(Table):
    """`[quiet_hours.NAME]`: when messages may go out."""

    allow: Mapping[
        Annotated[str, AfterValidator(values.day_key)],
        Annotated[values.Windows, PlainValidator(values.windows)],
    ] = Field(description='a table of days and windows, such as { mon-sat = "09:00-20:00" }')
    holidays: Switch = False


class LimitTable(Table):
    """So many in a rolling window."""

    limit: Count = Field(description=_COUNT_HINT)
    window: Span = Field(description=_SPAN_HINT)

    @classmethod
    def of(cls, limit: int, window: str) -> Self:
        """A limit with its window as the file writes it."""
        return cls.model_validate({"limit": limit, "window": window})


class ReviewRequestsTable(Table):
    """`[review_requests]`: how often, when and by whom customers are asked. DESIGN.md section 6."""

    asks_per_purchase: Count = 1
    per_person: LimitTable = Field(default_factory=lambda: LimitTable.of(1, "30d"))
    per_person_and_merchant: LimitTable = Field(default_factory=lambda: LimitTable.of(1, "180d"))
    precedence: tuple[KindName, ...] = (MerchantKind.SHOP, MerchantKind.PLATFORM, MerchantKind.CARRIER)
    yield_for: Annotated[timedelta | None, PlainValidator(values.yields)] = Field(None, alias="yield")
    delay: Wait = timedelta(days=7)
    delay_without_delivery: Wait = timedelta(days=30)
    expires: Span = timedelta(days=60)
    hold_for_cases: Switch = False
    footer: Annotated[
        Mapping[Language, Annotated[str, PlainValidator(values.footer)]], AfterValidator(values.footers)
    ] = FOOTERS


class ContentTable(Table):
    """`[content]`: what gives a message away as advertising or a review request."""

    review_domains: tuple[Domain, ...] = REVIEW_DOMAINS
    promotion_markers: tuple[Line, ...] = ()


class RetentionSettings(Table):
    """`[retention]`: how long personal data is kept. What is not set is kept until somebody erases it.

    `texts` counts from when a message ended, `contact_points` from when a person was last heard of, `consent_texts`
    from when a consent event was recorded. `send_log` is for whole months of the send log.
    """

    texts: Period | None = None
    contact_points: Period | None = None
    consent_texts: Period | None = None
    send_log: Period | None = None


class Tables(Table):
    """The whole file."""

    gateway: GatewaySettings
    channels: ChannelsTable
    delivery: DeliverySettings
    monitoring: MonitoringSettings
    log: LogSettings
    retention: RetentionSettings
    review_requests: ReviewRequestsTable
    content: ContentTable
    groups: dict[str, GroupTable] = Field(default_factory=dict)
    merchants: dict[str, MerchantTable] = Field(default_factory=dict)
    purposes: dict[str, PurposeTable] = Field(default_factory=dict)
    quiet_hours: dict[str, QuietHoursTable] = Field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = Field(default_factory=dict)
