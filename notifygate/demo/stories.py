"""The two stories: who tries to send what to whom, and what must come of it. All of the demo's data is here.

Both are true, and Danish. What each merchant is, and under what rules, is in `config.toml` beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from notifygate import Email, Gateway, Message, Purchase, Reason, Sms

MERCHANTS: Mapping[str, str] = {
    "cykelpartner": "the shop",
    "postdanmark": "the carrier",
    "trustpilot": "the platform",
    "headoffice": "head office",
    "rosenhaven": "the florist",
    "blomsterbud": "the driver",
}
"""What each merchant of the config is in its story."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody whom the merchants can reach, as they type it."""

    name: str
    phone: str | None = None
    email: str | None = None


ANNA = Person(name="Anna", phone="+45 20 12 34 56", email="anna@mail.example")
METTE = Person(name="Mette", phone="+45 31 22 33 44")
LARS = Person(name="Lars", email="lars@mail.example")
PEOPLE = (ANNA, METTE, LARS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Something that the gateway is told, and by whom."""

    who: str
    what: str
    tell: Callable[[Gateway], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Something that a merchant tries to send. `what` puts it in a few words.

    It must be refused for exactly these `reasons`; where there are none, it must be sent. With `repeats` it is the
    request of the `Send` before, handed over again: the gateway must know it, and make nothing new of it.
    """

    what: str
    message: Message
    reasons: tuple[Reason, ...] = ()
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What must arrive: `sender` as the config writes it, `names` what the text must hold."""

    channel: Literal["email", "sms"]
    to: Person
    sender: str
    purpose: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One story. All sends of one tuple are tried at once; what comes next waits until they are settled.

    `arrivals` says what the customers must get in the end, each once, and that they get nothing else. `questions`
    are for those who want to know more: each with the command that answers it.
    """

    title: str
    intro: str
    on_record: tuple[Told, ...]
    acts: tuple[Told | tuple[Send, ...], ...]
    arrivals: tuple[Arrival, ...]
    questions: tuple[tuple[str, str], ...] = ()


def tell(now: datetime) -> tuple[Story, ...]:
    """Both stories, as they stand at instant `now`: eight days after the goods were delivered."""
    return parcel(now), bouquet(now)


def parcel(now: datetime) -> Story:
    """The parcel: a carrier asks for reviews of what a shop sold."""
    bought, delivered = now - timedelta(days=10), now - timedelta(days=8)
    order = Purchase("cykelpartner", "1001", purchased_at=bought, delivered_at=delivered)
    # The carrier does not know the shop's order, only its own parcel number.
    shipment = Purchase("postdanmark", "PD-70-4411")
    phone, email = f"sms:{ANNA.phone}", f"email:{ANNA.email}"
    please_review = Message(
        merchant="cykelpartner",
        purpose="review_request",
        content=Email(
            ANNA.email or "", "How is your bike light?", text="Tell others: dk.trustpilot.com/evaluate"
        ),
        purchase=order,
        idempotency_key="review-1001",
    )
    return Story(
        title="The parcel",
        intro=(
            "Anna bought a bike light at Cykelpartner.dk. Post Danmark brought it eight days ago, and asks "
            "everyone to whom it brings parcels for a review on Trustpilot. So does the shop: about the same "
            "order, and nobody sees what the others send."
        ),
        on_record=(
            Told(
                who="cykelpartner",
                what="Anna's phone and email are one person: order 1001 holds both",
                tell=lambda gate: gate.people.link(phone, email, evidence="order 1001 holds both"),
            ),
            Told(
                who="postdanmark",
                what="parcel PD-70-4411 is order 1001 of Cykelpartner.dk",
                tell=lambda gate: gate.purchases.alias(order, "postdanmark", "PD-70-4411"),
            ),
            Told(
                who="cykelpartner",
                what="at the sale Anna could say no to being asked by email, and did not",
                tell=lambda gate: gate.consent.soft_opt_in(
                    email,
                    party="cykelpartner",
                    purpose="review_request",
                    sale_ref="1001",
                    opt_out_offered=True,
                    occurred_at=bought,
                ),
            ),
            Told(
                who="cykelpartner",
                what="Anna ordered the shop's newsletter by email",
                tell=lambda gate: gate.consent.grant(
                    email,
                    party="cykelpartner",
                    purpose="newsletter",
                    occurred_at=bought,
                    evidence="box ticked in order 1001",
                ),
            ),
            Told(
                who="trustpilot",
                what="Anna, who has an account there, lets Trustpilot ask her by email",
                tell=lambda gate: gate.consent.grant(
                    email,
                    party="trustpilot",
                    purpose="review_request",
                    occurred_at=now - timedelta(days=200),
                    evidence="settings of her account",
                ),
            ),
        ),
        acts=(
            (
                Send(
                    what="“your parcel has arrived”",
                    message=Message(
                        merchant="postdanmark",
                        purpose="delivery_notice",
                        content=Sms(ANNA.phone or "", "Your parcel PD-70-4411 has arrived."),
                        purchase=shipment,
                    ),
                ),
                Send(
                    what="“rate this delivery”",
                    message=Message(
                        merchant="postdanmark",
                        purpose="review_request",
                        content=Sms(ANNA.phone or "", "How did we do? dk.trustpilot.com/evaluate"),
                        purchase=shipment,
                    ),
                    reasons=(Reason.CONSENT_MISSING, Reason.SELLER_ASKS_ITSELF),
                ),
                Send(
                    what="“rate this delivery”",
                    message=Message(
                        merchant="postdanmark",
                        purpose="review_request",
                        content=Email(
                            ANNA.email or "", "How did we do?", text="Tell us: dk.trustpilot.com/evaluate"
                        ),
                        purchase=shipment,
                    ),
                    reasons=(Reason.CONSENT_MISSING, Reason.SELLER_ASKS_ITSELF),
                ),
                Send(
                    what="the same, declared as “service”",
                    message=Message(
                        merchant="postdanmark",
                        purpose="order_update",
                        content=Sms(
                            ANNA.phone or "", "Your parcel is with you. All well? dk.trustpilot.com/evaluate"
                        ),
                        purchase=shipment,
                    ),
                    reasons=(Reason.MISDECLARED_CLASS,),
                ),
                Send(
                    what="“review your purchase”",
                    message=Message(
                        merchant="trustpilot",
                        purpose="review_request",
                        content=Email(
                            ANNA.email or "", "Review your purchase", text="trustpilot.com/evaluate/4411"
                        ),
                        purchase=order,
                    ),
                    reasons=(Reason.SELLER_ASKS_ITSELF,),
                ),
            ),
            (
                Send(what="“how is your bike light?”", message=please_review),
                Send(what="the same request, tried again", message=please_review, repeats=True),
                Send(
                    what="its newsletter",
                    message=Message(
                        merchant="cykelpartner",
                        purpose="newsletter",
                        content=Email(ANNA.email or "", "Winter is coming", text="Our tyres for the ice."),
                    ),
                ),
            ),
            (
                Send(
                    what="a reminder, in other words",
                    message=Message(
                        merchant="cykelpartner",
                        purpose="review_request",
                        content=Email(ANNA.email or "", "Did you forget?", text="We await your review."),
                        purchase=order,
                    ),
                    reasons=(Reason.PURCHASE_ALREADY_ASKED,),
                ),
            ),
            Told(
                who=ANNA.name,
                what="answers STOP, to the SMS: no more from anyone",
                tell=lambda gate: gate.consent.withdraw(phone, source="SMS: STOP"),
            ),
            (
                Send(
                    what="its next newsletter",
                    message=Message(
                        merchant="cykelpartner",
                        purpose="newsletter",
                        content=Email(ANNA.email or "", "Now it is cold", text="Our gloves for the ice."),
                    ),
                    reasons=(Reason.CONSENT_WITHDRAWN,),
                ),
                Send(
                    what="“your guarantee papers”",
                    message=Message(
                        merchant="cykelpartner",
                        purpose="order_update",
                        content=Email(
                            ANNA.email or "", "Your guarantee", text="The papers for order 1001: two years."
                        ),
                        purchase=order,
                    ),
                ),
            ),
        ),
        arrivals=(
            Arrival(channel="sms", to=ANNA, sender="PostDanmark", purpose="delivery_notice"),
            Arrival(
                channel="email",
                to=ANNA,
                sender="hej@cykelpartner.example",
                purpose="review_request",
                names=("Cykelpartner.dk", "1001"),
            ),
            Arrival(channel="email", to=ANNA, sender="hej@cykelpartner.example", purpose="newsletter"),
            Arrival(channel="email", to=ANNA, sender="hej@cykelpartner.example", purpose="order_update"),
        ),
        questions=(
            (
                "All that happened about the order, asked by the carrier's number",
                "notifygate log search --purchase postdanmark PD-70-4411",
            ),
            (
                "What Anna allowed and refused, on all her addresses",
                "notifygate consent show email:anna@mail.example",
            ),
        ),
    )


def bouquet(now: datetime) -> Story:
    """The bouquet: the woman who was brought it is not the one who bought it."""
    bought, delivered = now - timedelta(days=9), now - timedelta(days=8)
    order = Purchase("headoffice", "F-2207", purchased_at=bought, delivered_at=delivered)
    errand = Purchase("blomsterbud", "88-3")
    phone = f"sms:{METTE.phone}"

    def ask_mette(merchant: str, text: str) -> Send:
        return Send(
            what="“how were the flowers?”",
            message=Message(
                merchant=merchant,
                purpose="review_request",
                role="recipient",
                content=Sms(METTE.phone or "", text),
                purchase=order,
            ),
            reasons=(Reason.CONSENT_MISSING, Reason.NOT_THE_BUYER),
        )

    return Story(
        title="The bouquet",
        intro=(
            "Lars and his colleagues sent Mette flowers for her birthday: sold by Interflora, tied by the florist "
            "Rosenhaven, brought by a driver. All of them have her number, and so has the review platform, although "
            "she bought nothing. She was out when the driver came, and was scolded for it twice."
        ),
        on_record=(
            Told(
                who="blomsterbud",
                what="errand 88-3 is order F-2207 of Interflora",
                tell=lambda gate: gate.purchases.alias(order, "blomsterbud", "88-3"),
            ),
            Told(
                who="headoffice",
                what="at the sale Lars could say no to being asked by email, and did not",
                tell=lambda gate: gate.consent.soft_opt_in(
                    f"email:{LARS.email}",
                    party="headoffice",
                    purpose="review_request",
                    sale_ref="F-2207",
                    opt_out_offered=True,
                    occurred_at=bought,
                ),
            ),
            Told(
                who="headoffice",
                what="Mette, a customer herself last year, lets the whole group send her offers by SMS",
                tell=lambda gate: gate.consent.grant(
                    phone,
                    party="interflora",
                    purpose="newsletter",
                    occurred_at=now - timedelta(days=300),
                    evidence="box ticked in order F-0815",
                ),
            ),
        ),
        acts=(
            (
                Send(
                    what="“you were out when your flowers came”",
                    message=Message(
                        merchant="blomsterbud",
                        purpose="delivery_notice",
                        role="recipient",
                        content=Sms(METTE.phone or "", "You were out. Your flowers are at the neighbour's."),
                        purchase=errand,
                    ),
                ),
            ),
            (
                Send(
                    what="“you were out!”, again",
                    message=Message(
                        merchant="rosenhaven",
                        purpose="delivery_notice",
                        role="recipient",
                        content=Sms(METTE.phone or "", "Our driver stood at your door. You were out!"),
                        purchase=order,
                    ),
                    reasons=(Reason.CAP_REACHED,),
                ),
                ask_mette("rosenhaven", "How did you like our bouquet? dk.trustpilot.com/evaluate"),
                ask_mette("headoffice", "How was your Interflora bouquet? dk.trustpilot.com/evaluate"),
                ask_mette("trustpilot", "Interflora asks what you think: trustpilot.com/evaluate/88"),
                Send(
                    what="“were they pleased?”",
                    message=Message(
                        merchant="headoffice",
                        purpose="review_request",
                        content=Email(
                            LARS.email or "", "Your bouquet", text="Were they pleased with your flowers?"
                        ),
                        purchase=order,
                    ),
                ),
            ),
            (
                Send(
                    what="“how was our service?”",
                    message=Message(
                        merchant="rosenhaven",
                        purpose="review_request",
                        content=Email(LARS.email or "", "Our bouquet", text="We tied it. How did it look?"),
                        purchase=order,
                    ),
                    reasons=(Reason.CONSENT_MISSING, Reason.PURCHASE_ALREADY_ASKED),
                ),
            ),
            Told(
                who=METTE.name,
                what="says stop, to the florist: no more from any of you",
                tell=lambda gate: gate.consent.withdraw(
                    phone, party="interflora", source="telephone, Rosenhaven"
                ),
            ),
            (
                Send(
                    what="an offer for Mother's Day",
                    message=Message(
                        merchant="headoffice",
                        purpose="newsletter",
                        content=Sms(METTE.phone or "", "Mother's Day: tulips for 99."),
                    ),
                    reasons=(Reason.CONSENT_WITHDRAWN,),
                ),
                Send(
                    what="“sorry: a new bouquet is coming”",
                    message=Message(
                        merchant="headoffice",
                        purpose="order_update",
                        role="recipient",
                        content=Sms(METTE.phone or "", "We are sorry. A new bouquet is on its way to you."),
                        purchase=order,
                    ),
                ),
            ),
        ),
        arrivals=(
            Arrival(channel="sms", to=METTE, sender="Blomsterbud", purpose="delivery_notice"),
            Arrival(
                channel="email",
                to=LARS,
                sender="kunder@interflora.example",
                purpose="review_request",
                names=("Interflora", "F-2207"),
            ),
            Arrival(channel="sms", to=METTE, sender="Interflora", purpose="order_update"),
        ),
        questions=(
            (
                "All that anybody tried to send to Mette, and what came of it",
                "notifygate log search --contact sms:+4531223344",
            ),
        ),
    )
