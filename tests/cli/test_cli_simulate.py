"""`notifygate simulate`: what an admin types, sees, and puts into a pipeline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.shop import CONFIG, Run, write_lines

TIGHTER = CONFIG.replace('limit = 2, window = "7d"', 'limit = 1, window = "7d"')
LOOSER = CONFIG.replace('limit = 2, window = "7d"', 'limit = 9, window = "7d"')


def news(number: int) -> dict[str, object]:
    return {
        "merchant": "myshop",
        "purpose": "newsletter",
        "to": "anna@example.dk",
        "subject": "News",
        "text": f"Offer {number}",
    }


@pytest.fixture
def logged(shop: Path, run: Run) -> Path:
    """A folder whose log has three newsletters to one person, of whom two may be sent, and two changed configs."""
    granted = run("consent", "grant", "email:anna@example.dk", "--party", "myshop", "--purpose", "newsletter")
    assert granted.code == 0, granted.err
    write_lines(shop / "news.jsonl", news(1), news(2), news(3))
    assert run("submit", "news.jsonl").code == 0
    assert run("drain").code == 0
    (shop / "tighter.toml").write_text(TIGHTER)
    (shop / "looser.toml").write_text(LOOSER)
    return shop


def test_a_tighter_cap_sends_fewer_and_says_why(logged: Path, run: Run) -> None:
    found = run("simulate", "tighter.toml", "--since", "1d")

    assert found.code == 0, found.err
    assert re.search(r"^sent +2$", found.out, re.M)
    assert re.search(r"^would be sent +1$", found.out, re.M)
    assert re.search(r"^fewer +1$", found.out, re.M)
    assert re.search(r"^caps +cap_reached +0 +1$", found.out, re.M)
    assert re.search(r"^myshop +2 +1 +0 +1 +0$", found.out, re.M)
    assert re.search(r"^newsletter +2 +1 +0 +1 +0$", found.out, re.M)
    assert "What this cannot know" in found.out


def test_the_changed_config_may_name_the_ledger_itself(logged: Path, run: Run) -> None:
    found = run("simulate", "--config", "looser.toml", "--since", "1d", "--json")

    assert found.code == 0, found.err
    assert found.json["sent"] == {"before": 2, "after": 3, "more": 1, "fewer": 0, "moved": 0}
    assert found.json["by_rule"] == [{"rule": "caps", "reason": "cap_reached", "more": 1, "fewer": 0}]
    (change,) = found.json["changes"]
    assert change["before"]["status"] == "denied"
    assert change["before"]["because"] == [{"rule": "caps", "reason": "cap_reached"}]
    assert change["after"]["sent_at"] is not None


def test_the_ledger_is_that_of_config_where_a_changed_one_is_given(logged: Path, run: Run) -> None:
    (logged / "elsewhere.toml").write_text(TIGHTER.replace("ledger.db", "no-such-ledger.db"))
    found = run("simulate", "elsewhere.toml", "--config", "notifygate.toml", "--since", "1d", "--json")

    assert found.code == 0, found.err
    assert found.json["sent"]["fewer"] == 1
    assert not (logged / "no-such-ledger.db").exists()


def test_the_messages_are_listed_when_asked_for_and_no_more_than_that(logged: Path, run: Run) -> None:
    (logged / "none.toml").write_text(
        CONFIG.replace('permission = ["consent"]', 'permission = ["soft_opt_in"]')
    )
    assert "msg_" not in run("simulate", "none.toml", "--since", "1d").out
    listed = run("simulate", "none.toml", "--since", "1d", "--list")
    assert len(re.findall(r"fewer +msg_", listed.out)) == 2
    assert "denied: consent_missing" in listed.out
    one = run("simulate", "none.toml", "--since", "1d", "--list", "--limit", "1")
    assert len(re.findall(r"fewer +msg_", one.out)) == 1
    assert "1 more; --limit 0 lists all" in one.out


@pytest.mark.parametrize(
    ("config", "code"), [("tighter.toml", 0), ("looser.toml", 1), ("notifygate.toml", 0)]
)
def test_a_pipeline_fails_where_a_message_would_newly_be_sent(
    logged: Path, run: Run, config: str, code: int
) -> None:
    assert run("simulate", config, "--since", "1d", "--fail-if-newly-allowed").code == code


def test_the_unchanged_policy_is_named_as_such(logged: Path, run: Run) -> None:
    found = run("simulate", "--since", "1d")

    assert "nothing in it has changed" in found.out
    assert re.search(r"^more +0$", found.out, re.M)
    assert re.search(r"^fewer +0$", found.out, re.M)


def test_nothing_is_written_and_nothing_is_sent(logged: Path, run: Run) -> None:
    before = (logged / "outbox.jsonl").read_text(), run("log", "search", "--limit", "0").out
    run("simulate", "looser.toml", "--since", "1d")
    assert before == ((logged / "outbox.jsonl").read_text(), run("log", "search", "--limit", "0").out)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--since 30d"),
        (["--since", "yesterday"], "or as 30d for 30 days ago"),
        (["--since", "2026-05-01T12:00:00"], "or as 30d for 30 days ago"),
        (["--since", "1d", "--until", "2d"], "since: must lie before 'until'"),
        (["--since", "9d", "--until", "8d"], "no message was logged from"),
        (["missing.toml", "--since", "1d"], "missing.toml"),
        (["wrong.toml", "--since", "1d"], "purposes.newsletter.caps"),
    ],
)
def test_wrong_use_is_told_in_one_line(logged: Path, run: Run, arguments: list[str], problem: str) -> None:
    (logged / "wrong.toml").write_text(CONFIG.replace("limit = 2", "limit = 0"))
    found = run("simulate", *arguments)

    assert found.code == 2
    assert problem in found.err
    assert len(found.err.strip().splitlines()) == 1


def test_an_empty_log_is_said_to_be_perhaps_the_wrong_one(shop: Path, run: Run) -> None:
    run("drain")
    found = run("simulate", "--since", "1d")

    assert found.code == 2
    assert "the log is empty; is [gateway] ledger the one that is in use?" in found.err
