"""Every verb that needs the ledger, while it is out of reach: one line that says so, and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.shop import CONFIG, Run, sms, write_lines

VERBS = [
    "submit messages.jsonl",
    "drain",
    "explain msg_1",
    "cancel msg_1",
    "consent show sms:+4520123456",
    "consent grant sms:+4520123456 --party myshop --channel sms --purpose newsletter",
    "consent withdraw sms:+4520123456",
    "suppress add sms:+4520123456",
    "suppress list",
    "person show sms:+4520123456",
    "log search",
    "log show msg_1",
    "doubt list",
    "doubt resolve msg_1 --sent --evidence ticket",
    "db current",
    "db upgrade",
]

LEDGERS = {
    "a PostgreSQL that does not run": (
        "postgresql+psycopg://postgres:@/ledger?host=/no/such/folder",
        "the server does not answer",
    ),
    "no folder for an SQLite file": ("sqlite:////no/such/folder/ledger.db", "the file cannot be opened"),
    "a file that is no SQLite": ("sqlite:///messages.jsonl", "not an SQLite database"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("ledger", list(LEDGERS))
def test_a_verb_whose_ledger_is_out_of_reach_says_so_in_a_line(
    folder: Path, run: Run, ledger: str, verb: str
) -> None:
    url, reason = LEDGERS[ledger]
    (folder / "notifygate.toml").write_text(CONFIG.replace("sqlite:///ledger.db", url))
    lines = [sms(), sms(text="Another")]
    write_lines(folder / "messages.jsonl", *lines)

    ran = run(*verb.split())

    assert ran.code in (1, 2)
    assert len(ran.err.strip().splitlines()) == 1, ran.err
    assert reason in ran.err
    assert "Traceback" not in ran.out + ran.err
    assert "4520123456" not in ran.out + ran.err


@pytest.mark.parametrize("ledger", list(LEDGERS))
def test_doctor_shows_it_among_what_it_found(folder: Path, run: Run, ledger: str) -> None:
    url, reason = LEDGERS[ledger]
    (folder / "notifygate.toml").write_text(CONFIG.replace("sqlite:///ledger.db", url))
    write_lines(folder / "messages.jsonl", sms())

    ran = run("doctor", "--json")

    assert ran.code == 1
    [found] = [check for check in ran.json["checks"] if check["what"] == "ledger"]
    assert found["state"] == "failed"
    assert reason in found["found"]
