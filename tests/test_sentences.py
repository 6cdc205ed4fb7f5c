"""`sentences.explain`: the policy in words says all that the policy says, and says it as the rules do it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, time, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from notifygate import policy as policy_module
from notifygate import sentences
from notifygate.config import load
from notifygate.decision import Outcome, Reason
from notifygate.gateway.suppressions import HARD_BOUNCE_LASTS
from notifygate.policy import (
    Accepts,
    Cap,
    Group,
    Limit,
    Merchant,
    MerchantKind,
    Over,
    Per,
    Policy,
    Purpose,
    PurposeClass,
    QuietHours,
    ReviewRequests,
)
from notifygate.rules import caps, quiet_hours, review_request
from notifygate.snapshot import Handover, PurchaseFacts, Request, Snapshot

# DESIGN.md section 9, without its comments.
SAMPLE = """
[gateway]
ledger = "sqlite:///notifygate.db"
broker = "embedded"
default_region = "DK"
default_timezone = "Europe/Copenhagen"

[channels.email]
driver = "smtp"
host = "localhost"
port = 25
tls = "none"
[channels.sms]
driver = "http"
url = "http://localhost:13013/cgi-bin/sendsms"

[groups.interflora]
name = "Interflora"

[merchants.cykelpartner]
name = "Cykelpartner.dk"
kind = "shop"
asks_for_reviews = true
email_from = "Cykelpartner <hej@cykelpartner.example>"
sms_sender = "Cykelpartn"
[merchants.postdanmark]
name = "Post Danmark"
kind = "carrier"
email_from = "Post Danmark <pakke@postdanmark.example>"
sms_sender = "PostDanmark"

[purposes.order_update]
class = "service"
permission = "none"
[purposes.newsletter]
class = "marketing"
permission = ["consent", "soft_opt_in"]
dedupe = "24h"
caps = [{ limit = 2, window = "7d", per = "merchant" }, { limit = 5, window = "7d", per = "person" }]
quiet_hours = "evenings"
[purposes.review_request]
class = "review"
permission = ["consent", "soft_opt_in"]
quiet_hours = "evenings"

[quiet_hours.evenings]
allow = { mon-sat = "09:00-20:00" }
holidays = true

[review_requests]
asks_per_purchase = 1
per_person = { limit = 1, window = "30d" }
per_person_and_merchant = { limit = 1, window = "180d" }
precedence = ["shop", "platform", "carrier"]
yield = "deny"
delay = "7d"
delay_without_delivery = "30d"
expires = "60d"
"""

# As it is printed: long lines are wrapped by the terminal.
SAMPLE_IN_WORDS = """\
Merchant Cykelpartner.dk (cykelpartner)
  It is a shop.
  It belongs to no group.
  It asks for reviews of what it sells. Who stands back for it is said in "Review requests: who goes first".
  It has no time zone of its own.

Merchant Post Danmark (postdanmark)
  It is a carrier: it delivers what others sell.
  It belongs to no group.
  It is not said to ask for reviews of what it sells, so nobody stands back for it. It may send review requests all the same.
  It has no time zone of its own.

Group Interflora (interflora)
  No merchant belongs to it.

Purpose "newsletter"
  It is marketing: advertising of any kind.
  It is sent only if the person said yes to it, to this merchant or to its group (consent); or the person bought from this merchant, was offered to say no, and did not (soft opt-in).
  A refusal of this purpose, of marketing or of everything stops it.
  A merchant sends one person the same content at most once in any 24 hours, by email and SMS together. A repeat is not sent.
  At most 2 in any 7 days from one merchant to one person. Only messages for "newsletter" count. One more is not sent at all.
  At most 5 in any 7 days to one person, from all merchants together. Only messages for "newsletter" count. One more is not sent at all.
  It is sent only in the hours "evenings", and otherwise waits for them.
  Hours, where the person is: Mondays to Saturdays from 09:00 to 20:00; nothing on Sundays.
  Nothing on public holidays, from midnight to midnight. For SMS the holidays are those of the phone number's country.
  For email, and where the number does not tell, the holidays are those of DK.
  If nobody can tell whether it was sent, it is not sent again. It counts as sent, and waits for somebody to look into it.

