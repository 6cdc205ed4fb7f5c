"""Files of messages, read record by record: JSON lines and CSV, with the line that each record begins on.

A record that cannot be read is a fault, and reading goes on with the next. Memory stays flat whatever the file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from notifygate.cli.output import CommandError

LONGEST_LINE = 16_000_000
"""The most bytes that one line may have: the longest message takes less."""

_DELIMITERS = ",;\t"
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")


class Format(StrEnum):
    """How a file of messages is written."""

    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a record, and at which field; never an address or a text."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record: its fields, or the fault for which it has none. `raw` is what the file holds."""

    line: int
    raw: str | Sequence[str] = field(repr=False)
    fields: Mapping[str, Any] | None = field(default=None, repr=False)
    fault: Fault | None = None


class Unreadable(CommandError):
    """The file as a whole cannot be used."""


def format_of(path: str, wanted: Format | None) -> Format:
    """The format of a file: as it is said to be, else by its name. Raises `Unreadable` where neither tells."""
    if wanted is not None:
        return wanted
    if path == "-":
        return Format.JSONL
    found = _SUFFIXES.get(Path(path).suffix.lower())
    if found is None:
        raise Unreadable(f"{path}: the name tells no format; say --format jsonl or --format csv")
    return Format(found)


def shown_name(name: object) -> str:
    """The name of a field, if it may be shown: in a file without a header, names are data."""
    return str(name) if isinstance(name, str) and _NAME.fullmatch(name) else "(a name that is not shown)"


def read_json_lines(stream: BinaryIO, seen: Callable[[int], None]) -> Iterator[Record]:
    """The records of a file with one JSON object a line. `seen` is told how many bytes were read."""
    for number, line in _lines(stream, seen):
        if line is None:
            yield Record(line=number, raw="", fault=Fault("line", f"is longer than {LONGEST_LINE} bytes"))
            continue
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape").strip()
        if text:
            yield _json_record(number, text)


def _json_record(number: int, text: str) -> Record:
    try:
        text.encode("utf-8")
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeEncodeError:
        return Record(line=number, raw=text, fault=Fault("line", "is not UTF-8 text"))
    except _Twice as error:
        return Record(line=number, raw=text, fault=Fault(shown_name(error.name), "is given twice"))
    except json.JSONDecodeError as error:
        problem = f"is not JSON (at character {error.colno}); one object stands on each line"
        return Record(line=number, raw=text, fault=Fault("line", problem))
    except (ValueError, RecursionError):
        return Record(line=number, raw=text, fault=Fault("line", "is not JSON that can be read"))
    if not isinstance(found, dict):
        return Record(line=number, raw=text, fault=Fault("line", "must hold one JSON object"))
    return Record(line=number, raw=text, fields=found)


class _Twice(Exception):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name)
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class CsvReader:
    """The records of a CSV file, whose first line names the columns. Empty cells are left out.

    Commas, semicolons and tabs are understood, whichever the first line has most of. Raises `Unreadable` for a
    first line that does not name columns which `check_header` takes.
    """

    def __init__(
        self, stream: BinaryIO, seen: Callable[[int], None], check_header: Callable[[Sequence[str]], None]
    ) -> None:
        self._lines = _lines(stream, seen)
        csv.field_size_limit(LONGEST_LINE)
        first = next(self._lines, (1, b""))[1]
        if first is None:
            raise Unreadable("the first line is too long to be a header")
        try:
            text = first.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Unreadable("the first line is not UTF-8 text; save the file as UTF-8") from error
        self._delimiter = max(_DELIMITERS, key=text.count)
        try:
            cells = next(csv.reader([text], delimiter=self._delimiter, strict=True), [])
        except csv.Error as error:
            raise Unreadable("the first line is no CSV header") from error
        self.header = [cell.strip() for cell in cells]
        check_header(self.header)

    def __iter__(self) -> Iterator[Record]:
        reader = csv.reader(self._texts(), delimiter=self._delimiter, strict=True)
        while True:
            begins = reader.line_num + 2  # the header is line 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                problem = "is not CSV; a quote within a quoted cell is written twice, and each is closed"
                yield Record(line=begins, raw=[], fault=Fault("line", problem))
                continue
            except _TooLong:
                problem = "does not end; is a quote left open? Nothing from here on was read"
                yield Record(line=begins, raw=[], fault=Fault("line", problem))
                return
            if any(cell.strip() for cell in row):
                yield self._record(begins, row)

    def _record(self, number: int, row: Sequence[str]) -> Record:
        if len(row) != len(self.header):
            problem = f"has {len(row)} cells, and the first line names {len(self.header)} columns"
            return Record(line=number, raw=row, fault=Fault("line", problem))
        for name, cell in zip(self.header, row, strict=True):
            try:
                cell.encode("utf-8")
            except UnicodeEncodeError:
                return Record(line=number, raw=row, fault=Fault(name, "is not UTF-8 text"))
        fields = {name: cell for name, cell in zip(self.header, row, strict=True) if cell != ""}
        return Record(line=number, raw=row, fields=fields)

    def _texts(self) -> Iterator[str]:
        for _, line in self._lines:
            if line is None:
                raise _TooLong
            yield line.decode("utf-8", errors="surrogateescape")


class _TooLong(Exception):
    pass


def _lines(stream: BinaryIO, seen: Callable[[int], None]) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers; None in place of one that is longer than any message."""
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        seen(len(line))
        whole = line.endswith(b"\n") or len(line) < LONGEST_LINE
        if not whole:
            while (rest := stream.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                seen(len(rest))
        yield number, line if whole else None
