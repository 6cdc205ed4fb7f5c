"""The send log as a file for auditors: CSV, JSON lines or Parquet, with a manifest that says what it should hold.

Rows are read and written a few thousand at a time, so a ledger of any size needs the same memory. The file and its
manifest get their names when both are whole; the manifest comes last.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from notifygate import whole_files
from notifygate.audit.progress import Progress
from notifygate.errors import NotifygateError
from notifygate.ledger import journal
from notifygate.ledger.database import Ledger
from notifygate.ledger.journal import Row
from notifygate.ledger.schema import to_micros

FORMAT = "notifygate-log-export/1"
"""What the manifest calls itself. Another number means that a reader of this one would misread it."""

MANIFEST = ".manifest.json"
"""What the name of the manifest ends with, after the name of the file."""

_MODE = whole_files.ITS_OWNERS
_READ_AT_ONCE = 1 << 20
_COLUMNS = {
    "position": ("integer", "Where the row is in the log. It grows, with gaps, and is never used twice."),
    "kind": ("text", "What the row records: submitted, decision, attempt, consent and so on."),
    "at": ("instant", "When, in UTC, as ISO 8601."),
    "at_micros": ("integer", "The same in microseconds since 1970: what the row's hash is made of."),
    "message_id": ("text", "The message, if it is about one."),
    "contact_point_id": (
        "text",
        "The contact point, if it is about one. Not the address: that is not in the log.",
    ),
    "purchase_id": ("text", "The purchase, if it is about one."),
    "merchant": ("text", "Who asked to send, or the party that a consent event names."),
    "purpose": ("text", "Why, as the config names it."),
    "channel": ("text", "sms or email."),
    "outcome": (
        "text",
        "allow, defer or deny; accepted, rejected, failed or in_doubt; the state of a consent event.",
    ),
    "reason": ("text", "The reason code of a decision, or what the provider said."),
    "policy": ("text", "SHA-256 of the policy that a decision went by."),
    "body": ("json", "All else: of a decision every finding with its evidence."),
}
_NAMES = tuple(_COLUMNS)
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


class ExportError(NotifygateError):
    """An export cannot be written or read: a file that is there already, a full disk, a missing extra."""


class Format(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: the file, its manifest, and how many rows."""

    path: Path
    manifest: Path
    rows: int


def cells(row: Row) -> list[object]:
    """A row as cells of CSV, in the order of the columns; nothing in it is taken for a formula by a spreadsheet."""
    shown = _as_object(row) | {"body": _body(row)}
    return [_harmless(shown[name]) for name in _NAMES]


def header() -> tuple[str, ...]:
    """The names of the columns of CSV."""
    return _NAMES