Purpose "order_update"
  It is a service message: something that the customer needs to know.
  It needs no permission.
  A refusal of this purpose, of service messages or of everything stops it only if the refusal says that service messages are meant too.
  Nobody looks whether the same content was sent before.
  There is no limit on how many are sent.
  It is sent at any time, day or night.
  If nobody can tell whether it was sent, it is not sent again. It counts as sent, and waits for somebody to look into it.

Purpose "review_request"
  It is a review request: it asks the customer for a review.
  It is sent only if the person said yes to it, to this merchant or to its group (consent); or the person bought from this merchant, was offered to say no, and did not (soft opt-in).
  A refusal of this purpose, of review requests, of marketing or of everything stops it.
  Only the buyer is asked, and never a person who merely receives the goods.
  Nobody looks whether the same content was sent before.
  How many are sent is limited only by the limits on review requests below.
  It is sent only in the hours "evenings", and otherwise waits for them.
  Hours, where the person is: Mondays to Saturdays from 09:00 to 20:00; nothing on Sundays.
  Nothing on public holidays, from midnight to midnight. For SMS the holidays are those of the phone number's country.
  For email, and where the number does not tell, the holidays are those of DK.
  If nobody can tell whether it was sent, it is not sent again. It counts as sent, and waits for somebody to look into it.
  The three sections "Review requests" below hold for it as well.

Review requests: how often
  This holds for "review_request".
  One purchase is asked about at most once in all, whoever asks, and at whatever address.
  One person is asked at most once in any 30 days by all merchants together.
  One person is asked at most once in any 180 days by the same merchant.
  A request beyond any of these limits is not sent, nor kept for later.
  Requests that were made outside notifygate count too, once they are recorded here.
  Once a review of a purchase is recorded, nobody is asked about that purchase again.
  A request that does not say which purchase it is about is not sent.

Review requests: who goes first
  Where the seller asks for reviews itself, this is the order: shops first, then platforms, then carriers.
  Whoever comes after the seller in that order does not ask at all.
  About purchases from Cykelpartner.dk these do not ask: Post Danmark.
  About purchases from Post Danmark nobody stands back: whoever is first may ask.

Review requests: when
  Nobody is asked earlier than 7 days after delivery, nor later than 60 days after it.
  Where the day of delivery is not known, nobody is asked earlier than 30 days after the purchase, nor later than 83 days after it.
  Where the day of the purchase is not known either, the day on which notifygate first heard of the purchase takes its place.
  An open case about a purchase makes no difference.
  A request that comes too early waits. One that comes too late is not sent.

What service messages may not hold
  Messages for "order_update" are searched, and are not sent if they hold any of the following.
  Review sites, named or linked to: bazaarvoice.com, ekomi.com, ekomi.de, feefo.com, g.page, judge.me, kiyoh.com, provenexpert.com, resellerratings.com, reviews.co.uk, reviews.io, search.google.com, sitejabber.com, tripadvisor.com, trustedshops.com, trustedshops.de, trustpilot.com, trustpilot.dk, yelp.com, yotpo.com.
  Words that give advertising away: none are listed, so advertising is not noticed.

What is assumed about place and time
  A person's time zone is the first of these that is known: the one given with the message, that of the phone number, that of the merchant, or else Europe/Copenhagen.
  Where a phone number may lie in several time zones, the hour must be allowed in each of them.
  The country that is assumed where none is known is DK: for phone numbers without a country code, and for public holidays.

Permissions and refusals, whatever the config says
  A permission covers exactly what it names: one address, one purpose, and one merchant or one group. A yes to SMS is no yes to email, and a yes at one address is no yes at another.
  A request that the person has yet to confirm (double opt-in) permits only the message that asks to confirm it. It can be confirmed for 7 days.
  What counts is what was recorded here: a yes, a purchase or a no that nobody recorded is not known.
  A refusal covers all that it names: one merchant, a group or everybody; one channel or both; one purpose, a kind of message or everything. It holds at every address that is known to be the same person's.
  A refusal of marketing covers review requests too. A refusal of review requests leaves marketing alone.
  After a refusal, only a later yes counts, and only if it is no broader than the refusal: a yes to a whole group does not undo a no to one of its merchants. A new purchase is no yes.
  Where a yes and a no bear the same time, the no counts.

