"""`notifygate doctor`: does everything that the gateway needs work?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from notifygate.cli import output
from notifygate.cli.check import CHANNELS, only
from notifygate.cli.db import ledger_is_missing
from notifygate.cli.options import ConfigPath, Json
from notifygate.cli.output import Column
from notifygate.errors import BrokerError, ChannelError, LedgerError

if TYPE_CHECKING:
    from notifygate.config import Config
    from notifygate.ledger.database import Ledger

_MANY_UNSEALED = 1_000
OK, NOTE, WARNING, FAILED = "ok", "note", "warning", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One thing that was looked at: `state` is ok, note, warning or failed, `advice` what to do."""

    what: str
    state: str
    found: str
    advice: str = ""


def doctor(config: ConfigPath = None, json: Json = False) -> None:
    """Try the ledger, the queue and each channel, sending nothing, and say what to do about what fails."""
    from notifygate.config import load

    loaded = load(config)
    results = [*_ledger(loaded), _broker(loaded), *_channels(loaded)]
    healthy = all(one.state != FAILED for one in results)
    if json:
        output.json_line({"ok": healthy, "checks": [asdict(one) for one in results]})
    else:
        columns = [
            Column("what", whole=True),
            Column("state", whole=True),
            Column("found"),
            Column("what to do"),
        ]
        output.table(columns, [(one.what, one.state, one.found, one.advice) for one in results])
    if not healthy:
        raise typer.Exit(1)


def _ledger(loaded: Config) -> Iterator[Checked]:
    from notifygate.ledger.database import HEAD, Ledger
    from notifygate.restoring import LedgerMark

    settings = loaded.settings.gateway
    where = settings.ledger_shown
    if ledger_is_missing(settings):
        yield Checked(
            what="ledger", state=NOTE, found=f"{where} is not there yet", advice="made at first use"
        )
        yield _secret(loaded, has_begun=False)
        return
    in_doubt, lost, usable = 0, 0, False
    proof: Checked | None = None
    try:
        ledger = Ledger(
            settings.ledger, secret=settings.secret.get_secret_value() if settings.secret else None
        )
        try:
            version = ledger.version()
            usable = ledger.is_usable()
            if usable:
                ledger.prepare()
                LedgerMark(ledger, settings.data_dir).check()
                in_doubt, lost = _count_in_doubt(ledger)
                proof = _proof(ledger, loaded)
        finally:
            ledger.close()
    except LedgerError as error:
        advice = "correct gateway.ledger, or start the database"
        if str(error).startswith("gateway.secret"):
            advice = "go by the secret that this ledger was begun with; where that was none, set none"
        yield Checked(what="ledger", state=FAILED, found=str(error), advice=advice)
        return
    if version is None:
        yield Checked(
            what="ledger", state=NOTE, found=f"{where} is empty", advice="tables are made at first use"
        )
        yield _secret(loaded, has_begun=False)
    elif not usable:
        found = f"{where} has schema version {version}, and {HEAD} is wanted"
        yield Checked(what="ledger", state=FAILED, found=found, advice="run 'notifygate db upgrade'")
    else:
        yield Checked(what="ledger", state=OK, found=f"{where}, schema version {version}")
        yield _secret(loaded, has_begun=True)
        yield _in_doubt(in_doubt, lost)
        if proof is not None:
            yield proof


def _secret(loaded: Config, *, has_begun: bool) -> Checked:
    """Whether fingerprints are keyed by what is not in the ledger: that is chosen once, before its first row."""
    if loaded.settings.gateway.secret is not None:
        return Checked(what="secret", state=OK, found="a secret is set")
    if has_begun:
        found = "this ledger was begun without a secret, and keeps the key itself"
        return Checked(
            what="secret",
            state=NOTE,
            found=found,
            advice="only a new ledger takes one on: docs/data-subjects.md",
        )
    advice = "set gateway.secret_file now: a ledger begun without a secret cannot take one on later"
    return Checked(what="secret", state=NOTE, found="none is set", advice=advice)


