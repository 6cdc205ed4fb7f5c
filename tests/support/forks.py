"""Processes that are forked from one which has imported everything, and has done nothing yet.

A Python started afresh needs a second of processor time before it does anything, and there are hundreds in these tests.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from notifygate import failpoints
from support.processes import environment

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["notifygate.gateway", "notifygate.audit", "pytest"])

Word = Literal["ready", "done", "failed"]


class Fork:
    """A process that does `do(*args)` in an environment of its own.

    `do` is a function of a module.
    """

    def __init__(self, do: Callable[..., object], *args: Any, env: Mapping[str, str]) -> None:
        self._connection, theirs = _context.Pipe()
        self._process = _context.Process(target=_run, args=(theirs, dict(env), do, args))
        self._process.start()
        theirs.close()

    def hear(self, word: Word, *, within_s: float = 60) -> str:
        """Wait for one of its words, and return what comes with it. Raises `AssertionError` if another comes."""
        assert self._connection.poll(within_s), f"not within {within_s} seconds: {word}"
        try:
            said, text = self._connection.recv()
        except EOFError:
            raise AssertionError(f"it ended with {self._process.exitcode} before it was {word}") from None
        assert said == word, text
        return str(text)

    def go_on(self) -> None:
        """Let it return from `ready`."""
        self._connection.send("go on")

    def wait(self, within_s: float = 60) -> int:
        """Wait for its end; return the exit code, negative for a signal. Raises `AssertionError` where `do` raised."""
        self._process.join(within_s)
        code = self._process.exitcode
        assert code is not None, f"it did not end within {within_s} seconds"
        if code > 0:
            self.hear("done")
        return code

    def kill(self) -> None:
        """Leave nothing behind."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()


def run_at_once(scripts: Sequence[str], config: Path) -> list[str]:
    """Run Python scripts in a process each, all at the same time; return what they printed.

    A script calls `ready()` when it is set up, which returns when all are. Raises `AssertionError` with the error of a
    script that failed.
    """
    forks = [Fork(_script, script, env=environment(config)) for script in scripts]
    try:
        for fork in forks:
            fork.hear("ready")
        for fork in forks:
            fork.go_on()
        return [fork.hear("done").strip() for fork in forks]
    finally:
        for fork in forks:
            fork.kill()


_parent: Connection | None = None


def ready() -> None:
    """Wait, in a script of `run_at_once`, until all the others are ready as well."""
    assert _parent is not None
    _parent.send(("ready", ""))
    _parent.recv()


def _script(text: str) -> None:
    exec(text, {"__name__": "__main__", "ready": ready})


def _run(parent: Connection, env: Mapping[str, str], do: Callable[..., object], args: Sequence[Any]) -> None:
    global _parent
    _parent = parent
    os.environ.clear()
    os.environ.update(env)
    printed = io.StringIO()
    try:
        failpoints._arm_from_environment()
        with redirect_stdout(printed):
            do(*args)
    except BaseException:  # noqa: BLE001  # told to the test
        parent.send(("failed", traceback.format_exc()))
        sys.exit(1)
    parent.send(("done", printed.getvalue()))