Every message, whatever the config says
  Whether a message may go is decided when it is about to be sent, and anew before every further try.
  Nothing is sent to an address that is marked do-not-send, whatever was permitted: it bounced for good (the mark lasts 30 days unless set otherwise), a complaint came from it, or somebody marked it by hand. A person who was erased is sent nothing at any address.
  Every limit counts what was sent, what is being sent and what may have been sent. What certainly failed does not count.
  Every limit looks at all addresses that are known to be one person's. Two addresses that are not known to belong together count as two persons.
  Two messages have "the same content" if their wording is the same, or if the program that sends them says so.
  A message that has expired is not sent; nor does one wait that would expire meanwhile.
  Whether customers are content changes nothing: neither whether they are asked for a review, nor how.
  Where the merchant or the purpose is not known, or a rule fails, nothing is sent.
"""  # noqa: E501


def told(policy: Policy) -> str:
    """All headings and sentences, as one text."""
    said = ((heading, *(f"  {line}" for line in lines)) for heading, lines in sentences.explain(policy))
    return "\n".join("\n".join(section) + "\n" for section in said)


def about(policy: Policy, heading: str) -> list[str]:
    """The sentences under the one heading that starts like this."""
    [found] = [lines for title, lines in sentences.explain(policy) if title.startswith(heading)]
    return found


def line(policy: Policy, heading: str, start: str) -> str:
    """The one sentence under a heading that starts like this."""
    [found] = [said for said in about(policy, heading) if said.startswith(start)]
    return found


def test_the_text_of_the_sample_config(tmp_path: Path) -> None:
    path = tmp_path / "notifygate.toml"
    path.write_text(SAMPLE, "utf-8")
    assert told(load(path).policy) == SAMPLE_IN_WORDS


# Every field of every class is set, and has an effect: what has none need not show.
RICH = Policy(
    merchants={
        "bikes": Merchant(
            name="Bikes", kind=MerchantKind.SHOP, asks_for_reviews=True, timezone="Europe/Berlin"
        ),
        "florist": Merchant(name="Florist", kind=MerchantKind.SHOP, group="flowers", asks_for_reviews=True),
        "grocer": Merchant(name="Grocer", kind=MerchantKind.SHOP, group="flowers"),
        "parcels": Merchant(name="Parcels", kind=MerchantKind.CARRIER),
        "stars": Merchant(name="Stars", kind=MerchantKind.PLATFORM, asks_for_reviews=True),
    },
    groups={"flowers": Group(name="Flowers"), "herbs": Group(name="Herbs")},
    purposes={
        "code": Purpose(purpose_class=PurposeClass.SERVICE, accepts=frozenset(), on_doubt="resend"),
        "offers": Purpose(
            purpose_class=PurposeClass.MARKETING, accepts=frozenset({Accepts.CONSENT}), quiet_hours="nights"
        ),
        "news": Purpose(
            purpose_class=PurposeClass.MARKETING,
            accepts=frozenset({Accepts.CONSENT, Accepts.SOFT_OPT_IN}),
            dedupe=timedelta(hours=24),
            caps=(
                Cap(limit=2, window=timedelta(days=7), per=Per.MERCHANT),
                Cap(
                    limit=5,
                    window=timedelta(days=30),
                    per=Per.GROUP,
                    purposes=frozenset({"offers"}),
                    classes=frozenset({PurposeClass.REVIEW}),
                    channels=frozenset({"sms"}),
                    over=Over.DEFER,
                ),
            ),
            quiet_hours="days",
        ),
        "ask": Purpose(
            purpose_class=PurposeClass.REVIEW,
            accepts=frozenset({Accepts.NEUTRAL_POST_SALE}),
            audience="recipient",
            neutral_within=timedelta(days=20),
        ),
    },
    rule_settings={"blackout": {"days": ("2026-12-24", "2026-12-25")}},
    quiet_hours={
        "days": QuietHours(
            allow={
                day: ((time(9), time(12)), (time(15), time(20))) if day < 5 else ((time(10), time(18)),)
                for day in range(6)
            },
            holidays=True,
        ),
        "nights": QuietHours(allow={4: ((time(22), time(2)),)}),
        "unused": QuietHours(allow={6: ((time(8), time(9)),)}, holidays=True),
    },
    review_requests=ReviewRequests(
        asks_per_purchase=2,
        per_person=Limit(limit=1, window=timedelta(days=30)),
        per_person_and_merchant=Limit(limit=1, window=timedelta(days=180)),
        yield_for=timedelta(days=14),
    ),
    review_domains=("trustpilot.com", "yelp.com"),
    promotion_markers=("% off",),
    default_timezone="Europe/Copenhagen",
    default_country="DK",
)

# Where the type of a value does not tell what else it could be: (class, field) -> other values.
OTHERS: Mapping[tuple[str, str], tuple[Any, ...]] = {
    ("Merchant", "group"): (None, "flowers", "herbs"),
    ("Merchant", "timezone"): (None, "Asia/Tokyo"),
    ("Purpose", "accepts"): (*(frozenset({ground}) for ground in Accepts), frozenset(), frozenset(Accepts)),
    ("Purpose", "dedupe"): (None, timedelta(minutes=5)),
    ("Purpose", "quiet_hours"): (None, "days", "nights"),
    ("Purpose", "audience"): ("buyer", "recipient"),
    ("Purpose", "on_doubt"): ("hold", "resend"),
    ("Cap", "purposes"): (frozenset(), frozenset({"news"}), frozenset({"code", "news"})),
    ("Cap", "classes"): (frozenset(), *(frozenset({kind}) for kind in PurposeClass), frozenset(PurposeClass)),
    ("Cap", "channels"): (frozenset(), frozenset({"email"}), frozenset({"sms"}), frozenset({"email", "sms"})),
    ("QuietHours", "allow"): (
        {},
        {0: ((time(9), time(20)),)},
        {6: ((time(9), time(20)),)},
        {6: ((time(9), time(20, 1)),)},
        {6: ((time(22), time(6)),)},
        {6: ((time(0), time(0)),)},
    ),
    ("ReviewRequests", "per_person"): (None, Limit(limit=2, window=timedelta(days=30))),
    ("ReviewRequests", "per_person_and_merchant"): (None, Limit(limit=2, window=timedelta(days=180))),
    ("ReviewRequests", "yield_for"): (None, timedelta(days=3)),
    ("ReviewRequests", "precedence"): (
        (MerchantKind.CARRIER, MerchantKind.SHOP, MerchantKind.PLATFORM),
        (MerchantKind.SHOP,),
    ),
    ("Policy", "review_requests"): (ReviewRequests(),),
    ("Policy", "default_timezone"): (None, "Asia/Tokyo"),
    ("Policy", "default_country"): (None, "SE"),
}

Mutation = tuple[str, Policy]
"""Which field of which class was changed, and the policy with just this change."""


def mutations(value: Any, rebuilt: Callable[[Any], Policy]) -> Iterator[Mutation]:
    """Walk the dataclass fields below `value` and change them one at a time."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            name, old = (type(value).__name__, field.name), getattr(value, field.name)

            def with_field(
                new: Any, value: Any = value, changed: str = field.name, rebuilt: Any = rebuilt
            ) -> Policy:
                policy: Policy = rebuilt(replace(value, **{changed: new}))
                return policy

            for new in others(name, old):
                yield ".".join(name), with_field(new)
            yield from mutations(old, with_field)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from mutations(
                inner,
                lambda new, key=key: rebuilt({**value, key: new}),  # type: ignore[misc]
            )
    elif isinstance(value, tuple):
        for place, inner in enumerate(value):
            yield from mutations(
                inner,
                lambda new, place=place: rebuilt((*value[:place], new, *value[place + 1 :])),  # type: ignore[misc]
            )