def _in_doubt(count: int, lost: int) -> Checked:
    if lost:
        found = f"{count} message(s) in doubt, and {lost} more whose worker ended before it recorded them"
        advice = "start a worker, or run 'notifygate drain': they are in doubt then"
        return Checked(what="in doubt", state=WARNING, found=found, advice=advice)
    if count == 0:
        return Checked(what="in doubt", state=OK, found="no message is in doubt")
    found = f"{count} message{'s' if count > 1 else ''} may or may not have arrived"
    advice = "see 'notifygate doubt list'; ask the provider, then run 'notifygate doubt resolve'"
    return Checked(what="in doubt", state=WARNING, found=found, advice=advice)


def _count_in_doubt(ledger: Ledger) -> tuple[int, int]:
    from notifygate.ledger import messages

    with ledger.read() as conn:
        return messages.count_in_doubt(conn), messages.count_lost(conn, datetime.now(UTC))


def _proof(ledger: Ledger, loaded: Config) -> Checked:
    """Whether the send log is sealed and signed, and whether this machine can sign it."""
    from notifygate.ledger import gauges, seals
    from notifygate.notes import NoteError
    from notifygate.sealing import LogKeys

    keys = LogKeys(ledger, loaded.settings.log, loaded.settings.gateway.data_dir)
    verify = "run 'notifygate log verify'"
    try:
        with ledger.read() as conn:
            size, unsealed = seals.size(conn), seals.count_unsealed(conn, gauges.AT_MOST)
            newest = seals.newest_checkpoint(conn)
    except (KeyError, LedgerError):
        found = "the seals of the send log are not what was written"
        return Checked(what="proof", state=FAILED, found=found, advice=verify)
    signed = newest[0] if newest else 0
    found = (
        f"{output.counted(size, 'row')} of the send log sealed, {unsealed:,} not yet, signed up to {signed:,}"
    )
    try:
        can_sign = size == 0 or keys.signer is not None
    except NoteError as error:
        return Checked(what="proof", state=FAILED, found=str(error), advice="correct log.key_file")
    if unsealed > _MANY_UNSEALED:
        advice = "workers seal within a second: look into their log, or run 'notifygate log checkpoint'"
        return Checked(what="proof", state=WARNING, found=found, advice=advice)
    if not can_sign:
        advice = "the key is elsewhere: set log.key_file where this machine is to sign too"
        return Checked(what="proof", state=NOTE, found=found, advice=advice)
    return Checked(what="proof", state=OK, found=found, advice=f"to see whether a row was altered, {verify}")


def _broker(loaded: Config) -> Checked:
    from notifygate.broker import ping

    settings = loaded.settings.gateway
    try:
        found = ping(settings)
    except BrokerError as error:
        if settings.broker == "embedded":
            advice = "'notifygate up' or 'notifygate worker' starts it"
            return Checked(what="broker", state=NOTE, found=str(error), advice=advice)
        advice = "correct gateway.broker, or start the server"
        return Checked(what="broker", state=FAILED, found=str(error), advice=advice)
    if settings.broker == "none":
        return Checked(what="broker", state=OK, found=found, advice="run 'notifygate drain' now and then")
    return Checked(what="broker", state=OK, found=found)


def _channels(loaded: Config) -> Iterator[Checked]:
    from notifygate.runtime import open_channels

    for name in CHANNELS:
        what = f"channel {name}"
        if loaded.settings.channel(name) is None:
            yield Checked(
                what=what, state=NOTE, found=f"there is no [channels.{name}], so nothing leaves on it"
            )
            continue
        try:
            for driver in open_channels(only(loaded, name)).values():
                try:
                    yield Checked(what=what, state=OK, found=driver.check())
                finally:
                    driver.close()
        except ChannelError as error:
            advice = f"correct [channels.{name}], or start the server"
            yield Checked(what=what, state=FAILED, found=str(error), advice=advice)
