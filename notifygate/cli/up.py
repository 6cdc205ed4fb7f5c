"""`notifygate up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath
from notifygate.cli.output import CommandError
from notifygate.cli.worker import command, environment, usable_for_workers
from notifygate.cli.workers import Workers

if TYPE_CHECKING:
    from notifygate.config import Config


def up(
    processes: Annotated[
        int, typer.Option("--processes", "-p", min=1, help="How many worker processes.")
    ] = 1,
    threads: Annotated[int, typer.Option("--threads", "-t", min=1, help="How many threads in each.")] = 4,
    config: ConfigPath = None,
) -> None:
    """Start the queue and a worker on this machine, and stop both with Ctrl-C."""
    from notifygate.embedded import EmbeddedRedis

    loaded = usable_for_workers(config)
    gateway = loaded.settings.gateway
    embedded = EmbeddedRedis(gateway.data_dir) if gateway.broker == "embedded" else None
    workers = Workers(
        stopped_by=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        on_stop=lambda: output.complain(
            "finishing what is in hand; a second Ctrl-C breaks off, and leaves that in doubt"
        ),
    )
    try:
        if embedded is not None:
            embedded.start()
        _say_where_things_are(loaded)
        workers.run(command(processes=processes, threads=threads), environment(loaded))
    finally:
        if embedded is not None:
            embedded.stop()
    if workers.times_asked == 0:
        raise CommandError("the worker ended by itself; what it said above tells why")
    output.say("Stopped.")


def _say_where_things_are(loaded: Config) -> None:
    settings = loaded.settings
    channels = []
    for name, found in (("email", settings.email), ("sms", settings.sms)):
        if found is not None:
            where = getattr(found, "path", None) or getattr(found, "host", None) or getattr(found, "url", "")
            channels.append((name, f"{found.driver} {str(where).partition('?')[0]}".strip()))
    output.facts(
        [
            ("config", loaded.source),
            ("ledger", settings.gateway.ledger_shown),
            ("queue", settings.gateway.broker_shown),
            *channels,
        ]
    )
    output.say("Running. Hand over messages with 'notifygate submit'; stop with Ctrl-C.")
    output.flush()
