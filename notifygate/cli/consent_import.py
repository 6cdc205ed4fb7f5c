"""`notifygate consent import`: take in a file of consent events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.attachments import EvidenceFolder
from notifygate.cli.consent_forms import Form, Row, pairs, read_mapping
from notifygate.cli.forms import Wrong
from notifygate.cli.options import ConfigPath, Json, opened, user_name
from notifygate.cli.output import Column
from notifygate.cli.reading import Hashing, cannot_be_read, guarded, is_same, progress, stream_of
from notifygate.cli.records import CsvReader, Fault, Format, Record, Unreadable, format_of, read_json_lines
from notifygate.cli.rejects import Rejects

if TYPE_CHECKING:
    from typing import BinaryIO

    from notifygate.gateway.consent_imports import ConsentImport, Imported

EXAMPLES = """[bold]Columns of CSV, fields of JSON[/bold]
  state, contact_point or email or phone, party, channel, purpose,
  occurred_at, expires_at, basis, source, evidence, evidence_file,
  notice_version, sale_ref, opt_out_offered, includes_service,
  invalidates, actor, row_key; and the names that 'consent export' writes

[bold]Examples[/bold]
  notifygate consent import subscribers.csv --dry-run \\
    --map "Email Address=email" --map OPTIN_TIME=occurred_at \\
    --set state=granted --set party=myshop --set purpose=newsletter \\
    --source mailchimp --timezone UTC --ignore-unknown
  notifygate consent import suppressed.csv --mapping klaviyo.toml --rejects rejected.csv
  notifygate consent import consent.jsonl"""

_SHOWN = 20
_DEFAULT_SOURCE = "import"


@dataclass(slots=True)
class _Entry:
    """One row on its way, and what became of it."""

    record: Record
    row: Row | None = None
    fault: Fault | None = None
    result: Imported | None = None


class _Tally:
    """What the progress bar shows."""

    def __init__(self) -> None:
        self.run: ConsentImport | None = None

    def __str__(self) -> str:
        counts: Counter[str] = Counter(self.run.counts) if self.run else Counter()
        return ", ".join(f"{name} {counts[name]}" for name in ("written", "known", "rejected"))


def import_(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", show_default=False, help="CSV or JSON lines; - is standard input."),
    ],
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=FIELD", show_default=False, help="Which field a column is."),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--mapping",
            metavar="FILE",
            show_default=False,
            help="A TOML file with tables columns, set and values.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", show_default=False, help="A value that holds for all rows."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="NAME",
            show_default=False,
            help="The system that the rows come from; their keys are its keys. By default import.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="COLUMN",
            show_default=False,
            help="The column that names a row for good; by default row_key, else all that the row says.",
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            "--timezone",
            metavar="ZONE",
            show_default=False,
            help="How to read instants that name no zone, such as Europe/Copenhagen.",
        ),
    ] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Pass over columns that are no field.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all rows, and write nothing.")] = False,
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
            help="Write rejected rows here, with the reason; mend and import them again.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --rejects.")] = False,
    evidence_dir: Annotated[
        Path | None,
        typer.Option(
            "--evidence-dir",
            metavar="DIR",
            show_default=False,
            help="The folder of the files that evidence_file names.",
        ),
    ] = None,
    keep_evidence: Annotated[
        Path | None,
        typer.Option(
            "--keep-evidence",
            metavar="DIR",
            show_default=False,
            help="Copy those files here, each under its hash.",
        ),
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Take in consent events from a file; exit code 1 means that some rows were rejected, and all others taken in.

    A row is taken in once, however often its file is imported: after an interruption, run the same command again.
    Only a refusal without a date that a newer permission has undone is written again.
    """
    if keep_evidence is not None and evidence_dir is None:
        raise typer.BadParameter("--keep-evidence goes with --evidence-dir")
    wanted = format_of(file, form)
    if rejects is not None and file != "-" and is_same(Path(file), rejects):
        raise typer.BadParameter("--rejects must not be the file that is read")
    how = _form(mapping, maps or [], sets or [], source, key, timezone, ignore_unknown)
    if evidence_dir is not None:
        how = replace(how, evidence=EvidenceFolder(evidence_dir, None if dry_run else keep_evidence))
    tally = _Tally()
    with (
        opened(config) as gate,
        stream_of(file) as stream,
        gate.consent.importing(how.source or _DEFAULT_SOURCE, actor=user_name(), dry_run=dry_run) as run,
    ):
        tally.run, hashing, shown = run, Hashing(stream), _Shown(rejects)
        try:
            with progress(stream, tally) as seen:
                records, header = _reader(hashing.as_stream(), wanted, seen, file, how)
                with Rejects(rejects, header, overwrite=force) as rejected:
                    for batch in _batches(records, how):
                        _take_in(run, batch)
                        _keep(batch, how)
                        for entry in batch:
                            if entry.fault is not None:
                                rejected.add(entry.record, entry.fault)
                                shown.add(entry)
            run.file_sha256 = _digest(hashing, file)
        except BaseException:
            if run.counts.total():
                output.complain(f"broken off; until then: {tally}; import again to go on")
            raise
    shown.end()
    _sum_up(run, dry_run=dry_run, json=json)
    if run.counts["rejected"]:  # type: ignore[index]  # its keys are texts too
        raise typer.Exit(1)


