"""The ledger's database: opening it, transactions, migrations, and its errors in our own words."""

from __future__ import annotations

import math
import os
import random
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from notifygate.errors import LedgerError, LedgerUnreachable
from notifygate.fingerprint import Fingerprints
from notifygate.ledger import rows, schema
from notifygate.ledger.fair_lock import FairLock

HEAD = "0003"
"""The newest migration: what this version of the code reads and writes."""

T = TypeVar("T")

_TRIES = 20
_BUSY_TIMEOUT_MS = 60_000
_HURRIES_MS = 300
_BUSY_AGAIN_AFTER_S = (0.0005, 0.0015)
_HAD_TO_WAIT = "notifygate_had_to_wait"
_LONG_S = 0.005
_SEEN_LATELY_S = 1.0
_URGENT_LATELY_S = 5.0
_MAKE_WAY_S = 0.002  # longer than anybody waits before asking again
# A host that is switched off answers nothing at all: without these a worker waits for it for minutes.
_GONE_AFTER = {"connect_timeout": 10, "tcp_user_timeout": 30_000, "keepalives_idle": 30}
_TRUSTED_FOR_S = 1.0
_READ_ONLY = "notifygate_read_only"
_MIGRATION_LOCK = 7_239_501_120  # any fixed number: the PostgreSQL advisory lock that migrations hold
_KEY_NAME = "fingerprint_key"
_SECRET_CHECK_NAME = "fingerprint_secret_check"  # noqa: S105  # the name of a row, not a secret


class LedgerConflict(LedgerError):
    """Two transactions were in each other's way and this one was undone; it may be tried again."""


