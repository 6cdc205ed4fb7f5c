"""What acceptance tests add: real worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.fixtures import StartWorkers
from support.processes import DramatiqWorkers


@pytest.fixture
def start_workers(tmp_path: Path) -> Iterator[StartWorkers]:
    """Starts `dramatiq` with a config, and waits until it takes work; leaves no process behind."""
    with ExitStack() as started:

        def start(config: Path, **options: Any) -> DramatiqWorkers:
            workers = DramatiqWorkers(config, tmp_path / "workers.log", **options)
            started.callback(workers.kill)
            workers.wait_until_ready()
            return workers

        yield start
