"""Replay a shop's order log through the gate, on a simulated clock.

    python examples/replay_orders.py ORDERS.csv

Each row is one purchase: `customer_id` and `date` (and `order_id`, else the row number). It is taken to be made at
12:00 UTC of its day and delivered 3 days later, and gets one review request, which falls due by the policy. The clock
jumps from one due time to the next, so nothing is decided earlier or later than it would have been.

No address is needed: a contact point is made up for each customer. The messages go nowhere (driver `null`).
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from notifygate import Email, Gateway, Message, NotifygateError, Purchase

SHOP = "shop"
DELIVERED_AFTER = timedelta(days=3)

CONFIG = """\
[gateway]
ledger = "sqlite:///replay.db"
broker = "none"
default_region = "DK"
default_timezone = "Europe/Copenhagen"

[channels.email]
driver = "null"

[merchants.shop]
name = "The shop"
kind = "shop"
asks_for_reviews = true
email_from = "The shop <reviews@shop.example>"

[purposes.review_request]
class = "review"
permission = ["consent", "soft_opt_in"]
quiet_hours = "evenings"

[quiet_hours.evenings]
allow = { mon-sat = "09:00-20:00" }
holidays = true

[review_requests]
asks_per_purchase = 1
per_person = { limit = 1, window = "30d" }
per_person_and_merchant = { limit = 1, window = "180d" }
precedence = ["shop", "platform", "carrier"]
yield = "deny"
delay = "7d"
delay_without_delivery = "30d"
expires = "60d"
"""


@dataclass(frozen=True, slots=True)
class Order:
    """One row of the log. `at` is 12:00 UTC of its day."""

    order_id: str
    customer: str
    at: datetime


class BadRow(Exception):
    """A row that cannot be read; says which, and what would be right."""


def read_orders(path: Path) -> list[Order]:
    """All orders of a CSV file with the columns `customer_id` and `date` (YYYY-MM-DD), in the order of their dates."""
    orders = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = {"customer_id", "date"} - set(rows.fieldnames or ())
        if missing:
            raise BadRow(f"{path}: line 1: no column {', '.join(sorted(missing))}")
        for number, row in enumerate(rows, start=1):
            try:
                day = datetime.strptime(row["date"] or "", "%Y-%m-%d").replace(tzinfo=UTC)
            except ValueError:
                raise BadRow(f"{path}: line {rows.line_num}: date: write it as 1997-01-31") from None
            if not row["customer_id"]:
                raise BadRow(f"{path}: line {rows.line_num}: customer_id: is empty")
            orders.append(Order(row.get("order_id") or str(number), row["customer_id"], day.replace(hour=12)))
    return sorted(orders, key=attrgetter("at"))


class Replay:
    """Plays orders through a gateway whose clock it holds."""

    def __init__(self, folder: Path, permission: str) -> None:
        self.now = datetime(1970, 1, 1, tzinfo=UTC)
        self._permission = permission
        self._known: set[str] = set()
        config = folder / "notifygate.toml"
        config.write_text(CONFIG, encoding="utf-8")
        self.gate = Gateway.open(config, clock=lambda: self.now)

    def play(self, orders: list[Order]) -> Iterator[int]:
        """Submit the orders day by day, and decide what falls due between; yield how many were submitted."""
        for at, day in groupby(orders, key=attrgetter("at")):
            todays = list(day)
            self._advance(to=at)
            self.now = at
            self._permit(todays)
            yield sum(1 for _ in self.gate.submit_many(self._request(order) for order in todays))
        self._advance(to=None)

    def _advance(self, *, to: datetime | None) -> None:
        """Move the clock from due time to due time, up to an instant or, with None, until nothing waits."""
        while (due := self.gate.next_due()) is not None and (to is None or due <= to):
            self.now = max(self.now, due)
            self.gate.drain()

    def _permit(self, orders: list[Order]) -> None:
        """A customer who buys for the first time is told of the review request, and does not opt out."""
        for order in orders:
            if self._permission == "none" or order.customer in self._known:
                continue
            self._known.add(order.customer)
            point, source = f"email:{address(order.customer)}", "checkout"
            if self._permission == "consent":
                self.gate.consent.grant(point, party=SHOP, purpose="review_request", source=source)
            else:
                self.gate.consent.soft_opt_in(
                    point,
                    party=SHOP,
                    purpose="review_request",
                    sale_ref=order.order_id,
                    opt_out_offered=True,
                    source=source,
                )

    @staticmethod
    def _request(order: Order) -> Message:
        return Message(
            merchant=SHOP,
            purpose="review_request",
            content=Email(
                address(order.customer),
                "How was it?",
                text=f"The shop would like to hear what you think of your order {order.order_id}.",
            ),
            purchase=Purchase(
                SHOP, order.order_id, purchased_at=order.at, delivered_at=order.at + DELIVERED_AFTER
            ),
            idempotency_key=f"review-{order.order_id}",
        )


def address(customer: str) -> str:
    """A made-up address for a customer."""
    return f"customer-{customer}@example.com"


def outcomes(gate: Gateway) -> Counter[str]:
    """How each request ended: `asked`, or the reason it was denied for. Deferrals are not ends."""
    counts: Counter[str] = Counter()
    for row in gate.log.search(kind="decision", limit=None):
        if row.outcome == "allow":
            counts["asked"] += 1
        elif row.outcome == "deny":
            counts[row.reason or "unknown"] += 1
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Replay a shop's order log through the gate.")
    parser.add_argument("orders", type=Path, help="a CSV file with the columns customer_id and date")
    parser.add_argument(
        "--permission",
        choices=("soft_opt_in", "consent", "none"),
        default="soft_opt_in",
        help="what each customer gives at the first purchase (default: %(default)s)",
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep config and ledger in a new folder")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        orders = read_orders(options.orders)
        if options.keep is not None:
            options.keep.mkdir(parents=True)
            run(console, orders, options.keep, options.permission)
        else:
            with tempfile.TemporaryDirectory(prefix="notifygate-replay-") as folder:
                run(console, orders, Path(folder), options.permission)
    except (BadRow, NotifygateError, OSError) as error:
        print(f"replay_orders: {error}", file=sys.stderr)
        return 2
    return 0


def run(console: Console, orders: list[Order], folder: Path, permission: str) -> None:
    """Replay and print what came of it."""
    began = time.monotonic()
    replay = Replay(folder, permission)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with replay.gate as gate, Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("orders", total=len(orders))
        for count in replay.play(orders):
            progress.advance(bar, count)
        counts = outcomes(gate)
    seconds = time.monotonic() - began
    customers = len({order.customer for order in orders})
    table = Table("outcome", "requests", title=f"{len(orders)} purchases of {customers} customers")
    table.columns[1].justify = "right"
    for outcome, count in counts.most_common():
        table.add_row(outcome if outcome == "asked" else f"denied: {outcome}", str(count))
    console.print(table)
    console.print(f"{seconds:.1f} s, {len(orders) / seconds:.0f} purchases a second")


if __name__ == "__main__":
    sys.exit(main())
