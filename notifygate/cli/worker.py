"""`notifygate worker`: processes that work messages off."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath
from notifygate.cli.workers import Workers
from notifygate.errors import BrokerError, ConfigError, NotifygateError

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
        int,
        typer.Option(
            "--threads",
            "-t",
            min=1,
            help="How many threads in each process, beside two that service messages have to themselves.",
        ),
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
    """Decide and send what is handed over, until stopped with Ctrl-C or SIGTERM.

    A changed config is taken up within a few seconds; one with faults is refused, and the old one stays in force. On
    SIGHUP it says at once whether the config is in order.
    """
    loaded = usable_for_workers(config)
    workers = Workers(
        stopped_by=[signal.SIGINT, signal.SIGTERM], on_hangup=lambda: _say_whether_in_order(loaded)
    )
    output.flush()
    code = workers.run(command(processes=processes, threads=threads, queues=queues), environment(loaded))
    if code:
        raise typer.Exit(code)


def environment(loaded: Config) -> dict[str, str]:
    """The environment of worker processes that go by a config."""
    return os.environ | {"NOTIFYGATE_CONFIG": str(loaded.source)}


def _say_whether_in_order(started_with: Config) -> None:
    from notifygate.config import load
    from notifygate.runtime import check_reload

    try:
        check_reload(load(started_with.source), instead_of=started_with)
    except ConfigError as error:
        for fault in error.faults:
            output.complain(f"{error.source}: {fault}")
        output.complain("the config is refused; the one before stays in force")
    except NotifygateError as error:
        output.complain(f"{error}; the config is refused, and the one before stays in force")
    else:
        output.complain("the config is in order; workers take up what has changed within a few seconds")


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
    from notifygate import metrics
    from notifygate.config import load
    from notifygate.runtime import Runtime

    loaded = load(path)
    if loaded.settings.gateway.broker == "none":
        raise BrokerError('gateway.broker: is "none", so there is no queue to work off; set it, or use drain')
    if loaded.settings.monitoring.listen is not None:
        metrics.require()
    runtime = Runtime(loaded)
    try:
        runtime.mark.check()
    finally:
        runtime.close()
    return loaded
