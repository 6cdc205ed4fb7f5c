"""The entry point for `dramatiq worker`: the same workers as `notifygate worker` starts."""

from __future__ import annotations

from notifygate.actors import setup

broker = setup()