class Ledger:
    """One SQL database, SQLite or PostgreSQL. Safe to share between threads; open one in each process.

    Opening creates the schema in an empty database. An older schema is refused: `notifygate db upgrade` brings it up
    to date. A newer one is worked with where it says that this is safe, so that an upgrade needs no downtime.
    """

    def __init__(self, url: str, *, secret: str | None = None) -> None:
        self.engine = _make_engine(url)
        self._secret = secret
        self._fingerprints: Fingerprints | None = None
        self.id = ""
        """What tells this ledger, and copies of it, from all others; known once it is prepared."""
        self.connections_made = 0
        self._writer = FairLock()
        """Held by the thread that writes, on SQLite."""
        self._others_seen_at = -math.inf
        self._giving_way: int | None = None
        """The thread that holds that, unless what it has to write is urgent."""
        self._urgent_at = -math.inf
        sa.event.listen(self.engine, "connect", self._count_connection)
        if self.dialect == "sqlite":
            sa.event.listen(self.engine, "begin", self._begin_sqlite)
        _forget_connections_in_children(self)

    def _count_connection(self, connection: Any, record: object) -> None:
        self.connections_made += 1

    @property
    def is_wanted_urgently(self) -> bool:
        """Whether one writes at a time, and something urgent had to be written lately: then others should be brief."""
        return time.monotonic() - self._urgent_at < _URGENT_LATELY_S

    @property
    def dialect(self) -> str:
        return self.engine.dialect.name

    def close(self) -> None:
        self.engine.dispose()

    def forget(self) -> None:
        """Leave all connections to the process that this one was forked from."""
        self.engine.dispose(close=False)
        self._writer = FairLock()

    @contextmanager
    def begin(self, *, is_urgent: bool = False) -> Iterator[sa.Connection]:
        """A transaction that writes. It commits at the end of the block, and is undone by any exception.

        On SQLite, where one writes at a time, what `is_urgent` comes before what else this process has to write.

        Raises `LedgerError` where the database cannot be reached or refuses, `LedgerConflict` where trying again
        may help.
        """
        with translated_errors(), self._writing(is_urgent):
            began_at = time.monotonic()
            with self.engine.begin() as conn:
                if conn.info.pop(_HAD_TO_WAIT, False):
                    self._others_seen_at = began_at
                yield conn
            self._make_way(began_at)

    @contextmanager
    def _writing(self, is_urgent: bool) -> Iterator[None]:
        """On SQLite, where one writes at a time: let the threads of this process wait for each other in order."""
        if self.dialect == "sqlite":
            if is_urgent:
                self._urgent_at = time.monotonic()
            if not self._writer.acquire(is_urgent=is_urgent, timeout_s=_BUSY_TIMEOUT_MS / 1000):
                raise LedgerError("the ledger cannot be used: another thread has been writing for a minute")
            self._giving_way = None if is_urgent else threading.get_ident()
            try:
                yield
            finally:
                self._giving_way = None
                self._writer.release()
        else:
            yield

    def _begin_sqlite(self, conn: sa.Connection) -> None:
        if conn.get_execution_options().get(_READ_ONLY, False):
            conn.exec_driver_sql("BEGIN")
            return
        driver: Any = conn.connection.driver_connection
        # SQLite's own waiting sleeps for up to a tenth of a second at a time, in which the ledger may lie idle.
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            # A plain BEGIN takes the write lock at the first write, and then fails where another writer came first.
            if _execute_patiently(driver, "BEGIN IMMEDIATE", self._give_way):
                conn.info[_HAD_TO_WAIT] = True
        except sqlite3.Error:
            conn.exec_driver_sql("BEGIN IMMEDIATE")  # fails again, and as the library's own error
        finally:
            driver.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")

    def _give_way(self) -> None:
        """While another process writes: let what is urgent in this one wait in front."""
        if self._giving_way == threading.get_ident():
            self._writer.give_way()
            self._giving_way = threading.get_ident()

    def _make_way(self, began_at: float) -> None:
        """After writing for long, let another process have its turn: it cannot queue, and would often come too late."""
        now = time.monotonic()
        if now - began_at > _LONG_S and now - self._others_seen_at < _SEEN_LATELY_S:
            time.sleep(_MAKE_WAY_S)

    def transact(
        self, work: Callable[[sa.Connection], T], *, hurries: bool = False, is_urgent: bool = False
    ) -> T:
        """Run `work` in a transaction that writes, and afresh where another one was in its way; return its result.

        One that `hurries` waits for no lock for long: it is made of what can be done apart. What `is_urgent` goes
        first, as `begin` has it, and raises as that does.
        """
        if hurries and self.dialect == "postgresql":
            patiently = work

            def work(conn: sa.Connection) -> T:
                conn.exec_driver_sql(f"SET LOCAL lock_timeout = {_HURRIES_MS}")
                return patiently(conn)

        for attempt in range(_TRIES - 1):
            try:
                with self.begin(is_urgent=is_urgent) as conn:
                    return work(conn)
            except LedgerConflict:
                time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))
        with self.begin(is_urgent=is_urgent) as conn:
            return work(conn)

    @contextmanager
    def read(self, *, at_one_moment: bool = False) -> Iterator[sa.Connection]:
        """A transaction that only reads, and keeps no writer waiting.

        Where it reads `at_one_moment`, nothing that is committed meanwhile is seen; on SQLite it is so anyway. No month
        of the send log is dropped until it has ended.
        """
        with translated_errors(), self.engine.connect() as plain:
            conn = plain.execution_options(**{_READ_ONLY: True})
            with conn.begin():
                if at_one_moment and self.dialect == "postgresql":
                    conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    # First of all: a month that is dropped is gone for what began to look before, too.
                    conn.exec_driver_sql("LOCK TABLE ledger IN ACCESS SHARE MODE")
                yield conn

    def version(self) -> str | None:
        """The schema's version; None for an empty database."""
        with self.read() as conn:
            return _version(conn)

    def is_usable(self) -> bool:
        """Whether the schema is the one we know, or a newer one that says that it works with ours."""
        with self.read() as conn:
            found = _version(conn)
            return found is not None and _is_usable(conn, found)

    def prepare(self) -> None:
        """Create the schema in an empty database, and find the key of the fingerprints.

        Raises `LedgerError` where the schema is not the one we know, or the secret not the one that the ledger was
        begun with.
        """
        with self.read() as conn:
            found = _version(conn)
            usable = found is not None and _is_usable(conn, found)
        if found is None:
            self.upgrade()
        elif not usable and found > HEAD:
            raise LedgerError(_unknown_version(found))
        elif not usable:
            raise LedgerError(
                f"the ledger has schema version {found} and this notifygate works with {HEAD}: "
                "run 'notifygate db upgrade'"
            )
        self._fingerprints = self.transact(self._load_fingerprints)
        self.id = self.transact(_load_id)

    def upgrade(self) -> str:
        """Run the migrations that are missing, under a lock; return the version reached."""
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.begin() as conn:
            if self.dialect == "postgresql":
                conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes["connection"] = conn
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise LedgerError(_unknown_version(_version(conn))) from error
        return HEAD

    @property
    def fingerprints(self) -> Fingerprints:
        """The keyed fingerprints of this ledger, known once it is prepared.

        The key is the configured secret, else one that is kept in the ledger.
        """
        if self._fingerprints is None:
            raise LedgerError("the ledger is not prepared")
        return self._fingerprints

    def _load_fingerprints(self, conn: sa.Connection) -> Fingerprints:
        if self._secret is None:
            if _key(conn, _SECRET_CHECK_NAME) is not None:
                raise LedgerError(
                    "gateway.secret: this ledger was begun with a secret, and none is set: "
                    "set NOTIFYGATE_GATEWAY__SECRET or gateway.secret_file"
                )
            _put_key(conn, _KEY_NAME, secrets.token_hex(32))
            return Fingerprints(bytes.fromhex(_key(conn, _KEY_NAME) or ""))
        if _key(conn, _KEY_NAME) is not None:
            raise LedgerError(
                "gateway.secret: this ledger was begun without a secret and cannot take one on later"
            )
        fingerprints = Fingerprints(self._secret.encode())
        check = fingerprints.of("secret check")
        _put_key(conn, _SECRET_CHECK_NAME, check)
        if _key(conn, _SECRET_CHECK_NAME) != check:
            raise LedgerError("gateway.secret: not the secret that this ledger was begun with")
        return fingerprints


