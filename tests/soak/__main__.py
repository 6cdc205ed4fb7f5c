"""`python -m soak`: exit code 0 where all is well, 1 where anything is not that must be."""

from __future__ import annotations

import argparse
import json
import random
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from soak import report
from soak.run import Options, run
from soak.run import Progress as Reached

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="soak", description="Kill everything at any moment, then reconcile."
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--ledger", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--workers", type=int, default=4, help="processes at a time (default: 4)")
    parser.add_argument("--seed", type=int, help="of the story and the kills (default: any)")
    parser.add_argument(
        "--settles-within",
        type=float,
        default=300.0,
        help="seconds for all to finish at the end (default: 300)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of the run, with its logs")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args()
    options = Options(
        duration_s=given.minutes * 60,
        ledger=given.ledger,
        workers=given.workers,
        settles_within_s=given.settles_within,
        keeps_folder=given.keep,
        seed=random.randrange(1_000_000) if given.seed is None else given.seed,
    )
    console = Console(stderr=given.json)
    try:
        with _bar(console) as bar:
            task = bar.add_task("", total=options.duration_s)

            def tell(reached: Reached) -> None:
                left_s = reached.left_s or 0.0
                bar.update(task, completed=options.duration_s - left_s, description=_described(reached))

            outcome = run(options, tell)
    except KeyboardInterrupt:
        console.print("Interrupted; everything is ended.")
        return _INTERRUPTED
    if given.json:
        print(json.dumps(report.as_json(outcome), indent=1))
    else:
        report.show(outcome, console)
    return 0 if outcome.verdict.is_good else 1


def _bar(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console)


def _described(reached: Reached) -> str:
    kills = sum(reached.kills.values())
    doing = "killing" if reached.left_s is not None else f"finishing, {reached.open:,} open"
    return f"{doing}: {reached.hand_offs:,} hand-offs, {kills:,} kills"


if __name__ == "__main__":
    sys.exit(main())
