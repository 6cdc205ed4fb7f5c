"""What a run finds: figures with their goals, shown as one table or as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a figure should be."""

    limit: float
    is_ceiling: bool

    def is_met_by(self, value: float) -> bool:
        return value <= self.limit if self.is_ceiling else value >= self.limit


def at_least(limit: float) -> Goal:
    return Goal(limit=limit, is_ceiling=False)


def at_most(limit: float) -> Goal:
    return Goal(limit=limit, is_ceiling=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table.

    `of` is the ledger or whatever else it was measured on, `unit` is `x` for a ratio. `low` and `high` are the extremes
    of the repetitions of which `value` is the median. `told` says in a few words what it was made of.
    """

    part: str
    name: str
    value: float
    unit: str = "x"
    of: str = ""
    goal: Goal | None = None
    low: float | None = None
    high: float | None = None
    told: str = ""

    @property
    def is_met(self) -> bool | None:
        return None if self.goal is None else self.goal.is_met_by(self.value)

    def to_json(self) -> dict[str, Any]:
        goal = None
        if self.goal is not None:
            goal = {"at_most" if self.goal.is_ceiling else "at_least": self.goal.limit, "met": self.is_met}
        return {
            "part": self.part,
            "of": self.of,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "goal": goal,
            "told": self.told,
        }


def ratio(over: Sequence[float], under: Sequence[float], *, part: str, name: str, **more: Any) -> Figure:
    """How many times one quantity is another, by the medians of repetitions that were made in turns.

    The extremes are those of the repetitions taken in pairs.
    """
    pairs = [one / other for one, other in zip(over, under, strict=True)]
    return Figure(
        part=part,
        name=name,
        value=statistics.median(over) / statistics.median(under),
        low=min(pairs),
        high=max(pairs),
        **more,
    )


def median(found: Sequence[float], *, part: str, name: str, **more: Any) -> Figure:
    """The median of repetitions, with their extremes."""
    value = statistics.median(found)
    return Figure(part=part, name=name, value=value, low=min(found), high=max(found), **more)


def percentile(found: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(found)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def show(found: Iterable[Figure], console: Console, *, title: str) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left", caption_justify="left", pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("on", no_wrap=True)
    table.add_column("figure")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    table.add_column("goal", justify="right", no_wrap=True)
    table.add_column("met", no_wrap=True)
    table.add_column("made of", style="dim")
    last = None
    for figure in found:
        if last is not None and figure.part != last:
            table.add_section()
        table.add_row(
            figure.part if figure.part != last else "",
            figure.of,
            figure.name,
            _shown(figure.value, figure.unit),
            _spread(figure),
            _goal(figure),
            {None: Text(""), True: Text("yes", "green"), False: Text("no", "bold red")}[figure.is_met],
            figure.told,
        )
        last = figure.part
    console.print(table)


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    return f"{'≤' if figure.goal.is_ceiling else '≥'} {_shown(figure.goal.limit, figure.unit)}"


def _spread(figure: Figure) -> str:
    if figure.low is None or figure.high is None or figure.low == figure.high:
        return ""
    return f"{number(figure.low)} to {number(figure.high)}"


def _shown(value: float, unit: str) -> str:
    return f"{number(value)} {_TIMES if unit == 'x' else unit}"


def number(value: float) -> str:
    """A number with about three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