def _make_engine(url: str) -> sa.Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        _make_private(parsed.database)
        engine = sa.create_engine(
            parsed,
            connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000},
            hide_parameters=True,
            pool_use_lifo=True,  # the connection used last still has in memory what it read
        )
        sa.event.listen(engine, "connect", _set_up_sqlite)
        return engine
    try:
        # Parameters are addresses and texts: neither the library's errors nor its log may show them.
        engine = sa.create_engine(
            parsed,
            pool_size=10,
            max_overflow=20,
            pool_use_lifo=True,
            hide_parameters=True,
            connect_args=_connection_settings(parsed),
        )
    except ModuleNotFoundError as error:
        raise LedgerError(
            f"gateway.ledger: the driver for {parsed.get_backend_name()} is not installed: "
            "pip install 'notifygate[postgres]'"
        ) from error
    sa.event.listen(engine, "checkin", _note_use)
    sa.event.listen(engine, "checkout", partial(_ping_after_a_pause, engine.dialect))
    return engine


def _connection_settings(url: sa.URL) -> dict[str, Any]:
    """What PostgreSQL connections are opened with; what the URL says comes first."""
    options = " ".join(
        [f"-c lock_timeout={_BUSY_TIMEOUT_MS} -c jit=off", *url.normalized_query.get("options", ())]
    )
    settings = _GONE_AFTER | {"options": options}
    return {name: value for name, value in settings.items() if name == "options" or name not in url.query}


