"""Which contact points are one person, and what spreads between them: refusals, never permissions."""

from __future__ import annotations

import pytest
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import ANNA_EMAIL, ANNA_SMS, newsletter

from notifygate import Gateway, InvalidMessage, NotFound, Outcome, Reason, Sms
from notifygate.message import Message


def news_by_sms(to: str = "+4520123456") -> Message:
    return newsletter(content=Sms(to, "News"))


@pytest.fixture
def subscribed(gate: Gateway) -> Gateway:
    """Anna agreed to the newsletter by email and by SMS, each for itself."""
    for point in (ANNA_EMAIL, ANNA_SMS):
        gate.consent.grant(point, party="cykelpartner", purpose="newsletter")
    return gate


class TestVariantsAreOnePersonFromBirth:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("email:anna@example.dk", "email:anna+shop@example.dk"),
            ("email:anna.hansen@gmail.com", "email:annahansen@gmail.com"),
            ("email:annahansen@gmail.com", "email:anna.hansen+x@googlemail.com"),
            ("sms:+52 55 1234 5678", "sms:+52 1 55 1234 5678"),
            ("sms:+54 9 11 2345 6789", "sms:+54 11 2345 6789"),
        ],
    )
    def test_so_a_refusal_at_one_covers_the_other(self, gate: Gateway, one: str, other: str) -> None:
        channel = one.partition(":")[0]
        gate.consent.grant(other, party="cykelpartner", purpose="newsletter")
        gate.consent.withdraw(one)

        assert not gate.consent.effective(other, merchant="cykelpartner", purpose="newsletter").permitted
        assert set(gate.people.of(one)) == set(gate.people.of(other))
        assert len(gate.people.of(one)) == 2
        assert all(point.startswith(channel) for point in gate.people.of(one))

    def test_and_a_permission_for_one_is_none_for_the_other(self, gate: Gateway) -> None:
        gate.consent.grant("email:anna+shop@example.dk", party="cykelpartner", purpose="newsletter")

        assert gate.check(newsletter(to="anna+shop@example.dk")).outcome is Outcome.ALLOW
        assert gate.check(newsletter(to="anna@example.dk")).reasons == (Reason.CONSENT_MISSING,)

    def test_and_a_variant_that_turns_up_later_is_linked_as_the_first_is(self, gate: Gateway) -> None:
        gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        gate.consent.withdraw(ANNA_SMS)
        late = "email:anna+new@example.dk"
        gate.consent.grant(late, party="cykelpartner", purpose="newsletter")

        assert gate.check(newsletter(to="anna+new@example.dk")).reasons == (Reason.CONSENT_WITHDRAWN,)
        assert late in gate.people.of(ANNA_SMS)

    def test_and_dots_matter_outside_gmail(self, gate: Gateway) -> None:
        gate.consent.withdraw("email:anna.hansen@example.dk")

        assert len(gate.people.of("email:annahansen@example.dk")) == 1

    def test_and_cannot_be_unlinked(self, gate: Gateway) -> None:
        gate.consent.withdraw(ANNA_EMAIL)
        gate.consent.withdraw("email:anna+shop@example.dk")

        with pytest.raises(InvalidMessage, match="variant"):
            gate.people.unlink(ANNA_EMAIL, "email:anna+shop@example.dk")

    def test_and_need_no_link(self, gate: Gateway) -> None:
        linked = gate.people.link(ANNA_EMAIL, "email:anna+shop@example.dk", "same mailbox")

        assert len(linked) == 2
        assert list(gate.log.search(kind="link")) == []


