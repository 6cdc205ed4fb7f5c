"""Telling what a run came to: a table for people, JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from soak.reconcile import LOST, TWICE
from soak.run import Outcome

_IDS_SHOWN = 20


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything that is known, as JSON values."""
    shown = asdict(outcome)
    shown["folder"] = str(outcome.folder) if outcome.folder else None
    shown["is_good"] = outcome.verdict.is_good
    shown["duplicates"] = _count(outcome, TWICE)
    shown["lost"] = _count(outcome, LOST)
    return shown


def show(outcome: Outcome, console: Console) -> None:
    """Print the table, and the ids where something is at fault."""
    verdict = outcome.verdict
    table = Table(title=f"Soak on {outcome.options.ledger}, seed {outcome.options.seed}", show_header=False)
    table.add_column("what")
    table.add_column("how many", justify="right")
    table.add_column("note", style="dim")
    per_s = verdict.hand_offs / max(outcome.options.duration_s, 1)
    table.add_row("hand-offs that arrived", f"{verdict.hand_offs:,}", f"{per_s:.0f} a second")
    table.add_row("requests submitted", f"{verdict.submitted:,}", f"{verdict.receipts:,} receipts")
    for kind, count in sorted(outcome.kills.items()):
        table.add_row(kind, f"{count:,}")
    table.add_row("workers that could not start", f"{outcome.failed_starts:,}", "their ledger was down")
    badly = f"{outcome.ended_badly_when_asked:,}"
    table.add_row("workers asked to end that did not in order", badly, "Redis was down just then")
    table.add_row("decisions", "", _listed(verdict.decisions))
    table.add_row("messages ended", "", _listed(verdict.statuses))
    table.add_row("in doubt", f"{verdict.in_doubt:,}", f"of those arrived: {verdict.in_doubt_arrived:,}")
    table.add_row("login codes sent again", f"{verdict.login_codes_again:,}", "allowed: on_doubt = resend")
    seen = f"{verdict.reserved_seen:,} seen in the ledger as they arrived"
    table.add_row("arrivals with a reservation before", "", seen)
    table.add_section()
    table.add_row("duplicates", _must_be_zero(_count(outcome, TWICE)), "must be 0")
    table.add_row("lost", _must_be_zero(_count(outcome, LOST)), "must be 0")
    for what, ids in verdict.faults.items():
        table.add_row(what, _must_be_zero(len(ids)), "must be 0")
    table.add_section()
    table.add_row("duration", f"{outcome.took_s:.0f} s", f"the last {outcome.settled_s:.0f} s to finish")
    console.print(table)
    for what, ids in verdict.faults.items():
        if ids:
            more = f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
            console.print(f"[red]{what}:[/red] {', '.join(ids[:_IDS_SHOWN])}{more}")
    if outcome.folder:
        rows = "" if verdict.is_good else "; evidence.json has the ledger's rows about these messages"
        console.print(f"What is left of the run is in {outcome.folder}{rows}.")


def _count(outcome: Outcome, kinds: tuple[str, ...]) -> int:
    return sum(len(outcome.verdict.faults[kind]) for kind in kinds)


def _must_be_zero(count: int) -> str:
    return f"[green]{count}[/green]" if count == 0 else f"[bold red]{count}[/bold red]"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
