"""`notifygate log`: searching page by page, the story of a message, and exporting."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.shop import Run, sms, write_lines
from notifygate.ledger.journal import Kind

ANNA = "email:anna@example.dk"


@pytest.fixture
def submitted(shop: Path, run: Run) -> Callable[..., str]:
    def submit(**fields: object) -> str:
        return str(run("submit", write_lines(shop / "one.jsonl", sms(**fields)), "--json").json["message_id"])

    return submit


@pytest.fixture
def used(run: Run, submitted: Callable[..., str]) -> str:
    """A log with a message sent and one denied; the id of the one sent, with consent."""
    granted = (ANNA, "--party", "myshop", "--purpose", "newsletter", "--source", "checkout")
    run("consent", "grant", *granted, "--evidence", "form 17", "--notice-version", "v3", "--actor", "karen")
    sent = submitted(purpose="newsletter", to="anna@example.dk", subject="Hi")
    submitted(purpose="newsletter", to="bo@example.dk", subject="Hi")
    run("drain")
    return sent


def test_the_next_page_is_told_and_goes_on(run: Run, used: str) -> None:
    everything = [row["position"] for row in run("log", "search", "--json").jsons]
    first = run("log", "search", "--limit", "3")
    (after,) = re.findall(r"--after (\d+)", first.err)
    assert int(after) == everything[2]
    rest = run("log", "search", "--after", after, "--json").jsons
    assert [row["position"] for row in rest] == everything[3:]
    assert "--after" not in run("log", "search", "--limit", str(len(everything))).err
    assert len(run("log", "search", "--limit", "3", "--json").jsons) == 3


def test_csv_has_a_header_and_the_body_as_json(run: Run, used: str) -> None:
    rows = list(csv.DictReader(io.StringIO(run("log", "search", "--kind", "decision", "--csv").out)))
    assert [row["outcome"] for row in rows] == ["deny", "allow"]
    assert list(rows[0])[-1] == "body"
    assert json.loads(rows[0]["body"])["reasons"] == ["consent_missing"]
    assert run("log", "search", "--csv", "--json").code == 2


def test_rows_are_found_by_person_attempt_policy_and_span(run: Run, used: str) -> None:
    story = run("log", "show", used, "--json").json

    def found(*args: str) -> set[str]:
        return {row["message_id"] for row in run("log", "search", *args, "--json").jsons}

    assert found("--person", story["person_id"], "--kind", "attempt") == {used}
    assert found("--attempt", story["attempts"][0]["attempt_id"]) == {used}
    assert used in found("--policy", story["policies"][0]["hash"][:10])
    assert used in found("--since", "1h")
    assert found("--until", "1h") == set()


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--merchant", "myshp"], "no merchant 'myshp' is known in the config; did you mean myshop?"),
        (["--purpose", "order"], "no purpose 'order' is known in the config"),
        (
            ["--merchant", "anna@example.dk"],
            "no merchant of that name is known in the config: myshop, parcels",
        ),
        (["--merchant", "+4520123456"], "no merchant of that name is known"),
        (["--outcome", "denied"], "did you mean deny?"),
        (["--outcome", "deferred"], "did you mean defer?"),
        (["--outcome", "sent"], "no outcome 'sent' is known by that name; did you mean accepted?"),
        (["--outcome", "nonsuch"], "by that name: allow, defer, deny, accepted, "),
        (["--reason", "cap_reach"], "did you mean cap_reached?"),
    ],
)
def test_a_name_that_nobody_knows_is_hinted_at(run: Run, used: str, args: list[str], hint: str) -> None:
    ran = run("log", "search", *args)
    assert (ran.code, ran.out) == (0, "")
    assert "nothing in the log matches" in ran.err
    assert hint in ran.err


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["search", "--since", "3x"], "no span of time"),
        (["search", "--channel", "fax"], "must be"),
        (["search", "--policy", "abc"], "at least its first 6"),
        (["search", "--after", "0"], "--after"),
        (["export"], "--out"),
        (["export", "--out", "log.xlsx"], "csv, jsonl, parquet"),
        (["check-export", "nowhere.json"], "cannot be read"),
    ],
)
def test_wrong_use_is_told_in_a_line(run: Run, used: str, args: list[str], problem: str) -> None:
    ran = run("log", *args)
    assert (ran.code, ran.out) == (2, "")
    (line,) = ran.err.splitlines()
    assert problem in line


def test_show_tells_the_story_and_the_rules_in_sentences(run: Run, used: str) -> None:
    page = run("log", "show", used).out
    for part in (
        *(used, "myshop", "newsletter (marketing)", ANNA, "consent_granted", "accepted"),
        *("Consent event evt_", "form 17", "checkout", "v3", "karen"),
        *("Rules in force: policy ", 'Purpose "newsletter"', "It is marketing", "--policy tells all of it"),
    ):
        assert part in page
    assert 'Purpose "order_update"' not in page
    whole = run("log", "show", used, "--policy").out
    assert 'Purpose "order_update"' in whole
    assert '"promotion_markers"' in whole


def test_show_fits_eighty_columns_on_a_terminal(run: Run, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    for args in (["log", "show", used], ["log", "search"]):
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in run(*args).out.splitlines()]
        longest = max(lines, key=len)
        assert len(longest) <= 80, longest


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_export_is_written_described_and_checked(shop: Path, run: Run, used: str, form: str) -> None:
    ran = run("log", "export", "--out", f"log.{form}", "--merchant", "myshop", "--json").json
    assert ran["rows"] == len(run("log", "search", "--merchant", "myshop", "--json").jsons) > 4
    manifest = json.loads((shop / ran["manifest"]).read_text())
    assert manifest["checkpoint"].startswith("notifygate/")
    assert "anna" not in (shop / ran["file"]).read_bytes().decode(errors="replace")
    assert run("log", "check-export", ran["manifest"]).out.startswith("yes: ")
    assert "there already" in run("log", "export", "--out", f"log.{form}").err
    assert run("log", "export", "--to", f"log.{form}", "--force").code == 0
    assert run("log", "check-export", ran["manifest"], "--json").json["whole"] is True
    assert run("log", "check-export", ran["manifest"], "--with-log").out.endswith("and the log has sealed\n")
    with (shop / ran["file"]).open("ab") as file:
        file.write(b"more")
    no = run("log", "check-export", ran["manifest"])
    assert (no.code, no.out.startswith("no: ")) == (1, True)


def test_the_help_names_every_kind_of_row(run: Run) -> None:
    shown = re.sub(r"[│\s]+", " ", run("log", "search", "--help").out)
    assert [kind for kind in Kind if not re.search(rf"\b{kind.value}\b", shown)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["log", "search"],
        ["log", "verify"],
        ["log", "export", "--out", "log.csv"],
        ["report"],
        ["consent", "export"],
        ["person", "export", "email:anna@example.dk", "--json"],
        ["simulate", "--since", "30d"],
        ["explain", "msg_1"],
    ],
)
def test_where_there_is_no_ledger_a_reading_verb_says_so_and_begins_none(
    shop: Path, run: Run, arguments: list[str]
) -> None:
    ran = run(*arguments)

    assert ran.code == 2
    assert "there is no ledger at" in ran.err
    assert not (shop / "ledger.db").exists()


def test_an_export_makes_the_folder_that_a_slash_asks_for(shop: Path, run: Run, used: str) -> None:
    assert run("log", "export", "--out", "may/", "--format", "csv").code == 0

    names = sorted(one.name for one in (shop / "may").iterdir())
    assert len(names) == 2
    assert names[1] == f"{names[0]}.manifest.json"
    assert (shop / "may" / names[0]).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("verb", [["search"], ["export", "--out", "log.csv"]])
def test_a_period_the_wrong_way_round_is_refused(shop: Path, run: Run, used: str, verb: list[str]) -> None:
    ran = run("log", *verb, "--since", "2026-05-01T00:00:00Z", "--until", "2026-04-01T00:00:00Z")

    assert (ran.code, "must lie after since" in ran.err) == (2, True)
