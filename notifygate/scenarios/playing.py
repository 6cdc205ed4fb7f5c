"""Playing one scenario: its steps and questions in order of time, on a fresh stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from notifygate.errors import InvalidConsent, InvalidMessage, LedgerError, NotifygateError
from notifygate.scenarios import differences
from notifygate.scenarios.errors import ScenarioError
from notifygate.scenarios.files import Ask, Scenario
from notifygate.scenarios.stage import Stage, Stages

# Arguments of the gateway that a scenario calls otherwise.
_KEYS = {"content": "to", "contact_point": "contact"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one scenario: nothing where it passed, else `differences` or `faults`, as plain sentences.

    A difference is an answer other than the one expected. A fault, with its key in front, is something in the file
    that cannot be played; `scenario` is empty where the file as a whole has it.
    """

    file: Path
    scenario: str
    differences: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.differences and not self.faults

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "scenario": self.scenario,
            "passed": self.passed,
            "differences": list(self.differences),
            "faults": list(self.faults),
        }


def play(scenario: Scenario, stages: Stages) -> Result:
    """Play one scenario on a fresh stage. One with faults is not played.

    Raises `LedgerError` where the temporary ledger cannot be used.
    """
    result = Result(file=scenario.file, scenario=scenario.name, faults=scenario.faults)
    if scenario.config is None or scenario.faults:
        return result
    found: list[str] = []
    try:
        with stages.open(scenario.config) as stage:
            for difference in _differences(scenario, stage):
                found.append(difference)  # what was found before a fault is kept
    except ScenarioError as error:
        result = replace(result, faults=(str(error),))
    return replace(result, differences=tuple(found))


def _differences(scenario: Scenario, stage: Stage) -> Iterator[str]:
    """Take the steps and ask the questions; what happens at the very instant of a question happens before it.

    Raises `ScenarioError` for what cannot be done as told; all that comes after would rest on a wrong history.
    """
    steps = list(enumerate(scenario.history))
    for number, ask in enumerate(scenario.asks):
        while steps and steps[0][1].at <= ask.at:
            place, step = steps.pop(0)
            stage.advance(step.at)
            with _located(f"history[{place}]"):
                step.take(stage)
        stage.advance(ask.at)
        several = len(scenario.asks) > 1
        with _located(f"ask[{number}].request" if several else "request"):
            found = list(_answered_wrongly(ask, stage))
        where = f"ask[{number}] at {ask.at.isoformat()}: " if several else ""
        yield from (f"{where}{difference}" for difference in found)


def _answered_wrongly(ask: Ask, stage: Stage) -> Iterator[str]:
    message = ask.request.message(stage.next_number())
    if ask.expect.status is None:
        return differences.between(ask.expect, stage.gate.check(message))
    explanation = stage.send(message)
    if explanation.decision is None:
        raise ScenarioError(f"it is not decided at that instant: {differences.told(explanation)}")
    return differences.between(ask.expect, explanation.decision, explanation.status)


@contextmanager
def _located(place: str) -> Iterator[None]:
    """Name the place in the file of whatever the gateway refuses."""
    try:
        yield
    except LedgerError:
        raise
    except (InvalidMessage, InvalidConsent) as error:
        name = error.field.removeprefix("content.")
        raise ScenarioError(f"{place}.{_KEYS.get(name, name)}: {error.problem}") from error
    except NotifygateError as error:
        raise ScenarioError(f"{place}: {error}") from error
