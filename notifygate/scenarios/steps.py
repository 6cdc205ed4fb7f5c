"""What can have happened before a question is asked: the steps of a scenario's history.

A step is one class with the keys that it takes, and `take`, which does it through the gateway's public interface;
and one entry in `Step`. `take` raises what the gateway raises, and `ScenarioError` where it did not go as told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from notifygate.config import values
from notifygate.consent import ConsentEvent
from notifygate.errors import InvalidConsent
from notifygate.message import Status
from notifygate.policy import ANY
from notifygate.scenarios.differences import told
from notifygate.scenarios.errors import ScenarioError
from notifygate.scenarios.forms import (
    ChannelName,
    Contact,
    Form,
    Instant,
    MerchantName,
    Pair,
    Party,
    PurchaseForm,
    RequestForm,
    Scope,
    Text,
)
from notifygate.scenarios.stage import Stage

_EVIDENCE = "a scenario"


class Permission(Form):
    """Somebody allowed something: expressly, or as an existing customer."""

    step: Literal["granted", "soft_opt_in"]
    at: Instant
    contact: Contact
    party: Party
    purpose: Scope
    channel: ChannelName | None = None
    occurred_at: Instant | None = None
    expires_at: Instant | None = None
    sale_ref: Text | None = None
    opt_out_offered: bool | None = None
    label: Text | None = None

    def take(self, stage: Stage) -> None:
        channel = self.channel or self.contact.channel.value
        event = ConsentEvent(
            state=self.step,
            contact_point=self.contact,
            party=self.party,
            channel=channel,
            purpose=self.purpose,
            occurred_at=self.occurred_at,
            expires_at=self.expires_at,
            evidence=_EVIDENCE,
            sale_ref=self.sale_ref,
            opt_out_offered=self.opt_out_offered,
        )
        event_id = stage.gate.consent.record(event)
        _remember(stage.events, self.label, event_id)


class Requested(Form):
    """A double opt-in was begun: somebody typed a contact point in, and has yet to confirm."""

    step: Literal["requested"]
    at: Instant
    contact: Contact
    party: Party
    purpose: Scope
    channel: ChannelName | None = None
    label: Text | None = None

    def take(self, stage: Stage) -> None:
        opt_in = stage.gate.consent.request(
            self.contact, party=self.party, purpose=self.purpose, channel=self.channel, evidence=_EVIDENCE
        )
        _remember(stage.events, self.label, opt_in.event_id)
        _remember(stage.tokens, self.label, opt_in.token)


class Confirm(Form):
    """Somebody used the token of a double opt-in; with `refused`, it must no longer work.

    `confirms` is the label of the step that began it.
    """

    step: Literal["confirm"]
    at: Instant
    confirms: Text
    refused: bool = False

    def take(self, stage: Stage) -> None:
        token = _recall(stage.tokens, "confirms", self.confirms, "began the double opt-in")
        try:
            stage.gate.consent.confirm(token)
        except InvalidConsent as error:
            if not self.refused:
                raise ScenarioError(f"the token was refused: it {error.problem}") from error
            return
        if self.refused:
            raise ScenarioError("the token was taken, and should have been refused")


class Refusal(Form):
    """Somebody refused something: everything, unless it is narrowed."""

    step: Literal["withdrawn", "objected", "refused"]
    at: Instant
    contact: Contact
    party: Party = ANY
    channel: ChannelName = ANY
    purpose: Scope = ANY
    occurred_at: Instant | None = None
    includes_service: bool = False

    def take(self, stage: Stage) -> None:
        event = ConsentEvent(
            state=self.step,
            contact_point=self.contact,
            party=self.party,
            channel=self.channel,
            purpose=self.purpose,
            occurred_at=self.occurred_at,
            evidence=_EVIDENCE,
            includes_service=self.includes_service,
        )
        stage.gate.consent.record(event)


class Invalidated(Form):
    """A permission turned out to be void. `invalidates` is the label of the step that recorded it."""

    step: Literal["invalidated"]
    at: Instant
    invalidates: Text

    def take(self, stage: Stage) -> None:
        event_id = _recall(stage.events, "invalidates", self.invalidates, "recorded the permission")
        stage.gate.consent.invalidate(event_id, evidence=_EVIDENCE)


class Link(Form):
    """Two contact points turned out to be one person's."""

    step: Literal["link"]
    at: Instant
    contacts: Pair

    def take(self, stage: Stage) -> None:
        stage.gate.people.link(*self.contacts, evidence=_EVIDENCE)