def others(name: tuple[str, str], old: Any) -> list[Any]:
    """Other values that a field could have; none where that is not known."""
    if name in OTHERS:
        return [new for new in OTHERS[name] if new != old]
    if isinstance(old, bool):
        return [not old]
    if isinstance(old, Enum):
        return [new for new in type(old) if new is not old]
    if isinstance(old, int):
        return [old + 1, old + 2]
    if isinstance(old, timedelta):
        return [old + timedelta(days=1), old + timedelta(seconds=1)]
    if isinstance(old, str):
        return [f"{old}x"]
    if isinstance(old, tuple | frozenset) and old and all(isinstance(item, str) for item in old):
        return [type(old)([*old, "added"]), type(old)()]
    if isinstance(old, tuple) and old:
        return [old[:-1]]
    if isinstance(old, Mapping) and old:
        return [{key: value for key, value in old.items() if key != gone} for gone in unreferenced(old)]
    return []


def unreferenced(table: Mapping[str, Any]) -> list[str]:
    """Keys of RICH's tables that nothing else names."""
    return [key for key in table if key not in {"flowers", "days", "nights"}]


MUTATIONS = list(mutations(RICH, lambda policy: policy))
FIELDS = [
    f"{name}.{field.name}"
    for name, found in inspect.getmembers(policy_module, is_dataclass)
    if inspect.isclass(found)
    for field in fields(found)
]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_the_policy_is_told(field: str) -> None:
    text = told(RICH)
    changed = [policy for name, policy in MUTATIONS if name == field]
    assert changed, f"nobody knows how to change {field}: give RICH a value for it, or OTHERS other values"
    # `within` is told where it has an effect: the config refuses it elsewhere.
    silent = [policy for policy in changed if told(policy) == text and not is_idle(field, policy)]
    assert not silent, f"a change of {field} does not show in the text; tell it in notifygate/sentences.py"


