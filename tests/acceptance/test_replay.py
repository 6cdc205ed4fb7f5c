"""The replay of an order log allows exactly the asks that a few lines of plain Python allow."""

from __future__ import annotations

import csv
import heapq
import random
import re
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import holidays
import pytest
from support.processes import CHECKOUT, environment

COPENHAGEN = ZoneInfo("Europe/Copenhagen")


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A log of 400 orders of 60 customers over a year, some of them on one day."""
    rng = random.Random(7)
    path = tmp_path / "orders.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["order_id", "customer_id", "date"])
        for number in range(400):
            day = date(1997, 1, 1) + timedelta(days=rng.randrange(365))
            rows.writerow([number, f"{rng.randrange(60):05d}", day.isoformat()])
    return path


def test_the_asks_allowed_are_those_that_a_plain_script_allows(orders: Path) -> None:
    printed = replay(orders)
    asked = re.search(r"asked\s*[│|]?\s*(\d+)", printed)
    assert asked is not None, printed
    assert int(asked[1]) == asks_allowed(orders)
    assert "400 purchases of 60 customers" in printed


def test_without_permission_nobody_is_asked(orders: Path) -> None:
    printed = replay(orders, "--permission", "none")
    assert re.search(r"denied: consent_missing\s*[│|]?\s*400", printed), printed


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("customer,date\n1,1997-01-01\n", "no column customer_id"),
        ("customer_id,date\n1,01/31/1997\n", "line 2: date: write it as 1997-01-31"),
        ("customer_id,date\n,1997-01-31\n", "line 2: customer_id: is empty"),
    ],
)
def test_a_bad_log_is_refused_in_one_line(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    done = run(path)
    assert done.returncode == 2
    assert problem in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def asks_allowed(orders: Path) -> int:
    """One ask per customer in 180 days, 10 days after the order, and not on Sundays or Danish holidays."""
    closed = holidays.country_holidays("DK")
    waiting: list[tuple[datetime, int, int, str]] = []
    for row in csv.DictReader(orders.read_text("utf-8").splitlines()):
        due = datetime.strptime(row["date"], "%Y-%m-%d").replace(hour=12, tzinfo=UTC) + timedelta(days=10)
        waiting.append((due, 0, int(row["order_id"]), row["customer_id"]))
    heapq.heapify(waiting)
    last: dict[str, datetime] = {}
    asked = 0
    while waiting:
        now, deferred, order, customer = heapq.heappop(waiting)
        if customer in last and last[customer] > now - timedelta(days=180):
            continue
        day = now.astimezone(COPENHAGEN).date()
        if day.weekday() == 6 or day in closed:
            while day.weekday() == 6 or day in closed:
                day += timedelta(days=1)
            opens = datetime.combine(day, time(9), COPENHAGEN).astimezone(UTC)
            heapq.heappush(waiting, (opens, deferred + 1, order, customer))
            continue
        last[customer] = now
        asked += 1
    return asked


def replay(orders: Path, *options: str) -> str:
    done = run(orders, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(orders: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "examples" / "replay_orders.py"), str(orders), *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment(Path("unused")),
    )
