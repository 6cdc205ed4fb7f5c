"""An export read again: whether it is what its manifest says, and what the send log has sealed."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from notifygate.audit.export import FORMAT, ExportError, Format, Tally, arrow, value_of
from notifygate.ledger import seals
from notifygate.ledger.canonical import COLUMNS, canonical
from notifygate.ledger.database import Ledger
from notifygate.merkle import leaf_hash
from notifygate.notes import Checkpoint, NoteError

_AT_ONCE = 5_000
_SHOWN = 100
_ALL = tuple("at_micros" if name == "at" else name for name in COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Whether an export is what its manifest says. `problems` is empty where it is."""

    rows: int
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        return not self.problems


def check_export(manifest: Path) -> Checked:
    """Read an export again, and compare it with its manifest. Raises `ExportError` for what is no manifest."""
    told = _read_manifest(manifest)
    problems: list[str] = []
    tally = Tally()
    try:
        for file in told["files"]:
            problems += _problems_of(_beside(manifest, file), file, tally)
        if not problems:
            found = {
                "rows": tally.rows,
                "counts": dict(sorted(tally.kinds.items())),
                "first_position": tally.first,
                "last_position": tally.last,
            }
            problems += [
                f"{name}: the manifest says {told[name]}, the file holds {value}"
                for name, value in found.items()
                if told[name] != value
            ]
    except (KeyError, TypeError) as error:
        raise ExportError(f"{manifest} is no whole manifest: {error} is missing or wrong") from error
    return Checked(rows=tally.rows, problems=tuple(problems))


def checkpoint_of(manifest: Path) -> Checkpoint | None:
    """What the log was signed as when the export was made. Raises `ExportError` for what is no manifest."""
    note = _read_manifest(manifest).get("checkpoint")
    if note is None:
        return None
    try:
        return Checkpoint.parse(str(note))
    except NoteError as error:
        raise ExportError(f"{manifest} is no whole manifest: its checkpoint is {error}") from error


def unlike_sealed(ledger: Ledger, manifest: Path) -> list[str]:
    """The rows of an export that are not what the send log has sealed at their positions: the first hundred.

    The export must be what its manifest says. A row that was removed from the log since is compared all the same.
    """
    problems: list[str] = []
    for file in _read_manifest(manifest)["files"]:
        rows = _READERS[Format(file["format"])](_beside(manifest, file), _ALL)
        while lot := list(islice(rows, _AT_ONCE)):
            with ledger.read() as conn:
                sealed = seals.hashes_at(conn, [int(row["position"]) for row in lot])
            for row in lot:
                position = int(row["position"])
                if position not in sealed:
                    problems.append(f"row {position:,} has no place in the send log")
                elif sealed[position] != _hash_of(row):
                    problems.append(f"row {position:,} is not what was sealed")
            if len(problems) >= _SHOWN:
                return [*problems[:_SHOWN], "and perhaps more"]
    return problems


def _hash_of(row: Mapping[str, Any]) -> bytes:
    """The leaf that a row of an export would be."""
    numbers = {"at": int(row["at_micros"]), "position": int(row["position"])}
    body = row["body"] if isinstance(row["body"], str) else orjson.dumps(row["body"]).decode()
    return leaf_hash(canonical({**row, **numbers, "body": body}))


def _read_manifest(manifest: Path) -> dict[str, Any]:
    try:
        told = orjson.loads(manifest.read_bytes())
    except OSError as error:
        raise ExportError(f"{manifest} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise ExportError(f"{manifest} is no manifest of an export: it is not JSON") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ExportError(f"{manifest} is no manifest of an export: its format is not {FORMAT!r}")
    return told


def _beside(manifest: Path, file: Mapping[str, Any]) -> Path:
    return manifest.with_name(Path(str(file["name"])).name)


def _problems_of(path: Path, told: Mapping[str, Any], tally: Tally) -> Iterator[str]:
    """What is wrong with a file. What it holds is looked at only where its bytes are the right ones."""
    try:
        size, digest = path.stat().st_size, _sha256(path)
    except OSError as error:
        yield f"{path.name} cannot be read: {error.strerror}"
        return
    if size != told["bytes"]:
        yield f"{path.name} has {size} bytes, and should have {told['bytes']}"
    if digest != told["sha256"]:
        yield f"{path.name} is not the file that this manifest is of: its SHA-256 is {digest}"
        return
    for row in _READERS[Format(told["format"])](path, ("position", "kind")):
        tally.add(int(row["position"]), row["kind"])
    if not tally.is_in_order:
        yield f"{path.name} is not in the order of its positions"


def _read_csv(path: Path, names: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: value_of(row[name]) for name in names}


def _read_json(path: Path, names: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def _read_parquet(path: Path, names: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    _, parquet = arrow()
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(names)):
            yield from batch.to_pylist()


_READERS: Mapping[Format, Callable[[Path, Iterable[str]], Iterator[Mapping[str, Any]]]] = {
    Format.CSV: _read_csv,
    Format.JSONL: _read_json,
    Format.PARQUET: _read_parquet,
}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