def _form(
    mapping: Path | None,
    maps: Sequence[str],
    sets: Sequence[str],
    source: str | None,
    key: str | None,
    timezone: str | None,
    ignore_unknown: bool,
) -> Form:
    """How rows are read: by the file of --mapping, with what the command line says laid over it."""
    from zoneinfo import ZoneInfo

    read = read_mapping(mapping) if mapping is not None else Form()
    found = replace(
        read,
        columns={**read.columns, **pairs("--map", maps)},
        fixed={**read.fixed, **pairs("--set", sets)},
        source=source or read.source,
        key=key or read.key,
        timezone=timezone or read.timezone,
        ignore_unknown=ignore_unknown or read.ignore_unknown,
    )
    if found.timezone is not None:
        try:
            ZoneInfo(found.timezone)
        except (ValueError, OSError, KeyError) as error:
            raise typer.BadParameter("--timezone: no such zone; write it as Europe/Copenhagen") from error
    return found


def _reader(
    stream: BinaryIO, wanted: Format, seen: Callable[[int], None], file: str, form: Form
) -> tuple[Iterator[Record], Sequence[str] | None]:
    if wanted is Format.JSONL:
        return _events(guarded(read_json_lines(stream, seen), file)), None
    try:
        reader = CsvReader(stream, seen, form.check_header)
    except Unreadable as error:
        raise Unreadable(f"{file}: {error}") from error
    except OSError as error:
        raise cannot_be_read(file, error) from error
    return guarded(iter(reader), file), reader.header


def _events(records: Iterator[Record]) -> Iterator[Record]:
    """Each event of a consent record as a record of its own, on the line of the whole."""
    from notifygate.gateway.consent_records import events_of

    for record in records:
        if record.fields is None:
            yield record
            continue
        try:
            for event in events_of(record.fields):
                yield replace(record, fields=event)
        except ValueError as error:
            name, _, problem = str(error).partition(": ")
            yield replace(record, fields=None, fault=Fault(name, problem))


def _batches(records: Iterator[Record], form: Form) -> Iterator[list[_Entry]]:
    from notifygate.gateway.consent_imports import IMPORT_BATCH

    batch: list[_Entry] = []
    for record in records:
        entry = _Entry(record, fault=record.fault)
        if record.fields is not None:
            try:
                entry.row = form.row_of(record.fields)
            except Wrong as error:
                entry.fault = error.fault
        batch.append(entry)
        if len(batch) == IMPORT_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _take_in(run: ConsentImport, batch: Sequence[_Entry]) -> None:
    """Hand over what can be, and write to each entry what became of it."""
    ready = [(entry, entry.row.taken) for entry in batch if entry.row is not None]
    for (entry, _), result in zip(ready, run.take([taken for _, taken in ready]), strict=True):
        entry.result = result
        if result.outcome == "rejected":
            entry.fault = Fault(result.field, result.problem)
    for entry in batch:
        if entry.row is None and entry.fault is not None:
            run.reject(entry.fault.field, entry.fault.problem)


def _keep(batch: Sequence[_Entry], form: Form) -> None:
    """Copy the files that events rest on, also those of rows known before: the last run may have ended too early."""
    if form.evidence is None:
        return
    for entry in batch:
        if entry.fault is None and entry.row is not None and entry.row.evidence is not None:
            form.evidence.keep(*entry.row.evidence)


def _digest(hashing: Hashing, file: str) -> str:
    try:
        return hashing.sha256()
    except OSError as error:
        raise cannot_be_read(file, error) from error


class _Shown:
    """Tells of the first rejected rows on stderr, and how many more there are."""

    def __init__(self, rejects: Path | None) -> None:
        self._rejects = rejects
        self._count = 0

    def add(self, entry: _Entry) -> None:
        self._count += 1
        if self._count <= _SHOWN:
            output.complain(f"line {entry.record.line}: {entry.fault}", prefix="")

    def end(self) -> None:
        if self._count > _SHOWN:
            where = f"; {self._rejects} has them all" if self._rejects else "; --rejects FILE writes them all"
            output.complain(f"and {self._count - _SHOWN} more{where}", prefix="")


def _sum_up(run: ConsentImport, *, dry_run: bool, json: bool) -> None:
    counts: Counter[str] = Counter(run.counts)
    scopes = sorted(run.written.items())
    reasons = run.reasons.most_common()
    if json:
        output.json_line(
            {
                "dry_run": dry_run,
                **{name: counts[name] for name in ("written", "known", "rejected")},
                "events": [
                    {"state": state, "party": party, "purpose": purpose, "count": count}
                    for (state, party, purpose), count in scopes
                ],
                "reasons": [
                    {"field": field, "reason": problem, "count": count} for (field, problem), count in reasons
                ],
                "refused_again": run.refused_again,
                "file_sha256": run.file_sha256,
            }
        )
        return
    if scopes:
        columns = [Column("state"), Column("party"), Column("purpose"), Column("events", whole=True)]
        output.table(columns, [(*scope, count) for scope, count in scopes])
        output.say()
    if reasons:
        output.table(
            [Column("rejected", whole=True), Column("reason")],
            [(count, f"{field}: {problem}") for (field, problem), count in reasons],
        )
        output.say()
    verb = "would write" if dry_run else "written"
    output.say(f"{verb} {counts['written']}, known {counts['known']}, rejected {counts['rejected']}")
    if run.refused_again:
        output.say(
            f"refused again: {run.refused_again} without a date, imported before and permitted since; "
            "give refusals their dates if they are old"
        )
    if counts["known"] and not counts["written"] and not counts["rejected"]:
        output.say("nothing new: every row was imported before")
    if dry_run:
        output.say("a dry run: nothing was written")
