"""`notifygate retention`: removing personal data that is older than the config lets it become."""

from __future__ import annotations

from typing import Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, JsonLines, opened
from notifygate.cli.output import Column

app = typer.Typer(help="Remove personal data that has been kept for long enough.", no_args_is_help=True)


@app.command(
    "run",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate retention run --dry-run     how much is older than \\[retention] says\n"
    "  notifygate retention run               remove it: from cron, every night",
)
def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; nothing is changed.")] = False,
    no_vacuum: Annotated[
        bool, typer.Option("--no-vacuum", help="Leave the database's files for 'notifygate db vacuum'.")
    ] = False,
    config: ConfigPath = None,
    json: JsonLines = False,
) -> None:
    """Remove what is older than \\[retention] in the config says; a legal hold keeps all of a person.

    It may be broken off and run again. Exit code 1 where the database's files could not be cleaned up.
    """
    from notifygate.cli.person import tell_of_vacuum

    done = []
    left = None
    with opened(config) as gate:
        for removal in gate.retention.run(dry_run=dry_run):
            done.append(removal)
            if json:
                output.json_line(removal.to_json())
        if any(one.removed for one in done) and not dry_run and not no_vacuum:
            left = gate.vacuum()
    if not json:
        if not done:
            output.say("[retention] in the config sets no period: nothing ages out")
            return
        columns = [
            Column("kind", whole=True),
            Column("older than", whole=True),
            Column("before"),
            Column("would go" if dry_run else "removed"),
            Column("on hold"),
        ]
        output.table(
            columns,
            [(one.kind, output.instant(one.cutoff), one.before, one.removed, one.on_hold) for one in done],
        )
        if dry_run:
            output.say("nothing was changed")
    if left is not None:
        tell_of_vacuum(left)
        raise typer.Exit(1)
