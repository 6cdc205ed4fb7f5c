"""What the demo prints: a table for each story, what arrived, the verdict, and where to look further."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from notifygate import Finding, Outcome
from notifygate.demo.play import CONFIG_NAME, Ended, Played, Tried
from notifygate.demo.sinks import Sinks
from notifygate.demo.stories import MERCHANTS, PEOPLE, Told
from notifygate.demo.verdict import address_of
from notifygate.demo.workers import PROCESSES

WIDTH = 100
_COLOURS = {"sent": "green", "denied": "red", "duplicate": "yellow"}


def console() -> Console:
    """Standard output, no wider than a page; as wide as one where it is a pipe or a file."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # no quotation mark is worth a crash in an ASCII terminal
    plain = Console()
    width = min(plain.width, WIDTH) if plain.is_terminal else WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def start(out: Console, folder: Path, servers: Sinks) -> None:
    out.print(
        f"Running for real: Redis, SQLite, {PROCESSES} worker processes, an SMTP server (port {servers.smtp_port}) "
        f"and an SMS provider (port {servers.sms_port}), all on this machine; files in {folder}."
    )


def story(out: Console, played: Played) -> None:
    """Show one story: what it is about, what is known beforehand, and each try with its decision."""
    numbers = _numbers(played.tried)
    out.print()
    out.print(Text(played.story.title, style="bold"))
    out.print(played.story.intro)
    out.print("On record beforehand:", style="dim")
    for told in played.story.on_record:
        out.print(f"  {played.names.get(told.who, told.who)}: {told.what}", style="dim")
    table = _table("No.", "who", "tries to send", "to", "decision", "rule\nand reason", "evidence\nin short")
    for row in played.rows:
        if isinstance(row, Told):
            table.add_row("", row.who, Text(row.what, style="italic"), "", "recorded")
        else:
            _add(table, row, numbers, played.names)
    out.print(table)


def _numbers(tried: Iterable[Tried]) -> dict[str, int]:
    """The number of each message, which is that of its first try."""
    return {one.message_id: one.number for one in tried if not one.send.repeats}


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in titles:
        # Codes are what people search for: they stay in one piece.
        justify: JustifyMethod = "right" if title == "No." else "left"
        table.add_column(title, justify=justify, no_wrap="reason" in title, overflow="fold")
    return table


def _add(table: Table, one: Tried, numbers: Mapping[str, int], names: Mapping[str, str]) -> None:
    """Add a row for a try, and one more for each further reason."""
    found, merchant = one.explanation, one.send.message.merchant
    status = "duplicate" if one.duplicate else found.status.value
    if one.duplicate:
        why = [("idempotency key\nknown", f"the request\nof No. {numbers.get(one.message_id, '?')}")]
    else:
        findings = _telling(found.decision.findings, found.decision.outcome) if found.decision else []
        why = [
            (f"{finding.rule}\n{finding.reason}", _evidence(finding, one, numbers, names))
            for finding in findings
        ]
    first, *more = why or [("", "")]
    table.add_row(
        str(one.number),
        f"{names.get(merchant, merchant)}\n{MERCHANTS.get(merchant, '')}",
        one.send.what,
        f"{name_of(one.send.message.content.to, found.channel)}\n{found.channel}",
        Text(status, style=_COLOURS.get(status, "magenta")),
        *first,
    )
    for reason, evidence in more:
        table.add_row("", "", "", "", "", reason, evidence)


def _telling(findings: Sequence[Finding], outcome: Outcome) -> list[Finding]:
    """Why it was refused; for what was sent, on what permission."""
    if outcome is Outcome.ALLOW:
        return [finding for finding in findings if finding.rule == "consent"]
    return [finding for finding in findings if finding.outcome is outcome]


def _evidence(finding: Finding, one: Tried, numbers: Mapping[str, int], names: Mapping[str, str]) -> str:
    """The evidence in a few words; `notifygate explain` shows all of it."""
    evidence = finding.evidence
    match evidence:
        case {"event": str(event), "occurred_at": str(at)}:
            return f"event …{event[-6:]}\nof {at[:10]}"
        case {"asks": [*_, {"by": str(by), "message": str(message)}]}:
            return f"asked in No. {numbers.get(message, '?')}\nby {names.get(by, by)}"
        case {"seller": str(seller)}:
            return f"the seller is\n{names.get(seller, seller)}"
        case {"review_site": str(site)}:
            return f"{site}\nin the text"
        case {"count": int(count), "limit": int(limit), "per": str(per), "window_seconds": int(seconds)}:
            return f"{count} of {limit} per\n{per} in {_span(seconds)}"
    if finding.reason == "not_the_buyer":
        return f"role\n{one.explanation.role}"
    if finding.reason == "consent_not_needed":
        return f"class\n{one.explanation.purpose_class}"
    if finding.reason == "consent_missing":
        return "nothing\non record"
    return ", ".join(f"{key} {value}" for key, value in evidence.items())


