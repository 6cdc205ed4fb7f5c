"""The runner itself: differences are named, faults are named at their key, and nothing of the admin's is touched."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from notifygate.decision import Reason
from notifygate.errors import ConfigError
from notifygate.scenarios import Result, ScenarioError, run
from notifygate.scenarios.differences import RULE_OF

POLICY = Path(__file__).parent / "policy.toml"
GRANTED = (
    '{ at = 2026-03-01T12:00:00Z, step = "granted", contact = "email:anna@example.dk", '
    'party = "m1", purpose = "newsletter" }'
)
TO_ANNA = '{ merchant = "m1", purpose = "newsletter", to = "email:anna@example.dk" }'
WAITS = '{ merchant = "m1", purpose = "daytime", to = "email:anna@example.dk" }'
MISSING = '{ outcome = "deny", reasons = ["consent_missing"] }'


def written(
    name: str = '"one"',
    history: str = "[]",
    at: str = "2026-03-10T12:00:00Z",
    request: str = TO_ANNA,
    expect: str = MISSING,
    more: str = "",
) -> str:
    lines = {"name": name, "history": history, "at": at, "request": request, "expect": expect}
    told = "".join(f"{key} = {value}\n" for key, value in lines.items() if value)
    return f"[[scenario]]\n{told}{more}\n"


def results(tmp_path: Path, text: str, config: Path = POLICY) -> list[Result]:
    (tmp_path / "some.toml").write_text(text, "utf-8")
    return list(run(tmp_path, config))


def only(tmp_path: Path, text: str) -> Result:
    (found,) = results(tmp_path, text)
    return found


def test_a_scenario_that_holds_passes_and_says_nothing(tmp_path: Path) -> None:
    result = only(tmp_path, written())
    assert result.passed
    assert result.to_json() == {
        "file": str(tmp_path / "some.toml"),
        "scenario": "one",
        "passed": True,
        "differences": [],
        "faults": [],
    }


@pytest.mark.parametrize(
    ("told", "difference"),
    [
        (
            written(history=f"[{GRANTED}]"),
            "expected deny [consent_missing], got allow; "
            "the consent rule says: Consent was given to m1 on 2026-03-01.",
        ),
        (
            written(expect='{ outcome = "allow" }'),
            "expected allow, got deny [consent_missing]; the consent rule says: "
            "No permission covers this contact point, merchant, channel and purpose.",
        ),
        (
            written(expect='{ outcome = "deny", reasons = ["consent_missing", "cap_reached"] }'),
            "expected deny [consent_missing, cap_reached], got deny [consent_missing]; "
            "the caps rule says: The purpose sets no frequency cap.",
        ),
        (
            written(expect='{ outcome = "deny", reasons = ["consent_mising"] }'),
            "expected deny [consent_mising], got deny [consent_missing]; the consent rule says: "
            "No permission covers this contact point, merchant, channel and purpose.; "
            'no built-in rule gives the reason "consent_mising"; did you mean "consent_missing"?',
        ),
        (
            written(
                at="2026-03-10T22:00:00+01:00",
                request=WAITS,
                expect='{ outcome = "defer", reasons = ["quiet_hours"], until = 2026-03-11T10:00:00+01:00 }',
            ),
            "expected to wait until 2026-03-11T10:00:00+01:00, got 2026-03-11T09:00:00+01:00; "
            "the quiet_hours rule says: Quiet hours where the recipient is; "
            "not before Wednesday 2026-03-11 09:00 (Europe/Copenhagen).",
        ),
        (
            written(
                at="2026-03-10T22:00:00+01:00",
                request=WAITS,
                expect='{ outcome = "deny", reasons = ["quiet_hours"] }',
            ),
            "expected deny [quiet_hours], got defer [quiet_hours]; "
            "the quiet_hours rule says: Quiet hours where the recipient is; "
            "not before Wednesday 2026-03-11 09:00 (Europe/Copenhagen).",
        ),
        (
            written(expect='{ outcome = "deny", reasons = ["consent_missing"], status = "expired" }'),
            "expected the status expired, got denied",
        ),
    ],
)
def test_a_wrong_expectation_is_named_with_what_the_rule_says(
    tmp_path: Path, told: str, difference: str
) -> None:
    result = only(tmp_path, told)
    assert result.differences == (difference,)
    assert not result.passed


def test_of_several_questions_the_one_that_differs_is_named(tmp_path: Path) -> None:
    asks = f'[[scenario.ask]]\nexpect = {MISSING}\n[[scenario.ask]]\nexpect = {{ outcome = "allow" }}\n'
    (difference,) = only(tmp_path, written(expect="", more=asks)).differences
    assert difference.startswith("ask[1] at 2026-03-10T12:00:00+00:00: expected allow, got deny")


def test_questions_share_what_the_scenario_says_for_all_and_may_say_it_otherwise(tmp_path: Path) -> None:
    asks = f"""
