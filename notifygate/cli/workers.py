"""The worker processes of `notifygate worker` and `notifygate up`: started, asked to stop, and ended if need be."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType

_GONE_WITHIN_S = 2.0
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class Workers:
    """Dramatiq as a child in a process group of its own, so that it hears of a Ctrl-C from us only.

    It is asked to stop by the signals in `stopped_by`, and on Linux also when this process is killed. `on_hangup` is
    called on a SIGHUP, unless that stops it, and `on_stop` on the first signal that does.
    """

    def __init__(
        self,
        *,
        stopped_by: Sequence[signal.Signals],
        on_hangup: Callable[[], None] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        self._on_stop = on_stop
        self._child: subprocess.Popen[bytes] | None = None
        self.times_asked = 0
        """How often a signal has asked them to stop."""
        for number in stopped_by:
            signal.signal(number, self._stop)
        if on_hangup is not None:
            signal.signal(signal.SIGHUP, lambda number, frame: on_hangup())

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run until they end; return 0 where that was asked for and went well, else the exit code."""
        if self.times_asked > 0:
            return 0
        with subprocess.Popen(  # noqa: S603  # our own arguments
            command, env=environment, start_new_session=True, preexec_fn=_ending_with_its_parent()
        ) as child:
            self._child = child
            if self.times_asked > 0:
                child.terminate()
            child.wait()
        if child.returncode < 0:  # it was killed, and could not take its processes with it
            self._kill_group()
            self._wait_for_group()
            return 0 if self.times_asked > 0 else 128 - child.returncode
        # Dramatiq may end with 0 although a worker of its was killed: a service manager must hear of it.
        return child.returncode if self.times_asked > 0 else child.returncode or 1

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks the workers to finish what they have in hand; a second one does not wait for that."""
        self.times_asked += 1
        if self.times_asked == 1 and self._on_stop is not None:
            self._on_stop()
        if self._child is None or self._child.poll() is not None:
            return
        if self.times_asked == 1:
            self._child.terminate()
        else:
            self._kill_group()

    def _kill_group(self) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _wait_for_group(self) -> None:
        """Wait until those killed are gone: until then they count as users of the embedded queue."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        with suppress(ProcessLookupError):
            while self._child is not None and time.monotonic() < deadline:
                os.killpg(self._child.pid, 0)
                time.sleep(0.02)


def _ending_with_its_parent() -> Callable[[], None] | None:
    """What a child does first: ask the kernel for a SIGTERM when its parent is gone. Linux only."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up before the fork

    def begin() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has gone already
            os.kill(os.getpid(), signal.SIGTERM)

    return begin