def _span(seconds: int) -> str:
    days = timedelta(seconds=seconds).days
    return f"{days} d" if days else f"{seconds // 3600} h"


def name_of(address: str, channel: str) -> str:
    """The first name behind an address, as typed or as it arrived."""
    for person in PEOPLE:
        if address.replace(" ", "") == address_of(person, channel):
            return person.name
    return "somebody unknown"


def arrivals(out: Console, ended: Ended) -> None:
    """Show what the two servers received, matched with the ledger by the message id that it carries."""
    numbers = _numbers(ended.tried)
    purposes = {one.message_id: one.explanation.purpose for one in ended.tried}
    out.print()
    out.print(Text("What arrived at the SMTP server and the SMS provider", style="bold"))
    table = _table("No.", "by", "from", "to", "purpose", "subject and text")
    for one in ended.arrived:
        text = " ".join(one.text.split())
        table.add_row(
            str(numbers.get(one.message_id or "", "?")),
            one.channel,
            one.sender,
            name_of(one.to, one.channel),
            purposes.get(one.message_id or "", "?"),
            f"{one.subject}: {text}" if one.subject else text,
        )
    out.print(table)


def verdict(out: Console, ended: Ended, faults: Sequence[str]) -> None:
    """Say in one line whether it went as it should, and what did not."""
    if faults:
        out.print(Text("NOT as the stories say:", style="bold red"))
        for fault in faults:
            out.print(f"  - {fault}")
        return
    refused = sum(bool(one.send.reasons) for one in ended.tried)
    repeats = sum(one.send.repeats for one in ended.tried)
    expected = sum(len(played.story.arrivals) for played in ended.played)
    out.print(
        Text.assemble(
            ("As the stories say: ", "bold green"),
            f"{len(ended.arrived)} of {expected} messages arrived, each once; {refused} were refused, each for the "
            f"reasons expected; {repeats} was the same request again. Nothing is left running.",
        )
    )


def look_further(out: Console, folder: Path, ended: Ended, overriding: Sequence[str]) -> None:
    """Print commands, ready to be copied, that show more of what was recorded.

    `overriding` names variables of the caller's environment that would get in their way.
    """
    config = shlex.quote(str(folder / CONFIG_NAME))
    out.print()
    out.print(Text("Look further", style="bold"))
    for played in ended.played:
        for one in _worth_a_look(played):
            why = "why it was refused" if one.send.reasons else "why it was sent"
            _command(
                out, f"No. {one.number}: {why}, rule by rule", f"notifygate explain {one.message_id}", config
            )
        for question, command in played.story.questions:
            _command(out, question, command, config)
    _command(out, "Whether anybody has altered the log since", "notifygate log verify", config)
    if overriding:
        out.print(f"Unset before, because they win over the config: {', '.join(overriding)}", style="yellow")
    out.print(f"To remove what the demo wrote: rm -r {shlex.quote(str(folder))}", style="dim", soft_wrap=True)


def _worth_a_look(played: Played) -> list[Tried]:
    """The first of the refusals with most reasons, and the review request that was sent."""
    tried = [one for one in played.tried if not one.send.repeats]
    refused = [one for one in tried if one.send.reasons]
    asked = [one for one in tried if not one.send.reasons and one.explanation.purpose_class == "review"]
    return sorted(refused, key=lambda one: -len(one.send.reasons))[:1] + asked[:1]


def _command(out: Console, question: str, command: str, config: str) -> None:
    out.print(f"{question}:", style="dim")
    # Never wrapped, so that it can be copied in one piece.
    out.print(f"  {_program()}{command.removeprefix('notifygate')} --config {config}", soft_wrap=True)


def _program() -> str:
    """How to call notifygate here: by its name where the shell finds it, else by its path."""
    beside = Path(sys.executable).parent / "notifygate"
    found = shutil.which("notifygate")
    if not beside.exists() or (found is not None and Path(found).samefile(beside)):
        return "notifygate"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def broke_off(out: Console, problem: str, log: str, folder: Path) -> None:
    """Say that the play could not be finished, and what the workers said last."""
    out.print(Text(f"The demo failed: {problem}", style="bold red"))
    if log:
        out.print(f"The end of {folder / 'worker.log'}:", style="dim")
        out.print(Text(log), soft_wrap=True)
