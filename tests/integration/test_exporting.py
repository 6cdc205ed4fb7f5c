"""An export holds the rows it says it holds, is never there by halves, and takes no more memory for a longer log."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from support.clock import SimulatedClock
from support.messages import ANNA_EMAIL, newsletter, order_update
from support.tables import plain_engine

from notifygate import Gateway, InvalidMessage, LedgerError
from notifygate.audit import Log
from notifygate.audit.export import ExportError, Format, _ParquetWriter
from notifygate.audit.exported import Checked, check_export
from notifygate.ledger import journal
from notifygate.ledger.journal import Kind, Row
from notifygate.notes import Checkpoint

FORMATS = list(Format)


@pytest.fixture
def used(gate: Gateway, clock: SimulatedClock) -> Gateway:
    """A gate that sent and denied a few messages, over two days."""
    gate.submit(order_update())
    gate.submit(newsletter())
    gate.drain()
    clock.advance(days=1)
    gate.consent.withdraw(ANNA_EMAIL, channel="email", purpose="newsletter", party="cykelpartner")
    gate.submit(order_update(text="Another."))
    gate.drain()
    return gate


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an export, as JSON lines have them."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".parquet":
        found = parquet.read_table(path).to_pylist()
        return [row | {"body": json.loads(row["body"]), "at": row["at"].isoformat()} for row in found]
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    numbers = ("position", "at_micros")
    return [
        row | {name: int(str(row[name])) for name in numbers} | {"body": json.loads(str(row["body"]))}
        for row in rows
    ]


def forge(path: Path) -> None:
    """Have the first row of an export give another reason."""
    if path.suffix == ".jsonl":
        lines = path.read_text("utf-8").splitlines()
        lines[0] = json.dumps(json.loads(lines[0]) | {"reason": "other"})
        path.write_text("\n".join(lines), "utf-8")
    elif path.suffix == ".parquet":
        table = parquet.read_table(path)
        first, *others = table.to_pylist()
        parquet.write_table(table.from_pylist([first | {"reason": "other"}, *others], table.schema), path)
    else:
        with path.open(encoding="utf-8", newline="") as file:
            header, first, *others = csv.reader(file)
        first[header.index("reason")] = "other"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, first, *others])


@pytest.mark.parametrize("form", FORMATS)
def test_holds_every_column_of_every_row_oldest_first(used: Gateway, tmp_path: Path, form: Format) -> None:
    done = used.log.export(tmp_path / f"log.{form}")

    expected = [row.to_json() for row in used.log.search(limit=None)][::-1]
    found = read(done.path)
    assert [{k: v for k, v in row.items() if k != "at_micros"} for row in found] == expected
    assert done.rows == len(expected) > 6
    with used._runtime.ledger.read() as conn:
        micros = list(conn.exec_driver_sql("SELECT at FROM ledger ORDER BY position").scalars())
    assert [row["at_micros"] for row in found] == micros


@pytest.mark.parametrize("form", FORMATS)
def test_the_manifest_says_what_the_file_holds(
    used: Gateway, tmp_path: Path, clock: SimulatedClock, form: Format
) -> None:
    since = clock.now - timedelta(hours=1)
    done = used.log.export(tmp_path / "log", format=form, since=since, merchant="cykelpartner")

    manifest = json.loads(done.manifest.read_text())
    rows = list(used.log.search(since=since, merchant="cykelpartner", limit=None))[::-1]
    kinds = [row.kind.value for row in rows]
    assert manifest["format"] == "notifygate-log-export/1"
    assert manifest["ledger"] == used._runtime.ledger.id
    assert manifest["conditions"] == {"since": since.isoformat(), "merchant": "cykelpartner"}
    assert manifest["counts"] == {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    assert manifest["rows"] == len(rows) == 4
    assert (manifest["first_position"], manifest["last_position"]) == (rows[0].position, rows[-1].position)
    checkpoint = Checkpoint.parse(manifest["checkpoint"])
    assert checkpoint.size == len(list(used.log.search(limit=None)))
    assert used.proofs.verify(checkpoints=[checkpoint]).is_intact
    content = done.path.read_bytes()
    assert manifest["files"] == [
        {
            "name": "log",
            "format": form.value,
            "rows": 4,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    ]
    assert {column["name"] for column in manifest["columns"]} >= {"position", "at_micros", "body"}
    assert check_export(done.manifest) == Checked(rows=4, problems=())


@pytest.mark.parametrize("form", FORMATS)
def test_a_changed_file_is_noticed(used: Gateway, tmp_path: Path, form: Format) -> None:
    done = used.log.export(tmp_path / f"log.{form}")
    content = done.path.read_bytes()
    done.path.write_bytes(content.replace(b"cykelpartner", b"sykelpartner", 1))
    assert not check_export(done.manifest).is_whole
    done.path.write_bytes(content[:-1])
    assert not check_export(done.manifest).is_whole
    done.path.unlink()
    assert not check_export(done.manifest).is_whole


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("name", "value"), [("rows", 3), ("counts", {"attempt": 1}), ("first_position", 0), ("last_position", 0)]
)
def test_a_changed_manifest_is_noticed(
    used: Gateway, tmp_path: Path, form: Format, name: str, value: object
) -> None:
    done = used.log.export(tmp_path / f"log.{form}")
    told = json.loads(done.manifest.read_text()) | {name: value}
    done.manifest.write_text(json.dumps(told))
    [problem] = check_export(done.manifest).problems
    assert name in problem


@pytest.mark.parametrize("form", FORMATS)
def test_a_row_that_was_changed_with_its_manifest_is_unlike_what_was_sealed(
    used: Gateway, tmp_path: Path, form: Format
) -> None:
    done = used.log.export(tmp_path / f"log.{form}", kind="decision")
    assert used.log.check_export(done.manifest) == Checked(rows=done.rows, problems=())
    position = read(done.path)[0]["position"]

    forge(done.path)
    content = done.path.read_bytes()
    told = json.loads(done.manifest.read_text())
    told["files"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    done.manifest.write_text(json.dumps(told))

    assert check_export(done.manifest).is_whole
    assert used.log.check_export(done.manifest).problems == (f"row {position} is not what was sealed",)


def test_a_log_that_was_changed_before_it_was_exported_is_noticed_with_the_log(
    used: Gateway, tmp_path: Path, ledger_url: str
) -> None:
    with plain_engine(ledger_url) as engine, engine.begin() as conn:
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql("SET session_replication_role = replica")
        else:
            conn.exec_driver_sql("DROP TRIGGER ledger_no_update")
        conn.exec_driver_sql("UPDATE ledger SET outcome = 'allow' WHERE kind = 'decision'")
    done = used.log.export(tmp_path / "log.csv")

    assert check_export(done.manifest).is_whole
    [problem] = used.log.check_export(done.manifest).problems
    assert "not intact" in problem


@pytest.mark.parametrize("form", FORMATS)
def test_a_log_without_rows_is_exported_too(gate: Gateway, tmp_path: Path, form: Format) -> None:
    done = gate.log.export(tmp_path / f"log.{form}")
    assert read(done.path) == []
    assert check_export(done.manifest) == Checked(rows=0, problems=())


def test_what_has_no_rows_since_is_empty(used: Gateway, tmp_path: Path, clock: SimulatedClock) -> None:
    assert used.log.export(tmp_path / "log.csv", since=clock.now + timedelta(days=1)).rows == 0
    assert used.log.export(tmp_path / "old.csv", until=clock.now - timedelta(days=9)).rows == 0


def test_no_file_is_overwritten_unless_forced(used: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("mine")
    with pytest.raises(ExportError, match=r"log\.csv is there already"):
        used.log.export(path)
    assert path.read_text() == "mine"
    path.unlink()
    done = used.log.export(path)
    path.unlink()
    with pytest.raises(ExportError, match=r"manifest\.json is there already"):
        used.log.export(path)
    assert used.log.export(path, force=True).rows == done.rows


def test_what_breaks_off_leaves_nothing_behind(used: Gateway, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        used.log.export(folder / "log.csv", progress=interrupt)
    assert list(folder.iterdir()) == []
    with pytest.raises(ExportError, match="cannot be written"):
        used.log.export(tmp_path / "nowhere" / "log.csv")


def test_what_cannot_be_signed_leaves_nothing_behind_and_an_old_pair_whole(
    used: Gateway, tmp_path: Path, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def refuse(log: Log) -> None:
        raise LedgerError("the seals are not those that were signed")

    with monkeypatch.context() as patch:
        patch.setattr(Log, "_sign", refuse)
        with pytest.raises(LedgerError):
            used.log.export(folder / "log.csv")
        assert list(folder.iterdir()) == []
    done = used.log.export(folder / "log.csv")
    clock.advance(days=1)
    used.submit(order_update(text="One more."))
    monkeypatch.setattr(Log, "_sign", refuse)
    with pytest.raises(LedgerError):
        used.log.export(folder / "log.csv", force=True)
    assert sorted(folder.iterdir()) == [done.path, done.manifest]
    assert check_export(done.manifest) == Checked(rows=done.rows, problems=())


def test_a_manifest_of_another_file_is_named(used: Gateway, tmp_path: Path) -> None:
    """As one is that a process left which was killed between the two."""
    done = used.log.export(tmp_path / "log.csv")
    old = done.manifest.read_bytes()
    used.submit(order_update(text="One more."))
    used.log.export(tmp_path / "log.csv", force=True)
    done.manifest.write_bytes(old)
    problems = check_export(done.manifest).problems
    assert "log.csv is not the file that this manifest is of" in problems[-1]


def test_a_folder_is_given_a_file_named_by_the_time(used: Gateway, tmp_path: Path) -> None:
    done = used.log.export(tmp_path, format="jsonl")
    assert done.path.parent == tmp_path
    assert done.path.name.startswith("notifygate-log-20")
    assert done.path.suffix == ".jsonl"


def test_conditions_and_formats_that_make_no_sense_are_named(used: Gateway, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="csv, jsonl, parquet"):
        used.log.export(tmp_path / "log.xlsx")
    with pytest.raises(InvalidMessage, match="channel"):
        used.log.export(tmp_path / "log.csv", channel="fax")
    for wrong in ("{}", "no JSON", "[]"):
        (tmp_path / "x.json").write_text(wrong)
        with pytest.raises(ExportError, match="no manifest"):
            check_export(tmp_path / "x.json")
    with pytest.raises(ExportError, match="cannot be read"):
        check_export(tmp_path / "missing.json")


def test_parquet_without_its_extra_says_what_to_install(
    used: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"pip install 'notifygate\[parquet\]'"):
        used.log.export(tmp_path / "log.parquet")


def test_no_cell_of_csv_is_taken_for_a_formula(gate: Gateway, tmp_path: Path, clock: SimulatedClock) -> None:
    reasons = ["=HYPERLINK(1)", "+1", "-2", "@SUM(1)", "\tx", "\rx", "plain", "a=b"]
    rows = [Row(kind=Kind.ATTEMPT, at=clock.now, body={}, reason=reason) for reason in reasons]
    gate._runtime.ledger.transact(lambda conn: journal.append(conn, rows))
    done = gate.log.export(tmp_path / "log.csv")
    with done.path.open(encoding="utf-8", newline="") as file:
        found = [row["reason"] for row in csv.DictReader(file)]
    assert found == [*(f"'{reason}" for reason in reasons[:6]), *reasons[6:]]


def test_a_gap_of_positions_is_passed_over(gate: Gateway, tmp_path: Path, clock: SimulatedClock) -> None:
    """As months leave that were dropped."""
    with gate._runtime.ledger.begin() as conn:
        for position in (3, 4, 20_000_000, 20_000_001):
            conn.exec_driver_sql(
                "INSERT INTO ledger (position, kind, at, body) "
                f"VALUES ({position}, 'attempt', {position}, '{{}}')"
            )
    steps: list[tuple[int, int]] = []
    done = gate.log.export(tmp_path / "log.jsonl", progress=lambda done, total: steps.append((done, total)))
    assert [row["position"] for row in read(done.path)] == [3, 4, 20_000_000, 20_000_001]
    assert len(steps) < 5
    assert steps[-1] == (19_999_999, 19_999_999)


@pytest.mark.parametrize("form", FORMATS)
def test_memory_does_not_grow_with_the_log(
    gate: Gateway, tmp_path: Path, clock: SimulatedClock, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_LOT", 250)
    monkeypatch.setattr(_ParquetWriter, "_GROUP", 1_000)

    def fill(count: int) -> None:
        one = Row(kind=Kind.DECISION, at=clock.now, body={"findings": ["x" * 300]}, merchant="cykelpartner")
        gate._runtime.ledger.transact(lambda conn: journal.append(conn, [one] * count))
        gate.proofs.checkpoint()

    def peak() -> int:
        tracemalloc.start()
        gate.log.export(tmp_path / f"log.{form}", force=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    fill(1_000)
    few = peak()
    fill(4_000)
    assert peak() < 1.3 * few
