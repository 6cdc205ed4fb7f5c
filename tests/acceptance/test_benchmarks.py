"""`make bench`, in small: every part gives its figures, and what it measures is what it says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from support.processes import environment, wait_until
from support.tables import contents, plain_engine, row_counts

from benchmarks import history
from benchmarks.__main__ import PARTS
from benchmarks.recording import recording, replay
from benchmarks.servers import KINDS, Database, Kind, Stage, opened
from benchmarks.workload import MERCHANT, newsletter
from notifygate import Gateway
from notifygate.decision import Outcome
from notifygate.ledger.database import Ledger
from notifygate.ledger.schema import metadata
from notifygate.message import Status


@pytest.mark.timeout(240)
def test_every_part_gives_a_figure(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    arguments = ["--size", "small", "--ledger", "sqlite", "--json", str(written)]

    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        env=environment(tmp_path / "none.toml"),
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    found = json.loads(written.read_text("utf-8"))
    assert {figure["part"] for figure in found["figures"]} == set(PARTS)
    assert {
        part for part in PARTS if any(one["goal"] for one in found["figures"] if one["part"] == part)
    } == {part for part in PARTS if part not in ("latency", "verify")}


def test_it_leaves_nothing_behind_when_it_is_interrupted() -> None:
    with tempfile.TemporaryDirectory(prefix="ng-") as name:
        folder = Path(name)
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "--size", "small", "--ledger", "sqlite", "--only", "bulk"],
            env=environment(folder / "none.toml", TMPDIR=name),
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: any(folder.glob("ngbench-*/*/*/workers.log")), what="workers are started")
            process.send_signal(signal.SIGINT)

            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
        assert list(folder.iterdir()) == []
        assert [one for one in psutil.process_iter() if _is_about(one, name)] == []


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with opened() as started:
        yield started


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def test_a_past_is_what_the_gateway_would_have_written(stage: Stage, kind: Kind) -> None:
    database = stage.prepared(kind)
    schema = _schema(database)
    history.write(stage, database, history.Past(persons=3, messages=6))
    written = contents(database.url)

    with Gateway.open(database.config()) as gate:
        receipt = gate.submit(newsletter(1, "new"))
        assert gate.drain() == 1
        assert gate.status(receipt.message_id) is Status.SENT
        past = [
            row for row in gate.log.search(contact_point="email:p1@example.com") if row.kind == "decision"
        ]
        assert len(past) == 3
        for row in past:
            assert row.message_id is not None
            explained = gate.explain(row.message_id)
            assert explained.status is Status.SENT
            assert explained.contact_point == "email:p1@example.com"
            assert explained.decision is not None
            assert explained.decision.outcome is Outcome.ALLOW
            assert explained.attempts[0].state == "accepted"

    now = contents(database.url)
    for table in ("messages", "reservations", "ledger"):
        new = [row for row in now[table] if row not in written[table]]
        assert _forms(written[table]) == _forms(new) | _forms(
            [row for row in written[table] if row.get("kind") == "consent"]
        )
    assert len(now["contact_points"]) == 3
    assert _orphans(database) == {}
    assert _schema(database) == schema


def test_messages_of_a_past_may_wait_for_a_later_time(stage: Stage, kind: Kind) -> None:
    database = stage.prepared(kind)
    an_hour = timedelta(hours=1)
    history.write(stage, database, history.Past(persons=3, messages=6, state="deferred", span=an_hour))

    with Gateway.open(database.config()) as gate:
        assert gate.drain() == 0
    assert {row["status"] for row in contents(database.url)["messages"]} == {"deferred"}
    assert _orphans(database) == {}


def test_a_recorded_run_can_be_replayed_on_a_copy(stage: Stage, kind: Kind) -> None:
    template = stage.prepared(kind)
    history.write(stage, template, history.Past(persons=4))
    original, copy = stage.copied(template), stage.copied(template)
    with recording() as made, Gateway.open(original.config()) as gate:
        made.clear()
        list(gate.submit_many(newsletter(number % 4, f"letter-{number}") for number in range(30)))
        gate.drain()

    ledger = Ledger(copy.url)
    try:
        taken = [ledger.engine.raw_connection() for _ in range(made.connections)]
        replay(made.steps, [one.driver_connection for one in taken])
        for one in taken:
            one.close()
    finally:
        ledger.close()

    assert row_counts(copy.url) == row_counts(original.url)
    assert contents(copy.url)["messages"] == contents(original.url)["messages"]
    assert {row["merchant"] for row in contents(copy.url)["messages"]} == {MERCHANT}


def _forms(rows: list[dict[str, Any]]) -> set[str]:
    """What rows have in common with others of their kind: which columns are null, and what the JSON in them holds."""
    return {json.dumps({column: _form(value) for column, value in row.items()}) for row in rows}


def _form(value: object) -> object:
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if isinstance(value, dict):
        return {key: _form(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_form(inner) for inner in value]
    return type(value).__name__


def _orphans(database: Database) -> dict[str, int]:
    """How many rows refer to others that are not there."""
    found = {}
    with plain_engine(database.url) as engine, engine.connect() as conn:
        for table in metadata.tables.values():
            for key in table.foreign_keys:
                other = key.column.table.alias()
                query = (
                    sa.select(sa.func.count())
                    .select_from(table.outerjoin(other, key.parent == other.c[key.column.name]))
                    .where(key.parent.is_not(None), other.c[key.column.name].is_(None))
                )
                if count := conn.execute(query).scalar_one():
                    found[str(key.parent)] = count
    return found


def _schema(database: Database) -> object:
    with plain_engine(database.url) as engine:
        seen = sa.inspect(engine)
        return {
            name: (
                [str(column["name"]) for column in seen.get_columns(name)],
                sorted(map(_told, seen.get_indexes(name))),
                sorted(map(str, seen.get_unique_constraints(name))),
            )
            for name in seen.get_table_names()
        }


def _told(index: Any) -> str:
    conditions = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return str(index | {"dialect_options": conditions})


def _is_about(process: psutil.Process, name: str) -> bool:
    try:
        return any(name in told for told in (*process.cmdline(), *process.environ().values()))
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
