"""The whole gateway against a model of it: any order of steps, faults, crashes and clocks. DESIGN.md section 11."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from stateful.machine import GatewayMachine
from stateful.world import PostgresStorage, SqliteStorage, Storage, World
from support.postgres import PostgresServer

# Read before the tests clear their environment.
EXAMPLES = int(os.environ.get("NOTIFYGATE_TEST_EXAMPLES", "0"))

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 300)


def _run(storage: Storage, folder: Path, patched: pytest.MonkeyPatch, *, examples: int) -> None:
    world = World(storage, folder, patched)
    profile = settings(
        max_examples=EXAMPLES or examples,
        stateful_step_count=35,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    try:
        run_state_machine_as_test(lambda: GatewayMachine(world), settings=profile)  # type: ignore[arg-type]
    finally:
        world.disconnect()


def test_never_twice_and_never_lost_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(SqliteStorage(tmp_path), tmp_path, monkeypatch, examples=30)


def test_never_twice_and_never_lost_on_postgresql(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres_server.database() as url:
        _run(PostgresStorage(url, tmp_path), tmp_path, monkeypatch, examples=10)