class TestLink:
    def test_joins_two_persons(self, gate: Gateway) -> None:
        person = gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")

        assert set(person) == {ANNA_EMAIL, ANNA_SMS}
        assert gate.people.of(ANNA_SMS).person_id == gate.people.of(ANNA_EMAIL).person_id == person.person_id

    @pytest.mark.parametrize("refused_first", [True, False])
    def test_spreads_refusals_from_before_and_after(self, subscribed: Gateway, refused_first: bool) -> None:
        if refused_first:
            subscribed.consent.withdraw(ANNA_SMS)
        subscribed.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        if not refused_first:
            subscribed.consent.withdraw(ANNA_SMS)

        assert subscribed.check(newsletter()).reasons == (Reason.CONSENT_WITHDRAWN,)

    def test_spreads_no_permission(self, gate: Gateway) -> None:
        gate.consent.grant(ANNA_SMS, party="cykelpartner", purpose="newsletter")
        gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")

        assert gate.check(news_by_sms()).outcome is Outcome.ALLOW
        assert gate.check(newsletter()).reasons == (Reason.CONSENT_MISSING,)

    def test_leaves_a_refusal_of_one_channel_to_that_channel(self, subscribed: Gateway) -> None:
        subscribed.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        subscribed.consent.withdraw(ANNA_SMS, channel="sms")

        assert subscribed.check(newsletter()).outcome is Outcome.ALLOW

    def test_spreads_an_erasure_but_no_complaint(self, subscribed: Gateway) -> None:
        subscribed.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        subscribed.suppressions.add(ANNA_SMS, "complaint")
        assert subscribed.check(newsletter()).outcome is Outcome.ALLOW

        subscribed.suppressions.add(ANNA_SMS, "erased")
        assert subscribed.check(newsletter()).reasons == (Reason.SUPPRESSED_ERASED,)

    def test_counts_caps_together(self, open_gate: OpenGate) -> None:
        caps = [{"limit": 1, "window": "7d", "per": "person"}]
        gate = open_gate(purposes={"newsletter": {"caps": caps, "dedupe": None}})
        for point in (ANNA_EMAIL, ANNA_SMS):
            gate.consent.grant(point, party="cykelpartner", purpose="newsletter")
        gate.submit(news_by_sms())
        gate.drain()
        assert gate.check(newsletter()).outcome is Outcome.ALLOW

        gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        assert gate.check(newsletter()).reasons == (Reason.CAP_REACHED,)

    def test_is_transitive(self, gate: Gateway) -> None:
        berit = "email:berit@example.dk"
        gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        gate.people.link(berit, ANNA_SMS, "maiden name")

        assert set(gate.people.of(ANNA_EMAIL)) == {ANNA_EMAIL, ANNA_SMS, berit}

    @pytest.mark.parametrize("turned_round", [True, False])
    def test_twice_is_as_good_as_once(self, gate: Gateway, turned_round: bool) -> None:
        first = gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        points = (ANNA_SMS, ANNA_EMAIL) if turned_round else (ANNA_EMAIL, ANNA_SMS)
        second = gate.people.link(*points, "customer account")

        assert second.person_id == first.person_id
        assert set(second) == {ANNA_EMAIL, ANNA_SMS}
        # Once unlinked they are two, however often they were linked.
        gate.people.unlink(ANNA_EMAIL, ANNA_SMS)
        assert set(gate.people.of(ANNA_SMS)) == {ANNA_SMS}

    def test_with_itself_is_nothing(self, gate: Gateway) -> None:
        assert set(gate.people.link(ANNA_EMAIL, "email:ANNA@example.dk", "same")) == {ANNA_EMAIL}

    def test_needs_evidence(self, gate: Gateway) -> None:
        with pytest.raises(InvalidMessage, match="evidence"):
            gate.people.link(ANNA_EMAIL, ANNA_SMS, " ")
        with pytest.raises(InvalidMessage, match="evidence: holds"):
            gate.people.link(ANNA_EMAIL, ANNA_SMS, "\ud800")


class TestUnlink:
    def test_makes_two_persons_again(self, gate: Gateway) -> None:
        gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        person = gate.people.unlink(ANNA_EMAIL, ANNA_SMS)

        assert set(person) == {ANNA_EMAIL}
        assert set(gate.people.of(ANNA_SMS)) == {ANNA_SMS}

    @pytest.mark.parametrize("refused_at", [ANNA_EMAIL, ANNA_SMS])
    def test_keeps_refusals_for_both(self, subscribed: Gateway, refused_at: str) -> None:
        subscribed.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        subscribed.consent.object(refused_at)
        subscribed.people.unlink(ANNA_EMAIL, ANNA_SMS)

        assert subscribed.check(newsletter()).reasons == (Reason.CONSENT_OBJECTED,)
        assert subscribed.check(news_by_sms()).reasons == (Reason.CONSENT_OBJECTED,)

    def test_keeps_a_refusals_date_so_that_a_later_grant_still_counts(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        gate.consent.withdraw(ANNA_SMS)
        clock.advance(hours=1)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        clock.advance(hours=1)
        gate.people.unlink(ANNA_EMAIL, ANNA_SMS)

        assert gate.check(newsletter()).outcome is Outcome.ALLOW

    def test_lets_later_refusals_stay_where_they_are_made(
        self, subscribed: Gateway, clock: SimulatedClock
    ) -> None:
        subscribed.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        subscribed.people.unlink(ANNA_EMAIL, ANNA_SMS)
        subscribed.consent.withdraw(ANNA_SMS)

        assert subscribed.check(newsletter()).outcome is Outcome.ALLOW

    def test_keeps_together_what_other_links_hold(self, gate: Gateway) -> None:
        berit = "email:berit@example.dk"
        gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        gate.people.link(ANNA_SMS, berit, "maiden name")
        gate.people.unlink(ANNA_EMAIL, ANNA_SMS)

        assert set(gate.people.of(berit)) == {berit, ANNA_SMS}
        assert set(gate.people.of(ANNA_EMAIL)) == {ANNA_EMAIL}

    def test_separates_nobody_who_is_linked_in_another_way(self, gate: Gateway) -> None:
        berit = "email:berit@example.dk"
        gate.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        gate.people.link(ANNA_SMS, berit, "maiden name")
        gate.people.link(ANNA_EMAIL, berit, "same face")
        gate.people.unlink(ANNA_EMAIL, ANNA_SMS)

        assert set(gate.people.of(ANNA_EMAIL)) == {ANNA_EMAIL, ANNA_SMS, berit}

    def test_of_what_was_never_linked_is_not_found(self, gate: Gateway) -> None:
        with pytest.raises(NotFound):
            gate.people.unlink(ANNA_EMAIL, ANNA_SMS)
        gate.consent.withdraw(ANNA_EMAIL)
        gate.consent.withdraw(ANNA_SMS)
        with pytest.raises(NotFound):
            gate.people.unlink(ANNA_EMAIL, ANNA_SMS)


def test_a_contact_point_never_seen_is_a_person_of_its_own_and_stays_unknown(gate: Gateway) -> None:
    person = gate.people.of("email:NOBODY@example.dk")

    assert list(person) == ["email:nobody@example.dk"]
    assert person.person_id is None
