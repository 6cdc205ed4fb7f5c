"""Doing for several threads at once what one transaction can do for all of them: group commit.

A commit that is safe on disk costs the same for one message as for a hundred. A thread that finds nobody at work does
its own at once; those that come meanwhile wait, and are served together by the next of them. Where several came lately
the next waits a moment for as many: they come back just after they were served. A lone thread waits for nobody.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence, Sized
from typing import Generic, TypeVar

from notifygate.errors import LedgerUnreachable, NotifygateError

Load = TypeVar("Load", bound=Sized)
Result = TypeVar("Result")

_LINGER_S = 0.001


class _Call(Generic[Load, Result]):
    """What one thread brings. `turn` is released when it is to lead, or when it is done with: see the flags."""

    __slots__ = ("error", "group", "is_apart", "is_done", "leads", "load", "result", "turn")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.turn = threading.Lock()  # an Event would take several times as long
        self.turn.acquire()
        self.leads = False
        self.is_done = False
        self.is_apart = False
        self.result: Result | None = None
        self.error: Exception | None = None
        self.group: list[_Call[Load, Result]] = []
        """Whom this thread does it for, while it leads."""


class Together(Generic[Load, Result]):
    """Calls `do` with the loads of all threads that wait, and gives each thread the result of its own. Safe to share.

    A load is what one thread brings. `do` takes several and returns a result for each, in order; their lengths add up
    to `at_most`, or to what that is `narrowed` to at the moment, unless one alone is longer. It does all or nothing.
    `then` is called once with what was done, and is not done again, whatever becomes of it.

    A ledger that cannot be reached is asked once: the error is raised in all threads. After any other error each thread
    does its own load by itself, so that a message that is at fault, or that has to wait, holds no other.
    """

    def __init__(
        self,
        do: Callable[[Sequence[Load]], Sequence[Result]],
        *,
        at_most: int,
        narrowed: Callable[[int], int] = lambda at_most: at_most,
        then: Callable[[Sequence[Load], Sequence[Result]], object] = lambda loads, results: None,
    ) -> None:
        self._do = do
        self._then = then
        self._at_most = at_most
        self._narrowed = narrowed
        self._begin()
        known = weakref.ref(self)

        def begin_anew() -> None:
            # A forked child has none of the threads that may be waiting or leading now.
            if (inherited := known()) is not None:
                inherited._begin()

        os.register_at_fork(after_in_child=begin_anew)

    def _begin(self) -> None:
        self._state = threading.Condition()
        self._sizes = deque([1, 1], maxlen=2)  # of the last groups, in threads
        self._waiting: deque[_Call[Load, Result]] = deque()
        self._is_led = False
        self._leader = 0

    def __call__(self, load: Load) -> Result:
        """Have a load done, with those of other threads or alone; return its result, or raise its error."""
        if self._leader == threading.get_ident():
            return self._apart(load)  # called by what it does: waiting for itself would be for ever
        call: _Call[Load, Result] = _Call(load)
        try:
            with self._state:
                self._waiting.append(call)
                self._state.notify()
                if not self._is_led:
                    self._is_led = call.leads = True
            if not call.leads:
                call.turn.acquire()
            if call.leads:
                self._lead(call)
        finally:
            # Also where the thread is ended: it must not take the lead along, nor leave anybody waiting.
            self._leave(call)
        if call.is_apart:
            return self._apart(load)
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]  # set where there is no error; it may well be None

    def _apart(self, load: Load) -> Result:
        results = self._do([load])
        self._then([load], results)
        return results[0]

    def _lead(self, call: _Call[Load, Result]) -> None:
        """Do the loads of a group, the first of which is this thread's own."""
        with self._state:
            self._gather(call)
            self._leader = threading.get_ident()
        group = call.group
        loads = [one.load for one in group]
        try:
            results = self._do(loads)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is raised in the threads that it concerns
            for one in group:
                one.is_apart = len(group) > 1 and not isinstance(error, LedgerUnreachable)
                one.error = None if one.is_apart else error
                one.is_done = True
            return
        try:
            self._then(loads, results)
        except Exception as error:  # noqa: BLE001  # as above; it is done already, and must not be done again
            for one in group:
                one.error, one.is_done = error, True
            return
        for one, result in zip(group, results, strict=True):
            one.result, one.is_done = result, True

    def _gather(self, call: _Call[Load, Result]) -> None:
        expected = max(self._sizes)
        self._state.wait_for(lambda: len(self._waiting) >= expected, timeout=_LINGER_S)
        total, at_most = 0, self._narrowed(self._at_most)
        while self._waiting and (not call.group or total + len(self._waiting[0].load) <= at_most):
            total += len(self._waiting[0].load)
            call.group.append(self._waiting[0])
            self._waiting.popleft()
        self._sizes.append(len(call.group))

    def _leave(self, call: _Call[Load, Result]) -> None:
        """Let go whom this thread did it for, and give the lead to whoever has waited longest."""
        with self._state:
            if call in self._waiting:
                self._waiting.remove(call)
            if not call.leads:
                return
            for one in call.group:
                if one is call:
                    continue
                if not one.is_done:
                    one.error = NotifygateError(
                        "the thread that did this was ended: whether it is done is not known"
                    )
                    one.is_done = True
                one.turn.release()
            call.leads = False
            self._leader = 0
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].turn.release()
            else:
                self._is_led = False
