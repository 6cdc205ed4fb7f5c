"""A channel that does as the test says: for what no real server can be made to do on cue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from notifygate import Gateway
from notifygate.address import Channel
from notifygate.channels import HandOff, HandOffOutcome
from notifygate.message import Result

Answer = Callable[[HandOff], HandOffOutcome]

ACCEPTED = HandOffOutcome(result=Result.ACCEPTED)
REJECTED = HandOffOutcome(result=Result.REJECTED, detail="smtp 550")
FAILED = HandOffOutcome(result=Result.FAILED, detail="smtp 451")
IN_DOUBT = HandOffOutcome(result=Result.IN_DOUBT, detail="connection lost after end of data")


class ScriptedChannel:
    """Answers each hand-off with the next of `script`, and with `ACCEPTED` when that is used up.

    An entry may be a function of the hand-off, which may also raise. `taken` holds every hand-off pulled.
    """

    def __init__(self, *script: HandOffOutcome | Answer) -> None:
        self.script: list[HandOffOutcome | Answer] = list(script)
        self.taken: list[HandOff] = []

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        for hand_off in batch:
            self.taken.append(hand_off)
            answer = self.script.pop(0) if self.script else ACCEPTED
            yield answer if isinstance(answer, HandOffOutcome) else answer(hand_off)

    def check(self) -> str:
        return "scripted"

    def close(self) -> None:
        pass


def install(gate: Gateway, driver: ScriptedChannel, *channels: Channel) -> ScriptedChannel:
    """Let a gateway send by this driver, on all channels unless some are named; return the driver."""
    for channel in channels or tuple(Channel):
        gate._runtime.drivers[channel] = driver
    return driver