def _note_use(connection: Any, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ping_after_a_pause(
    dialect: sa.Dialect, connection: Any, record: sa.pool.ConnectionPoolEntry, proxy: object
) -> None:
    """Find out whether a connection still works that lay unused: the server may have been restarted meanwhile.

    One that was used a moment ago is trusted: asking each time would double what a short transaction costs.
    """
    if time.monotonic() - record.info.get("used_at", math.inf) < _TRUSTED_FOR_S:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise sa.exc.InvalidatePoolError from error


def _make_private(path: str | None) -> None:
    """Make an SQLite file that is not there yet readable for its owner only: it will hold addresses and texts."""
    if path and not Path(path).exists():
        with suppress(OSError):  # what is wrong with the path is told when it is opened
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def _forget_connections_in_children(ledger: Ledger) -> None:
    """Let a forked child open connections of its own: parent and child must not talk over one.

    Nor does the child have the thread that may be writing now.
    """
    known = weakref.ref(ledger)

    def forget() -> None:
        if (inherited := known()) is not None:
            inherited.forget()

    os.register_at_fork(after_in_child=forget)


def _set_up_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # transactions are begun by us, below
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, which lasts: only the first connections to a new file have to wait for each other.

    SQLite itself waits for readers here, and not for another connection that holds the file to write, whatever its
    busy_timeout says.
    """
    _execute_patiently(connection, "PRAGMA journal_mode = WAL")


def _execute_patiently(
    connection: sqlite3.Connection, sql: str, meanwhile: Callable[[], None] = lambda: None
) -> bool:
    """Execute a statement that takes a lock, and again while another process holds that; say whether one did."""
    give_up_at = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    waited = False
    while True:
        try:
            connection.execute(sql)
        except sqlite3.OperationalError as error:
            # The kinds of busy that there are (a log that is being recovered, say) differ in the bits above.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(random.uniform(*_BUSY_AGAIN_AFTER_S))
            meanwhile()
            waited = True
        else:
            return waited


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's exceptions into ours. Their texts may quote values, so only their kind is passed on."""
    try:
        yield
    except sa.exc.IntegrityError:
        # Not chained: PostgreSQL's own report quotes the whole row, with its address and text.
        raise LedgerConflict("a constraint of the ledger refused the write") from None
    except sa.exc.DataError as error:
        raise LedgerError(f"the ledger cannot hold a value ({type(error.orig).__name__})") from None
    except sa.exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state in ("40001", "40P01"):
            raise LedgerConflict("the transaction was undone in favour of another") from error
        kind = f"{type(error.orig).__name__}" + (f", SQLSTATE {state}" if state else "")
        raised = LedgerUnreachable if _concerns_everybody(error, state) else LedgerError
        raise raised(f"the ledger cannot be used ({kind}): {_hint(error)}") from error
    except UnicodeEncodeError:
        raise LedgerError("the ledger cannot hold a value (UnicodeEncodeError)") from None
    except sa.exc.SQLAlchemyError as error:
        raise LedgerError(f"the ledger cannot be used ({type(error).__name__})") from error


def _concerns_everybody(error: sa.exc.DBAPIError, state: str | None) -> bool:
    """Whether it is the database that is at fault, and not what it was asked: then nobody else need ask as well.

    The classes of SQLSTATE are those of a lost connection, a lack of room or memory, an operator's intervention and a
    fault of the system (PostgreSQL's manual, appendix A). SQLite's errors have none, and where it is locked it is so
    for all.
    """
    if not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return False
    return state is None or state[:2] in ("08", "53", "57", "58")


def _hint(error: sa.exc.DBAPIError) -> str:
    """What is wrong in a few words; of the driver's own text only what cannot hold a value."""
    text = str(error.orig).lower()
    for sign, meaning in (
        ("append-only", "the row is append-only"),
        ("locked", "it is locked by another process"),
        ("lock timeout", "it waited too long for a lock; is another transaction of this program still open?"),
        ("unable to open", "the file cannot be opened; does its folder exist, and may it be written?"),
        ("readonly", "the file, its -wal or -shm file, or their folder is read-only"),
        ("read-only", "the database is read-only"),
        ("disk", "the disk is full or failing"),
        ("not a database", "the file is not an SQLite database"),
        ("password", "the user name or password is wrong"),
        ("no such table", "a table is missing"),
        ("does not exist", "something that it needs does not exist (the database, a role, a table)"),
        ("connection", "the server does not answer or closed the connection"),
    ):
        if sign in text:
            return meaning
    return "see the error that this one came from"


def _version(conn: sa.Connection) -> str | None:
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    found: str | None = conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _is_usable(conn: sa.Connection, found: str) -> bool:
    if found <= HEAD:
        return found == HEAD
    since, _, oldest = (_key(conn, schema.WORKS_WITH) or "").partition(" ")
    return since == found and oldest <= HEAD


def _unknown_version(found: str | None) -> str:
    return (
        f"the ledger has schema version {found}, which this notifygate does not know (it works with {HEAD}): "
        "install the version that wrote it"
    )


def _load_id(conn: sa.Connection) -> str:
    _put_key(conn, schema.LEDGER_ID, secrets.token_hex(16))  # unless the migrations have
    return _key(conn, schema.LEDGER_ID) or ""


def _key(conn: sa.Connection, name: str) -> str | None:
    found: str | None = conn.execute(
        sa.select(schema.keys.c.value).where(schema.keys.c.name == name)
    ).scalar()
    return found


def _put_key(conn: sa.Connection, name: str, value: str) -> None:
    rows.insert_new(conn, schema.keys, [{"name": name, "value": value}])
