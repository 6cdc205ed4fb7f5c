"""`gate.consent.importing`, `import_events` and `export`: many events at once, once each, and there and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import config as configs
from support.clock import SimulatedClock
from support.databases import Databases
from support.fixtures import OpenGate
from support.messages import newsletter
from support.tables import contents, row_counts

from notifygate import ConsentEvent, Gateway, InvalidConsent, Outcome
from notifygate.cli.consent_forms import Form
from notifygate.gateway.consent_imports import Imported, ImportOutcome, ImportRow
from notifygate.gateway.consent_records import events_of, records_of, row_of

SPRING = datetime(2026, 3, 1, 12, tzinfo=UTC)


def granted(address: str = "email:anna@example.dk", **more: Any) -> ConsentEvent:
    fields: dict[str, Any] = {
        "state": "granted",
        "contact_point": address,
        "party": "cykelpartner",
        "channel": "email",
        "purpose": "newsletter",
        "occurred_at": SPRING,
    }
    return ConsentEvent(**fields | more)


def rows(*events: ConsentEvent, keys: bool = False) -> list[ImportRow]:
    return [ImportRow(event=event, key=str(place) if keys else None) for place, event in enumerate(events)]


def imported(gate: Gateway, *given: ImportRow, **more: Any) -> list[Imported]:
    return list(gate.consent.import_events(given, source=more.pop("source", "shop"), **more))


def outcomes(results: list[Imported]) -> list[str]:
    return [str(result.outcome) for result in results]


def standing(gate: Gateway, address: str = "email:anna@example.dk") -> str:
    found = gate.consent.effective(address, merchant="cykelpartner", purpose="newsletter")
    return str(found.standing)


def test_a_permission_without_a_date_beats_no_refusal(gate: Gateway) -> None:
    gate.consent.withdraw("email:anna@example.dk")
    refused = granted(state="withdrawn", party="*", channel="*", purpose="*", occurred_at=None)

    undated, refusal = imported(gate, *rows(granted(occurred_at=None), refused))

    assert (undated.outcome, undated.field) == (ImportOutcome.REJECTED, "occurred_at")
    assert refusal.outcome is ImportOutcome.WRITTEN


class TestTakingIn:
    def test_an_imported_event_holds_with_its_own_date_and_is_recorded_now(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        (result,) = imported(gate, *rows(granted()))

        (event,) = gate.consent.history("email:anna@example.dk")
        assert (event.event_id, event.occurred_at, event.recorded_at) == (
            result.event_id,
            SPRING,
            clock(),
        )
        assert event.source == "shop"
        assert standing(gate) == "permitted"
        assert gate.check(newsletter()).outcome is Outcome.ALLOW

    def test_a_second_import_adds_nothing(self, gate: Gateway, ledger_url: str) -> None:
        given = rows(granted(), granted("sms:+4520123456", channel="sms"))
        first = imported(gate, *given)
        before = row_counts(ledger_url)

        second = imported(gate, *given)

        assert outcomes(second) == ["known", "known"]
        assert [one.event_id for one in second] == [one.event_id for one in first]
        assert row_counts(ledger_url) == before | {"ledger": before["ledger"] + 1}  # that it was run

    def test_a_row_that_is_there_twice_in_a_file_is_written_once(self, gate: Gateway) -> None:
        assert outcomes(imported(gate, *rows(granted(), granted()))) == ["written", "known"]

    def test_a_key_used_for_other_content_is_rejected(self, gate: Gateway) -> None:
        imported(gate, *rows(granted(), keys=True))
        (result,) = imported(gate, *rows(granted(occurred_at=SPRING + timedelta(days=1)), keys=True))
        assert (result.outcome, result.field) == ("rejected", "row_key")
        assert "other content" in result.problem

    @pytest.mark.parametrize("event_id_of", ["refusal", "void"])
    def test_an_event_of_this_ledger_is_known_by_its_id_where_the_row_says_the_same(
        self, gate: Gateway, event_id_of: str
    ) -> None:
        permissions = [
            gate.consent.grant("email:anna@example.dk", party=party, purpose="newsletter")
            for party in ("cykelpartner", "florist")
        ]
        if event_id_of == "refusal":
            ours = gate.consent.get(gate.consent.withdraw("email:anna@example.dk", purpose="newsletter"))
            others: dict[str, Any] = {"contact_point": "email:bo@example.dk", "includes_service": True}
        else:
            ours = gate.consent.get(gate.consent.invalidate(permissions[0]))
            others = {"contact_point": "email:bo@example.dk", "invalidates": permissions[1]}
        as_row = replace(ours, event_id=None, recorded_at=None)

        for name, other in others.items():
            row = ImportRow(event=replace(as_row, **{name: other}), key=ours.event_id)
            (result,) = imported(gate, row)
            assert (result.outcome, result.field) == ("rejected", "row_key")
            assert "says something else" in result.problem
        assert outcomes(imported(gate, ImportRow(event=as_row, key=ours.event_id))) == ["known"]

    def test_keys_of_one_source_are_not_those_of_another(self, gate: Gateway) -> None:
        imported(gate, *rows(granted(), keys=True), source="mailchimp")
        other = rows(granted("email:bo@example.dk"), keys=True)
        assert outcomes(imported(gate, *other, source="klaviyo")) == ["written"]

    @pytest.mark.parametrize(
        ("event", "field"),
        [
            (granted(party="*"), "party"),
            (granted(party="anna@example.dk"), "party"),
            (granted(purpose="anna@example.dk"), "purpose"),
            (granted(purpose="marketing"), "purpose"),
            (granted(channel="sms"), "channel"),
            (granted(channel="anna@example.dk"), "channel"),
            (granted("email:anna"), "contact_point"),
            (granted("anna@example.dk"), "contact_point"),
            (granted(expires_at=SPRING), "expires_at"),
            (granted(basis="anna@example.dk"), "basis"),
            (granted(notice_version="+45 20 12 34 56"), "notice_version"),
            (granted(state="soft_opt_in"), "sale_ref"),
            (granted(state="invalidated"), "invalidates"),
            (granted(state="invalidated", invalidates="evt_0"), "invalidates"),
            (granted(recorded_at=SPRING), "recorded_at"),
        ],
    )
    def test_a_row_that_is_not_in_order_is_rejected_by_field_and_without_its_values(
        self, gate: Gateway, ledger_url: str, event: ConsentEvent, field: str
    ) -> None:
        results = imported(gate, *rows(event, granted("email:bo@example.dk")))

        assert outcomes(results) == ["rejected", "written"]
        assert results[0].field == field
        assert "anna" not in results[0].problem
        assert row_counts(ledger_url)["consent_events"] == 1

    @pytest.mark.parametrize("unfit", ["a\x00b", "\ud800"])
    @pytest.mark.parametrize(
        "field", ["evidence", "actor", "source", "sale_ref", "basis", "invalidates", "row_key"]
    )
    def test_a_text_that_no_ledger_can_hold_is_rejected_by_field_and_stops_no_other(
        self, gate: Gateway, field: str, unfit: str
    ) -> None:
        bad = ImportRow(event=granted("email:bo@example.dk"), key=f"evt_{unfit}")
        if field != "row_key":
            bad = ImportRow(event=granted("email:bo@example.dk", **{field: unfit}))

        results = imported(gate, bad, *rows(granted()))

        assert outcomes(results) == ["rejected", "written"]
        assert results[0].field == field

    def test_refusals_are_never_rejected_for_being_broad(self, gate: Gateway) -> None:
        given = [granted(), granted(state="withdrawn", party="*", channel="*", purpose="*", occurred_at=None)]
        assert outcomes(imported(gate, *rows(*given))) == ["written", "written"]
        assert standing(gate) == "refused"

    def test_a_permission_dated_in_the_future_waits(self, gate: Gateway, clock: SimulatedClock) -> None:
        imported(gate, *rows(granted(occurred_at=clock() + timedelta(days=1))))
        assert standing(gate) == "missing"
        clock.set(clock() + timedelta(days=1))
        assert standing(gate) == "permitted"

    def test_a_permission_is_voided_by_its_key_in_the_same_batch_or_later(self, gate: Gateway) -> None:
        void = granted(state="invalidated", party="*", channel="*", purpose="*", invalidates="k1")
        first = [ImportRow(event=granted(), key="k1"), ImportRow(event=void, key="k2")]
        assert outcomes(imported(gate, *first)) == ["written", "written"]
        assert standing(gate) == "invalidated"

        imported(gate, ImportRow(event=granted("email:bo@example.dk"), key="k3"))
        later = granted("email:bo@example.dk", state="invalidated", invalidates="k3")
        assert outcomes(imported(gate, ImportRow(event=later, key="k4"))) == ["written"]
        assert standing(gate, "email:bo@example.dk") == "invalidated"

    def test_a_permission_of_an_erased_person_is_voided_and_no_text_or_address_comes_back(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        bad = gate.consent.grant("email:anna@example.dk", party="cykelpartner", purpose="newsletter")
        gate.people.erase("email:anna@example.dk")
        void = granted("email:bo@example.dk", state="invalidated", invalidates=bad, evidence="anna rang")

        assert outcomes(imported(gate, *rows(void))) == ["written"]

        assert standing(gate) == "invalidated"
        found = contents(ledger_url)
        assert [row["evidence"] for row in found["consent_events"]] == [None, None]
        assert [row["address"] for row in found["contact_points"]] == [None]

    def test_a_refusal_cannot_be_voided(self, gate: Gateway) -> None:
        refusal = ImportRow(event=granted(state="withdrawn"), key="k1")
        void = ImportRow(event=granted(state="invalidated", invalidates="k1"), key="k2")
        assert outcomes(imported(gate, refusal, void)) == ["written", "rejected"]
        assert standing(gate) == "refused"

    @pytest.mark.parametrize("source", ["", "anna@example.dk", "4520123456", "x" * 81])
    def test_a_source_that_could_name_a_person_is_refused(self, gate: Gateway, source: str) -> None:
        with pytest.raises(InvalidConsent, match="source"):
            imported(gate, source=source)

    def test_an_actor_that_no_ledger_can_hold_is_refused_at_once(self, gate: Gateway) -> None:
        with pytest.raises(InvalidConsent, match="actor"):
            imported(gate, *rows(granted()), actor="\ud800")


class TestARefusalWithoutADate:
    def again(self, gate: Gateway, clock: SimulatedClock, **more: Any) -> list[str]:
        clock.advance(hours=1)
        refusal = granted(**{"state": "withdrawn", "occurred_at": None} | more)
        return outcomes(imported(gate, *rows(refusal, refusal, granted("email:bo@example.dk"))))

    def grant(self, gate: Gateway, clock: SimulatedClock, **more: Any) -> str:
        clock.advance(hours=1)
        scope: dict[str, Any] = {"party": "cykelpartner", "purpose": "newsletter"} | more
        return gate.consent.grant("email:anna@example.dk", **scope)

    @pytest.mark.parametrize("broad", [{}, {"party": "*", "channel": "*", "purpose": "marketing"}])
    def test_that_is_there_again_after_a_newer_permission_is_written_again_once(
        self, gate: Gateway, clock: SimulatedClock, broad: dict[str, Any]
    ) -> None:
        assert self.again(gate, clock, **broad) == ["written", "known", "written"]
        assert self.again(gate, clock, **broad) == ["known", "known", "known"]
        for _ in range(2):
            self.grant(gate, clock)
            assert standing(gate) == "permitted"

            assert self.again(gate, clock, **broad) == ["written", "known", "known"]
            assert standing(gate) == "refused"
            assert self.again(gate, clock, **broad) == ["known", "known", "known"]

    def test_is_known_where_no_permission_holds_in_spite_of_it(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        self.again(gate, clock)
        self.grant(gate, clock, party="florist")
        self.grant(gate, clock, occurred_at=clock.ago(days=1))
        self.grant(gate, clock, expires_at=clock.now + timedelta(hours=2))
        gate.consent.invalidate(self.grant(gate, clock))
        gate.consent.soft_opt_in(
            "email:anna@example.dk",
            party="cykelpartner",
            purpose="newsletter",
            sale_ref="1001",
            opt_out_offered=True,
        )
        assert self.again(gate, clock) == ["known", "known", "known"]

        self.grant(gate, clock)
        gate.consent.withdraw("email:anna@example.dk")
        assert self.again(gate, clock) == ["known", "known", "known"]

    def test_of_service_messages_too_is_written_again_although_a_milder_one_holds(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        def service() -> str:
            found = gate.consent.effective(
                "email:anna@example.dk", merchant="cykelpartner", purpose="order_update"
            )
            return str(found.standing)

        stop: dict[str, Any] = {"purpose": "*", "includes_service": True}
        self.again(gate, clock, **stop)
        self.grant(gate, clock, purpose="order_update")
        gate.consent.withdraw("email:anna@example.dk")
        assert service() == "permitted"

        assert self.again(gate, clock, **stop) == ["written", "known", "known"]
        assert service() == "refused"

    def test_of_a_linked_contact_point_is_one_of_the_same_person(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.people.link("email:anna@example.dk", "sms:+4520123456", "told us")
        refusal: dict[str, Any] = {"contact_point": "sms:+4520123456", "channel": "*"}
        row = granted(**refusal, state="withdrawn", occurred_at=None)
        imported(gate, *rows(row))
        self.grant(gate, clock)
        clock.advance(hours=1)
        assert outcomes(imported(gate, *rows(row), dry_run=True)) == ["written"]
        assert outcomes(imported(gate, *rows(row))) == ["written"]
        assert standing(gate) == "refused"

    def test_with_a_date_is_known_for_good(self, gate: Gateway, clock: SimulatedClock) -> None:
        self.again(gate, clock, occurred_at=SPRING)
        self.grant(gate, clock)
        assert self.again(gate, clock, occurred_at=SPRING) == ["known", "known", "known"]
        assert standing(gate) == "permitted"


class TestTheLog:
    def test_a_run_leaves_one_row_with_counts_and_each_event_its_own(self, gate: Gateway) -> None:
        given = rows(granted(), granted(), granted(party="nobody"))
        imported(gate, *given, file_sha256="ab" * 32)

        (run,) = list(gate.log.search(kind="imported", limit=None))
        assert run.body == {
            "source": "shop",
            "file_sha256": "ab" * 32,
            "written": 1,
            "known": 1,
            "rejected": 1,
        }
        assert run.outcome == "finished"
        assert len(list(gate.log.search(kind="consent", limit=None))) == 1

    def test_a_run_that_breaks_off_says_so_and_can_be_run_again(self, gate: Gateway) -> None:
        def broken_off() -> Iterator[ImportRow]:
            yield from rows(*(granted(f"email:p{place}@example.dk") for place in range(510)))
            raise ZeroDivisionError

        results = gate.consent.import_events(broken_off(), source="shop")
        assert [str(next(results).outcome) for _ in range(500)] == ["written"] * 500
        with pytest.raises(ZeroDivisionError):
            next(results)
        (told,) = list(gate.log.search(kind="imported", limit=None))
        assert (told.outcome, told.body["written"]) == ("broken off", 500)

        again = imported(gate, *rows(*(granted(f"email:p{place}@example.dk") for place in range(510))))
        assert outcomes(again) == ["known"] * 500 + ["written"] * 10

    def test_no_address_is_in_the_ledger_or_among_the_prints(self, gate: Gateway, ledger_url: str) -> None:
        imported(gate, ImportRow(event=granted(evidence="asked anna@example.dk"), key="anna@example.dk"))
        found = contents(ledger_url)
        assert "anna@" not in json.dumps([found["ledger"], found["consent_imports"]], default=str)


class TestDryRun:
    def test_a_dry_run_writes_nothing_at_all(self, gate: Gateway, ledger_url: str) -> None:
        before = contents(ledger_url)
        results = imported(gate, *rows(granted(), granted(party="nobody")), dry_run=True)
        assert outcomes(results) == ["written", "rejected"]
        assert results[0].event_id is None
        assert contents(ledger_url) == before

    def test_a_dry_run_says_of_every_row_what_the_real_run_does(self, gate: Gateway) -> None:
        imported(gate, *rows(granted("email:known@example.dk")))
        given = [
            *rows(granted("email:known@example.dk"), granted(), granted(), granted(party="nobody")),
            ImportRow(event=granted("email:bo@example.dk"), key="k1"),
            ImportRow(event=granted("email:cy@example.dk"), key="k1"),
            *(ImportRow(event=granted(f"email:p{place}@example.dk")) for place in range(500)),
            ImportRow(event=granted("email:bo@example.dk", state="invalidated", invalidates="k1"), key="k2"),
            ImportRow(event=granted("email:bo@example.dk"), key="k1"),
        ]
        rehearsed = imported(gate, *given, dry_run=True)
        real = imported(gate, *given)

        def told(results: list[Imported]) -> list[tuple[str, str, str]]:
            return [(str(one.outcome), one.field, one.problem) for one in results]

        assert told(rehearsed) == told(real)
        assert outcomes(real)[-2:] == ["written", "known"]


def test_two_imports_of_one_file_at_once_write_each_row_once(open_gate: OpenGate, ledger_url: str) -> None:
    gates = [open_gate(), open_gate()]
    given = rows(*(granted(f"email:p{place}@example.dk") for place in range(60)))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda gate: imported(gate, *given), gates))
    assert sum(outcomes(results).count("written") for results in both) == len(given)
    assert row_counts(ledger_url)["consent_events"] == len(given)


# --- there and back ------------------------------------------------------------------------------------------------

POINTS = (
    "email:anna@example.dk",
    "email:anna+shop@example.dk",
    "sms:+4520123456",
    "email:bo@example.dk",
)
MERCHANTS = ("cykelpartner", "florist", "headoffice")
PURPOSES = ("newsletter", "review_request", "order_update")
instants = st.integers(-5, 3).map(lambda days: timedelta(days=days, microseconds=days))
STEPS = st.one_of(
    st.tuples(
        st.just("permit"),
        st.sampled_from(["granted", "soft_opt_in", "requested"]),
        st.sampled_from(POINTS),
        st.sampled_from((*MERCHANTS, "interflora")),
        st.sampled_from(PURPOSES),
        instants,
        st.none() | st.integers(1, 6).map(lambda days: timedelta(days=days)),
    ),
    st.tuples(
        st.just("refuse"),
        st.sampled_from(["withdrawn", "objected", "refused"]),
        st.sampled_from(POINTS),
        st.sampled_from((*MERCHANTS, "interflora", "*")),
        st.sampled_from((*PURPOSES, "marketing", "review", "service", "*")),
        instants,
        st.tuples(st.sampled_from(["sms", "email", "*"]), st.booleans()),
    ),
    st.tuples(st.just("void"), st.integers(0, 20)),
    st.tuples(st.just("link"), st.sampled_from(POINTS), st.sampled_from(POINTS)),
)


def play(gate: Gateway, now: datetime, steps: list[tuple[Any, ...]]) -> None:
    permissions: list[str] = []
    for kind, *step in steps:
        if kind == "permit":
            state, point, party, purpose, at, lasts = step
            if state == "soft_opt_in" and party == "interflora":
                party = "florist"
            event_id = gate.consent.record(
                ConsentEvent(
                    state=state,
                    contact_point=point,
                    party=party,
                    channel=point.partition(":")[0],
                    purpose=purpose,
                    occurred_at=now + at,
                    expires_at=now + at + lasts if lasts else None,
                    sale_ref="1001",
                    opt_out_offered=True,
                    evidence='a "quoted", text;\nof two lines',
                )
            )
            if state != "requested":
                permissions.append(event_id)
        elif kind == "refuse":
            state, point, party, purpose, at, (channel, includes_service) = step
            gate.consent.record(
                ConsentEvent(
                    state=state,
                    contact_point=point,
                    party=party,
                    channel=channel,
                    purpose=purpose,
                    occurred_at=now + at,
                    includes_service=includes_service,
                )
            )
        elif kind == "void" and permissions:
            gate.consent.invalidate(permissions[step[0] % len(permissions)])
        elif kind == "link":
            gate.people.link(step[0], step[1], "told us")


def standings(gate: Gateway) -> dict[tuple[str, str, str], str]:
    return {
        (point, merchant, purpose): str(
            gate.consent.effective(point, merchant=merchant, purpose=purpose).standing
        )
        for point in POINTS
        for merchant in MERCHANTS
        for purpose in PURPOSES
    }


@contextmanager
def gate_on(url: str, folder: Path, clock: SimulatedClock) -> Iterator[Gateway]:
    path = configs.write(folder / "there-and-back.toml", {"gateway": {"ledger": url}})
    with Gateway.open(path, clock=clock) as gate:
        yield gate


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, max_size=10), nested=st.booleans())
def test_what_is_exported_gives_the_same_standing_in_an_empty_ledger(
    databases: Databases,
    tmp_path: Path,
    clock: SimulatedClock,
    steps: list[tuple[Any, ...]],
    nested: bool,
) -> None:
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "b").mkdir(exist_ok=True)
    with (
        databases.fresh(tmp_path / "a") as one,
        databases.fresh(tmp_path / "b") as other,
        gate_on(one, tmp_path / "a", clock) as here,
        gate_on(other, tmp_path / "b", clock) as there,
    ):
        play(here, clock(), steps)
        policy, exported = here.config.policy, here.consent.export()
        if nested:
            records = [json.loads(json.dumps(one)) for one in records_of(exported, policy)]
            flat = [row for record in records for row in events_of(record)]
        else:
            flat = [
                {name: str(value) for name, value in row_of(one, policy).items() if value is not None}
                for one in exported
            ]
        results = imported(there, *(Form().row_of(row).taken for row in flat))

        assert [one.problem for one in results if one.outcome == "rejected"] == []
        assert standings(there) == standings(here)
        for path in (tmp_path / "a", tmp_path / "b"):
            for left in path.glob("ledger.db-*"):
                left.unlink()


class TestExport:
    def test_a_refusal_stands_for_each_contact_point_of_its_person(self, gate: Gateway) -> None:
        gate.consent.withdraw("sms:+4520123456")
        gate.people.link("sms:+4520123456", "email:anna@example.dk", "told us")
        found = {str(one.event.contact_point): one.spread_from for one in gate.consent.export()}
        assert set(found) == {"sms:+4520123456", "email:anna@example.dk"}
        assert found["sms:+4520123456"] is None
        assert found["email:anna@example.dk"] is not None

    def test_a_filter_leaves_in_the_refusals_that_bear_on_it(self, gate: Gateway) -> None:
        gate.consent.grant("email:anna@example.dk", party="florist", purpose="newsletter")
        gate.consent.grant("email:anna@example.dk", party="cykelpartner", purpose="newsletter")
        gate.consent.withdraw("email:anna@example.dk", party="*")
        gate.consent.object("email:anna@example.dk", party="interflora", purpose="marketing")
        gate.consent.object("email:anna@example.dk", party="florist", purpose="review")

        def told(**only: Any) -> set[tuple[str, str]]:
            return {(one.event.party, one.event.purpose) for one in gate.consent.export(**only)}

        assert told(party="florist", purpose="newsletter") == {
            ("florist", "newsletter"),
            ("*", "*"),
            ("interflora", "marketing"),
        }
        assert told(party="interflora") == {
            ("florist", "newsletter"),
            ("*", "*"),
            ("interflora", "marketing"),
            ("florist", "review"),
        }
        assert ("florist", "review") in told(purpose="review_request")
        with pytest.raises(InvalidConsent, match="party"):
            gate.consent.export(party="nobody")
        with pytest.raises(InvalidConsent, match="purpose"):
            gate.consent.export(purpose="nothing")

    def test_only_what_was_recorded_since_or_holds_for_one_contact_point(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.withdraw("email:anna@example.dk")
        clock.set(clock() + timedelta(days=1))
        since = clock()
        gate.consent.withdraw("email:bo@example.dk")

        def told(**only: Any) -> set[str]:
            return {str(one.event.contact_point) for one in gate.consent.export(**only)}

        assert told(since=since) == {"email:bo@example.dk"}
        assert told(contact_point="email:anna@example.dk") == {"email:anna@example.dk"}
        assert told(contact_point="email:nobody@example.dk") == set()

    def test_an_export_imported_into_its_own_ledger_adds_nothing_of_its_own_events(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        gate.consent.grant("email:anna@example.dk", party="cykelpartner", purpose="newsletter")
        gate.consent.withdraw("email:anna@example.dk")
        policy = gate.config.policy
        taken = [Form().row_of(row_of(one, policy)).taken for one in gate.consent.export()]
        assert outcomes(imported(gate, *taken)) == ["known", "known"]
        assert row_counts(ledger_url)["consent_events"] == 2

    def test_without_addresses_no_address_and_no_free_text_is_told(self, gate: Gateway) -> None:
        gate.consent.grant(
            "email:anna@example.dk",
            party="cykelpartner",
            purpose="newsletter",
            evidence="anna@example.dk wrote",
            source="anna",
            actor="anna",
            sale_ref="anna-1",
        )
        (record,) = records_of(gate.consent.export(), gate.config.policy, with_addresses=False)
        assert "anna" not in json.dumps(record)
        assert record["contact_point"].startswith("cp_")

    def test_many_persons_are_each_told_once(self, gate: Gateway) -> None:
        imported(gate, *rows(*(granted(f"email:p{place}@example.dk") for place in range(650))))
        found = [str(one.event.contact_point) for one in gate.consent.export()]
        assert len(found) == len(set(found)) == 650
