"""Content: the declared class must not be a way round the gate."""

from __future__ import annotations

import html
import re
from datetime import datetime
from functools import lru_cache

from notifygate.decision import Finding, Reason
from notifygate.policy import Policy, PurposeClass
from notifygate.snapshot import Request, Snapshot

_HOST = re.compile(r"[\w.-]+")
_DOTS = re.compile(r"\.{2,}")
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")  # in a link within a link, as click trackers write them

_NOT_SEARCHED = Finding.allow(
    Reason.NOT_APPLICABLE, "Only service messages are searched for advertising."
).by("content")
_NOTHING_FOUND = Finding.allow(Reason.PASSED, "Neither a review site nor a promotion marker in the text.").by(
    "content"
)


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Deny a service message that points at a review site or carries a promotion marker."""
    purpose = policy.purposes[request.purpose]
    if purpose.purpose_class is not PurposeClass.SERVICE:
        return _NOT_SEARCHED
    if site := _review_site(request.text, policy.review_domains):
        return Finding.deny(
            Reason.MISDECLARED_CLASS,
            f"A service message may not point at a review site, and this one names {site}.",
            review_site=site,
        )
    if marker := _first(_words(policy.promotion_markers), request.text):
        return Finding.deny(
            Reason.MISDECLARED_CLASS,
            f"A service message may not advertise, and this one carries the promotion marker {marker!r}.",
            marker=marker,
        )
    return _NOTHING_FOUND


def _review_site(text: str, domains: tuple[str, ...]) -> str | None:
    """The first of the domains that the text names, itself or by a subdomain; never one that merely looks alike."""
    place_of, most_labels = _places(domains)
    for found in _HOST.finditer(_ESCAPED.sub(" ", html.unescape(text))):
        for run in _DOTS.split(found[0].casefold()):
            labels = run.strip(".-_").rsplit(".", most_labels)[-most_labels:]
            names = (".".join(labels[start:]) for start in range(len(labels)))
            places = [place_of[name] for name in names if name in place_of]
            if places:
                return domains[min(places)]
    return None


@lru_cache(maxsize=16)
def _places(domains: tuple[str, ...]) -> tuple[dict[str, int], int]:
    """The place of each domain among all, and how many labels the longest has."""
    most_labels = max((domain.count(".") + 1 for domain in domains), default=1)
    return {domain: place for place, domain in enumerate(domains)}, most_labels


def _first(pattern: re.Pattern[str] | None, text: str) -> str | None:
    found = pattern.search(text) if pattern is not None else None
    return found[1].casefold() if found else None


@lru_cache(maxsize=16)
def _words(markers: tuple[str, ...]) -> re.Pattern[str] | None:
    if not markers:
        return None
    either = "|".join(_word(marker) for marker in sorted(markers, key=len, reverse=True))
    return re.compile(f"({either})", re.IGNORECASE)


def _word(marker: str) -> str:
    """A marker as a whole word. An end that is no part of a word, as that of "% off", needs none beside it."""
    before = r"(?<!\w)" if re.match(r"\w", marker) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", marker) else ""
    return f"{before}{re.escape(marker)}{after}"
