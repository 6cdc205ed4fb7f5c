"""`notifygate rules`: trying a config against scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json

app = typer.Typer(help="Try the rules of a config against scenarios of your own.", no_args_is_help=True)


@app.command("test", epilog="[bold]Example[/bold]\n  notifygate rules test scenarios/ --config new.toml")
def play(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with scenario files (*.toml), or one such file.")
    ],
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Play scenarios and name each difference; exit code 1 where there is any, 2 for a faulty scenario file."""
    from notifygate import scenarios

    passed = failed = faulty = 0
    for result in scenarios.run(directory, config):
        passed += result.passed
        failed += bool(result.differences)
        faulty += bool(result.faults)
        if json:
            output.json_line(result.to_json())
            continue
        for sentence in (*result.faults, *result.differences):
            output.say(f"{result.file}: {result.scenario or 'file'}: {sentence}")
    if not json:
        output.say(f"{passed} passed, {failed} failed, {faulty} faulty")
    if faulty:
        raise typer.Exit(2)
    if failed:
        raise typer.Exit(1)