def write_export(
    ledger: Ledger,
    to: Path,
    *,
    form: Format | str | None,
    conditions: Mapping[str, Any],
    now: datetime,
    sign: Callable[[], str | None],
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write all rows that match, and the manifest. Raises `ExportError`; then there is neither, or the old pair.

    `sign` is called when all rows are written, and gives the checkpoint that the manifest holds. The manifest gets its
    name last: one that is of another file tells of a process that was killed in between.
    """
    path, wanted = _target(to, form, now)
    manifest = path.with_name(path.name + MANIFEST)
    if not force:
        for one in (path, manifest):
            if one.exists():
                raise ExportError(f"{one} is there already; choose another name, or say --force")
    open_writer = _WRITERS[wanted]
    if wanted is Format.PARQUET:
        arrow()
    tally = Tally()
    with (
        _told(path),
        whole_files.writing(manifest, replaces=force, mode=_MODE) as beside,
        whole_files.writing(path, replaces=force, mode=_MODE) as file,
    ):
        hashed = _Hashed(file)
        _copy(ledger, conditions, open_writer(hashed), tally, progress)
        about = {"name": path.name, "format": wanted.value, "rows": tally.rows}
        told = {
            "format": FORMAT,
            "made_at": now.isoformat(),
            "notifygate": version("notifygate"),
            "ledger": ledger.id,
            "order": "oldest first",
            "conditions": {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in conditions.items()
                if value is not None
            },
            "rows": tally.rows,
            "counts": dict(sorted(tally.kinds.items())),
            "first_position": tally.first,
            "last_position": tally.last,
            "files": [about | {"bytes": hashed.size, "sha256": hashed.digest()}],
            "columns": [
                {"name": name, "type": kind, "description": said} for name, (kind, said) in _COLUMNS.items()
            ],
            "checkpoint": sign(),
        }
        beside.write(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
        beside.flush()  # what fails must fail before either has its name
    return Exported(path=path, manifest=manifest, rows=tally.rows)


class Tally:
    """What was written, or read again."""

    def __init__(self) -> None:
        self.rows = 0
        self.kinds: Counter[str] = Counter()
        self.first: int | None = None
        self.last: int | None = None
        self.is_in_order = True

    def add(self, position: int, kind: str) -> None:
        self.rows += 1
        self.kinds[kind] += 1
        if self.first is None:
            self.first = position
        self.is_in_order &= self.last is None or position > self.last
        self.last = position


class _Hashed(io.RawIOBase):
    """A file that is only written to, from its beginning to its end, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self._file.write(data)
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self.size

    def digest(self) -> str:
        return self._hash.hexdigest()


class _Writer(Protocol):
    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class _CsvWriter:
    def __init__(self, file: _Hashed) -> None:
        self._file = file
        self._write_all([_NAMES])

    def write(self, rows: Sequence[Row]) -> None:
        self._write_all([cells(row) for row in rows])

    def close(self) -> None: ...

    def _write_all(self, lines: Sequence[Sequence[object]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(lines)
        self._file.write(text.getvalue().encode())


class _JsonWriter:
    def __init__(self, file: _Hashed) -> None:
        self._file = file

    def write(self, rows: Sequence[Row]) -> None:
        self._file.write(b"".join(orjson.dumps(_as_object(row)) + b"\n" for row in rows))

    def close(self) -> None: ...


class _ParquetWriter:
    _GROUP = 20_000  # rows

    def __init__(self, file: _Hashed) -> None:
        self._arrow, parquet = arrow()
        types = {
            "integer": self._arrow.int64(),
            "instant": self._arrow.timestamp("us", tz="UTC"),
            "text": self._arrow.string(),
            "json": self._arrow.string(),
        }
        self._schema = self._arrow.schema([(name, types[kind]) for name, (kind, _) in _COLUMNS.items()])
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[dict[str, Any]] = []

    def write(self, rows: Sequence[Row]) -> None:
        self._waiting += [_as_object(row) | {"at": row.at, "body": _body(row)} for row in rows]
        if len(self._waiting) >= self._GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting.clear()


_WRITERS: Mapping[Format, Callable[[_Hashed], _Writer]] = {
    Format.CSV: _CsvWriter,
    Format.JSONL: _JsonWriter,
    Format.PARQUET: _ParquetWriter,
}


def _copy(
    ledger: Ledger, conditions: Mapping[str, Any], writer: _Writer, tally: Tally, progress: Progress | None
) -> None:
    for done, total, rows in journal.in_order(ledger, **conditions):
        writer.write(rows)
        for row in rows:
            tally.add(row.position or 0, row.kind.value)
        if progress is not None:
            progress(done, total)
    writer.close()


def arrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`. Raises `ExportError` where they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ExportError("Parquet needs pyarrow: pip install 'notifygate[parquet]'") from error
    return pyarrow, parquet


def _target(to: Path, form: Format | str | None, now: datetime) -> tuple[Path, Format]:
    """The file to write, and how."""
    try:
        wanted = Format(form) if form is not None else Format(to.suffix.removeprefix(".").lower())
    except ValueError as error:
        known = ", ".join(Format)
        raise ExportError(f"give the format, one of {known}, or a file whose name ends with one") from error
    if to.is_dir():
        to /= f"notifygate-log-{now:%Y%m%dT%H%M%SZ}.{wanted}"
    return to, wanted


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system says goes wrong with a file, as our own error."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or type(error).__name__}") from error


def _as_object(row: Row) -> dict[str, Any]:
    shown = row.to_json() | {"at_micros": to_micros(row.at)}
    return {name: shown[name] for name in _NAMES}


def _body(row: Row) -> str:
    return orjson.dumps(row.body, option=orjson.OPT_SORT_KEYS).decode()


def _harmless(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: see OWASP, CSV injection."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def value_of(cell: str) -> str | None:
    """What a cell of CSV stands for."""
    return (cell[1:] if cell[:1] == "'" and cell[1:].startswith(_FORMULAS) else cell) or None
