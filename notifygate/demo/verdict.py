"""Whether it went as the stories say: what was decided, and above all what arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from notifygate import Status
from notifygate.demo.play import Ended, Tried
from notifygate.demo.sinks import Arrived
from notifygate.demo.stories import Arrival, Person

_Arrival = tuple[str, str, str, str]  # channel, recipient, sender, purpose


def faults(ended: Ended) -> list[str]:
    """Everything that is not as the stories say, in words; empty if all is."""
    expected = [arrival for played in ended.played for arrival in played.story.arrivals]
    return [
        *_about_decisions(ended.tried),
        *_about_arrivals(expected, ended.arrived, ended.tried),
        *_about_ids(ended.arrived, ended.tried),
        *ended.left_over,
    ]


def _about_decisions(tried: Iterable[Tried]) -> Iterator[str]:
    last: Tried | None = None
    for one in tried:
        name, found = f"No. {one.number}", one.explanation
        if one.send.repeats:
            if last is None or not one.duplicate or one.message_id != last.message_id:
                yield f"{name} is the same request again, and was not known as that"
            continue
        last = one
        decided = found.decision.reasons if found.decision else ()
        if decided != one.send.reasons:
            yield f"{name} must be decided with {_shown(one.send.reasons)}, and was with {_shown(decided)}"
        expected = Status.DENIED if one.send.reasons else Status.SENT
        if found.status is not expected:
            yield f"{name} must end {expected}, and is {found.status}"
        if not one.send.reasons and len(found.attempts) != 1:
            yield f"{name} must be handed over once, and was {len(found.attempts)} times"


def _shown(reasons: Iterable[str]) -> str:
    return " + ".join(reasons) or "no objection"


def _about_arrivals(
    expected: Iterable[Arrival], arrived: Iterable[Arrived], tried: Iterable[Tried]
) -> Iterator[str]:
    """Compare the sinks with the stories: exactly these, each exactly once."""
    purposes = {one.message_id: one.send.message.purpose for one in tried}
    wanted = {_wanted(one): one for one in expected}
    expected_count = Counter(_wanted(one) for one in expected)
    actual = [(_actual(one, purposes), one.text) for one in arrived]
    actual_count = Counter(key for key, _ in actual)
    for key in sorted(expected_count.keys() | actual_count.keys()):
        if expected_count[key] != actual_count[key]:
            channel, _, sender, purpose = key
            to = wanted[key].to.name if key in wanted else "somebody"
            yield (
                f"{purpose} by {channel} from {sender} to {to} must arrive {expected_count[key]} times, "
                f"and arrived {actual_count[key]} times"
            )
    for key, text in actual:
        missing = [name for name in wanted[key].names if name not in text] if key in wanted else []
        if missing:
            yield f"{key[3]} from {key[2]} does not say {' or '.join(missing)}"


def _wanted(arrival: Arrival) -> _Arrival:
    address = address_of(arrival.to, arrival.channel)
    return arrival.channel, address, arrival.sender, arrival.purpose


def _actual(arrived: Arrived, purposes: dict[str, str]) -> _Arrival:
    purpose = purposes.get(arrived.message_id or "", "a purpose unknown")
    return arrived.channel, arrived.to, arrived.sender, purpose


def address_of(person: Person, channel: str) -> str:
    """Where a message to a person arrives: phone numbers without spaces."""
    return (person.email or "") if channel == "email" else (person.phone or "").replace(" ", "")


def _about_ids(arrived: Iterable[Arrived], tried: Iterable[Tried]) -> Iterator[str]:
    """Match what arrived with the ledger, message by message: each arrival was sent, and each was sent once."""
    times = Counter(one.message_id for one in arrived)
    sent = {
        one.message_id: one for one in tried if one.explanation.status is Status.SENT and not one.send.repeats
    }
    for message_id in times.keys() - sent.keys():
        yield f"a message arrived that the ledger does not have as sent: {message_id}"
    for message_id, one in sent.items():
        if times[message_id] != 1:
            yield f"No. {one.number} is sent by the ledger, and arrived {times[message_id]} times"
