"""A policy in plain sentences, for an admin to compare with what was meant.

`explain` says everything that a `Policy` holds, and what follows from rules that no config can change. Whoever adds
a field to the policy adds its sentence here: `tests/test_sentences.py` fails until a change of it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import time, timedelta
from itertools import groupby

import holidays

from notifygate.policy import (
    CASE_HOLDS_AT_MOST,
    PENDING_FOR,
    Accepts,
    Cap,
    Limit,
    Merchant,
    MerchantKind,
    Over,
    Per,
    Policy,
    Purpose,
    PurposeClass,
    QuietHours,
    in_words,
)

_DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")
_MIDNIGHT = time(0)
_KINDS = {
    MerchantKind.SHOP: "a shop",
    MerchantKind.CARRIER: "a carrier: it delivers what others sell",
    MerchantKind.PLATFORM: "a platform, such as a review site",
}
_PLURALS = {
    MerchantKind.SHOP: "shops",
    MerchantKind.CARRIER: "carriers",
    MerchantKind.PLATFORM: "platforms",
}
_CLASSES = {
    PurposeClass.SERVICE: "It is a service message: something that the customer needs to know.",
    PurposeClass.MARKETING: "It is marketing: advertising of any kind.",
    PurposeClass.REVIEW: "It is a review request: it asks the customer for a review.",
}
_OF_CLASS = {
    PurposeClass.SERVICE: "service messages",
    PurposeClass.MARKETING: "marketing",
    PurposeClass.REVIEW: "review requests",
}
_REFUSED_BY = {
    PurposeClass.SERVICE: "service messages",
    PurposeClass.MARKETING: "marketing",
    PurposeClass.REVIEW: "review requests, of marketing",
}
_CHANNELS = {"email": "email", "sms": "SMS"}
_TO_WHOM = {
    Per.MERCHANT: "from one merchant to one person",
    Per.GROUP: "from all merchants of one group together to one person (a merchant in no group counts alone)",
    Per.PERSON: "to one person, from all merchants together",
}
_OVER = {
    Over.DENY: "One more is not sent at all.",
    Over.DEFER: "One more waits until there is room.",
}
_ON_DOUBT = {
    "hold": "it is not sent again. It counts as sent, and waits for somebody to look into it",
    "resend": "it is sent again, so it may arrive twice",
}


def explain(policy: Policy) -> Iterator[tuple[str, list[str]]]:
    """Yield headings, each with its sentences: all of the policy, and what holds under any policy.

    Pure, and in the order of names: policies that mean the same give the same text.
    """
    for name, merchant in sorted(policy.merchants.items()):
        yield f"Merchant {merchant.name} ({name})", list(_about_merchant(name, merchant, policy))
    for name, group in sorted(policy.groups.items()):
        yield f"Group {group.name} ({name})", list(_about_group(name, policy))
    for name, purpose in sorted(policy.purposes.items()):
        yield f'Purpose "{name}"', list(_about_purpose(name, purpose, policy))
    used = {purpose.quiet_hours for purpose in policy.purposes.values()}
    for name, hours in sorted(policy.quiet_hours.items()):
        if name not in used:
            yield f'Hours "{name}"', ["No purpose uses them.", *_about_hours(hours, policy)]
    yield "Review requests: how often", list(_about_frequency(policy))
    yield "Review requests: who goes first", list(_about_precedence(policy))
    yield "Review requests: when", list(_about_time(policy))
    yield "What service messages may not hold", list(_about_content(policy))
    if policy.rule_settings:
        yield "Rules of other packages", list(_about_rules(policy))
    yield "What is assumed about place and time", list(_about_place(policy))
    yield "Permissions and refusals, whatever the config says", list(_ALWAYS_ABOUT_CONSENT)
    yield "Every message, whatever the config says", list(_ALWAYS)


_ALWAYS_ABOUT_CONSENT = (
    "A permission covers exactly what it names: one address, one purpose, and one merchant or one group. "
    "A yes to SMS is no yes to email, and a yes at one address is no yes at another.",
    "A request that the person has yet to confirm (double opt-in) permits only the message that asks to confirm it. "
    f"It can be confirmed for {PENDING_FOR.days} days.",
    "What counts is what was recorded here: a yes, a purchase or a no that nobody recorded is not known.",
    "A refusal covers all that it names: one merchant, a group or everybody; one channel or both; "
    "one purpose, a kind of message or everything. It holds at every address that is known to be the same person's.",
    "A refusal of marketing covers review requests too. A refusal of review requests leaves marketing alone.",
    "After a refusal, only a later yes counts, and only if it is no broader than the refusal: "
    "a yes to a whole group does not undo a no to one of its merchants. A new purchase is no yes.",
    "Where a yes and a no bear the same time, the no counts.",
)
_ALWAYS = (
    "Whether a message may go is decided when it is about to be sent, and anew before every further try.",
    "Nothing is sent to an address that is marked do-not-send, whatever was permitted: it bounced for good "
    "(the mark lasts 30 days unless set otherwise), a complaint came from it, or somebody marked it by hand. "
    "A person who was erased is sent nothing at any address.",
    "Every limit counts what was sent, what is being sent and what may have been sent. "
    "What certainly failed does not count.",
    "Every limit looks at all addresses that are known to be one person's. "
    "Two addresses that are not known to belong together count as two persons.",
    'Two messages have "the same content" if their wording is the same, '
    "or if the program that sends them says so.",
    "A message that has expired is not sent; nor does one wait that would expire meanwhile.",
    "Whether customers are content changes nothing: neither whether they are asked for a review, nor how.",
    "Where the merchant or the purpose is not known, or a rule fails, nothing is sent.",
)


def _about_merchant(name: str, merchant: Merchant, policy: Policy) -> Iterator[str]:
    yield f"It is {_KINDS[merchant.kind]}."
    if merchant.group is None:
        yield "It belongs to no group."
    else:
        yield f"It belongs to the group {_group(merchant.group, policy)}."
    if merchant.asks_for_reviews:
        yield (
            "It asks for reviews of what it sells. "
            'Who stands back for it is said in "Review requests: who goes first".'
        )
    else:
        yield (
            "It is not said to ask for reviews of what it sells, so nobody stands back for it. "
            "It may send review requests all the same."
        )
    if merchant.timezone is None:
        yield "It has no time zone of its own."
    else:
        yield f"Where a person's time zone is not known, its own counts: {merchant.timezone}."


def _about_group(name: str, policy: Policy) -> Iterator[str]:
    members = [key for key, merchant in policy.merchants.items() if merchant.group == name]
    if members:
        yield f"Its merchants: {_merchants(members, policy)}."
        yield "A permission or refusal that names the group holds for each of them."
    else:
        yield "No merchant belongs to it."


def _about_purpose(name: str, purpose: Purpose, policy: Policy) -> Iterator[str]:
    yield _CLASSES[purpose.purpose_class]
    yield from _about_permission(purpose, policy)
    is_review = purpose.purpose_class is PurposeClass.REVIEW
    if is_review and purpose.audience == "recipient":
        yield "Both may be asked: the buyer, and a person who merely receives the goods."
    elif is_review:
        yield "Only the buyer is asked, and never a person who merely receives the goods."
    elif purpose.audience != "buyer":
        yield f'That its audience is set to "{purpose.audience}" has no effect: only review requests have one.'
    if purpose.dedupe is None:
        yield "Nobody looks whether the same content was sent before."
    else:
        yield (
            f"A merchant sends one person the same content at most once in any {in_words(purpose.dedupe)}, "
            "by email and SMS together. A repeat is not sent."
        )
    if not purpose.caps and not is_review:
        yield "There is no limit on how many are sent."
    elif not purpose.caps:
        yield "How many are sent is limited only by the limits on review requests below."
    for cap in purpose.caps:
        yield _about_cap(cap, name, purpose, policy)
    if purpose.quiet_hours is None:
        yield "It is sent at any time, day or night."
    else:
        yield f'It is sent only in the hours "{purpose.quiet_hours}", and otherwise waits for them.'
        yield from _about_hours(policy.quiet_hours[purpose.quiet_hours], policy)
    yield f"If nobody can tell whether it was sent, {_ON_DOUBT[purpose.on_doubt]}."
    if is_review:
        yield 'The three sections "Review requests" below hold for it as well.'


def _about_permission(purpose: Purpose, policy: Policy) -> Iterator[str]:
    kind = purpose.purpose_class
    if purpose.confirms:
        yield (
            "It asks a person to confirm a request (double opt-in). It is sent once for each request, "
            f"by the merchant and to the address that the request names, in the {PENDING_FOR.days} days after it, "
            "and otherwise never."
        )
        yield "A refusal of what was requested stops it, unless the request is newer."
        return
    stopped = f"A refusal of this purpose, of {_REFUSED_BY[kind]} or of everything"
    if not purpose.accepts:
        yield "It needs no permission."
        if kind is PurposeClass.SERVICE:
            yield f"{stopped} stops it only if the refusal says that service messages are meant too."
        else:
            yield f"{stopped} stops it."
        return
    grounds = []
    if Accepts.CONSENT in purpose.accepts:
        grounds.append("the person said yes to it, to this merchant or to its group (consent)")
    if Accepts.SOFT_OPT_IN in purpose.accepts:
        grounds.append(
            "the person bought from this merchant, was offered to say no, and did not (soft opt-in)"
        )
    if Accepts.NEUTRAL_POST_SALE in purpose.accepts:
        grounds.append(
            "it is the seller's own neutral email, sent less than "
            f"{in_words(purpose.neutral_within)} after the purchase (neutral post-sale)"
        )
    yield f"It is sent only if {'; or '.join(grounds)}."
    if Accepts.NEUTRAL_POST_SALE in purpose.accepts:
        yield from _about_neutral(purpose, policy)
    yield f"{stopped} stops it."


def _about_neutral(purpose: Purpose, policy: Policy) -> Iterator[str]:
    params, within = policy.review_requests, purpose.neutral_within
    yield "Whether that email is neutral is for you to see to: notifygate cannot judge its wording."
    yield "Where the day of the purchase is not known, that email is not permitted on this ground."
    if purpose.purpose_class is not PurposeClass.REVIEW:
        return
    if params.delay >= within:
        yield (
            f"Take care: nobody is asked until {in_words(params.delay)} after delivery, "
            "so this ground always comes too late."
        )
    elif params.delay_without_delivery >= within:
        yield (
            "Take care: where the day of delivery is not known, nobody is asked until "
            f"{in_words(params.delay_without_delivery)} after the purchase, so this ground always comes too late."
        )


def _about_cap(cap: Cap, name: str, purpose: Purpose, policy: Policy) -> str:
    said = [f"At most {cap.limit} in any {in_words(cap.window)} {_TO_WHOM[cap.per]}."]
    by_class = {
        kind: [key for key, found in policy.purposes.items() if found.purpose_class is kind]
        for kind in PurposeClass
        if kind in cap.classes
    }
    parts = []
    if cap.purposes:
        parts.append(f"messages for {_purposes(cap.purposes)}")
    for kind, keys in by_class.items():
        parts.append(f"all {_OF_CLASS[kind]} ({_purposes(keys) if keys else 'no purpose at present'})")
    if not parts:
        said.append(f'Only messages for "{name}" count.')
    else:
        said.append(f"What counts: {_listed(parts)}.")
        if name not in cap.purposes and purpose.purpose_class not in cap.classes:
            said.append(f'Messages for "{name}" itself do not count.')
    if cap.channels:
        channels = _listed(_CHANNELS[channel] for channel in sorted(cap.channels))
        said.append(f"This limit holds for {channels} only, and only {channels} counts.")
    said.append(_OVER[cap.over])
    return " ".join(said)


def _about_hours(hours: QuietHours, policy: Policy) -> Iterator[str]:
    if any(hours.allow.values()):
        yield f"Hours, where the person is: {_week(hours)}."
    else:
        yield "These hours allow no time at all, so nothing is ever sent."
    if not hours.holidays:
        yield "Public holidays are days like any other."
        return
    yield (
        "Nothing on public holidays, from midnight to midnight. "
        "For SMS the holidays are those of the phone number's country."
    )
    country = policy.default_country
    if country is None:
        yield (
            "For email, and where the number does not tell, no country is set, "
            "so public holidays are days like any other."
        )
    elif country in holidays.list_supported_countries():
        yield f"For email, and where the number does not tell, the holidays are those of {country}."
    else:
        yield (
            f"For email, and where the number does not tell, they would be those of {country}. "
            "notifygate knows none there, so those are days like any other."
        )


def _week(hours: QuietHours) -> str:
    """The windows of the week, with neighbouring days of the same hours together."""
    said = []
    for text, run in groupby(range(7), key=lambda day: _day(hours, day)):
        days = list(run)
        if len(days) == 7:
            said.append(f"every day {text}")
        elif len(days) == 1:
            said.append(
                f"{text} on {_DAYS[days[0]]}" if text.startswith("nothing") else f"{_DAYS[days[0]]} {text}"
            )
        else:
            joint = " and " if len(days) == 2 else " to "
            run_of = f"{_DAYS[days[0]]}{joint}{_DAYS[days[-1]]}"
            said.append(f"{text} on {run_of}" if text.startswith("nothing") else f"{run_of} {text}")
    return "; ".join(said)


def _day(hours: QuietHours, day: int) -> str:
    windows = sorted(hours.allow.get(day, ()))
    if windows:
        return _listed(_window(start, end) for start, end in windows)
    before = hours.allow.get((day - 1) % 7, ())
    late = max((end for start, end in before if _MIDNIGHT < end <= start), default=None)
    return "nothing" if late is None else f"nothing after {_clock(late)}"


def _window(start: time, end: time) -> str:
    if start == end == _MIDNIGHT:
        return "all day"
    if end == _MIDNIGHT:
        return f"from {_clock(start)} to midnight"
    if end <= start:
        return f"from {_clock(start)} over midnight to {_clock(end)}"
    return f"from {_clock(start)} to {_clock(end)}"


def _about_frequency(policy: Policy) -> Iterator[str]:
    params = policy.review_requests
    asking = [key for key, purpose in policy.purposes.items() if purpose.purpose_class is PurposeClass.REVIEW]
    if asking:
        yield f"This holds for {_purposes(asking)}."
    else:
        yield "No purpose asks for reviews at present, so these sections have no effect."
    yield (
        f"One purchase is asked about at most {_times(params.asks_per_purchase)} in all, "
        "whoever asks, and at whatever address."
    )
    yield _about_limit(params.per_person, "One person is asked", "by all merchants together")
    yield _about_limit(params.per_person_and_merchant, "One person is asked", "by the same merchant")
    yield "A request beyond any of these limits is not sent, nor kept for later."
    yield "Requests that were made outside notifygate count too, once they are recorded here."
    yield "Once a review of a purchase is recorded, nobody is asked about that purchase again."
    yield "A request that does not say which purchase it is about is not sent."


def _about_limit(limit: Limit | None, who: str, by: str) -> str:
    if limit is None:
        return f"{who} as often as may be {by}: there is no limit."
    return f"{who} at most {_times(limit.limit)} in any {in_words(limit.window)} {by}."


def _about_precedence(policy: Policy) -> Iterator[str]:
    params = policy.review_requests
    ranks = [[kind] for kind in params.precedence]
    if unnamed := [kind for kind in MerchantKind if kind not in params.precedence]:
        ranks.append(unnamed)
    order = ", ".join(
        f"{'then ' if place else ''}{_listed(_PLURALS[kind] for kind in kinds)}{'' if place else ' first'}"
        for place, kinds in enumerate(ranks)
    )
    yield f"Where the seller asks for reviews itself, this is the order: {order}."
    if params.yield_for is None:
        yield "Whoever comes after the seller in that order does not ask at all."
    else:
        yield (
            f"Whoever comes after the seller in that order waits {in_words(params.yield_for)} longer "
            "than the seller has to. It asks then only if nobody before it in the order has asked."
        )
    rank_of = {
        key: next(place for place, kinds in enumerate(ranks) if merchant.kind in kinds)
        for key, merchant in policy.merchants.items()
    }
    for rank in range(len(ranks)):
        sellers = [
            key
            for key, merchant in policy.merchants.items()
            if merchant.asks_for_reviews and rank_of[key] == rank
        ]
        if sellers:
            yield from _about_sellers(sellers, rank_of, policy)
    quiet = [key for key, merchant in policy.merchants.items() if not merchant.asks_for_reviews]
    if quiet:
        yield (
            f"About purchases from {_merchants(quiet, policy, last='or')} nobody stands back: "
            "whoever is first may ask."
        )


def _about_sellers(sellers: Sequence[str], rank_of: dict[str, int], policy: Policy) -> Iterator[str]:
    """Who stands back for sellers of one rank, and who does not, by name."""
    rank = rank_of[sellers[0]]
    after = [key for key, other in rank_of.items() if other > rank]
    others = [key for key, other in rank_of.items() if other <= rank and key not in sellers]
    about = f"About purchases from {_merchants(sellers, policy, last='or')}"
    if not after:
        yield f"{about} nobody stands back."
    elif policy.review_requests.yield_for is None:
        yield f"{about} these do not ask: {_merchants(after, policy)}."
    else:
        yield f"{about} these wait their turn: {_merchants(after, policy)}."
    if others:
        yield f"{about} these need not stand back: {_merchants(others, policy)}."
    if len(sellers) > 1:
        yield f"{_merchants(sellers, policy)} need not stand back for each other."


def _about_time(policy: Policy) -> Iterator[str]:
    params = policy.review_requests
    last = params.delay_without_delivery - params.delay + params.expires
    first, longest = _earlier_than(params.delay, "delivery"), in_words(params.expires)
    yield f"Nobody is asked {first}, nor later than {longest} after it."
    yield (
        "Where the day of delivery is not known, nobody is asked "
        f"{_earlier_than(params.delay_without_delivery, 'the purchase')}, nor later than {in_words(last)} after it."
    )
    yield (
        "Where the day of the purchase is not known either, "
        "the day on which notifygate first heard of the purchase takes its place."
    )
    if params.hold_for_cases:
        yield (
            "While a case about the purchase is open, nobody is asked, for at most "
            f"{in_words(CASE_HOLDS_AT_MOST)} from the first day of asking. After that the case makes no difference."
        )
    else:
        yield "An open case about a purchase makes no difference."
    yield "A request that comes too early waits. One that comes too late is not sent."


def _earlier_than(span: timedelta, event: str) -> str:
    return f"earlier than {in_words(span)} after {event}" if span else f"before {event}"


def _about_content(policy: Policy) -> Iterator[str]:
    checked = [
        key for key, purpose in policy.purposes.items() if purpose.purpose_class is PurposeClass.SERVICE
    ]
    if checked:
        yield f"Messages for {_purposes(checked)} are searched, and are not sent if they hold any of the following."
    else:
        yield "No purpose is for service messages at present, so this section has no effect."
    if policy.review_domains:
        yield f"Review sites, named or linked to: {', '.join(sorted(policy.review_domains))}."
    else:
        yield "Review sites: none are listed, so any may be named."
    if policy.promotion_markers:
        quoted = (f'"{marker}"' for marker in sorted(policy.promotion_markers))
        yield f"Words that give advertising away: {', '.join(quoted)}."
    else:
        yield "Words that give advertising away: none are listed, so advertising is not noticed."


def _about_rules(policy: Policy) -> Iterator[str]:
    for name, settings in sorted(policy.rule_settings.items()):
        yield f'The rule "{name}" takes part in every decision; what it does is said in its own documentation.'
        for key, value in sorted(settings.items()):
            yield f"It is set to {key} = {', '.join(map(str, value)) if isinstance(value, tuple) else value}."


def _about_place(policy: Policy) -> Iterator[str]:
    yield (
        "A person's time zone is the first of these that is known: the one given with the message, "
        "that of the phone number, that of the merchant"
        + (f", or else {policy.default_timezone}." if policy.default_timezone else ".")
    )
    if policy.default_timezone is None:
        yield "Where none of them is known, messages with hours are not sent: no time zone is assumed."
    yield "Where a phone number may lie in several time zones, the hour must be allowed in each of them."
    if policy.default_country is None:
        yield "No country is assumed: phone numbers must be given with their country code."
    else:
        yield (
            f"The country that is assumed where none is known is {policy.default_country}: for phone numbers "
            "without a country code, and for public holidays."
        )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _clock(at: time) -> str:
    return at.isoformat("minutes" if at == at.replace(second=0, microsecond=0) else "auto")


def _listed(words: Iterable[str], last: str = "and") -> str:
    """Words as in a sentence: `a`, `a and b`, `a, b and c`."""
    *some, final = words
    return f"{', '.join(some)} {last} {final}" if some else final


def _purposes(names: Iterable[str]) -> str:
    return _listed(f'"{name}"' for name in sorted(names))


def _merchants(keys: Iterable[str], policy: Policy, last: str = "and") -> str:
    """Merchants as customers know them, in the order of their keys; with the key where two share a name."""
    names = [merchant.name for merchant in policy.merchants.values()]
    said = []
    for key in sorted(keys):
        name = policy.merchants[key].name
        said.append(name if names.count(name) == 1 else f"{name} ({key})")
    return _listed(said, last)


def _group(key: str, policy: Policy) -> str:
    names = [group.name for group in policy.groups.values()]
    name = policy.groups[key].name
    return name if names.count(name) == 1 else f"{name} ({key})"
