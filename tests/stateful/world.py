"""Where the machine's gateways live: a ledger that is quickly made anew, a provider that does as told, and a queue."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import dramatiq
import pytest
import sqlalchemy as sa
from stateful.model import Answer, Model, Permission
from support import config as configs
from support.clock import A_MONDAY_MORNING, SimulatedClock
from support.databases import migrate
from support.tables import table_names

from notifygate import Gateway, config, ids
from notifygate.address import Channel
from notifygate.channels import HandOff, HandOffOutcome, Inquiry
from notifygate.ledger import database
from notifygate.message import Result
from notifygate.runtime import Runtime

ANNA, ANNA_TOO, ANNA_SMS = "email:anna@example.dk", "email:anna+shop@example.dk", "sms:+4520123456"
BO, BO_SMS, CARL = "email:bo@example.dk", "sms:+4520654321", "email:carl@example.dk"
MAILBOX_OF = {ANNA: "anna", ANNA_TOO: "anna", ANNA_SMS: "2012", BO: "bo", BO_SMS: "2065", CARL: "carl"}
POINTS = tuple(MAILBOX_OF)

DELIVERED = {
    ("cykelpartner", "1001"): A_MONDAY_MORNING - timedelta(days=8),
    ("florist", "2001"): A_MONDAY_MORNING - timedelta(days=8),
    ("florist", "2002"): A_MONDAY_MORNING + timedelta(days=3),
    ("postdanmark", "P1"): A_MONDAY_MORNING - timedelta(days=8),
    ("stars", "S1"): A_MONDAY_MORNING - timedelta(days=8),
}
PURCHASES = tuple(DELIVERED)
ASKERS = ("cykelpartner", "florist", "postdanmark", "stars")

_GRANTED_BEFORE = A_MONDAY_MORNING - timedelta(days=30)
_TABLES: dict[str, Any] = {
    "delivery": {"max_attempts": 4},
    "purposes": {"review_request": {"quiet_hours": None}},
    "review_requests": {"expires": "2000d"},
    "quiet_hours": {"evenings": {"holidays": False}},
}


def model_at_the_start() -> Model:
    """The model of a ledger that holds what `_grant_all` has granted."""
    model = Model(mailbox_of=MAILBOX_OF, delivered=DELIVERED)
    for point, merchant, purpose in _granted():
        model.permissions.append(Permission(point=point, party=merchant, purpose=purpose, at=_GRANTED_BEFORE))
    return model


def _granted() -> Iterator[tuple[str, str, str]]:
    # Not to everybody: where no permission is, none must turn up.
    for point in (ANNA, ANNA_SMS, BO, CARL):
        for merchant in ASKERS:
            yield point, merchant, "review_request"
    for point in (ANNA, ANNA_SMS, BO, BO_SMS):
        yield point, "cykelpartner", "newsletter"
    for point in (ANNA, CARL):
        yield point, "florist", "newsletter"


def _grant_all(gate: Gateway) -> None:
    for point, merchant, purpose in _granted():
        gate.consent.grant(point, party=merchant, purpose=purpose)


class Storage(Protocol):
    """A ledger's database, with what was granted before the story begins."""

    url: str

    def renew(self) -> None:
        """Put it back to that. Nobody may be connected to it."""


class SqliteStorage:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "stateful.db"
        self.url = f"sqlite:///{self._path}"
        _prepare(self.url, folder)
        self._prepared = self._path.read_bytes()

    def renew(self) -> None:
        for beside in ("-wal", "-shm"):
            self._path.with_name(self._path.name + beside).unlink(missing_ok=True)
        self._path.write_bytes(self._prepared)


