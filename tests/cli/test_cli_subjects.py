"""`person export`, `erase`, `hold`, `retention run` and `db vacuum`: what they print, write, refuse and exit with."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path

import pytest

from cli.shop import CONFIG, Run, sms, write_lines

PHONE = "sms:+4520123456"
EMAIL = "email:anna@example.dk"


@pytest.fixture
def anna(shop: Path, run: Run) -> Path:
    """A shop that has written to Anna."""
    lines = [sms(), sms(to="+4520654321", text="For Bo")]
    assert run("submit", write_lines(shop / "two.jsonl", *lines)).code == 0
    assert run("drain").code == 0
    assert run("consent", "withdraw", PHONE, "--evidence", "rang on Monday").code == 0
    return shop


def texts(shop: Path) -> set[object]:
    with sqlite3.connect(shop / "ledger.db") as conn:
        return {row[0] for row in conn.execute("SELECT text FROM messages")}


class TestExport:
    def test_prints_json(self, anna: Path, run: Run) -> None:
        ran = run("person", "export", PHONE, "--json")
        assert ran.code == 0
        assert ran.json["about"] == [PHONE]
        assert ran.json["messages"][0]["text"] == "On its way"

    def test_writes_files_that_only_their_owner_can_read(self, anna: Path, run: Run) -> None:
        ran = run("person", "export", PHONE, "--html", "anna.html", "--out", "anna.json")
        assert ran.code == 0
        assert "wrote anna.html" in ran.out
        assert PHONE not in ran.out
        for name in ("anna.html", "anna.json"):
            assert stat.S_IMODE((anna / name).stat().st_mode) == 0o600
        assert json.loads((anna / "anna.json").read_text("utf-8"))["about"] == [PHONE]
        assert "On its way" in (anna / "anna.html").read_text("utf-8")
        assert sorted(path.name for path in anna.glob(".anna*")) == []

    @pytest.mark.parametrize("option", ["--html", "--out"])
    def test_never_writes_over_a_file_unless_told_to(self, anna: Path, run: Run, option: str) -> None:
        mine = anna / "mine"
        mine.write_text("precious")
        mine.chmod(0o644)
        ran = run("person", "export", PHONE, option, mine)
        assert ran.code == 2
        assert "is there already" in ran.err
        assert mine.read_text() == "precious"
        # Nothing was handed out, so nothing is recorded.
        assert run("log", "search", "--kind", "disclosed", "--json").out == ""

        assert run("person", "export", PHONE, option, mine, "--force").code == 0
        assert mine.read_text() != "precious"
        assert stat.S_IMODE(mine.stat().st_mode) == 0o600

    def test_says_where_a_file_cannot_be_and_where_to_write(self, anna: Path, run: Run) -> None:
        ran = run("person", "export", PHONE, "--out", "nowhere/anna.json")
        assert (ran.code, "there is no folder nowhere" in ran.err) == (2, True)
        ran = run("person", "export", PHONE)
        assert (ran.code, "--html FILE" in ran.err) == (2, True)

    def test_of_nobody_known_answers_no(self, anna: Path, run: Run) -> None:
        ran = run("person", "export", EMAIL, "--json")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == "notifygate: nothing is held about this contact point\n"


class TestErase:
    def test_is_a_dry_run_unless_yes_is_said(self, anna: Path, run: Run) -> None:
        ran = run("person", "erase", PHONE)
        assert ran.code == 0
        assert "would go" in ran.out
        assert "Nothing was changed." in ran.out
        assert texts(anna) == {"On its way", "For Bo"}

        ran = run("person", "erase", PHONE, "--yes")
        assert ran.code == 0
        assert "gone" in ran.out
        assert texts(anna) == {None, "For Bo"}
        data = b"".join(path.read_bytes() for path in anna.glob("ledger.db*"))
        assert b"On its way" not in data
        assert b"20123456" not in data
        assert b"rang on Monday" not in data
        assert b"For Bo" in data

    def test_without_vacuum_leaves_the_file_for_db_vacuum(self, anna: Path, run: Run) -> None:
        assert run("person", "erase", PHONE, "--yes", "--no-vacuum").code == 0
        ran = run("db", "vacuum")
        assert ran.code == 0
        assert "out of its files" in ran.out
        assert b"On its way" not in (anna / "ledger.db").read_bytes()

    def test_says_so_with_exit_code_1_where_the_file_could_not_be_cleaned_up(
        self, anna: Path, run: Run
    ) -> None:
        assert run("person", "erase", PHONE, "--yes", "--no-vacuum").code == 0
        with sqlite3.connect(anna / "ledger.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            ran = run("db", "vacuum", "--patience", "0")
            other.execute("ROLLBACK")
        assert ran.code == 1
        assert "Run 'notifygate db vacuum' again" in ran.err

    def test_prints_json(self, anna: Path, run: Run) -> None:
        ran = run("person", "erase", PHONE, "--yes", "--json")
        assert ran.json["taken"] == {
            "addresses": 1,
            "messages": 1,
            "waiting": 0,
            "consent_texts": 1,
            "link_evidence": 0,
            "provider_ids": 0,
            "hold_reasons": 0,
        }
        assert ran.json["kept"]["consent_events"] == 1

    def test_of_nobody_known_answers_no(self, anna: Path, run: Run) -> None:
        ran = run("person", "erase", EMAIL, "--yes")
        assert (ran.code, ran.err) == (1, "notifygate: nothing is held about this contact point\n")

    def test_is_done_again_from_the_list_after_a_backup_was_restored(self, anna: Path, run: Run) -> None:
        with sqlite3.connect(anna / "ledger.db") as conn, sqlite3.connect(anna / "backup.db") as copy:
            conn.backup(copy)
        assert run("person", "erase", PHONE, "--yes").code == 0
        listed = run("person", "erased")
        assert listed.code == 0
        (anna / "erased.txt").write_text(listed.out)
        for path in anna.glob("ledger.db*"):
            path.unlink()
        (anna / "backup.db").rename(anna / "ledger.db")
        assert texts(anna) == {"On its way", "For Bo"}

        ran = run("person", "erase", "--ids", "erased.txt", "--reason", "again", "--yes")

        assert ran.code == 0
        assert texts(anna) == {None, "For Bo"}
        [row] = run("log", "search", "--kind", "erased", "--json").jsons
        assert row["reason"] == "again"

    def test_takes_ids_only_from_a_list(self, anna: Path, run: Run) -> None:
        (anna / "ids.txt").write_text("cp_1\n+4520123456\n")
        ran = run("person", "erase", "--ids", "ids.txt", "--yes")
        assert ran.code == 2
        assert "entry 2" in ran.err
        assert "20123456" not in ran.err
        (anna / "ids.txt").write_text("cp_1\n")
        ran = run("person", "erase", "--ids", "ids.txt", "--yes")
        assert (ran.code, ran.err) == (1, "notifygate: cp_1: nothing is held about this contact point\n")
        assert run("person", "erase", "--ids", "none.txt").code == 2
        assert run("person", "erase").code == 2
        assert run("person", "erase", PHONE, "--ids", "ids.txt").code == 2

    def test_takes_only_grounds_that_it_knows(self, anna: Path, run: Run) -> None:
        ran = run("person", "erase", PHONE, "--reason", "she asked", "--yes")
        assert (ran.code, "must be one of request" in ran.err) == (2, True)


class TestHolds:
    def test_stop_an_erasure_until_they_are_released(self, anna: Path, run: Run) -> None:
        ran = run("person", "hold", PHONE, "--reason", "case 7", "--json")
        hold_id = ran.json["hold_id"]
        assert run("person", "holds", "--json").json == {
            "hold_id": hold_id,
            "contact_point": PHONE,
            "reason": "case 7",
            "placed_at": ran.json["placed_at"],
        }
        assert "case 7" in run("person", "holds").out

        ran = run("person", "erase", PHONE)
        assert (ran.code, "A legal hold is on this person" in ran.out) == (1, True)
        ran = run("person", "erase", PHONE, "--yes")
        assert (ran.code, "nothing was erased" in ran.err) == (1, True)
        assert texts(anna) == {"On its way", "For Bo"}

        assert hold_id in run("person", "release", PHONE).out
        assert run("person", "holds").out == "no legal holds in force\n"
        assert run("person", "erase", PHONE, "--yes").code == 0
        assert run("person", "release", PHONE).code == 1

    def test_need_a_reason(self, anna: Path, run: Run) -> None:
        assert run("person", "hold", PHONE).code == 2
        assert run("person", "hold", PHONE, "--reason", "").code == 2


class TestRetention:
    def test_without_a_period_there_is_nothing_to_do(self, anna: Path, run: Run) -> None:
        ran = run("retention", "run")
        assert (ran.code, ran.out) == (0, "[retention] in the config sets no period: nothing ages out\n")

    def test_counts_and_then_removes(self, anna: Path, run: Run) -> None:
        config = CONFIG + '[retention]\ntexts = "30d"\nsend_log = "1y"\n'
        (anna / "notifygate.toml").write_text(config)
        _make_older(anna / "ledger.db", days=40)

        ran = run("retention", "run", "--dry-run")
        assert ran.code == 0
        assert "nothing was changed" in ran.out
        assert texts(anna) == {"On its way", "For Bo"}

        kinds = {one["kind"]: one for one in run("retention", "run", "--json").jsons}
        assert (kinds["texts"]["before"], kinds["texts"]["removed"], kinds["texts"]["after"]) == (2, 2, 0)
        assert kinds["send_log"]["removed"] == 0
        assert texts(anna) == {None}
        assert b"On its way" not in (anna / "ledger.db").read_bytes()

    @pytest.mark.parametrize(
        "period", ['"6m"', '"0d"', "90", '"90"', '"1.5y"', '"200y"', '"24h"', '"9999999d"']
    )
    def test_a_period_that_cannot_be_meant_is_a_fault_at_its_key(
        self, anna: Path, run: Run, period: str
    ) -> None:
        (anna / "notifygate.toml").write_text(CONFIG + f"[retention]\ntexts = {period}\n")
        ran = run("check")
        assert ran.code == 2
        assert "retention.texts" in ran.err
        assert '"3y"' in ran.err or "at most 100y" in ran.err

    def test_an_unknown_kind_is_a_fault(self, anna: Path, run: Run) -> None:
        (anna / "notifygate.toml").write_text(CONFIG + '[retention]\ntext = "90d"\n')
        ran = run("check")
        assert (ran.code, "retention.text" in ran.err, "texts" in ran.err) == (2, True, True)


def _make_older(path: Path, *, days: int) -> None:
    """Let all that happened to messages have happened earlier."""
    earlier = days * 86_400_000_000
    with sqlite3.connect(path) as conn:
        conn.execute(
            "UPDATE messages SET submitted_at = submitted_at - ?, due_at = due_at - ?", [earlier] * 2
        )
        conn.execute(
            "UPDATE reservations SET reserved_at = reserved_at - ?, ended_at = ended_at - ?", [earlier] * 2
        )
