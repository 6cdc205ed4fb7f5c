"""Killing everything at random moments: workers, submitters, whole worker commands, PostgreSQL, Redis."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from soak.servers import Stage

_WORKERS_EVERY_S = (0.2, 0.4)
_SUBMITTERS_EVERY_S = (3.0, 6.0)
_REDIS_EVERY_S = (4.0, 8.0)
_POSTGRES_EVERY_S = (15.0, 25.0)
_GROUPS_EVERY_S = (4.0, 10.0)
_GROUPS_LIVE_S = (4.0, 10.0)
_REDIS_IS_DOWN_S = (0.1, 1.5)
_ASKED_TO_END = 0.06  # the share of workers that get a SIGTERM instead
_FULL_PACE_S = 60.0  # in a shorter run, what happens rarely happens sooner
_QUICKEST_PACE = 0.3  # but not so often that nothing is ever done


class Killing:
    """Kills for as long as its block lasts; afterwards all servers run. `counts` says what was done, by kind."""

    def __init__(self, stage: Stage, *, seed: int, duration_s: float) -> None:
        self.counts: Counter[str] = Counter()
        self._stage = stage
        self._stopped = threading.Event()
        self._errors: list[Exception] = []
        pace = max(_QUICKEST_PACE, min(1.0, duration_s / _FULL_PACE_S))
        strikes: list[tuple[Callable[[random.Random], None], tuple[float, float], float]] = [
            (self._worker, _WORKERS_EVERY_S, 1.0),
            (self._submitter, _SUBMITTERS_EVERY_S, pace),
            (self._redis, _REDIS_EVERY_S, pace),
            (self._group, _GROUPS_EVERY_S, pace),
        ]
        if stage.postgres is not None:
            strikes.append((self._postgres, _POSTGRES_EVERY_S, pace))
        self._threads = [
            threading.Thread(
                target=self._again_and_again,
                args=(strike, every_s, pace, random.Random(f"{seed}/{strike.__name__}")),
            )
            for strike, every_s, pace in strikes
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raise what went wrong with the killing itself."""
        if self._errors:
            raise self._errors[0]

    def _again_and_again(
        self,
        strike: Callable[[random.Random], None],
        every_s: tuple[float, float],
        pace: float,
        chance: random.Random,
    ) -> None:
        try:
            while not self._stopped.wait(chance.uniform(*every_s) * pace):
                strike(chance)
        except Exception as error:  # noqa: BLE001  # told to the main thread, which raises it
            self._errors.append(error)

    def _worker(self, chance: random.Random) -> None:
        if chance.random() < _ASKED_TO_END:
            self.counts["worker asked to end"] += self._stage.nursery.order("terminate", "workers")["done"]
        else:
            self.counts["worker killed"] += self._stage.nursery.order("kill", "workers")["done"]

    def _submitter(self, chance: random.Random) -> None:
        self.counts["submitter killed"] += self._stage.nursery.order("kill", "submitters")["done"]

    def _group(self, chance: random.Random) -> None:
        self._stage.nursery.order("start", "groups")
        self._stopped.wait(chance.uniform(*_GROUPS_LIVE_S))
        self.counts["group of workers killed"] += self._stage.nursery.order("kill", "groups")["done"]

    def _redis(self, chance: random.Random) -> None:
        if chance.random() < 0.5:
            self._stage.redis.wipe()
            self.counts["Redis wiped"] += 1
            return
        self._stage.redis.kill()
        self.counts["Redis killed"] += 1
        self._stopped.wait(chance.uniform(*_REDIS_IS_DOWN_S))
        self._stage.redis.start()

    def _postgres(self, chance: random.Random) -> None:
        assert self._stage.postgres is not None
        self._stage.postgres.kill()
        self.counts["PostgreSQL killed"] += 1
        self._stopped.wait(chance.uniform(0.0, 1.0))
        self._stage.postgres.start()
