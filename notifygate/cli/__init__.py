"""The command line. One file a family of verbs: `notifygate consent show` is in `consent.py`.

A verb parses, calls the gateway, and shows the answer. Exit codes: 0 fine, 1 the answer is no, 2 wrong use or
broken infrastructure. Nothing heavy is imported before a verb runs, so that `--help` is quick.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any

import typer
from typer.main import get_command

from notifygate.cli import (
    cancel,
    check,
    consent,
    db,
    demo,
    doctor,
    doubt,
    drain,
    explain,
    init,
    log,
    log_proof,
    output,
    person,
    report,
    retention,
    rules,
    simulate,
    submit,
    suppress,
    up,
    worker,
)
from notifygate.errors import ConfigError, NotCancellable, NotifygateError

NO = 1
WRONG_USE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_START = """[bold]To begin with:[/bold]
  notifygate init              write a config that works at once
  notifygate check             see whether it is in order
  notifygate submit FILE       hand over messages
  notifygate drain             decide and send what is due
  notifygate explain ID        see what became of a message, and why"""

app = typer.Typer(
    name="notifygate",
    help="One gate for every SMS and email that may reach a customer: it decides, sends once, and keeps the evidence.",
    epilog=_START,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from notifygate import __version__

        output.say(f"notifygate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end."),
    ] = False,
) -> None:
    pass


app.command("init", epilog=init.EXAMPLES)(init.init)
app.command("check", epilog=check.EXAMPLES)(check.check)
app.command("doctor")(doctor.doctor)
app.command("up")(up.up)
app.command("worker", epilog=worker.EXAMPLES)(worker.worker)
app.command("demo")(demo.demo)
app.command("submit", epilog=submit.EXAMPLES)(submit.submit)
app.command("drain")(drain.drain)
app.command("explain")(explain.explain)
app.command("cancel")(cancel.cancel)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.add_typer(consent.app, name="consent")
app.add_typer(suppress.app, name="suppress")
app.add_typer(person.app, name="person")
log.app.command("verify", epilog=log_proof.VERIFY_EXAMPLES)(log_proof.verify)
log.app.command("checkpoint", epilog=log_proof.CHECKPOINT_EXAMPLES)(log_proof.checkpoint)
log.app.command("prove", epilog=log_proof.PROVE_EXAMPLES)(log_proof.prove)
log.app.command("consistency")(log_proof.consistency)
log.app.command("key")(log_proof.key)
app.add_typer(retention.app, name="retention")
app.add_typer(log.app, name="log")
app.add_typer(doubt.app, name="doubt")
app.add_typer(rules.app, name="rules")
app.command("simulate", epilog=simulate.EXAMPLES)(simulate.simulate)
app.add_typer(db.app, name="db")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command, `sys.argv` unless `args` are given; return its exit code.

    Every error that was foreseen is one line on stderr; none repeats an address that was typed.
    """
    given = list(sys.argv[1:] if args is None else args)
    output.prepare()
    with _warnings_as_lines():
        try:
            code = _run(given)
            output.flush()
        except output.HungUp as error:
            code = error.exit_code
        return code


@cache
def _command() -> Any:
    return get_command(app)


def _run(given: list[str]) -> int:
    try:
        result = _command().main(args=given, prog_name="notifygate", standalone_mode=False)
    except ConfigError as error:
        for fault in error.faults:
            output.complain(f"{error.source}: {fault}", prefix="")
        return WRONG_USE
    except NotCancellable as error:
        output.complain(str(error))
        return NO
    except NotifygateError as error:
        output.complain(_without_addresses(str(error), given))
        return WRONG_USE
    except typer.TyperException as error:
        return _complain_of_usage(error, given)
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _complain_of_usage(error: typer.TyperException, given: list[str]) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # not public; the help itself has been shown
        return WRONG_USE if given else 0
    problem = error.format_message()
    if problem.startswith("Got unexpected extra argument"):
        # Typer quotes them, and they are mostly the rest of a phone number that was typed with spaces.
        problem = "There are more arguments than expected; put one that holds spaces in quotes."
    context = getattr(error, "ctx", None)
    where = f" (see '{context.command_path if context else _verb(given)} --help')"
    output.complain(_without_addresses(problem, given).rstrip(".") + where)
    return WRONG_USE


def _verb(given: list[str]) -> str:
    """The verb that was typed, for errors that do not tell: of an option without its values."""
    command = _command()
    path = ["notifygate"]
    for word in given:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        path.append(word)
    return " ".join(path)


_ADDRESS = re.compile(r"(sms|email):.+|.*@.*|\+?[0-9][0-9 ()./-]{5,}")


def _without_addresses(text: str, given: list[str]) -> str:
    """A message without what was typed and looks like an address: errors end up in logs."""
    for typed in given:
        value = typed.partition("=")[2] if typed.startswith("--") else typed
        if value and _ADDRESS.fullmatch(value):
            text = text.replace(value, "…")
    return text


class _Lines(logging.Handler):
    """Shows warnings of the gateway, which are events with fields, as one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        detail = getattr(record, "error", None) or getattr(record, "message_id", None)
        event = record.getMessage().replace("_", " ")
        output.complain(f"{event}: {detail}" if detail else event)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    logger, handler = logging.getLogger("notifygate"), _Lines(level=logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
