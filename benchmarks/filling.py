"""Ledgers with a past, filled by two processes of their own while something is measured that is no matter of time.

`python -m benchmarks.filling FILE` is such a process; the file says what it has to do.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from support.processes import environment

from benchmarks import history
from benchmarks.history import Past, Pattern
from benchmarks.servers import Database, Kind, Stage, WrongResult

_PROCESSES = 2
_Task = tuple[Database, Pattern, Past]


class FilledLedgers:
    """Ledgers of one kind, each with a past."""

    def __init__(self, stage: Stage, kind: Kind, tell: Callable[[str], None]) -> None:
        self._stage = stage
        self._kind = kind
        self._tell = tell
        self._filled: dict[Past, Database] = {}
        self._at_work: list[tuple[subprocess.Popen[bytes], Path]] = []

    def begin(self, pasts: Iterable[Past]) -> None:
        """Have ledgers filled, while this process does something else."""
        tasks: list[_Task] = []
        for past in dict.fromkeys(pasts):
            if past not in self._filled:
                database = self._filled[past] = self._stage.prepared(self._kind)
                tasks.append((database, history.read_pattern(self._stage, database, past), past))
        if tasks:
            self._tell(f"filling {len(tasks)} ledgers ({self._kind})")
        for share in _shared(tasks):
            self._start(share)

    def wait(self) -> None:
        """Wait until all that was begun is there, so that it disturbs nothing that is measured."""
        if self._at_work:
            self._tell(f"waiting until all ledgers are filled ({self._kind})")
        while self._at_work:
            process, log = self._at_work.pop(0)
            if process.wait():
                raise WrongResult(
                    f"a ledger could not be filled: {log.read_text('utf-8', 'replace')[-3000:]}"
                )

    def of(self, past: Past) -> Database:
        """The ledger with that past, filled now if it was not begun."""
        self.begin([past])
        self.wait()
        self._stage.settle(self._filled[past])
        return self._filled[past]

    def drop(self) -> None:
        while self._filled:
            self._stage.drop(self._filled.popitem()[1])

    def _start(self, share: Sequence[_Task]) -> None:
        database, *_ = share[0]
        task, log = database.folder / "filling", database.folder / "filling.log"
        task.write_bytes(pickle.dumps(share))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.filling", str(task)],
                env=environment(database.config()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=self._stage.group,
            )
        self._at_work.append((process, log))


def _shared(tasks: Iterable[_Task]) -> list[list[_Task]]:
    """Tasks in shares of about the same size, one for each process."""
    shares: list[list[_Task]] = [[] for _ in range(_PROCESSES)]
    for task in sorted(tasks, key=lambda task: task[2].rows, reverse=True):
        min(shares, key=lambda share: sum(past.rows for _, _, past in share)).append(task)
    return [share for share in shares if share]


def main() -> None:
    for database, pattern, past in pickle.loads(Path(sys.argv[1]).read_bytes()):  # noqa: S301  # our own, see above
        history.fill(database, pattern, past)


if __name__ == "__main__":
    main()
