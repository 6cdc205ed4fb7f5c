"""What the verbs print: tables and colours on a terminal, plain lines in a pipe, JSON for programs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import typer

from notifygate.errors import NotifygateError

if TYPE_CHECKING:
    from rich.console import Console

HUNG_UP = 141  # 128 + SIGPIPE, as shells report it

# What comes from the ledger must not move the cursor or rename the window of the terminal it is shown in.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = {
    "allow": "green",
    "ok": "green",
    "accepted": "green",
    "sent": "green",
    "delivered": "green",
    "permitted": "green",
    "defer": "yellow",
    "deferred": "yellow",
    "in_doubt": "yellow",
    "note": "yellow",
    "warning": "yellow",
    "deny": "red",
    "denied": "red",
    "failed": "red",
    "rejected": "red",
    "refused": "red",
    "bounced": "red",
}


class CommandError(NotifygateError):
    """A command cannot do what was asked, for a reason of the command line's own."""


class HungUp(typer.Exit):
    """Whoever reads the output has gone, as `head` does."""

    def __init__(self) -> None:
        super().__init__(HUNG_UP)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `whole` keeps its cells on one line, as ids and instants must be."""

    title: str
    whole: bool = False


def prepare() -> None:
    """Make sure that no text can break the output: what an old encoding lacks is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_terminal() -> bool:
    """Whether a person reads the standard output as it comes."""
    return console().is_terminal


def console(*, stderr: bool = False) -> Console:
    """A console on the output as it is now; colours only on a terminal."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            hang_up()

    return Ours(stderr=stderr, highlight=False, markup=False, emoji=False)


def say(text: str = "") -> None:
    """Print a line, or several, on the standard output."""
    write(clean(text) + "\n")


def complain(text: str, *, prefix: str = "notifygate: ") -> None:
    """Print a line on stderr."""
    line = " ".join(clean(text).split("\n"))
    try:
        print(f"{prefix}{line}", file=sys.stderr)
    except BrokenPipeError:
        _discard(sys.stderr)


def json_line(value: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own."""
    write(json.dumps(value, ensure_ascii=not _is_utf8(), default=str) + "\n")


def instant(at: datetime | None) -> str:
    """An instant in UTC with seconds, such as `2026-05-01T10:00:00Z`; empty for None."""
    if at is None:
        return ""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def counted(count: int, unit: str) -> str:
    """A number and its unit, such as `1 row` and `2,000 rows`."""
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def clean(text: object) -> str:
    """Text without control characters, but with its lines."""
    return _CONTROL.sub("\ufffd", str(text).replace("\r\n", "\n"))


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values below each other; those that are None or empty are left out."""
    known = [(name, clean(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in known), default=0)
    if not is_terminal():
        for name, value in known:
            say(f"{name:<{width}}  {' '.join(value.split())}")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in known:
        grid.add_row(name, Text(value, style=_STYLES.get(value, "")))
    console().print(grid)


def bullets(sentences: Iterable[str]) -> None:
    """Print sentences below each other, each with a dash; on a terminal, folded between words."""
    if not is_terminal():
        for sentence in sentences:
            say(f"- {sentence}")
        return
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
    for sentence in sentences:
        grid.add_row("-", clean(sentence))
    console().print(grid)


@contextmanager
def until_hung_up() -> Iterator[None]:
    """Let the block write to the standard output itself; whoever reads it may go away."""
    try:
        yield
    except BrokenPipeError:
        hang_up()


def heading(text: str) -> None:
    """Print a heading with a blank line above."""
    say()
    if is_terminal():
        from rich.text import Text

        console().print(Text(clean(text), style="bold"))
    else:
        say(text)


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: with rules and wrapped cells on a terminal, else one row a line, nothing cut off."""
    cells = [[clean("" if cell is None else cell) for cell in row] for row in rows]
    if is_terminal():
        _ruled(columns, cells)
    else:
        _plain(columns, cells)


def _ruled(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        shown.add_column(column.title, no_wrap=column.whole, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console().print(shown)


def _plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    lines = [
        [column.title for column in columns],
        *([" ".join(cell.split()) for cell in row] for row in rows),
    ]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal; what is yielded is told how much is done, and of how much."""
    shown = console(stderr=True)
    if not shown.is_terminal:
        yield lambda done, of: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shown, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def flush() -> None:
    """Write out what is still held back."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        hang_up()


def write(text: str) -> None:
    """Print a text as it is."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        hang_up()


def hang_up() -> None:
    """End because whoever reads the output has gone. Raises `HungUp`."""
    _discard(sys.stdout)
    raise HungUp


def _discard(stream: Any) -> None:
    """Let what a stream still holds go nowhere, or the interpreter would complain of it at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass


def _is_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
