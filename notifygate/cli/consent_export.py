"""`notifygate consent export`: all consent events, under the field names of ISO/IEC TS 27560."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from notifygate.cli import files, output
from notifygate.cli.options import ConfigPath, moment, reading

if TYPE_CHECKING:
    from notifygate.gateway.consent_exports import Exported
    from notifygate.policy import Policy

EXAMPLES = """[bold]Examples[/bold]
  notifygate consent export --out consent.jsonl
  notifygate consent export --party myshop --format csv --out myshop.csv
  notifygate consent export --contact email:anna@example.dk --format json"""


class ExportFormat(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSONL = "jsonl"
    JSON = "json"


def export(
    party: Annotated[
        str | None,
        typer.Option(
            "--party",
            metavar="NAME",
            show_default=False,
            help="Only what bears on this merchant or group, refusals of everything among it.",
        ),
    ] = None,
    purpose: Annotated[
        str | None,
        typer.Option(
            "--purpose",
            metavar="NAME",
            show_default=False,
            help="Only what bears on this purpose or class, refusals of everything among it.",
        ),
    ] = None,
    contact: Annotated[
        str | None,
        typer.Option(
            "--contact", metavar="CONTACT", show_default=False, help="Only what holds for this contact point."
        ),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            metavar="INSTANT",
            parser=moment,
            show_default=False,
            help="Only what was recorded from then on, such as 30d for 30 days ago: an addition to an earlier export, "
            "and not the whole.",
        ),
    ] = None,
    form: Annotated[
        ExportFormat | None,
        typer.Option("--format", show_default=False, help="By default the name of --out tells; else jsonl."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            show_default=False,
            help="Write here, readable by you only; by default on the standard output.",
        ),
    ] = None,
    with_addresses: Annotated[
        bool,
        typer.Option(
            "--with-addresses/--pseudonymous",
            help="Addresses and what people typed, or ids that only this ledger can resolve.",
        ),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it is there.")] = False,
    config: ConfigPath = None,
) -> None:
    """Write out consent events under the field names of ISO/IEC TS 27560, so that they can be imported elsewhere.

    JSON has a record for each contact point, party and purpose with its events; CSV has a row for each event.
    """
    wanted = form or _format_of(out)
    erased = total = 0
    with reading(config) as gate:
        events = gate.consent.export(party=party, purpose=purpose, contact_point=contact, since=since)

        def counted() -> Iterator[Exported]:
            nonlocal erased, total
            for one in events:
                total += 1
                erased += one.erased
                yield one

        with _opened_for_writing(out, force=force) as file:
            _WRITERS[wanted](file, counted(), gate.config.policy, with_addresses)
    if out is not None:
        output.complain(f"{output.counted(total, 'event')} written to {out}", prefix="")
    if erased and with_addresses:
        output.complain(
            f"{output.counted(erased, 'event')} of erased contact points: told by id, and not to be imported elsewhere",
            prefix="",
        )


def _write_csv(file: IO[str], events: Iterator[Exported], policy: Policy, with_addresses: bool) -> None:
    from notifygate.gateway.consent_records import COLUMNS, row_of

    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for one in events:
        row = row_of(one, policy, with_addresses=with_addresses)
        writer.writerow([_cell(row[name]) for name in COLUMNS])


def _write_json_lines(
    file: IO[str], events: Iterator[Exported], policy: Policy, with_addresses: bool
) -> None:
    from notifygate.gateway.consent_records import records_of

    for record in records_of(events, policy, with_addresses=with_addresses):
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_json(file: IO[str], events: Iterator[Exported], policy: Policy, with_addresses: bool) -> None:
    from notifygate.gateway.consent_records import records_of

    before = "[\n"
    for record in records_of(events, policy, with_addresses=with_addresses):
        file.write(before + json.dumps(record, ensure_ascii=False))
        before = ",\n"
    file.write("[]\n" if before == "[\n" else "\n]\n")


_WRITERS = {
    ExportFormat.CSV: _write_csv,
    ExportFormat.JSONL: _write_json_lines,
    ExportFormat.JSON: _write_json,
}


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _format_of(out: Path | None) -> ExportFormat:
    suffix = out.suffix.lower().lstrip(".") if out else ""
    if out is not None and suffix not in set(ExportFormat):
        raise typer.BadParameter("the name of --out tells no format; say --format csv, jsonl or json")
    return ExportFormat(suffix) if suffix else ExportFormat.JSONL


@contextmanager
def _opened_for_writing(out: Path | None, *, force: bool) -> Iterator[IO[str]]:
    """A file that is there whole or not at all; without a path the standard output."""
    if out is None:
        try:
            yield sys.stdout
        except BrokenPipeError:
            output.hang_up()
        return
    with files.writing(out, force=force, is_private=True) as file:
        yield file