def is_idle(field: str, policy: Policy) -> bool:
    return field == "Purpose.neutral_within" and policy.purposes["ask"] == RICH.purposes["ask"]


def test_no_two_changes_give_the_same_text() -> None:
    """As good as a hash: policies that differ are told differently."""
    by_text: dict[str, set[str]] = {}
    for field, policy in MUTATIONS:
        if not is_idle(field, policy):
            by_text.setdefault(told(policy), set()).add(policy.hash)
    assert [hashes for hashes in by_text.values() if len(hashes) > 1] == []


def test_the_order_of_the_file_does_not_show() -> None:
    def turned(table: Mapping[Any, Any]) -> dict[Any, Any]:
        return dict(reversed(list(table.items())))

    other = replace(
        RICH,
        merchants=turned(RICH.merchants),
        purposes=turned(RICH.purposes),
        groups=turned(RICH.groups),
        quiet_hours={
            name: replace(hours, allow=turned(hours.allow))
            for name, hours in turned(RICH.quiet_hours).items()
        },
    )
    assert told(other) == told(RICH)


def test_a_policy_of_nothing_is_told_too() -> None:
    assert "No purpose asks for reviews" in told(Policy(merchants={}, purposes={}))


NINE_TO_EIGHT = ((time(9), time(20)),)


@pytest.mark.parametrize(
    ("allow", "words"),
    [
        (dict.fromkeys(range(7), NINE_TO_EIGHT), "every day from 09:00 to 20:00."),
        (
            dict.fromkeys(range(6), NINE_TO_EIGHT),
            "Mondays to Saturdays from 09:00 to 20:00; nothing on Sundays.",
        ),
        (
            dict.fromkeys(range(5), NINE_TO_EIGHT),
            "Mondays to Fridays from 09:00 to 20:00; nothing on Saturdays and Sundays.",
        ),
        (
            {0: ((time(9), time(12)), (time(15, 30), time(20)))},
            "Mondays from 09:00 to 12:00 and from 15:30 to 20:00; nothing on Tuesdays to Sundays.",
        ),
        ({0: ((time(0), time(0)),)}, "Mondays all day; nothing on Tuesdays to Sundays."),
        ({0: ((time(9), time(0)),)}, "Mondays from 09:00 to midnight; nothing on Tuesdays to Sundays."),
        (
            {5: ((time(22), time(2)),)},
            "nothing on Mondays to Fridays; Saturdays from 22:00 over midnight to 02:00; "
            "nothing after 02:00 on Sundays.",
        ),
        (
            {6: ((time(22), time(2)),)},
            "nothing after 02:00 on Mondays; nothing on Tuesdays to Saturdays; "
            "Sundays from 22:00 over midnight to 02:00.",
        ),
    ],
)
def test_the_windows_of_the_week_in_words(
    allow: dict[int, tuple[tuple[time, time], ...]], words: str
) -> None:
    policy = replace(RICH, quiet_hours={**RICH.quiet_hours, "unused": QuietHours(allow=allow)})
    assert line(policy, 'Hours "unused"', "Hours") == f"Hours, where the person is: {words}"


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(days=7), "7 days"),
        (timedelta(hours=24), "24 hours"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(days=2), "2 days"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(seconds=61), "61 seconds"),
    ],
)
def test_spans_in_words(span: timedelta, words: str) -> None:
    policy = replace(RICH, purposes={"code": replace(RICH.purposes["code"], dedupe=span)})
    assert f"in any {words}, " in line(policy, "Purpose", "A merchant sends")