class Unlink(Form):
    """Two contact points turned out not to be one person's after all."""

    step: Literal["unlink"]
    at: Instant
    contacts: Pair

    def take(self, stage: Stage) -> None:
        stage.gate.people.unlink(*self.contacts)


class Suppress(Form):
    """A contact point was marked do-not-send."""

    step: Literal["suppress"]
    at: Instant
    contact: Contact
    reason: Text
    expires_at: Instant | None = None

    def take(self, stage: Stage) -> None:
        stage.gate.suppressions.add(self.contact, self.reason, self.expires_at)


class Unsuppress(Form):
    """The marks on a contact point were lifted, or those for one reason."""

    step: Literal["unsuppress"]
    at: Instant
    contact: Contact
    reason: Text | None = None

    def take(self, stage: Stage) -> None:
        stage.gate.suppressions.remove(self.contact, self.reason)


class Sent(RequestForm):
    """A message went out through the gate. It is submitted and decided for real, and must have been sent."""

    step: Literal["sent"]
    at: Instant

    def take(self, stage: Stage) -> None:
        explanation = stage.send(self.message(stage.next_number()))
        if explanation.status is not Status.SENT:
            raise ScenarioError(f"this message was not sent: {told(explanation)}")


class AskedElsewhere(Form):
    """A review was asked for without the gateway. `by` need not be a merchant of the config."""

    step: Literal["asked_elsewhere"]
    at: Instant
    purchase: PurchaseForm
    by: Text
    contact: Contact | None = None
    asked_at: Instant | None = None

    def take(self, stage: Stage) -> None:
        stage.gate.purchases.record_ask(
            self.purchase.purchase(), self.by, self.asked_at or self.at, contact_point=self.contact
        )


class Review(Form):
    """A review of a purchase was written."""

    step: Literal["review"]
    at: Instant
    purchase: PurchaseForm
    reviewed_at: Instant | None = None

    def take(self, stage: Stage) -> None:
        stage.gate.purchases.record_review(self.purchase.purchase(), self.reviewed_at or self.at)


class Alias(Form):
    """A carrier or platform turned out to know a purchase by a reference of its own."""

    step: Literal["alias"]
    at: Instant
    purchase: PurchaseForm
    carrier: MerchantName
    reference: Text

    def take(self, stage: Stage) -> None:
        stage.gate.purchases.alias(self.purchase.purchase(), self.carrier, self.reference)


class Case(Form):
    """A case about a purchase was opened or closed."""

    step: Literal["open_case", "close_case"]
    at: Instant
    purchase: PurchaseForm

    def take(self, stage: Stage) -> None:
        purchases = stage.gate.purchases
        record = purchases.open_case if self.step == "open_case" else purchases.close_case
        record(self.purchase.purchase())


def _remember(kept: dict[str, str], label: str | None, value: str) -> None:
    if label is None:
        return
    if label in kept:
        raise InvalidConsent("label", "an earlier step has this label; give each its own")
    kept[label] = value


def _recall(kept: Mapping[str, str], key: str, label: str, did: str) -> str:
    if label not in kept:
        near = values.nearest(label, kept)
        hint = f'did you mean "{near}"?' if near else f"label the step that {did}"
        raise InvalidConsent(key, f"no earlier step has the label {values.shown(label)}; {hint}")
    return kept[label]


Step = Annotated[
    Permission
    | Requested
    | Confirm
    | Refusal
    | Invalidated
    | Link
    | Unlink
    | Suppress
    | Unsuppress
    | Sent
    | AskedElsewhere
    | Review
    | Alias
    | Case,
    Field(discriminator="step"),
]

STEPS: Mapping[str, type[Form]] = {
    str(name): model
    for model in get_args(get_args(Step)[0])
    for name in get_args(model.model_fields["step"].annotation)
}
"""The steps by their names."""
