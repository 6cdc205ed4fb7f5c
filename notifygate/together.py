"""Doing for several threads at once what one transaction can do for all of them: group commit.

A commit that is safe on disk costs the same for one message as for a hundred. A thread that finds nobody at work does
its own at once; those that come meanwhile wait, and are served together by the next of them. Where several came lately
the next waits a moment for as many: they come back just after they were served. A lone thread waits for nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence, Sized
from typing import Generic, TypeVar

from notifygate.errors import LedgerError, NotifygateError

Load = TypeVar("Load", bound=Sized)
Result = TypeVar("Result")

_LINGER_S = 0.001


class _Call(Generic[Load, Result]):
    """What one thread brings; `turn` is released when it is to lead, or when its result or error is there."""

    __slots__ = ("error", "is_done", "load", "result", "turn")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.turn = threading.Lock()  # an Event would take several times as long
        self.turn.acquire()
        self.is_done = False
        self.result: Result | None = None
        self.error: Exception | None = None

    def outcome(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # set where there is no error; it may well be None


class Together(Generic[Load, Result]):
    """Calls `do` with the loads of all threads that wait, and gives each thread the result of its own. Safe to share.

    A load is what one thread brings. `do` takes several and returns a result for each, in order; their lengths add up
    to `at_most`, unless one alone is longer.

    A `LedgerError` is raised in all threads that it concerns. After any other error each load is done by itself, so
    that a message that is at fault keeps no other from being submitted.
    """

    def __init__(
        self,
        do: Callable[[Sequence[Load]], Sequence[Result]],
        *,
        at_most: int,
    ) -> None:
        self._do = do
        self._at_most = at_most
        self._state = threading.Condition()
        self._sizes = deque([1, 1], maxlen=2)  # of the last groups, in threads
        self._waiting: deque[_Call[Load, Result]] = deque()
        self._is_led = False
        self._leader = 0

    def __call__(self, load: Load) -> Result:
        """Have a load done, with those of other threads or alone; return its result, or raise its error."""
        if self._leader == threading.get_ident():
            return self._do([load])[0]  # called by what it does: waiting for itself would be for ever
        call: _Call[Load, Result] = _Call(load)
        with self._state:
            self._waiting.append(call)
            self._state.notify()
            leads, self._is_led = not self._is_led, True
        try:
            if not leads:
                call.turn.acquire()
            if not call.is_done:
                self._lead()
        except BaseException:
            self._leave(call)
            raise
        return call.outcome()

    def _leave(self, call: _Call[Load, Result]) -> None:
        """A thread is ended while it waits. It may have been given the lead just now, and must not take it along."""
        with self._state:
            was_first = bool(self._waiting) and self._waiting[0] is call
            if call in self._waiting:
                self._waiting.remove(call)
            if was_first and (self._leader == 0):
                self._pass_on()

    def _pass_on(self) -> None:
        """Give the lead to whoever has waited longest."""
        self._leader = 0
        if self._waiting:
            self._waiting[0].turn.release()
        else:
            self._is_led = False

    def _lead(self) -> None:
        """Do the loads of a group, the first of which is this thread's own, and pass the lead on."""
        with self._state:
            group = self._next_group()
            self._leader = threading.get_ident()
        try:
            self._do_all(group)
        except BaseException as error:
            # This thread is being ended. The others must not wait for ever, nor take it that nothing was done.
            for call in group[1:]:
                call.error = NotifygateError(
                    f"the thread that did this was ended by {type(error).__name__}: whether it is done is not known"
                )
            raise
        finally:
            for call in group[1:]:
                call.is_done = True
                call.turn.release()
            group[0].is_done = True
            with self._state:
                self._pass_on()

    def _next_group(self) -> list[_Call[Load, Result]]:
        expected = max(self._sizes)
        self._state.wait_for(lambda: len(self._waiting) >= expected, timeout=_LINGER_S)
        group = [self._waiting.popleft()]
        total = len(group[0].load)
        while self._waiting and total + len(self._waiting[0].load) <= self._at_most:
            total += len(self._waiting[0].load)
            group.append(self._waiting.popleft())
        self._sizes.append(len(group))
        return group

    def _do_all(self, group: Sequence[_Call[Load, Result]]) -> None:
        try:
            for call, result in zip(group, self._do([call.load for call in group]), strict=True):
                call.result = result
        except Exception as error:  # noqa: BLE001  # whatever it is, it is raised in the threads that it concerns
            if len(group) == 1 or isinstance(error, LedgerError):
                for call in group:
                    call.error = error
                return
            for call in group:
                self._do_all([call])
