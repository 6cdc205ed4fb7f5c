"""Opening a file that is read record by record, and showing how far that is."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from notifygate.cli import output
from notifygate.cli.records import Record, Unreadable


@contextmanager
def stream_of(file: str) -> Iterator[BinaryIO]:
    """The bytes of a file; `-` is standard input. Raises `Unreadable`."""
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115  # closed below; only opening it is guarded
    except OSError as error:
        raise cannot_be_read(file, error) from error
    with stream:
        yield stream


def guarded(records: Iterator[Record], file: str) -> Iterator[Record]:
    """The records of a file; where reading fails midway, that is an `Unreadable`."""
    try:
        yield from records
    except OSError as error:
        raise cannot_be_read(file, error) from error


def cannot_be_read(file: str, error: OSError) -> Unreadable:
    """The error for a file that the system does not let us read."""
    return Unreadable(f"{file} cannot be read: {error.strerror or type(error).__name__}")


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file that is there."""
    try:
        return one.samefile(other)
    except OSError:
        return False


@contextmanager
def progress(stream: BinaryIO, tally: object) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; what is yielded is told of bytes read. It shows `tally` beside it."""
    console = output.console(stderr=True)
    if not console.is_terminal or stream is getattr(sys.stdin, "buffer", None):
        yield lambda count: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as shown:
        size = stream.seek(0, 2) if stream.seekable() else None
        if size is not None:
            stream.seek(0)
        task = shown.add_task("", total=size)

        def seen(count: int) -> None:
            shown.update(task, advance=count, description=str(tally))

        yield seen


class Hashing:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def readline(self, size: int = -1) -> bytes:
        """As of the stream itself."""
        line = self._stream.readline(size)
        self._hash.update(line)
        return line

    def as_stream(self) -> BinaryIO:
        """Itself, for whoever reads lines and no more."""
        return cast(BinaryIO, self)

    def sha256(self) -> str:
        """The hash of the whole file, in hexadecimal; what was not read yet is read for it."""
        while chunk := self._stream.read(1 << 20):
            self._hash.update(chunk)
        return self._hash.hexdigest()