def test_a_message_that_confirms_is_told_by_that_alone() -> None:
    code = replace(RICH.purposes["code"], confirms=True)
    policy = replace(RICH, purposes={**RICH.purposes, "code": code})
    assert line(policy, 'Purpose "code"', "It asks a person to confirm a request (double opt-in).")
    assert "It needs no permission." not in about(policy, 'Purpose "code"')


# What the sentences say is what the rules do.

NOW = datetime(2025, 3, 3, 10, tzinfo=UTC)


def request(**changed: Any) -> Request:
    known: dict[str, Any] = {
        "message_id": "m",
        "merchant": "parcels",
        "purpose": "ask",
        "role": "buyer",
        "channel": "email",
        "contact_point_id": "c",
        "dedupe_key": "d",
        "submitted_at": NOW,
    }
    return Request(**known | changed)


def bought(seller: str, **dates: Any) -> Snapshot:
    return Snapshot(purchase=PurchaseFacts(purchase_id="p", seller=seller, known_since=NOW, **dates))


@pytest.mark.parametrize(
    "precedence", [tuple(MerchantKind), (MerchantKind.PLATFORM,), (MerchantKind.CARRIER,)]
)
@pytest.mark.parametrize("yield_for", [None, timedelta(days=3)])
def test_who_is_said_to_stand_back_is_who_does(
    precedence: tuple[MerchantKind, ...], yield_for: timedelta | None
) -> None:
    policy = replace(
        RICH, review_requests=replace(RICH.review_requests, precedence=precedence, yield_for=yield_for)
    )
    lines = about(policy, "Review requests: who goes first")
    names = {key: merchant.name for key, merchant in policy.merchants.items()}
    for seller in names:
        for asker in names:
            snapshot = bought(seller, delivered_at=NOW - policy.review_requests.delay)
            finding = review_request.check(request(merchant=asker), snapshot, policy, NOW)
            stands_back = finding.reason == Reason.SELLER_ASKS_ITSELF
            verb = "these do not ask: " if yield_for is None else "these wait their turn: "
            assert pairs(lines, verb, names[seller], names[asker]) == stands_back
            if policy.merchants[seller].asks_for_reviews and asker != seller:
                free = pairs(lines, "these need not stand back: ", names[seller], names[asker])
                each_other = [
                    said
                    for said in lines
                    if said.endswith("for each other.") and names[seller] in said and names[asker] in said
                ]
                assert (free or bool(each_other)) != stands_back


def pairs(lines: list[str], verb: str, seller: str, asker: str) -> bool:
    """Whether a sentence says this of the seller before the verb and the asker after it."""
    halves = [said.partition(verb) for said in lines if verb in said]
    return any(seller in before and asker in after for before, _, after in halves)


@pytest.mark.parametrize(
    ("dates", "first", "last"),
    [
        ({"delivered_at": NOW}, timedelta(days=7), timedelta(days=60)),
        ({"purchased_at": NOW}, timedelta(days=30), timedelta(days=83)),
        ({}, timedelta(days=30), timedelta(days=83)),
    ],
)
def test_the_days_that_are_said_are_the_days_of_the_rule(
    dates: dict[str, datetime], first: timedelta, last: timedelta
) -> None:
    def outcome(at: datetime) -> Outcome:
        return review_request.check(request(merchant="bikes"), bought("bikes", **dates), RICH, at).outcome

    second = timedelta(seconds=1)
    at = [NOW + first - second, NOW + first, NOW + last, NOW + last + second]
    assert [outcome(each) for each in at] == [Outcome.DEFER, Outcome.ALLOW, Outcome.ALLOW, Outcome.DENY]
    event = "after delivery" if "delivered_at" in dates else "after the purchase"
    text = f"earlier than {first.days} days {event}, nor later than {last.days} days after it."
    assert any(text in sentence for sentence in about(RICH, "Review requests: when"))