class PostgresStorage:
    """Keeps copies of the tables beside them: making a whole database anew takes a hundred times as long."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        _prepare(url, folder)
        self._admin = sa.create_engine(url, poolclass=sa.NullPool)
        with self._admin.begin() as conn:
            tables = table_names(conn)
            conn.execute(sa.text("CREATE SCHEMA kept"))
            for name in tables:
                conn.execute(sa.text(f"CREATE TABLE kept.{name} AS TABLE public.{name}"))
        delete = [f"DELETE FROM public.{name}" for name in tables]
        insert = [
            f"INSERT INTO public.{name} OVERRIDING SYSTEM VALUE SELECT * FROM kept.{name}" for name in tables
        ]
        # As a replica: without the triggers that keep the ledger append-only, nor foreign keys.
        self._renew = sa.text("; ".join(["SET LOCAL session_replication_role = replica", *delete, *insert]))

    def renew(self) -> None:
        with self._admin.begin() as conn:
            conn.execute(self._renew)


def _prepare(url: str, folder: Path) -> None:
    migrate(url)
    path = configs.write(folder / "prepare.toml", {"gateway": {"ledger": url}}, _TABLES)
    with Gateway.open(path, clock=SimulatedClock(_GRANTED_BEFORE)) as gate:
        _grant_all(gate)


class World:
    """Opens gateways, and stays when they crash. `observer` sees what is committed, with none of the ledger's code."""

    def __init__(self, storage: Storage, folder: Path, patched: pytest.MonkeyPatch) -> None:
        self._storage = storage
        self._data_dir = folder / "data"
        gateway = {"ledger": storage.url, "data_dir": str(self._data_dir)}
        self._config = config.load(configs.write(folder / "stateful.toml", {"gateway": gateway}, _TABLES))
        self.observer = sa.create_engine(storage.url, isolation_level="AUTOCOMMIT")
        self.application = sa.create_engine(storage.url)
        self._engine = database._make_engine(storage.url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _do_without_the_disk)
        # Statements are compiled once for all gateways: that is most of what opening one costs.
        # What each gateway listens to is on a copy of the engine, which has the same connections.
        patched.setattr(database, "_make_engine", lambda url: self._engine.execution_options())
        self._numbers = itertools.count()
        # Ids sort by the time they are made, and what is done in their order must be the same in each replay.
        numbered = SimpleNamespace(now=lambda: (0, 0), take=lambda: f"{next(self._numbers):015x}")
        patched.setattr(ids, "_pool", numbered)

    def begin_anew(self) -> None:
        self.disconnect()
        self._storage.renew()
        # It holds what was seen of the ledger, which must not look as if it had been restored from a backup.
        shutil.rmtree(self._data_dir, ignore_errors=True)
        self._numbers = itertools.count(1_000_000)

    def disconnect(self) -> None:
        for engine in (self._engine, self.observer, self.application):
            engine.dispose()

    def open(self, clock: SimulatedClock, provider: Provider, jobs: Jobs) -> Gateway:
        gate = Gateway(Runtime(self._config, clock, broker=jobs))
        _install(gate, provider)
        return gate

    def reload(self, gate: Gateway, provider: Provider) -> None:
        """Let a gateway take up its config anew."""
        gate._runtime.reload(self._config)
        _install(gate, provider)


def _install(gate: Gateway, provider: Provider) -> None:
    for channel in Channel:
        gate._runtime.drivers[channel] = provider


def _do_without_the_disk(connection: Any, record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # processes crash here, machines do not


class Crash(BaseException):
    """Stands for the end of the process: no code of the product may catch it."""


@dataclass
class Provider:
    """A channel whose answers are scripted; `accepted` when the script is used up.

    `taken` is told each hand-off before anything arrives, and returns what to tell about it later. `has` is asked
    whether one has arrived, while the provider `looks_up`.
    """

    taken: Callable[[HandOff], Told]
    has: Callable[[Inquiry], bool]
    script: list[str] = field(default_factory=list)
    looks_up: bool = False

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        for hand_off in batch:
            told = self.taken(hand_off)
            yield self._answer(told, self.script.pop(0) if self.script else "accepted")

    def _answer(self, told: Told, answer: str) -> HandOffOutcome:
        match answer:
            case "accepted":
                told(arrived=True, answer="accepted")
                return HandOffOutcome(result=Result.ACCEPTED, provider_id="TEST1")
            case "rejected":
                told(arrived=False, answer="refused")
                return HandOffOutcome(result=Result.REJECTED, detail="smtp 550")
            case "failed":
                told(arrived=False, answer="refused")
                return HandOffOutcome(result=Result.FAILED, detail="smtp 451")
            case "down":
                told(arrived=False, answer="refused")
                return HandOffOutcome(result=Result.FAILED, detail="connection refused", channel_down=True)
        told(arrived="arrived" in answer, answer="unknown")
        if answer.startswith("crash"):
            raise Crash
        if answer.startswith("bug"):
            raise RuntimeError("a bug in the driver")
        return HandOffOutcome(result=Result.IN_DOUBT, detail="connection lost after end of data")

    def look_up(self, inquiry: Inquiry) -> HandOffOutcome | None:
        return HandOffOutcome(result=Result.ACCEPTED if self.has(inquiry) else Result.FAILED)

    def check(self) -> str:
        return "scripted"

    def close(self) -> None:
        pass


ANSWERS = (
    "accepted",
    "rejected",
    "failed",
    "down",
    "doubt, arrived",
    "doubt, lost",
    "bug, arrived",
    "bug, lost",
    "crash, arrived",
    "crash, lost",
)


class Told(Protocol):
    def __call__(self, *, arrived: bool, answer: Answer) -> None: ...


class Jobs(dramatiq.Broker):
    """A queue whose jobs the machine delivers, repeats and loses as it likes."""

    def __init__(self) -> None:
        super().__init__(middleware=[])
        self.waiting: list[list[str]] = []
        self.is_down = False

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        if self.is_down:
            raise ConnectionError("the queue is down")
        self.waiting.append(list(message.args[0]))
        return message
