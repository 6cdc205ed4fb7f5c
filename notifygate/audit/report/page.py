"""The report as one HTML page that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from notifygate.audit import pages
from notifygate.audit.report import charts
from notifygate.audit.report.values import Day, Report, Volume
from notifygate.audit.report.words import BECAUSE, HOW, LABELS, in_short
from notifygate.ledger.figures import OUTCOMES

_DAYS_ONE_BY_ONE = 92


def render(report: Report) -> str:
    """The page, as text. All that comes from the ledger or the config is escaped."""
    zone = ZoneInfo(report.period.timezone)
    filters: dict[str, Callable[..., str]] = {
        "number": lambda value: f"{value:,}",
        "counted": _counted,
        "percent": lambda count, of: f"{100 * count / of:.1f} %" if of else "",
        "instant": lambda at: _instant(at, zone),
        "span": in_short,
    }
    rows, unit = _by_time(report.volumes.days)
    page = pages.render(
        "notifygate.audit.report",
        "report.html.j2",
        filters,
        report=report,
        labels=LABELS,
        because=BECAUSE,
        how=HOW,
        outcomes=OUTCOMES,
        unit=unit,
        times=rows,
        senders=_by_merchant(report.volumes.by),
        time_chart=charts.columns(rows),
        sender_chart=charts.bars(_by_merchant(report.volumes.by), as_shares=False),
        asker_chart=charts.bars(
            [(one.merchant, one.outcomes) for one in report.neutrality.by_asker], as_shares=True
        ),
    )
    return page.strip() + "\n"


def _by_time(days: Sequence[Day]) -> tuple[list[tuple[str, Mapping[str, int]]], str]:
    """The outcomes of each day, or of each month where there are many days; and which of the two."""
    if len(days) <= _DAYS_ONE_BY_ONE:
        return [(day.day.isoformat(), day.outcomes) for day in days], "day"
    months: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for day in days:
        months[f"{day.day:%Y-%m}"].update(day.outcomes)
    return list(months.items()), "month"


def _by_merchant(volumes: Sequence[Volume]) -> list[tuple[str, Mapping[str, int]]]:
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in volumes:
        found[one.merchant][one.outcome] += one.messages
    return sorted(found.items())


def _instant(at: datetime | None, zone: ZoneInfo) -> str:
    return "" if at is None else at.astimezone(zone).isoformat(sep=" ", timespec="seconds")


def _counted(count: int, unit: str) -> str:
    return f"{count:,} {unit}" if count == 1 else f"{count:,} {unit}s"
