"""A rule for notifygate: on days when advertising would be out of place, marketing waits until they are over.

    [rules.blackout]
    days = ["2026-12-24", "2026-12-25"]

The days are those of the UTC calendar, to keep the example short; a rule for production would ask for the zone of the
recipient, as the built-in quiet hours do.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from notifygate.decision import Finding
from notifygate.plugins import PluginRule
from notifygate.policy import Policy, PurposeClass
from notifygate.snapshot import Request, Snapshot

PASSED = "no_blackout"
BLACKOUT = "blackout"


def read(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the table: `days` is a list of dates, and nothing else may be set."""
    if unknown := sorted(table.keys() - {"days"}):
        raise ValueError(f"{unknown[0]}: unknown key; known here: days")
    days = table.get("days")
    if not isinstance(days, list) or not days:
        raise ValueError('days: must be a list of dates, such as ["2026-12-24"]')
    try:
        return {"days": sorted({date.fromisoformat(str(day)).isoformat() for day in days})}
    except ValueError as error:
        raise ValueError('days: write each as "2026-12-24"') from error


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Defer marketing to the first day that is none of the listed ones."""
    if policy.purposes[request.purpose].purpose_class is not PurposeClass.MARKETING:
        return Finding.allow(PASSED, "Only marketing observes these days.")
    days = policy.rule_settings["blackout"]["days"]
    day = now.astimezone(UTC).date()
    if day.isoformat() not in days:
        return Finding.allow(PASSED, "No day on which marketing would be out of place.")
    while day.isoformat() in days:
        day += timedelta(days=1)
    until = datetime.combine(day, time(0), tzinfo=UTC)
    return Finding.defer(until, BLACKOUT, f"Marketing would be out of place today; it waits until {day}.")


RULE = PluginRule(check=check, read=read)
