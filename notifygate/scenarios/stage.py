"""Where a scenario is played: a real gateway, on a ledger of its own that lasts as long as the scenario.

It decides by the config's own policy. The config's ledger, queue and providers are never opened.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from notifygate.config import Config, NullSettings
from notifygate.gateway import Gateway
from notifygate.gateway.explanation import Explanation
from notifygate.ledger.database import Ledger
from notifygate.message import Message
from notifygate.runtime import Runtime

_LEDGER = "ledger.db"
_NULL = NullSettings(driver="null")


class Stage:
    """A gateway and the clock that it goes by. `events` are the ids of consent events by their labels."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.now = datetime(2000, 1, 1, tzinfo=UTC)
        self.events: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.gate = Gateway(Runtime(_rehearsed(config, folder), lambda: self.now))
        self._messages = 0

    def next_number(self) -> int:
        """A number for each message of the scenario, counted from 1."""
        self._messages += 1
        return self._messages

    def advance(self, to: datetime) -> None:
        """Move the clock on, and let messages that wait be worked off when they fall due on the way."""
        while (due := self.gate.next_due()) is not None and due <= to:
            self.now = max(due, self.now)
            if not self.gate.drain():
                break
        self.now = to.astimezone(UTC)

    def send(self, message: Message) -> Explanation:
        """Submit a message, work off all that is due now, and say what became of it."""
        receipt = self.gate.submit(message)
        self.gate.drain()
        return self.gate.explain(receipt.message_id)


class Stages:
    """Opens stages, each on a copy of one empty ledger, in a folder that is gone at the end."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="notifygate-scenarios-")
        self._empty = Path(self._folder.name) / "empty.db"
        self._opened = 0

    def __enter__(self) -> Self:
        try:
            ledger = Ledger(f"sqlite:///{self._empty}")
            try:
                ledger.prepare()
            finally:
                ledger.close()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @contextmanager
    def open(self, config: Config) -> Iterator[Stage]:
        """A stage with the policy of a config, and nothing known yet."""
        self._opened += 1
        folder = self._empty.with_name(str(self._opened))
        folder.mkdir()
        shutil.copyfile(self._empty, folder / _LEDGER)
        stage = Stage(config, folder)
        try:
            yield stage
        finally:
            stage.gate.close()
            shutil.rmtree(folder)


def _rehearsed(config: Config, folder: Path) -> Config:
    """A config that decides alike and reaches nothing: a channel that is set up stays so, but leads nowhere."""
    settings = config.settings
    own = {"ledger": f"sqlite:///{folder / _LEDGER}", "broker": "none", "secret": None, "data_dir": folder}
    gateway = settings.gateway.model_copy(update=own)
    return replace(
        config,
        settings=replace(
            settings,
            gateway=gateway,
            email=_NULL if settings.email else None,
            sms=_NULL if settings.sms else None,
        ),
    )
