"""What-if: a replay with the policy that was in force comes to every decision that was logged, and to no other."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from support import history
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.history import History

from notifygate import Gateway
from notifygate.audit.simulate import WhatIf, simulate
from notifygate.decision import Decision
from notifygate.ledger.replays import Logged


def replayed(
    gate: Gateway, since: datetime, until: datetime
) -> tuple[WhatIf, list[dict[str, Any]], list[dict[str, Any]]]:
    """What a replay with the gateway's own policy found, the decisions that it came to, and those logged."""
    made: list[dict[str, Any]] = []

    def observe(message_id: str, decision: Decision, row: Logged | None) -> None:
        made.append({"message": message_id, "is_logged": row is not None, **decision.to_json()})

    found = simulate(gate._runtime.ledger, gate.config, since=since, until=until, observe=observe)
    rows = list(gate.log.search(kind="decision", since=since, until=until, limit=None))[::-1]
    logged = [{"message": row.message_id, "is_logged": True, **dict(row.body)} for row in rows]
    for one in logged:
        del one["attempt_id"]
        one.pop("ask_id", None)
    return found, made, logged


def differences(made: dict[str, Any], logged: dict[str, Any]) -> list[Any]:
    """What a decision that was made and one that was logged say differently."""
    found: list[Any] = [
        (key, made[key], logged[key]) for key in made if key != "findings" and made[key] != logged[key]
    ]
    pairs = zip(made["findings"], logged["findings"], strict=True)
    return found + [(logged["message"], logged["at"], one, other) for one, other in pairs if one != other]


@pytest.mark.parametrize("seed", range(3))
def test_with_the_unchanged_policy_every_logged_decision_is_reproduced(
    open_gate: OpenGate, clock: SimulatedClock, seed: int
) -> None:
    gate = open_gate(**history.TABLES)
    start = clock.now
    play = History(gate, clock, seed)
    instants = [start]
    for _ in range(3):
        play.go_on(120)
        clock.advance(seconds=1)
        instants.append(clock.now)
    for since in instants[:-1]:
        for until in instants:
            if since >= until:
                continue
            found, made, logged = replayed(gate, since, until)
            for one, other in zip(made, logged, strict=False):
                assert differences(one, other) == []
            assert len(made) == len(logged)
            assert (found.sent.more, found.sent.fewer, found.sent.moved) == (0, 0, 0)
            assert found.left_out == 0
            assert found.changes == ()
