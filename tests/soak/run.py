"""One run from beginning to end: kill for a while, let everything finish, judge."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from support.tables import contents, plain_engine

from notifygate import Gateway
from soak.killing import Killing
from soak.reconcile import Verdict, judge, read
from soak.servers import Stage, opened

_LOOK_EVERY_S = 0.5
_IS_OPEN = (
    "SELECT (SELECT count(*) FROM messages WHERE status IN ('queued', 'deferred', 'sending'))"
    " + (SELECT count(*) FROM reservations WHERE state = 'held')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`duration_s` is how long the killing goes on; longer, if there were not so many `hand_offs` by then.

    `settles_within_s` is how long everything may take to finish once the killing has ended, and how much longer it is
    gone on with for the sake of hand-offs.
    """

    duration_s: float
    hand_offs: int = 0
    ledger: Literal["postgresql", "sqlite"] = "postgresql"
    workers: int = 4
    threads: int = 2
    lanes: int = 2
    seed: int = 1
    settles_within_s: float = 300
    keeps_folder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has got. `left_s` is None while everything finishes; then `open` says what is still open."""

    left_s: float | None
    hand_offs: int
    kills: dict[str, int]
    open: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to. `folder` is where its remains are, if it failed."""

    options: Options
    verdict: Verdict
    kills: dict[str, int]
    took_s: float
    settled_s: float
    failed_starts: int
    ended_badly_when_asked: int
    folder: Path | None


def run(options: Options, tell: Callable[[Progress], None] = lambda progress: None) -> Outcome:
    """Run, and tell about it about twice a second."""
    began = time.monotonic()
    with opened(
        ledger=options.ledger,
        seed=options.seed,
        workers=options.workers,
        threads=options.threads,
        lanes=options.lanes,
    ) as stage:
        with Killing(stage, seed=options.seed, duration_s=options.duration_s) as killing:
            until = time.monotonic() + options.duration_s
            handed_off = 0
            while (left_s := until - time.monotonic()) > 0 or (
                handed_off < options.hand_offs and left_s > -options.settles_within_s
            ):
                time.sleep(_LOOK_EVERY_S)
                killing.check()
                handed_off = _hand_offs(stage)
                tell(Progress(left_s=max(left_s, 0.0), hand_offs=handed_off, kills=dict(killing.counts)))
        killing.check()
        kills = dict(killing.counts)
        calm_since = time.monotonic()
        _let_finish(stage, options, kills, tell)
        settled_s = time.monotonic() - calm_since
        counts = stage.nursery.order("count", "workers")
        verdict = _judged(stage)
        stage.keeps_folder = options.keeps_folder or not verdict.is_good
        if not verdict.is_good:
            _keep_evidence(stage, verdict)
        return Outcome(
            options=options,
            verdict=verdict,
            kills=kills,
            took_s=time.monotonic() - began,
            settled_s=settled_s,
            failed_starts=counts["failures"],
            ended_badly_when_asked=counts["ended_badly_when_asked"],
            folder=stage.plan.folder if stage.keeps_folder else None,
        )


def _let_finish(
    stage: Stage, options: Options, kills: dict[str, int], tell: Callable[[Progress], None]
) -> None:
    """Wait until the submitters have ended their blocks and nothing is open; give up when the time is over."""
    stage.plan.stop.touch()
    until = time.monotonic() + options.settles_within_s
    with plain_engine(stage.plan.ledger) as engine:
        while time.monotonic() < until:
            submitting = stage.nursery.order("count", "submitters")["busy"]
            with engine.connect() as conn:
                still_open = int(conn.execute(sa.text(_IS_OPEN)).scalar_one())
            tell(Progress(left_s=None, hand_offs=_hand_offs(stage), kills=kills, open=still_open))
            if not submitting and not still_open:
                return
            time.sleep(_LOOK_EVERY_S)


def _judged(stage: Stage) -> Verdict:
    plan = stage.plan
    requests = [
        request for number in plan.blocks_submitted() for request in plan.story.block(number).requests
    ]
    evidence = read(
        ledger=plan.ledger,
        requests=requests,
        receipts=[plan.receipts(lane) for lane in range(plan.lanes)],
        arrivals=stage.arrivals(),
        log_faults=_log_faults(plan.folder / "notifygate.toml"),
    )
    return judge(evidence)


def _log_faults(config: Path) -> list[str]:
    """What is wrong with the proof of the send log, when all of it is sealed."""
    with Gateway.open(config) as gate:
        gate.proofs.checkpoint()
        found = gate.proofs.verify()
    unsealed = [f"{found.unsealed} rows are not sealed"] if found.unsealed else []
    return [problem.told for problem in found.problems] + unsealed


def _keep_evidence(stage: Stage, verdict: Verdict) -> None:
    """Write down what the ledger has about the messages at fault: the database itself ends with the run."""
    ids = {message_id for found in verdict.faults.values() for message_id in found}
    rows = {
        table: [row for row in found if row.get("message_id") in ids]
        for table, found in contents(stage.plan.ledger).items()
        if table in ("messages", "reservations", "asks", "ledger")
    }
    text = json.dumps({"faults": verdict.faults, "rows": rows}, indent=1, default=str)
    (stage.plan.folder / "evidence.json").write_text(text, "utf-8")


def _hand_offs(stage: Stage) -> int:
    return sum(path.read_bytes().count(b"\n") for path in stage.arrivals() if path.exists())
