"""`notifygate submit`: hand over a file of messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from notifygate.cli import output
from notifygate.cli.forms import Wrong, check_header, message_of
from notifygate.cli.options import ConfigPath, JsonLines, opened
from notifygate.cli.output import Column
from notifygate.cli.reading import cannot_be_read, guarded, is_same, progress, stream_of
from notifygate.cli.records import CsvReader, Fault, Format, Record, Unreadable, format_of, read_json_lines
from notifygate.cli.rejects import Rejects
from notifygate.errors import IdempotencyConflict, InvalidMessage

if TYPE_CHECKING:
    from notifygate.gateway import Gateway
    from notifygate.message import Message, Receipt

EXAMPLES = """[bold]A line of JSON[/bold] (all on one line)
  {"merchant": "myshop", "purpose": "order_update",
   "to": "+4520123456", "text": "Your parcel is here."}
or, as the Python call has it,
  {"merchant": "myshop", "purpose": "review_request",
   "content": {"to": "anna@example.dk", "subject": "How was it?", "text": "…"},
   "purchase": {"seller": "myshop", "order_id": "1001",
                "delivered_at": "2026-05-01T12:00:00+02:00"},
   "idempotency_key": "review-1001"}

[bold]Columns of CSV[/bold]
  merchant, purpose, channel, to, subject, text, html, seller, order_id,
  purchased_at, delivered_at, role, idempotency_key, dedupe_key,
  send_after, expires_at, timezone, language

[bold]Examples[/bold]
  notifygate submit today.jsonl
  notifygate submit today.csv --rejects rejected.csv
  program | notifygate submit - --json"""

_BATCH = 500
_SHOWN_ONE_BY_ONE = 10
_WHERE_IDS_ARE = (
    "The ids of so many are printed with --json; 'log search --kind submitted --since 1h' finds these."
)


@dataclass(slots=True)
class _Entry:
    """One record on its way, and what became of it."""

    record: Record
    message: Message | None = None
    result: Receipt | Fault | None = None


@dataclass(slots=True)
class _Tally:
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    first: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.accepted + self.duplicate + self.rejected

    def __str__(self) -> str:
        return f"accepted {self.accepted}, duplicate {self.duplicate}, rejected {self.rejected}"


def submit(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", show_default=False, help="JSON lines or CSV; - is standard input."),
    ],
    form: Annotated[
        Format | None,
        typer.Option(
            "--format", show_default=False, help="By default the name of FILE tells; for - it is jsonl."
        ),
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(
            "--rejects",
            metavar="FILE",
            show_default=False,
            help="Write rejected lines here, with the reason; mend and submit them again.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --rejects.")] = False,
    config: ConfigPath = None,
    json: JsonLines = False,
) -> None:
    """Hand over messages, one a line; exit code 1 means that some lines were rejected, and all others taken in."""
    wanted = format_of(file, form)
    if rejects is not None and file != "-" and is_same(Path(file), rejects):
        raise typer.BadParameter("--rejects must not be the file that is read")
    tally = _Tally()
    with opened(config) as gate, stream_of(file) as stream:
        try:
            with progress(stream, tally) as seen:
                records, header = _reader(stream, wanted, seen, file)
                with Rejects(rejects, header, overwrite=force) as rejected:
                    for batch in _batches(records, gate):
                        try:
                            _hand_over(gate, batch)
                        finally:
                            for entry in batch:
                                _report(entry, tally, rejected, json=json)
        except BaseException:
            if tally.total:
                output.complain(f"broken off; until then: {tally}")
            raise
        hint = _hint(gate) if tally.accepted else None
    _sum_up(tally, json=json)
    if hint:
        output.complain(hint, prefix="")
    if tally.rejected:
        raise typer.Exit(1)


def _reader(
    stream: BinaryIO, wanted: Format, seen: Callable[[int], None], file: str
) -> tuple[Iterator[Record], Sequence[str] | None]:
    if wanted is Format.JSONL:
        return guarded(read_json_lines(stream, seen), file), None
    try:
        reader = CsvReader(stream, seen, check_header)
    except Unreadable as error:
        raise Unreadable(f"{file}: {error}") from error
    except OSError as error:
        raise cannot_be_read(file, error) from error
    return guarded(iter(reader), file), reader.header


def _batches(records: Iterator[Record], gate: Gateway) -> Iterator[list[_Entry]]:
    policy, batch = gate.config.policy, list[_Entry]()
    for record in records:
        entry = _Entry(record, result=record.fault)
        if record.fields is not None:
            try:
                entry.message = message_of(record.fields, policy)
            except Wrong as error:
                entry.result = error.fault
        batch.append(entry)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _hand_over(gate: Gateway, batch: Sequence[_Entry]) -> None:
    """Submit what can be, and write to each entry what became of it."""
    waiting = [(entry, entry.message) for entry in batch if entry.message is not None]
    while waiting:
        done = 0
        try:
            for receipt in gate.submit_many(message for _, message in waiting):
                waiting[done][0].result = receipt
                done += 1
        except (InvalidMessage, IdempotencyConflict) as error:
            # All before it have been taken in, and none after it: go on behind it.
            waiting[done][0].result = _fault(error, waiting[done][0].record)
            done += 1
        waiting = waiting[done:]


def _fault(error: InvalidMessage | IdempotencyConflict, record: Record) -> Fault:
    """The gateway's error, at the field as it was written: `to` in the flat form is `content.to` to the gateway."""
    if isinstance(error, InvalidMessage):
        part, _, name = error.field.partition(".")
        nested = part in (record.fields or {})
        return Fault(name if name and not nested else error.field, error.problem)
    key, _, problem = str(error).partition(": ")
    return Fault(key, problem)


def _report(entry: _Entry, tally: _Tally, rejected: Rejects, *, json: bool) -> None:
    line, result = entry.record.line, entry.result
    if result is None:  # the ledger failed before it was this one's turn
        return
    if isinstance(result, Fault):
        tally.rejected += 1
        rejected.add(entry.record, result)
        if json:
            reason = {"field": result.field, "reason": result.problem}
            output.json_line({"line": line, "outcome": "rejected", **reason})
        else:
            output.complain(f"line {line}: {result}", prefix="")
        return
    outcome = "duplicate" if result.duplicate else "accepted"
    if result.duplicate:
        tally.duplicate += 1
    else:
        tally.accepted += 1
    if json:
        known = {"message_id": result.message_id, "status": result.status.value}
        output.json_line({"line": line, "outcome": outcome, **known})
    elif len(tally.first) <= _SHOWN_ONE_BY_ONE:
        tally.first.append((line, result.message_id, outcome))


def _sum_up(tally: _Tally, *, json: bool) -> None:
    if json:
        output.complain(str(tally), prefix="")
        return
    if tally.first and tally.total <= _SHOWN_ONE_BY_ONE:
        output.table([Column("line"), Column("message", whole=True), Column("outcome")], tally.first)
    output.say(str(tally))
    if tally.total > _SHOWN_ONE_BY_ONE:
        output.complain(_WHERE_IDS_ARE, prefix="")


def _hint(gate: Gateway) -> str | None:
    """What to do where nothing is there to work the messages off."""
    from notifygate.embedded import EmbeddedRedis

    settings = gate.config.settings.gateway
    if settings.broker == "none":
        return "They wait for 'notifygate drain'."
    if settings.broker == "embedded" and not EmbeddedRedis(settings.data_dir).is_running():
        return "No worker runs: they wait for 'notifygate up' or 'notifygate drain'."
    return None
