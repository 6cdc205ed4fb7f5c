"""Playing the stories: real servers, real workers, and everything handed to the gateway as its users do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template

from notifygate import Gateway, Status
from notifygate.demo import sinks, stories, workers
from notifygate.demo.stories import Send, Story, Told
from notifygate.demo.workers import DemoFailed, Workers
from notifygate.gateway.explanation import Explanation

CONFIG_NAME = "notifygate.toml"

_SETTLED_WITHIN_S = 40.0
_LOOK_EVERY_S = 0.05
_UNSETTLED = (Status.QUEUED, Status.SENDING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One send, and what came of it. `number` counts the sends of both stories."""

    number: int
    send: Send
    message_id: str
    duplicate: bool
    explanation: Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One story as it went, in the order it was played. `names` is what customers call the merchants."""

    story: Story
    rows: tuple[Told | Tried, ...]
    names: Mapping[str, str]

    @property
    def tried(self) -> tuple[Tried, ...]:
        return tuple(row for row in self.rows if isinstance(row, Tried))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Everything that happened: the stories, what arrived, and what did not end as it should."""

    played: tuple[Played, ...]
    arrived: tuple[sinks.Arrived, ...]
    left_over: tuple[str, ...]

    @property
    def tried(self) -> tuple[Tried, ...]:
        return tuple(one for played in self.played for one in played.tried)


def play(folder: Path, *, started: Callable[[sinks.Sinks], None], done: Callable[[Played], None]) -> Ended:
    """Play the stories with all files in `folder`; nothing runs on afterwards, however this ends.

    `started` is called once the servers are up, `done` after each story. Raises `DemoFailed` where the workers end
    early or messages are not settled in time.
    """
    with sinks.listening() as servers:
        config = _write_config(folder, servers)
        with Gateway.open(config) as gate:
            data_dir = gate.config.settings.gateway.data_dir
            with workers.running(config, data_dir) as crew:
                started(servers)
                played = []
                for one in _play_all(gate, crew):
                    played.append(one)
                    done(one)
            gate.proofs.checkpoint()  # whoever looks at the log afterwards finds all of it signed
    left_over = [*crew.left_over(), *(f"the {name} is still open" for name in servers.still_open())]
    return Ended(played=tuple(played), arrived=tuple(servers.arrived), left_over=tuple(left_over))


def _write_config(folder: Path, servers: sinks.Sinks) -> Path:
    template = Template((files(__package__) / "config.toml").read_text(encoding="utf-8"))
    config = folder / CONFIG_NAME
    text = template.substitute(smtp_port=servers.smtp_port, sms_port=servers.sms_port)
    config.write_text(text, encoding="utf-8")
    return config


def _play_all(gate: Gateway, crew: Workers) -> Iterator[Played]:
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    names = {key: merchant.name for key, merchant in gate.config.policy.merchants.items()}
    number = 0
    for story in stories.tell(datetime.now(UTC)):
        rows: list[Told | Tried] = []
        for told in story.on_record:
            told.tell(gate)
        for act in story.acts:
            if isinstance(act, Told):
                act.tell(gate)
                rows.append(act)
                continue
            tried = _try(gate, act, crew, number, deadline)
            number += len(tried)
            rows.extend(tried)
        yield Played(story=story, rows=tuple(rows), names=names)


def _try(gate: Gateway, sends: Sequence[Send], crew: Workers, number: int, deadline: float) -> list[Tried]:
    """Hand over some messages, and wait until the workers have settled all of them."""
    receipts = [gate.submit(send.message) for send in sends]
    waiting = {receipt.message_id for receipt in receipts}
    while waiting := {one for one in waiting if gate.status(one) in _UNSETTLED}:
        crew.check()
        if time.monotonic() > deadline:
            statuses = ", ".join(f"{one} is {gate.status(one)}" for one in sorted(waiting))
            raise DemoFailed(f"not settled within {_SETTLED_WITHIN_S:.0f} seconds: {statuses}", crew.log())
        time.sleep(_LOOK_EVERY_S)
    return [
        Tried(
            number=place,
            send=send,
            message_id=receipt.message_id,
            duplicate=receipt.duplicate,
            explanation=gate.explain(receipt.message_id),
        )
        for place, (send, receipt) in enumerate(zip(sends, receipts, strict=True), start=number + 1)
    ]
