"""`make bench`, or `python -m benchmarks`: exit code 0 also where goals are missed, 1 where a result is wrong.

A benchmark is no test: it says how fast, and a test says whether. But what was lost, refused or left lying was not
fast.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from benchmarks import evaluating, floor, growth, isolation, latency, memory, throughput, verifying
from benchmarks.figures import Figure, show
from benchmarks.filling import FilledLedgers
from benchmarks.servers import KINDS, Kind, Stage, WrongResult, opened
from benchmarks.sizes import SIZES, Size
from benchmarks.workers import core_count
from benchmarks.workload import write_config
from notifygate import __version__, config
from notifygate.policy import Policy

PARTS = (
    throughput.ONE_BY_ONE,
    throughput.BULK,
    throughput.HANDWRITTEN,
    floor.FLOOR,
    growth.GROWTH,
    isolation.ISOLATION,
    throughput.MEMORY,
    evaluating.EVALUATE,
    latency.LATENCY,
    verifying.VERIFY,
)
_PASTS = {growth.GROWTH: growth.pasts, latency.LATENCY: latency.pasts, verifying.VERIFY: verifying.pasts}
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main() -> int:
    given = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    found: list[Figure] = []
    try:
        with opened() as stage:
            for figure in _measured(stage, SIZES[given.size], given.ledgers, given.only, tell):
                found.append(figure)
        took_s = time.monotonic() - began
    except KeyboardInterrupt:
        print("Interrupted; everything is ended.", file=sys.stderr)
        return _INTERRUPTED
    except WrongResult as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    found.sort(key=lambda figure: PARTS.index(figure.part))
    if given.json is not None:
        Path(given.json).write_text(json.dumps(_as_json(found, given.size, took_s), indent=1) + "\n", "utf-8")
    title = f"notifygate {__version__}, size {given.size}, {core_count()} cores, in {took_s:,.0f} s"
    show(found, Console(width=None if sys.stdout.isatty() else 150), title=title)
    return 0


def _measured(
    stage: Stage, size: Size, ledgers: Sequence[Kind], parts: Sequence[str], tell: Callable[[str], None]
) -> Iterator[Figure]:
    if evaluating.EVALUATE in parts:
        yield from evaluating.measure(_policy(stage), size, tell)
    for kind in ledgers:
        if set(parts) & set(throughput.PARTS):
            yield from throughput.measure(stage, kind, size, parts, tell)
        if floor.FLOOR in parts:
            yield from floor.measure(stage, kind, size, tell)
        if isolation.ISOLATION in parts:
            yield from isolation.measure(stage, kind, size, tell)
        filled = FilledLedgers(stage, kind, tell)
        filled.begin(past for part, pasts in _PASTS.items() if part in parts for past in pasts(size))
        if throughput.MEMORY in parts:
            yield from memory.measure(stage, kind, size, tell)
        filled.wait()
        if growth.GROWTH in parts:
            yield from growth.measure(kind, size, filled, tell)
        if latency.LATENCY in parts:
            yield from latency.measure(stage, kind, size, filled, tell)
        if verifying.VERIFY in parts:
            yield from verifying.measure(kind, size, filled, tell)
        filled.drop()


def _policy(stage: Stage) -> Policy:
    return config.load(write_config(stage.folder, ledger="sqlite:///unused.db")).policy


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="default")
    parser.add_argument(
        "--only", type=_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--ledger", choices=(*KINDS, "both"), default="both")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    given = parser.parse_args()
    given.ledgers = KINDS if given.ledger == "both" else (given.ledger,)
    return given


def _parts(text: str) -> tuple[str, ...]:
    named = tuple(part.strip() for part in text.split(","))
    if unknown := [part for part in named if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return named


def _as_json(found: Sequence[Figure], size: str, took_s: float) -> dict[str, Any]:
    return {
        "version": __version__,
        "size": size,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": core_count(),
        "took_s": round(took_s, 1),
        "figures": [figure.to_json() for figure in found],
    }


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
