"""Our own scenario files, by the runner that admins use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from notifygate.config import TEMPLATE
from notifygate.scenarios import Scenario, Stages, collect, play, run
from notifygate.scenarios.steps import STEPS

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "scenarios.md"
SCENARIOS = collect(HERE)


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    with Stages() as opened:
        yield opened


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.file.stem}: {scenario.name}")
def test_the_gateway_answers_as_the_scenario_expects(scenario: Scenario, stages: Stages) -> None:
    result = play(scenario, stages)

    assert result.faults == ()
    assert result.differences == ()


def test_the_fourteen_cases_of_section_4_are_scenarios() -> None:
    cases = sorted(
        {scenario.name[:2] for scenario in SCENARIOS if scenario.file.name == "consent-cases.toml"}
    )
    assert cases == [f"{number:02d}" for number in range(1, 15)]


def test_run_plays_all_of_them_in_the_order_of_their_files() -> None:
    found = [(result.file, result.scenario) for result in run(HERE / "expiry.toml")]
    assert found == [(one.file, one.name) for one in SCENARIOS if one.file.name == "expiry.toml"]
    assert [one.file for one in SCENARIOS] == sorted(one.file for one in SCENARIOS)


def test_the_examples_of_the_docs_hold_for_the_config_that_init_writes(tmp_path: Path) -> None:
    (tmp_path / "notifygate.toml").write_text(TEMPLATE, "utf-8")
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (tmp_path / "examples.toml").write_text("\n".join(examples), "utf-8")

    found = list(run(tmp_path, tmp_path / "notifygate.toml"))

    assert len(found) == len(examples)
    assert [
        (result.scenario, result.differences, result.faults) for result in found if not result.passed
    ] == []


def test_the_docs_name_every_step() -> None:
    assert set(
        re.findall(r"^\| `(\w+)` \|", DOCS.read_text("utf-8").split("## The steps")[1], re.MULTILINE)
    ) >= set(STEPS)


def test_every_step_is_taken_by_some_scenario() -> None:
    taken = {step.step for scenario in SCENARIOS for step in scenario.history}
    assert taken == set(STEPS)
