"""The soak of `make soak`, in short: killed at any moment, nothing is lost and nothing gets to anybody twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path

import psutil
import pytest
from soak.reconcile import LOST, TWICE
from soak.run import Options, run
from support.processes import environment, wait_until


@pytest.mark.parametrize(
    "options",
    [
        Options(ledger="postgresql", duration_s=15, hand_offs=150, seed=11, settles_within_s=60),
        Options(ledger="sqlite", duration_s=8, hand_offs=80, seed=12, settles_within_s=60),
    ],
    ids=attrgetter("ledger"),
)
def test_killing_everything_at_any_moment_loses_nothing_and_sends_nothing_twice(options: Options) -> None:
    outcome = run(options)

    verdict = outcome.verdict
    assert {kind: verdict.faults[kind] for kind in (*LOST, *TWICE)} == {kind: [] for kind in (*LOST, *TWICE)}
    assert verdict.is_good, {kind: ids for kind, ids in verdict.faults.items() if ids}
    # It must have been a trial.
    assert verdict.hand_offs >= options.hand_offs
    assert outcome.kills["worker killed"] >= 20
    assert outcome.kills["submitter killed"] >= 1
    if options.ledger == "postgresql":
        assert outcome.kills["PostgreSQL killed"] >= 1
    assert outcome.folder is None


def test_it_leaves_nothing_behind_when_it_is_interrupted() -> None:
    with soaking() as (process, folder):
        process.send_signal(signal.SIGINT)

        assert process.wait(60) == 130
        assert list(folder.iterdir()) == []
        assert processes_of(folder) == []


def test_it_leaves_nothing_running_when_it_is_killed() -> None:
    with soaking() as (process, folder):
        process.kill()
        process.wait()

        wait_until(lambda: processes_of(folder) == [], what="all its processes end")


@contextmanager
def soaking() -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A soak that is under way, with all that it has in a folder of its own: PostgreSQL too, which SQLite lacks."""
    with tempfile.TemporaryDirectory(prefix="ng-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        process = subprocess.Popen(
            [sys.executable, "-m", "soak", "--ledger", "postgresql", "--seed", "1"],
            env=environment(folder / "none.toml", TMPDIR=name),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_until(lambda: has_sent(folder), what="the soak is under way")
            yield process, folder
        finally:
            process.kill()
            process.wait()
            for left in processes_of(folder):
                with suppress(psutil.NoSuchProcess):
                    left.kill()


def has_sent(folder: Path) -> bool:
    return any(arrivals.stat().st_size for arrivals in folder.glob("ngsoak-*/*.arrivals"))


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder, by what they were started with."""
    return [process for process in psutil.process_iter() if _names(process, str(folder))]


def _names(process: psutil.Process, folder: str) -> bool:
    try:
        told = [*process.cmdline(), *process.environ().values()]
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
    return any(folder in one for one in told)
