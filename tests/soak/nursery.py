"""The nursery: one small process that forks the processes that are to be killed, and kills them.

Starting a Python with all that a worker imports costs about a second of processor time, which would leave none for
work at several kills a second. So this process imports everything once, and forks. It has no thread, opens no ledger
and no connection, so that a fork of it is as good as a process started afresh.

Killing is done here as well, because only a parent can be sure that an id is still its child's. It is told what to do
by lines of JSON on its standard input, and answers each with a line. When that input ends, whoever held the other end
is gone: then it kills all its children, and ends. Children look whether their parent lives, and end without it.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

_LOOK_EVERY_S = 0.05
_REST_AFTER_FAILURE_S = (
    0.2  # a process that ended by itself, perhaps because the ledger is down, is not replaced at once
)
_GRACE_S = 20.0
_COULD_NOT_START = 2  # a worker's exit code where its ledger is down


class Herd:
    """Processes that do the same. One that ends before its time is replaced, unless it ended well."""

    def __init__(self, do: Callable[[int], int], size: int) -> None:
        self._do = do
        self._places: list[int | None] = [None] * size
        self._rests: dict[int, float] = {}
        self._leaving: dict[int, float] = {}
        self._over: set[int] = set()
        self.failures = 0
        self.ended_badly_when_asked = 0

    @property
    def busy(self) -> int:
        """How many processes there are or are still to come, those that were asked to end included."""
        return len(self._places) - len(self._over) + len(self._leaving)

    def fill(self) -> None:
        for place, pid in enumerate(self._places):
            if pid is None and place not in self._over and self._rests.get(place, 0.0) <= time.monotonic():
                self._places[place] = _forked(self._do, place)

    def kill(self) -> bool:
        """SIGKILL one of them, and replace it at once."""
        places = [place for place, pid in enumerate(self._places) if pid is not None]
        if not places:
            return False
        place = random.choice(places)
        pid = self._places[place]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self._places[place] = None
        self.fill()
        return True

    def terminate(self) -> bool:
        """SIGTERM one of them, and replace it at once: it is given time to end."""
        places = [place for place, pid in enumerate(self._places) if pid is not None]
        if not places:
            return False
        place = random.choice(places)
        pid = self._places[place]
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        self._leaving[pid] = time.monotonic() + _GRACE_S
        self._places[place] = None
        self.fill()
        return True

    def look(self) -> None:
        """Take note of those that have ended."""
        for place, pid in enumerate(self._places):
            if pid is None or (code := _ended(pid)) is None:
                continue
            self._places[place] = None
            if code == 0:
                self._over.add(place)
            else:
                self.failures += 1
                self._rests[place] = time.monotonic() + _REST_AFTER_FAILURE_S
        for pid, until in list(self._leaving.items()):
            code = _ended(pid)
            if code is None and time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                code = -signal.SIGKILL
            if code is not None:
                del self._leaving[pid]
                self.ended_badly_when_asked += code not in (0, _COULD_NOT_START)
        self.fill()

    def end(self) -> None:
        """SIGKILL all, and replace none."""
        for pid in [*filter(None, self._places), *self._leaving]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._places, self._leaving = [], {}


class Groups:
    """Whole `notifygate worker` commands, each with its own group of processes."""

    def __init__(self) -> None:
        self._commands: list[subprocess.Popen[bytes]] = []

    def start(self) -> bool:
        command = [sys.executable, "-m", "notifygate", "worker", "--processes", "2", "--threads", "2"]
        self._commands.append(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
        )
        return True

    def kill(self) -> bool:
        """SIGKILL the oldest with all its processes; say whether it was still running."""
        if not self._commands:
            return False
        command = self._commands.pop(0)
        was_running = command.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        command.wait()
        return was_running

    def end(self) -> None:
        while self._commands:
            self.kill()


def work(threads: int, parent: int) -> int:
    """Be a worker process, as the `dramatiq` command makes them."""
    from dramatiq import Worker

    from notifygate.actors import setup

    asked_to_end = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    broker = setup()
    broker.emit_after("process_boot")
    worker = Worker(broker, worker_threads=threads)
    worker.start()
    while not asked_to_end:
        time.sleep(0.1)
        if os.getppid() != parent:
            os._exit(1)
    worker.stop(timeout=600_000)
    broker.close()
    return 0


def main() -> None:
    plan_text, workers, threads = sys.argv[1:]
    _import_everything()
    from soak.submitting import Plan, submit

    given = json.loads(plan_text)
    plan = Plan(
        folder=Path(given["folder"]),
        ledger=given["ledger"],
        seed=given["seed"],
        lanes=given["lanes"],
        began_at=datetime.fromisoformat(given["began_at"]),
    )
    nursery = os.getpid()

    def do_submit(lane: int) -> int:
        submit(plan, lane, lambda: os.getppid() != nursery)
        return 0

    herds = {
        "workers": Herd(lambda place: work(int(threads), nursery), int(workers)),
        "submitters": Herd(do_submit, plan.lanes),
    }
    groups = Groups()
    try:
        _obey(herds, groups)
    finally:
        groups.end()
        for herd in herds.values():
            herd.end()


def _obey(herds: dict[str, Herd], groups: Groups) -> None:
    pending = b""
    _answer(done=True)
    while True:
        ready, _, _ = select.select([0], [], [], _LOOK_EVERY_S)
        if ready:
            read = os.read(0, 4096)
            if not read:
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                _answer(**_carry_out(json.loads(line), herds, groups))
        for herd in herds.values():
            herd.look()


def _carry_out(order: dict[str, str], herds: dict[str, Herd], groups: Groups) -> dict[str, Any]:
    what, whom = order["do"], order["to"]
    if whom == "groups":
        return {"done": groups.start() if what == "start" else groups.kill()}
    herd = herds[whom]
    if what == "count":
        return {
            "done": True,
            "busy": herd.busy,
            "failures": herd.failures,
            "ended_badly_when_asked": herd.ended_badly_when_asked,
        }
    return {"done": herd.kill() if what == "kill" else herd.terminate()}


def _answer(**fields: Any) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


def _forked(do: Callable[[int], int], place: int) -> int:
    # Until the child is ready to end in order: as `dramatiq` does it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return pid
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        random.seed()
        code = do(place)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  # this is the end of the process, whatever it is
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _import_everything() -> None:
    import dramatiq.brokers.redis
    import psycopg
    import sqlalchemy.dialects.postgresql.psycopg
    import sqlalchemy.dialects.sqlite

    import notifygate.actors
    import notifygate.gateway
    import soak.submitting

    del dramatiq, psycopg, sqlalchemy, notifygate, soak
    assert threading.active_count() == 1, "a fork would have this thread's locks and not the thread"
    logging.basicConfig(level=logging.WARNING, format="%(process)d %(name)s %(levelname)s %(message)s")
    gc.collect()
    gc.freeze()  # or each child would copy all pages when it first looks for garbage


if __name__ == "__main__":
    main()
