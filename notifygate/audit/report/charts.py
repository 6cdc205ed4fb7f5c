"""Where the parts of a chart lie. What they look like is the template's business."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from notifygate.ledger.figures import OUTCOMES

WIDTH = 720
_PLOT_HEIGHT, _TOP, _LEFT, _BOTTOM = 190, 10, 52, 26
_LABEL_WIDTH, _COUNT_WIDTH, _ROW, _BAR = 190, 80, 28, 18
_LABELS_AT_MOST = 8
BARS_AT_MOST = 20
_LONGEST_LABEL = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A rectangle: so many of an outcome."""

    outcome: str
    count: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A column or bar of several parts. `label` is cut, `name` is whole; a label may be left out for want of room."""

    name: str
    label: str
    x: float
    y: float
    total: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line across the chart, and the number that it stands for."""

    value: int
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """All parts of a chart, on a canvas `WIDTH` wide. `left_out` bars did not fit; its table has them."""

    height: float
    bars: tuple[Bar, ...]
    outcomes: tuple[str, ...]
    ticks: tuple[Tick, ...] = ()
    left_out: int = 0
    width: int = WIDTH


def columns(items: Sequence[tuple[str, Mapping[str, int]]]) -> Chart:
    """A column for each item, side by side, its outcomes stacked: for what follows each other in time."""
    top = _round_up(max((sum(counts.values()) for _, counts in items), default=0))
    scale = _PLOT_HEIGHT / top
    step = (WIDTH - _LEFT) / max(len(items), 1)
    thickness = min(step * 0.8, 40)
    every = -(-len(items) // _LABELS_AT_MOST)
    bars = []
    for number, (name, counts) in enumerate(items):
        x, y = _LEFT + number * step + (step - thickness) / 2, float(_TOP + _PLOT_HEIGHT)
        parts = []
        for outcome, count in _counted(counts):
            y -= count * scale
            parts.append(_part(outcome, count, x, y, thickness, count * scale))
        bars.append(
            Bar(
                name=name,
                label=name if number % every == 0 else "",
                x=round(x + thickness / 2, 2),
                y=_TOP + _PLOT_HEIGHT + 16,
                total=sum(counts.values()),
                parts=tuple(parts),
            )
        )
    ticks = sorted({0, top // 2, top})
    return Chart(
        height=_TOP + _PLOT_HEIGHT + _BOTTOM,
        bars=tuple(bars),
        outcomes=_present(counts for _, counts in items),
        ticks=tuple(Tick(value=tick, y=round(_TOP + _PLOT_HEIGHT - tick * scale, 2)) for tick in ticks),
    )


def bars(items: Iterable[tuple[str, Mapping[str, int]]], *, as_shares: bool) -> Chart:
    """A bar for each item, the largest first, its outcomes one after the other; with `as_shares` all equally long."""
    ordered = sorted(items, key=lambda item: (-sum(item[1].values()), item[0]))
    shown = ordered[:BARS_AT_MOST]
    longest = max((sum(counts.values()) for _, counts in shown), default=0)
    room = WIDTH - _LABEL_WIDTH - _COUNT_WIDTH
    made = []
    for number, (name, counts) in enumerate(shown):
        total = sum(counts.values())
        scale = room / max(total if as_shares else longest, 1)
        x, y = float(_LABEL_WIDTH), _TOP + number * _ROW
        parts = []
        for outcome, count in _counted(counts):
            parts.append(_part(outcome, count, x, y, count * scale, _BAR))
            x += count * scale
        made.append(
            Bar(name=name, label=_cut(name), x=round(x, 2), y=y + _BAR - 4, total=total, parts=tuple(parts))
        )
    return Chart(
        height=_TOP + len(shown) * _ROW,
        bars=tuple(made),
        outcomes=_present(counts for _, counts in shown),
        left_out=len(ordered) - len(shown),
    )


def _counted(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(outcome, counts[outcome]) for outcome in OUTCOMES if counts.get(outcome)]


def _present(all_counts: Iterable[Mapping[str, int]]) -> tuple[str, ...]:
    found = {outcome for counts in all_counts for outcome, count in counts.items() if count}
    return tuple(outcome for outcome in OUTCOMES if outcome in found)


def _part(outcome: str, count: int, x: float, y: float, width: float, height: float) -> Part:
    return Part(
        outcome=outcome,
        count=count,
        x=round(x, 2),
        y=round(y, 2),
        width=round(width, 2),
        height=round(height, 2),
    )


def _round_up(most: int) -> int:
    """The next number of the form 2, 4, 10, 20, 40, 100 and so on, so that half of it is whole."""
    unit = 1
    while True:
        for factor in (2, 4, 10):
            if most <= factor * unit:
                return factor * unit
        unit *= 10


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"
