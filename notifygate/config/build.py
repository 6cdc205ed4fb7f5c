"""From checked tables to what the gateway goes by: settings for the edges, a policy for the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from notifygate.address import Channel
from notifygate.config import values
from notifygate.config.schema import (
    CapTable,
    DeliverySettings,
    EmailSettings,
    GatewaySettings,
    LimitTable,
    LogSettings,
    MerchantTable,
    MonitoringSettings,
    PurposeTable,
    QuietHoursTable,
    RetentionSettings,
    ReviewRequestsTable,
    SmsSettings,
    Tables,
)
from notifygate.plugins import read_settings
from notifygate.policy import Cap, Group, Limit, Merchant, Policy, Purpose, QuietHours, ReviewRequests


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Under what name a merchant sends, by channel; None where it cannot."""

    email: str | None = field(default=None, repr=False)
    sms: str | None = None


_NO_SENDER = Sender()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What changes how messages travel, but no decision: servers, channels, tries, senders, added lines.

    `email` and `sms` are None for a channel that is not set up. `senders` has every merchant. `footers` has a
    template with `{merchant}`, `{seller}` and `{order}` for `default` and for language tags in small letters.
    """

    gateway: GatewaySettings
    delivery: DeliverySettings
    monitoring: MonitoringSettings
    log: LogSettings
    retention: RetentionSettings
    email: EmailSettings | None
    sms: SmsSettings | None
    senders: Mapping[str, Sender]
    footers: Mapping[str, str]

    def channel(self, channel: Channel | str) -> EmailSettings | SmsSettings | None:
        """How a channel is set up; None if it is not."""
        return self.email if Channel(channel) is Channel.EMAIL else self.sms

    def sender(self, merchant: str, channel: Channel | str) -> str | None:
        """Under what name a merchant sends on a channel; None if it cannot, or is not known."""
        found = self.senders.get(merchant, _NO_SENDER)
        return found.email if Channel(channel) is Channel.EMAIL else found.sms

    def footer(self, language: str | None = None) -> str:
        """The template for a language tag (BCP 47): its own, else its main language's, else the default."""
        tag = (language or "default").lower().replace("_", "-")
        return self.footers.get(tag) or self.footers.get(tag.partition("-")[0]) or self.footers["default"]


def settings(tables: Tables) -> Settings:
    """The part of a config that moves messages."""
    return Settings(
        gateway=tables.gateway,
        delivery=tables.delivery,
        monitoring=tables.monitoring,
        log=tables.log,
        retention=tables.retention,
        email=tables.channels.email,
        sms=tables.channels.sms,
        senders={name: Sender(email=m.email_from, sms=m.sms_sender) for name, m in tables.merchants.items()},
        footers=dict(tables.review_requests.footer),
    )


def policy(tables: Tables) -> Policy:
    """The part of a config that decides. What makes no difference, such as the order of caps, is gone."""
    return Policy(
        merchants={name: _merchant(table) for name, table in tables.merchants.items()},
        purposes={name: _purpose(table) for name, table in tables.purposes.items()},
        groups={name: Group(name=table.name) for name, table in tables.groups.items()},
        quiet_hours={name: _quiet_hours(table) for name, table in tables.quiet_hours.items()},
        review_requests=_review_requests(tables.review_requests),
        review_domains=tuple(sorted(set(tables.content.review_domains))),
        promotion_markers=tuple(sorted(set(tables.content.promotion_markers))),
        rule_settings={name: read_settings(name, table) for name, table in tables.rules.items()},
        default_timezone=tables.gateway.default_timezone,
        default_country=tables.gateway.default_region,
    )


def _merchant(table: MerchantTable) -> Merchant:
    return Merchant(
        name=table.name,
        kind=table.kind,
        group=table.group,
        asks_for_reviews=table.asks_for_reviews,
        timezone=table.timezone,
    )


def _purpose(table: PurposeTable) -> Purpose:
    return Purpose(
        purpose_class=table.purpose_class,
        accepts=frozenset(table.permission),
        dedupe=table.dedupe,
        caps=tuple(sorted((_cap(cap) for cap in table.caps), key=_order)),
        quiet_hours=table.quiet_hours,
        audience=table.audience,
        on_doubt=table.on_doubt,
        confirms=table.confirms,
        neutral_within=table.within,
    )


def _cap(table: CapTable) -> Cap:
    return Cap(
        limit=table.limit,
        window=table.window,
        per=table.per,
        purposes=frozenset(table.purposes),
        classes=frozenset(table.classes),
        channels=frozenset(channel.value for channel in table.channels),
        over=table.over,
    )


def _order(cap: Cap) -> tuple[object, ...]:
    """An order of caps that does not depend on where they stand in the file."""
    sets = (sorted(cap.purposes), sorted(cap.classes), sorted(cap.channels))
    return (cap.window, cap.limit, cap.per, cap.over, *sets)


def _quiet_hours(table: QuietHoursTable) -> QuietHours:
    allow = {day: windows for key, windows in table.allow.items() for day in values.days(key)}
    return QuietHours(allow=allow, holidays=table.holidays)


def _review_requests(table: ReviewRequestsTable) -> ReviewRequests:
    return ReviewRequests(
        asks_per_purchase=table.asks_per_purchase,
        per_person=_limit(table.per_person),
        per_person_and_merchant=_limit(table.per_person_and_merchant),
        precedence=table.precedence,
        yield_for=table.yield_for,
        delay=table.delay,
        delay_without_delivery=table.delay_without_delivery,
        expires=table.expires,
        hold_for_cases=table.hold_for_cases,
    )


def _limit(table: LimitTable) -> Limit:
    return Limit(limit=table.limit, window=table.window)
