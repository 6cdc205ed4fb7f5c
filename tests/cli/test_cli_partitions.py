"""`notifygate db partitions` and `db drop-before`: what they show, what they drop, and every wrong use in one line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.databases import PostgresDatabases
from support.tables import plain_engine

from cli.shop import CONFIG, Run, sms, write_lines
from notifygate.ledger.schema import to_micros

NOW = datetime.now(UTC)
THIS_MONTH = f"{NOW:%Y_%m}"


@pytest.fixture
def url(folder: Path, postgres_databases: PostgresDatabases) -> Iterator[str]:
    """A ledger on PostgreSQL, which the config in the working folder names."""
    with postgres_databases.fresh(folder) as url:
        (folder / "notifygate.toml").write_text(CONFIG.replace("sqlite:///ledger.db", url))
        yield url


@pytest.fixture
def used(url: str, folder: Path, run: Run) -> str:
    """The same with rows of now, and one of May 1997."""
    run("submit", write_lines(folder / "one.jsonl", sms()))
    with plain_engine(url) as engine, engine.begin() as conn:
        old = sa.text("INSERT INTO ledger (kind, at, body) VALUES ('review', :at, '{}')")
        conn.execute(old, {"at": to_micros(datetime(1997, 5, 1, tzinfo=UTC))})
    return url


def test_partitions_shows_months_with_rows_and_sizes(used: str, run: Run) -> None:
    found = {one["partition"]: one for one in run("db", "partitions", "--json").jsons}
    assert len(found) == 5
    assert found[f"ledger_{THIS_MONTH}"]["rows"] == 1
    assert found[f"ledger_{THIS_MONTH}"]["since"] == f"{NOW:%Y-%m}-01T00:00:00Z"
    assert found[f"ledger_{THIS_MONTH}"]["bytes"] > 0
    assert found["ledger_default"]["rows"] == 1
    assert found["ledger_default"]["until"] is None

    shown = run("db", "partitions")
    assert shown.code == 0
    assert f"{NOW:%Y-%m}" in shown.out
    assert "otherwise" in shown.out
    assert "MiB" in shown.out


def test_upgrade_makes_the_months_that_are_missing(url: str, run: Run) -> None:
    with plain_engine(url) as engine, engine.begin() as conn:
        conn.execute(sa.text(f"DROP TABLE ledger_{THIS_MONTH}"))

    assert run("db", "upgrade", "--json").json["months_made"] == [f"ledger_{THIS_MONTH}"]
    assert run("db", "upgrade", "--json").json["months_made"] == []


def test_drop_before_drops_only_when_told_to(used: str, run: Run) -> None:
    dry = run("db", "drop-before", "1998-01", "--dry-run")
    assert dry.code == 0
    assert "would drop ledger_1997_05: 1 row\n" in dry.out
    unsure = run("db", "drop-before", "1998-01")
    assert unsure.code == 2
    assert "--yes" in unsure.err
    assert len(run("log", "search", "--json").jsons) == 2

    ran = run("db", "drop-before", "1998-01", "--yes")

    assert ran.code == 0
    assert ran.out == "dropped ledger_1997_05: 1 row\n"
    rows = run("log", "search", "--json").jsons
    assert [row["kind"] for row in rows] == ["dropped", "submitted"]
    assert rows[0]["body"]["rows"] == 1
    assert "nothing was dropped" in run("db", "drop-before", "1998-01", "--yes").out


def test_drop_before_prints_json(used: str, run: Run) -> None:
    ran = run("db", "drop-before", "1998-01", "--yes", "--json")
    assert ran.json["partition"] == "ledger_1997_05"
    assert ran.json["dry_run"] is False


@pytest.mark.parametrize(
    ("month", "problem"),
    [
        ("2025-13", "a month is written as 2025-01"),
        ("january", "a month is written as 2025-01"),
        ("2025-01-15", "a month is written as 2025-01"),
        ("2999-01", "has not begun"),
        (f"{NOW.year + NOW.month // 12}-{NOW.month % 12 + 1:02}", "has not begun"),
    ],
)
def test_drop_before_refuses_a_month_that_cannot_be_meant(
    used: str, run: Run, month: str, problem: str
) -> None:
    ran = run("db", "drop-before", month, "--yes")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert problem in ran.err
    assert len(run("log", "search", "--json").jsons) == 2


def test_before_the_current_month_leaves_it(used: str, run: Run) -> None:
    assert run("db", "drop-before", f"{NOW:%Y-%m}", "--yes").code == 0
    assert run("db", "partitions", "--json").jsons[0]["partition"] == f"ledger_{THIS_MONTH}"


def test_on_sqlite_there_are_no_months(shop: Path, run: Run) -> None:
    shown = run("db", "partitions")
    assert shown.code == 0
    assert "one table" in shown.out
    assert run("db", "drop-before", "2025-01", "--yes").code == 2
    assert not (shop / "ledger.db").exists(), "a question changes nothing"


def test_on_sqlite_what_is_older_is_deleted(shop: Path, run: Run) -> None:
    run("submit", write_lines(shop / "one.jsonl", sms()))
    with plain_engine(f"sqlite:///{shop / 'ledger.db'}") as engine, engine.begin() as conn:
        old = sa.text("INSERT INTO ledger (kind, at, body) VALUES ('review', :at, '{}')")
        conn.execute(old, {"at": to_micros(datetime(1997, 5, 1, tzinfo=UTC))})

    assert "would drop ledger_1997_05: 1 row" in run("db", "drop-before", "2025-01", "--dry-run").out
    assert "dropped ledger_1997_05: 1 row" in run("db", "drop-before", "2025-01", "--yes").out
    assert [row["kind"] for row in run("log", "search", "--json").jsons] == ["dropped", "submitted"]
    assert run("log", "verify", "--json").json["removed"] == 1


@pytest.mark.parametrize("verb", [["partitions"], ["drop-before", "2025-01", "--yes"]])
def test_a_ledger_without_tables_says_so(
    folder: Path, postgres_databases: PostgresDatabases, run: Run, verb: list[str]
) -> None:
    with postgres_databases.fresh(folder, empty=True) as url:
        (folder / "notifygate.toml").write_text(CONFIG.replace("sqlite:///ledger.db", url))
        ran = run("db", *verb)
        assert ran.code == 2
        assert "no tables yet" in ran.err


@pytest.mark.parametrize("verb", [["partitions"], ["drop-before", "2025-01", "--yes"]])
def test_a_ledger_that_is_out_of_reach_is_one_line(folder: Path, run: Run, verb: list[str]) -> None:
    away = "postgresql+psycopg://postgres:@/ledger?host=/no/such/folder"
    (folder / "notifygate.toml").write_text(CONFIG.replace("sqlite:///ledger.db", away))
    ran = run("db", *verb)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert "the server does not answer" in ran.err