@pytest.mark.parametrize(
    ("cap", "counting", "words"),
    [
        ({}, {"news"}, 'Only messages for "news" count.'),
        (
            {"purposes": frozenset({"offers"})},
            {"offers"},
            'What counts: messages for "offers". Messages for "news" itself do not count.',
        ),
        (
            {"classes": frozenset({PurposeClass.MARKETING})},
            {"news", "offers"},
            'What counts: all marketing ("news" and "offers").',
        ),
        (
            {"classes": frozenset({PurposeClass.SERVICE}), "purposes": frozenset({"news"})},
            {"code", "news"},
            'What counts: messages for "news" and all service messages ("code").',
        ),
    ],
)
def test_what_a_cap_is_said_to_count_is_what_it_counts(
    cap: dict[str, Any], counting: set[str], words: str
) -> None:
    news = replace(
        RICH.purposes["news"], caps=(Cap(limit=1, window=timedelta(days=7), per=Per.PERSON, **cap),)
    )
    policy = replace(RICH, purposes={**RICH.purposes, "news": news})
    counted = set()
    for name, purpose in policy.purposes.items():
        earlier = Handover(
            message_id="e",
            merchant="stars",
            purpose=name,
            purpose_class=purpose.purpose_class,
            channel="sms",
            dedupe_key="x",
            at=NOW,
        )
        if (
            caps.check(request(purpose="news"), Snapshot(handovers=(earlier,)), policy, NOW).outcome
            is Outcome.DENY
        ):
            counted.add(name)
    assert counted == counting
    assert f"all merchants together. {words} One more is not sent" in line(
        policy, 'Purpose "news"', "At most 1"
    )


def test_after_a_night_that_runs_on_the_next_morning_is_open_and_said_to_be() -> None:
    """Hours on Fridays from 22:00 to 02:00: Saturday at 01:00 will do, at 02:00 will not."""
    assert "nothing after 02:00 on Saturdays" in line(RICH, 'Purpose "offers"', "Hours")
    saturday = datetime(2025, 3, 8, tzinfo=UTC)
    found = [
        quiet_hours.check(
            request(purpose="offers", timezone="UTC"), Snapshot(), RICH, saturday.replace(hour=hour)
        )
        for hour in (1, 2)
    ]
    assert [finding.outcome for finding in found] == [Outcome.ALLOW, Outcome.DEFER]


@pytest.mark.parametrize(
    ("country", "words"),
    [
        ("DK", "the holidays are those of DK."),
        (None, "no country is set, so public holidays are days like any other."),
        ("AC", "notifygate knows none there, so those are days like any other."),
    ],
)
def test_whose_public_holidays_count(country: str | None, words: str) -> None:
    policy = replace(RICH, default_country=country)
    assert line(policy, 'Purpose "news"', "For email").endswith(words)
    christmas = datetime(2025, 12, 25, 10, tzinfo=UTC)
    found = quiet_hours.check(request(purpose="news", timezone="UTC"), Snapshot(), policy, christmas)
    assert found.outcome is (Outcome.DEFER if country == "DK" else Outcome.ALLOW)


def test_a_ground_that_always_comes_too_late_is_pointed_out() -> None:
    params = RICH.review_requests
    assert "Take care: where the day of delivery is not known" in told(RICH)
    late = replace(RICH, review_requests=replace(params, delay=timedelta(days=20)))
    assert "Take care: nobody is asked until 20 days after delivery" in told(late)
    soon = replace(RICH, review_requests=replace(params, delay_without_delivery=timedelta(days=19)))
    assert "Take care" not in told(soon)


def test_the_days_of_a_bounce_are_those_of_the_gateway() -> None:
    assert f"(the mark lasts {HARD_BOUNCE_LASTS.days} days unless" in told(RICH)


def test_merchants_of_one_name_are_told_apart() -> None:
    grocer = replace(RICH.merchants["grocer"], name="Florist")
    policy = replace(RICH, merchants={**RICH.merchants, "grocer": grocer})
    assert (
        line(policy, "Group Flowers", "Its merchants")
        == "Its merchants: Florist (florist) and Florist (grocer)."
    )
