"""The types of those fixtures that are functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from notifygate import Gateway
from support.processes import DramatiqWorkers

ConfigFile = Callable[..., Path]
"""`config_file(gateway={...}, purposes={...})` writes a config and returns its path."""

OpenGate = Callable[..., Gateway]
"""`open_gate(delivery={...})` opens a gateway that is closed at the end of the test."""

Outbox = Callable[[], list[dict[str, Any]]]
"""`outbox()` returns what the file driver has sent so far."""

StartWorkers = Callable[..., DramatiqWorkers]
"""`start_workers(config, processes=2, threads=4)` starts workers that are ended with the test."""