[[scenario.ask]]
at = 2026-02-28T12:00:00Z
expect = {MISSING}
[[scenario.ask]]
expect = {{ outcome = "allow" }}
[[scenario.ask]]
request = {{ merchant = "m2" }}
expect = {MISSING}
"""
    assert only(tmp_path, written(history=f"[{GRANTED}]", expect="", more=asks)).passed


def test_the_reasons_may_stand_in_any_order(tmp_path: Path) -> None:
    mark = '{ at = 2026-03-01T12:00:00Z, step = "suppress", contact = "email:anna@example.dk", reason = "manual" }'
    for reasons in ('["consent_missing", "suppressed_manual"]', '["suppressed_manual", "consent_missing"]'):
        expect = f'{{ outcome = "deny", reasons = {reasons} }}'
        assert only(tmp_path, written(history=f"[{mark}]", expect=expect)).passed


def test_a_step_at_the_very_instant_of_a_question_happens_before_it(tmp_path: Path) -> None:
    told = written(history=f"[{GRANTED}]", at="2026-03-01T12:00:00Z", expect='{ outcome = "allow" }')
    assert only(tmp_path, told).passed


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (written(more='colour = "red"'), "colour: unknown key; known here: "),
        (written(more="expct = 1"), 'expct: unknown key; did you mean "expect"?'),
        (written(name=""), "name: missing"),
        (written(at=""), "at: missing"),
        (written(request=""), "request: missing"),
        (written(expect=""), "expect: missing"),
        (written(at="2026-03-10T12:00:00"), "at: has no offset from UTC"),
        (written(at="2026-03-10"), "at: must be a date and a time with its offset"),
        (written(at='"2026-03-10T12:00:00Z"'), "at: must be a date and a time with its offset"),
        (written(at="0001-01-01T00:00:00+14:00"), "at: must lie in the years 2000 to 2199"),
        (written(request='"hello"'), "request: must be a table"),
        (
            written(request='{ merchant = "parcel", purpose = "newsletter", to = "email:a@example.dk" }'),
            'request.merchant: no merchant in the config is named "parcel"; did you mean "parcels"?',
        ),
        (
            written(request='{ merchant = "m1", purpose = "newsleter", to = "email:a@example.dk" }'),
            'request.purpose: no purpose in the config is named "newsleter"; did you mean "newsletter"?',
        ),
        (
            written(request='{ merchant = "m1", purpose = "newsletter", to = "a@example.dk" }'),
            "request.to: write sms:NUMBER or email:ADDRESS",
        ),
        (
            written(request='{ merchant = "m1", purpose = "newsletter", to = "sms:+4512" }'),
            "request.to: not a phone number in use in its country",
        ),
        (
            written(
                request='{ merchant = "m1", purpose = "newsletter", to = "sms:+4520123456", subject = "x" }'
            ),
            "request.subject: a text message has none",
        ),
        (
            written(request='{ merchant = "m1", purpose = "review_request", to = "email:a@example.dk" }'),
            "request.purchase: a review request must say which purchase",
        ),
        (
            written(
                request='{ merchant = "m1", purpose = "newsletter", to = "email:a@example.dk", rol = "buyer" }'
            ),
            'request.rol: unknown key; did you mean "role"?',
        ),
        (
            written(
                request='{ merchant = "m1", purpose = "newsletter", to = "email:a@b.dk", timezone = "Mars" }'
            ),
            "request.timezone: ",
        ),
        (written(expect='"deny"'), "expect: must be a table"),
        (written(expect='{ outcome = "denied" }'), 'expect.outcome: must be "allow", "defer" or "deny"'),
        (written(expect='{ outcome = "deny" }'), "expect: name the reasons of this deny"),
        (written(expect='{ outcome = "allow", reasons = ["passed"] }'), "expect: reasons belong to"),
        (
            written(expect='{ outcome = "allow", until = 2026-03-10T12:00:00Z }'),
            "expect: until belongs to",
        ),
        (
            written(expect='{ outcome = "allow", status = "gone" }'),
            "expect.status: must be ",
        ),
        (written(history='"none"'), "history: must be a list"),
        (
            written(history='[{ at = 2026-03-01T12:00:00Z, step = "grantd" }]'),
            'history[0].step: there is no step "grantd"; did you mean "granted"?',
        ),
        (written(history="[{ at = 2026-03-01T12:00:00Z }]"), "history[0].step: missing; it must be "),
        (
            written(
                history='[{ at = 2026-03-01T12:00:00Z, step = "granted", contact = "email:a@example.dk" }]'
            ),
            "history[0].party: missing",
        ),
        (
            written(history=f"[{GRANTED[:-2]}, purposes = 1 }}]"),
            'history[0].purposes: unknown key; did you mean "purpose"?',
        ),
        (
            written(history=f"[{GRANTED.replace('m1', '*')}]"),
            "history[0].party: a permission covers exactly what it names",
        ),
        (
            written(history=f"[{GRANTED.replace('granted', 'soft_opt_in')}]"),
            "history[0].sale_ref: a soft opt-in needs the sale",
        ),
        (
            written(history='[{ at = 2026-03-01T12:00:00Z, step = "invalidated", invalidates = "import" }]'),
            'history[0].invalidates: no earlier step has the label "import"',
        ),
        (
            written(history=f"[{GRANTED[:-2]}, label = 'a' }}, {GRANTED[:-2]}, label = 'a' }}]"),
            "history[1].label: an earlier step has this label",
        ),
        (
            written(
                history='[{ at = 2026-03-01T12:00:00Z, step = "link", contacts = ["email:anna@example.dk"] }]'
            ),
            "history[0].contacts: must be a list of two",
        ),
        (
            written(
                history='[{ at = 2026-03-01T12:00:00Z, step = "unlink", '
                'contacts = ["email:anna@example.dk", "sms:+4520123456"] }]'
            ),
            "history[0]: these two contact points are not linked",
        ),
        (
            written(
                history='[{ at = 2026-03-01T12:00:00Z, step = "suppress", '
                'contact = "email:anna@example.dk", reason = "rude" }]'
            ),
            "history[0].reason: must be one of hard_bounce",
        ),
        (
            written(
                history='[{ at = 2026-03-01T12:00:00Z, step = "unsuppress", contact = "email:anna@example.dk" }]'
            ),
            "history[0]: no do-not-send mark is in force",
        ),
        (
            written(
                history='[{ at = 2026-03-01T12:00:00Z, step = "review", '
                'purchase = { seller = "m1", order = "1" } }]'
            ),
            'history[0].purchase.order: unknown key; did you mean "order_id"?',
        ),
        (
            written(
                history='[{ at = 2026-03-01T12:00:00Z, step = "review", '
                'purchase = { seller = "m1", order_id = "1" }, reviewed_at = 2026-03-02T12:00:00Z }]'
            ),
            "history[0].at: lies in the future",
        ),
        (
            written(history=f'[{{ at = 2026-03-01T12:00:00Z, step = "sent", {TO_ANNA[2:]}]'),
            "history[0]: this message was not sent: it is denied [consent_missing]; the consent rule says: ",
        ),
        (
            written(history=f"[{GRANTED.replace('03-01', '03-02')}, {GRANTED}]"),
            "history[1].at: earlier than the one before it",
        ),
        (
            written(history=f"[{GRANTED.replace('2026', '2027')}]"),
            "history[0].at: later than the last question",
        ),
        (written(expect="", more="ask = []"), "ask: the list is empty"),
        (written(expect="", more="ask = 1"), "ask: must be a list"),
        (
            written(more=f"[[scenario.ask]]\nexpect = {MISSING}"),
            "expect: each [[scenario.ask]] has its own",
        ),
        (
            written(expect="", more="[[scenario.ask]]\nexpect = { outcom = 1 }"),
            'ask[0].expect.outcom: unknown key; did you mean "outcome"?',
        ),
        (
            written(expect="", more=f"[[scenario.ask]]\nwhen = 1\nexpect = {MISSING}"),
            "ask[0].when: unknown key",
        ),
        (
            written(expect="", more=f'[[scenario.ask]]\nrequest = {{ merchant = "m8" }}\nexpect = {MISSING}'),
            "ask[0].request.merchant: no merchant in the config",
        ),
    ],
)
def test_a_fault_is_named_at_its_key(tmp_path: Path, told: str, fault: str) -> None:
    result = only(tmp_path, told)
    assert any(found.startswith(fault) for found in result.faults), result.faults
    assert result.scenario in ("one", "scenario 1")
    assert not result.passed


def test_a_fault_in_what_questions_share_is_named_once_and_where_it_is_written(tmp_path: Path) -> None:
    asks = f"[[scenario.ask]]\nexpect = {MISSING}\n" * 2
    shared = '{ merchant = "m1", purpose = "newsleter", to = "email:anna@example.dk" }'
    (fault,) = only(tmp_path, written(request=shared, expect="", more=asks)).faults
    assert fault.startswith("request.purpose: ")


def test_no_fault_repeats_an_address(tmp_path: Path) -> None:
    wrong = '{ merchant = "m1", purpose = "newsletter", to = "email:anna@@example.dk" }'
    (fault,) = only(tmp_path, written(request=wrong)).faults
    assert "anna" not in fault


def test_a_faulty_scenario_does_not_keep_the_others_from_being_played(tmp_path: Path) -> None:
    found = results(tmp_path, written(at="1") + written(name='"two"') + written(name='"two"'))
    assert [(one.scenario, one.passed) for one in found] == [("one", False), ("two", True), ("two", False)]
    assert found[2].faults == ("name: another scenario of this file has this name",)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[scenario]\n", "this is not TOML: "),
        ("", "scenario: there is no [[scenario]]"),
        ("[scenario]\nname = 'x'", "scenario: write [[scenario]], with two brackets"),
        ("[[scenarios]]\nname = 'x'", 'scenarios: unknown key; did you mean "scenario"?'),
        ("scenario = [1]", "scenario: must be a table"),
        (f"config = 7\n{written()}", "config: must be the path of a config"),
        (f'config = "none.toml"\n{written()}', "config: none.toml: config: there is no such file"),
        (f'config = "bad.toml"\n{written()}', "config: bad.toml: "),
    ],
)
def test_a_fault_of_the_file_as_a_whole_is_named(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "bad.toml").write_text("[gateway]\nleger = 1\n" if "bad" in text else written(), "utf-8")
    found = {result.faults for result in results(tmp_path, text) if result.file.name == "some.toml"}
    assert any(one.startswith(fault) for faults in found for one in faults), found


def test_a_file_that_cannot_be_read_as_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_bytes(b"\xff\xfe")
    (result,) = run(tmp_path, POLICY)
    assert result.faults == ("the file is no UTF-8 text; save it as UTF-8",)


def test_a_folder_without_scenarios_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no scenario file"):
        list(run(tmp_path, POLICY))
    with pytest.raises(ScenarioError, match="there is no directory"):
        list(run(tmp_path / "nowhere", POLICY))


def test_the_admins_config_is_asked_for_where_a_file_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some.toml").write_text(written(), "utf-8")
    with pytest.raises(ConfigError):
        list(run(tmp_path, tmp_path / "none.toml"))
    monkeypatch.setenv("NOTIFYGATE_CONFIG", str(POLICY))
    assert [result.passed for result in run(tmp_path)] == [True]


def test_configs_that_lie_among_the_scenarios_are_not_taken_for_scenarios(tmp_path: Path) -> None:
    (tmp_path / "notifygate.toml").write_text(POLICY.read_text("utf-8"), "utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "own.toml").write_text(POLICY.read_text("utf-8"), "utf-8")
    (tmp_path / "deep" / "more.toml").write_text(f'config = "own.toml"\n{written()}', "utf-8")
    (tmp_path / "some.toml").write_text(written(), "utf-8")
    found = list(run(tmp_path, tmp_path / "notifygate.toml"))
    assert [result.file.name for result in found] == ["more.toml", "some.toml"]
    assert all(result.passed for result in found)


def test_nothing_that_the_config_names_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a scenario used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    real = tmp_path / "real"
    real.mkdir()
    text = POLICY.read_text("utf-8")
    text = text.replace(
        "[gateway]", '[gateway]\nledger = "sqlite:///ledger.db"\nbroker = "redis://127.0.0.1:1/0"'
    )
    text = text.replace(
        '[channels.email]\ndriver = "null"', '[channels.email]\ndriver = "file"\npath = "outbox.jsonl"'
    )
    text = text.replace(
        '[channels.sms]\ndriver = "null"', '[channels.sms]\ndriver = "http"\nurl = "http://127.0.0.1:1/"'
    )
    (real / "notifygate.toml").write_text(text, "utf-8")
    told = written(history=f"[{GRANTED}]", expect='{ outcome = "allow", status = "sent" }')

    (result,) = results(tmp_path / "real", told, real / "notifygate.toml")

    assert result.passed, result
    assert sorted(path.name for path in real.iterdir()) == ["notifygate.toml", "some.toml"]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "scenarios").mkdir()
    played = run(tmp_path / "scenarios", POLICY)
    (tmp_path / "scenarios" / "some.toml").write_text(written() + written(name='"two"'), "utf-8")
    next(played)
    assert list((tmp_path / "temporary").iterdir())
    del played  # as when the reader breaks off
    assert not list((tmp_path / "temporary").iterdir())


def test_every_reason_that_stops_a_message_is_known_with_its_rule() -> None:
    of_no_rule = {
        Reason.PASSED,
        Reason.NOT_APPLICABLE,
        Reason.UNKNOWN_MERCHANT,
        Reason.UNKNOWN_PURPOSE,
        Reason.RULE_ERROR,
    }
    assert set(Reason) - RULE_OF.keys() == of_no_rule
