"""A channel to the terminal: for development."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import IO

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from notifygate.channels import HandOff, HandOffOutcome, Result

# A message must not move the cursor or rename the window of the terminal it is shown in.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Console(Console):
    """A console that tells of a closed pipe, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class ConsoleChannel:
    """Prints each message as one block. Blocks of several threads never mix.

    `file` is where to print; by default the standard output as it is at the moment of printing. What is
    printed holds the address and the text of the message: this is no channel for production.
    """

    def __init__(self, *, file: IO[str] | None = None) -> None:
        self._console = _Console(file=file, highlight=False, markup=False, emoji=False)
        self._lock = threading.Lock()

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        """Print each message. `in_doubt` when the output broke: part of the block may have been shown."""
        for hand_off in batch:
            yield self._print(hand_off)

    def check(self) -> str:
        """Say that messages are only printed; there is nothing to reach."""
        return "console prints messages and delivers nothing"

    def close(self) -> None:
        """Do nothing: the standard output is not ours to close."""

    def _print(self, hand_off: HandOff) -> HandOffOutcome:
        lines = [f"from     {hand_off.sender}", f"to       {hand_off.to}"]
        if hand_off.subject is not None:
            lines.append(f"subject  {hand_off.subject}")
        lines.append(f"at       {hand_off.at.astimezone(UTC).isoformat(timespec='seconds')}")
        if hand_off.html is not None:
            lines.append(f"html     {len(hand_off.html)} characters")
        lines += ["", hand_off.text.replace("\r\n", "\n")]
        title = Text(f"{hand_off.channel} {hand_off.message_id}")
        block = Panel(Text(_CONTROL.sub("\ufffd", "\n".join(lines))), title=title, title_align="left")
        try:
            with self._lock:
                self._console.print(block)
        except (OSError, ValueError):  # a closed pipe; a closed file; an output that cannot encode the text
            return HandOffOutcome(result=Result.IN_DOUBT, detail="console not writable")
        return HandOffOutcome(result=Result.ACCEPTED)
