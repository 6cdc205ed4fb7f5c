"""Channels: how a message leaves the house. One file a driver.

A channel takes a batch of hand-offs and yields one outcome for each, in order, as soon as it is known. It
pulls the next hand-off only when it is about to hand it to the provider: what was never pulled was
certainly never sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from notifygate.address import Channel
from notifygate.message import Result as Result


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOff:
    """One message on its way to a provider. `to` is as the application typed it, ready to be delivered to."""

    message_id: str
    attempt_id: str
    channel: Channel
    to: str = field(repr=False)
    sender: str
    subject: str | None = field(default=None, repr=False)
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOffOutcome:
    """What became of one hand-off.

    * `accepted`: the provider took responsibility; `provider_id` is its name for the message, if it gave one.
    * `rejected`: definitely not accepted, and trying again cannot help.
    * `failed`: definitely not accepted, but a later attempt may be; not before `retry_after`, if given.
    * `in_doubt`: it may have been accepted.

    With `attempted` false nothing was tried, so it does not count towards the attempts that a message has. With
    `channel_down` the provider could not be reached at all: the channel is left alone for a while.

    `detail` is a short code for the log, such as `smtp 451` or `connection refused`: never an address, never
    the provider's own sentence, which may quote one.
    """

    result: Result
    detail: str = ""
    provider_id: str | None = None
    attempted: bool = True
    retry_after: timedelta | None = None
    channel_down: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A hand-off that is in doubt, to be asked about: what the provider may know it by, and when it was reserved."""

    message_id: str
    attempt_id: str
    provider_id: str | None
    at: datetime


@runtime_checkable
class LooksUp(Protocol):
    """A driver that can ask its provider what became of a hand-off."""

    @property
    def looks_up(self) -> bool:
        """Whether it is set up to do so."""
        ...

    def look_up(self, inquiry: Inquiry) -> HandOffOutcome | None:
        """What became of a hand-off: `accepted`, `failed` where it was certainly never accepted, or None.

        None means that the provider cannot say now; so does every fault of provider or network.
        """
        ...


class ChannelDriver(Protocol):
    """What every driver offers. Drivers are shared by the threads of a process."""

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        """Hand over each message and yield its outcome, in the order of the batch.

        Every fault of provider or network is an outcome. An exception means a bug: the hand-off last pulled
        counts as in doubt.
        """
        ...

    def check(self) -> str:
        """Try whether the provider can be reached, sending nothing; return a line that says what was found.

        Raises `ChannelError` that says what is wrong and what would be right.
        """
        ...

    def close(self) -> None:
        """Give back connections and files."""
        ...
