"""`notifygate worker`: processes that work messages off."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath
from notifygate.errors import BrokerError

if TYPE_CHECKING:
    from notifygate.config import Config

EXAMPLES = """[bold]Examples[/bold]
  notifygate worker
  notifygate worker --processes 2 --threads 8
  notifygate worker --queues service          never kept waiting by a campaign"""

_QUEUES = ("service", "bulk")


def _queues(text: str) -> str:
    for name in text.split(","):
        if name.strip() not in _QUEUES:
            raise typer.BadParameter(f"must be {' or '.join(_QUEUES)}, or both with a comma between")
    return text


def worker(
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "-p",
            min=1,
            show_default=False,
            help="How many processes; by default one for each core.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", "-t", min=1, help="How many threads in each process.")
    ] = 8,
    queues: Annotated[
        str | None,
        typer.Option(
            "--queues",
            metavar="NAMES",
            parser=_queues,
            show_default=False,
            help="Which queues: service (class service), bulk (all others), or both, which is the default.",
        ),
    ] = None,
    config: ConfigPath = None,
) -> None:
    """Decide and send what is handed over, until stopped with Ctrl-C or SIGTERM."""
    loaded = usable_for_workers(config)
    arguments = command(processes=processes, threads=threads, queues=queues)
    environment = os.environ | {"NOTIFYGATE_CONFIG": str(loaded.source)}
    output.flush()
    os.execve(sys.executable, arguments, environment)  # noqa: S606  # our own arguments, no shell


def command(*, processes: int | None, threads: int, queues: str | None = None) -> list[str]:
    """The command line of the worker processes."""
    from notifygate.broker import BULK_QUEUE, SERVICE_QUEUE

    arguments = [sys.executable, "-m", "dramatiq", "notifygate.actors:setup", "--threads", str(threads)]
    if processes is not None:
        arguments += ["--processes", str(processes)]
    if queues is not None:
        named = dict(zip(_QUEUES, (SERVICE_QUEUE, BULK_QUEUE), strict=True))
        arguments += ["--queues", *dict.fromkeys(named[name.strip()] for name in queues.split(","))]
    return arguments


def usable_for_workers(path: ConfigPath) -> Config:
    """The config, once everything has been opened that a worker needs. Raises a `NotifygateError`.

    Tried here, so that there is one line about it, and not one from each process.
    """
    from notifygate.config import load
    from notifygate.runtime import Runtime

    loaded = load(path)
    if loaded.settings.gateway.broker == "none":
        raise BrokerError('gateway.broker: is "none", so there is no queue to work off; set it, or use drain')
    Runtime(loaded).close()
    return loaded
