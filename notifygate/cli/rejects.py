"""The file of rejected records: as they were, with line and reason, so that it can be mended and submitted again."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from notifygate.cli.files import there_already
from notifygate.cli.output import CommandError
from notifygate.cli.records import Fault, Record

_LINE, _REASON, _RAW = "_line", "_reason", "_raw"  # `submit` passes over fields that begin with _


class Rejects:
    """Writes rejected records in the format that they came in. Without a path it does nothing.

    The file is readable by its owner only: it holds addresses and texts. With `overwrite` off, one that is there
    already is an error.
    """

    def __init__(self, path: Path | None, header: Sequence[str] | None, *, overwrite: bool) -> None:
        self._path = path
        self._how = os.O_TRUNC if overwrite else os.O_EXCL
        self._header = header
        self._file: Any = None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | self._how, 0o600)
                os.fchmod(handle, 0o600)  # one that was there may have been readable for all
            except FileExistsError as error:
                raise there_already(self._path) from error
            except OSError as error:
                raise _cannot_be_written(self._path, error) from error
            self._file = os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="")
            if self._header is not None:
                self._write_cells(
                    [_LINE, _REASON, *(name for name in self._header if not name.startswith("_"))]
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._path is not None:
            try:
                self._file.close()
            except OSError as failure:
                raise _cannot_be_written(self._path, failure) from failure

    def add(self, record: Record, fault: Fault) -> None:
        """Write one record and why it was rejected."""
        if self._file is None or self._path is None:
            return
        try:
            if self._header is not None:
                self._write_cells([str(record.line), str(fault), *self._cells(record)])
            else:
                self._file.write(json.dumps(_as_object(record, fault), ensure_ascii=False) + "\n")
        except OSError as error:
            raise _cannot_be_written(self._path, error) from error

    def _cells(self, record: Record) -> list[str]:
        raw = [record.raw] if isinstance(record.raw, str) else list(record.raw)
        header = self._header or ()
        if len(raw) != len(header):
            return raw
        return [cell for name, cell in zip(header, raw, strict=True) if not name.startswith("_")]

    def _write_cells(self, cells: Sequence[str]) -> None:
        csv.writer(self._file).writerow(cells)


def _as_object(record: Record, fault: Fault) -> dict[str, Any]:
    marks: dict[str, Any] = {_LINE: record.line, _REASON: str(fault)}
    if record.fields is None:
        return marks | {_RAW: record.raw}
    return marks | {name: value for name, value in record.fields.items() if name not in (*marks, _RAW)}


def _cannot_be_written(path: Path, error: OSError) -> CommandError:
    return CommandError(f"{path} cannot be written: {error.strerror or type(error).__name__}")
