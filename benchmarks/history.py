"""A past for a ledger: persons who gave consent, and messages that were worked off, by the hundred thousand.

What the gateway itself writes about one person and one message is the pattern, read from a ledger that it wrote with
the config at hand. Each row is then written again with other ids, addresses, fingerprints and times, so that a column
or a table that is new is filled as the gateway fills it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Literal, Protocol

import psycopg
from support.tables import plain_engine, table_names

from benchmarks.servers import Database, Stage, WrongResult
from benchmarks.workload import DIGEST, MERCHANT, NEWSLETTER, address, newsletter
from notifygate import Gateway
from notifygate.fingerprint import Fingerprints
from notifygate.ledger.database import Ledger
from notifygate.ledger.schema import Instant, from_micros, metadata, to_micros

State = Literal["sent", "deferred", "queued"]
"""Where the messages of a past are: worked off, decided and waiting for a time in some days, or only submitted."""

Values = dict[str, Any]

_LOG_ROWS: dict[State, int] = {"sent": 3, "deferred": 2, "queued": 1}
_CHUNK = 10_000  # rows that are written with one call
_OWN_TABLES = frozenset({"keys", "alembic_version", "seals", "tree_nodes", "checkpoints"})
_GENERATED = frozenset({("ledger", "position")})
_A_TUESDAY = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)  # on which a digest waits for Monday
_PATTERN_PERSON = 10**9
_PATTERN_KEY = "the-pattern-of-all"
_RANDOM = random.Random(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What to write: persons with consent, and messages to them, each to as many, in turns, over a span that ends now.

    Persons are numbered from `first_person`. What is not `logged` has no rows in the send log, which no worker reads;
    what is not `sealed` is left to be.
    """

    persons: int
    messages: int = 0
    state: State = "sent"
    span: timedelta = timedelta(days=150)
    first_person: int = 0
    logged: bool = True
    sealed: bool = True

    @property
    def rows(self) -> int:
        """How many rows the ledger proper gets: one of each consent, and three of each message sent."""
        return self.persons + _LOG_ROWS[self.state] * self.messages


def of_rows(rows: int, *, sealed: bool = True) -> Past:
    """A past that gives the ledger about so many rows: each person's consent, and five messages sent."""
    persons = max(1, rows // 16)
    return Past(persons=persons, messages=5 * persons, sealed=sealed)


def write(stage: Stage, database: Database, past: Past) -> None:
    """Write a past into a ledger that nobody is connected to, and leave it as it is after a while in service."""
    fill(database, read_pattern(stage, database, past), past)
    stage.settle(database)


def fill(database: Database, pattern: Pattern, past: Past) -> None:
    """Write a past by a pattern that was read before, for which no other database is needed."""
    ledger = Ledger(database.url)
    try:
        ledger.prepare()
        fingerprints = ledger.fingerprints
    finally:
        ledger.close()
    with _writing(database) as writer:
        _write_rows(writer, pattern, fingerprints, past)
    if past.sealed:
        with Gateway.open(database.config()) as gate:
            gate.proofs.checkpoint()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPattern:
    """One row: a value or the name of one for each column, and texts that hold others."""

    table: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    fixed: Values = field(repr=False)
    texts: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """What the gateway writes once, for each person, and for each message; with the ages of what it dates."""

    once: tuple[RowPattern, ...]
    person: tuple[RowPattern, ...]
    message: tuple[RowPattern, ...]
    person_offsets: frozenset[int]
    message_offsets: frozenset[int]


def read_pattern(stage: Stage, database: Database, past: Past) -> Pattern:
    """Let the gateway write about one person and one message, and see what that leaves."""
    scratch, state = stage.prepared(database.kind), past.state
    purpose = DIGEST if state == "deferred" else NEWSLETTER
    clock: Callable[[], datetime] | None = (lambda: _A_TUESDAY) if state == "deferred" else None
    try:
        before = _contents(scratch)
        with Gateway.open(scratch.config(), clock=clock) as gate:
            gate.consent.grant(
                f"email:{address(_PATTERN_PERSON)}",
                party=MERCHANT,
                purpose=purpose,
                source="sign-up form",
                notice_version="2026-03",
                evidence="form 1",
            )
            gate.submit(newsletter(_PATTERN_PERSON, _PATTERN_KEY, purpose=purpose))
            if state != "queued":
                gate.drain()
        rows = {
            table: [row for row in found if row not in before[table]]
            for table, found in _contents(scratch).items()
            if table not in _OWN_TABLES and (past.logged or table != "ledger")
        }
    finally:
        stage.drop(scratch)
    (message,) = rows["messages"]
    if message["status"] != state:
        raise WrongResult(f"the gateway left a message {message['status']} that was to be {state}")
    return _pattern(rows)


def _pattern(rows: dict[str, list[Values]]) -> Pattern:
    (person,), (mailbox,), (point,) = rows["persons"], rows["mailboxes"], rows["contact_points"]
    (consent,), (message,) = rows["consent_events"], rows["messages"]
    of_person = {
        person["person_id"]: "person_id",
        mailbox["mailbox_id"]: "mailbox_id",
        mailbox["fingerprint"]: "mailbox_fingerprint",
        point["contact_point_id"]: "contact_point_id",
        point["fingerprint"]: "point_fingerprint",
        point["address"]: "address",
        consent["event_id"]: "event_id",
    }
    of_message = {
        message["message_id"]: "message_id",
        message["dedupe_key"]: "dedupe_key",
        message["request_fingerprint"]: "request_fingerprint",
        _PATTERN_KEY: "key",
    } | {row["attempt_id"]: "attempt_id" for row in rows["reservations"]}
    once: list[RowPattern] = []
    persons: list[RowPattern] = []
    messages: list[RowPattern] = []
    offsets: dict[bool, set[int]] = {True: set(), False: set()}
    for table, found in rows.items():
        for row in found:
            texts = [value for value in row.values() if isinstance(value, str)]
            is_of_message = any(one in text for one in of_message for text in texts)
            is_of_person = any(one in text for one in of_person for text in texts)
            if not is_of_message and not is_of_person:
                once.append(_row_pattern(table, row, {}, 0, set()))
                continue
            base = message["submitted_at"] if is_of_message else consent["recorded_at"]
            known = of_person | of_message
            pattern = _row_pattern(table, row, known, base, offsets[is_of_message])
            (messages if is_of_message else persons).append(pattern)
    return Pattern(
        once=tuple(once),
        person=tuple(persons),
        message=tuple(messages),
        person_offsets=frozenset(offsets[False]),
        message_offsets=frozenset(offsets[True]),
    )


def _row_pattern(table: str, row: Values, known: dict[str, str], base: int, offsets: set[int]) -> RowPattern:
    """See which columns hold what varies. Instants are kept as what lies between them and `base`."""
    instants = {column.name for column in metadata.tables[table].columns if isinstance(column.type, Instant)}
    columns, names = [], []
    fixed: Values = {}
    texts: dict[str, str] = {}
    shown = dict(known)
    if base:
        for column in instants & row.keys():
            if row[column] is not None:
                offsets.add(row[column] - base)
                shown[from_micros(row[column]).isoformat()] = f"iso{row[column] - base}"
    for column, value in row.items():
        if (table, column) in _GENERATED:
            continue
        columns.append(column)
        if base and column in instants and value is not None:
            names.append(f"at{value - base}")
        elif isinstance(value, str) and value in shown:
            names.append(shown[value])
        elif isinstance(value, str) and any(one in value for one in shown):
            names.append(f"{table}.{column}.{id(row)}")
            texts[names[-1]] = _as_text_pattern(value, shown)
        else:
            names.append(f"{table}.{column}.{id(row)}")
            fixed[names[-1]] = value
    return RowPattern(table=table, columns=tuple(columns), names=tuple(names), fixed=fixed, texts=texts)


def _as_text_pattern(text: str, shown: dict[str, str]) -> str:
    """The text with `%(name)s` for all that varies."""
    found = re.compile("|".join(re.escape(one) for one in sorted(shown, key=len, reverse=True)))
    parts, end = [], 0
    for match in found.finditer(text):
        parts += [text[end : match.start()].replace("%", "%%"), f"%({shown[match.group()]})s"]
        end = match.end()
    return "".join([*parts, text[end:].replace("%", "%%")])


def _write_rows(writer: Writer, pattern: Pattern, fingerprints: Fingerprints, past: Past) -> None:
    ended_at = to_micros(datetime.now(UTC) - timedelta(minutes=2))
    span = past.span // timedelta(microseconds=1)
    persons = range(past.first_person, past.first_person + past.persons)
    born_at = ended_at - span - 1_000 * past.persons
    values: Values = {}
    for one in (*pattern.once, *pattern.person, *pattern.message):
        values |= one.fixed
    if past.first_person == 0:
        _add(writer, pattern.once, values)
    fill_instants = _instants(pattern.person, pattern.person_offsets)
    for number, person in enumerate(persons):
        fill_instants(values, born_at + 1_000 * number)
        values |= _of_person(person, born_at + 1_000 * number)
        values["point_fingerprint"] = fingerprints.of("contact point", "email", values["address"])
        values["mailbox_fingerprint"] = fingerprints.of("mailbox", "email", values["address"])
        _add(writer, pattern.person, values)
    fill_instants = _instants(pattern.message, pattern.message_offsets)
    step = next(one for one in (7_919, 104_729, 1) if past.persons % one or one == 1)
    for number in range(past.messages):
        at = ended_at - span * (past.messages - number) // past.messages
        index = number * step % past.persons
        fill_instants(values, at)
        values |= _of_person(persons[index], born_at + 1_000 * index)
        values |= {
            "key": f"past-{past.first_person}-{number}",
            "message_id": _id("msg", at, _RANDOM.getrandbits(80)),
            "attempt_id": _id("att", at, _RANDOM.getrandbits(80)),
            "dedupe_key": f"{_RANDOM.getrandbits(256):064x}",
            "request_fingerprint": f"{_RANDOM.getrandbits(256):064x}",
        }
        _add(writer, pattern.message, values)


def _of_person(person: int, born_at: int) -> Values:
    bits = (person + 1) * 0x9E37_79B9_7F4A_7C15_F39D % 2**80
    ids = {f"{name}_id": _id(prefix, born_at, bits) for name, prefix in _PREFIXES}
    return ids | {"address": address(person)}


_PREFIXES = (("person", "per"), ("mailbox", "mbx"), ("contact_point", "cp"), ("event", "evt"))


def _id(prefix: str, at: int, bits: int) -> str:
    return f"{prefix}_{at // 1_000:012x}{bits:020x}"


def _instants(rows: Iterable[RowPattern], offsets: frozenset[int]) -> Callable[[Values, int], None]:
    """What sets the instants that rows hold, those of their texts included."""
    shown = {
        offset
        for offset in offsets
        for row in rows
        for text in row.texts.values()
        if f"%(iso{offset})s" in text
    }
    names = [(f"at{offset}", f"iso{offset}" if offset in shown else None, offset) for offset in offsets]

    def fill(values: Values, at: int) -> None:
        for name, iso_name, offset in names:
            values[name] = at + offset
            if iso_name is not None:
                values[iso_name] = from_micros(at + offset).isoformat()

    return fill


def _add(writer: Writer, patterns: Iterable[RowPattern], values: Values) -> None:
    for one in patterns:
        for name, text in one.texts.items():
            values[name] = text % values
        writer.add(one, itemgetter(*one.names)(values))


class Writer(Protocol):
    """Writes rows to a database, a good many at a time."""

    def add(self, pattern: RowPattern, row: tuple[Any, ...]) -> None: ...


class _Buffered:
    """Keeps rows until there are enough of a table to be written at once."""

    def __init__(self, insert: Callable[[str, tuple[str, ...], list[tuple[Any, ...]]], None]) -> None:
        self._insert = insert
        self._waiting: dict[tuple[str, tuple[str, ...]], list[tuple[Any, ...]]] = {}

    def add(self, pattern: RowPattern, row: tuple[Any, ...]) -> None:
        waiting = self._waiting.setdefault((pattern.table, pattern.columns), [])
        waiting.append(row)
        if len(waiting) >= _CHUNK:
            self._insert(pattern.table, pattern.columns, waiting)
            waiting.clear()

    def flush(self) -> None:
        for (table, columns), waiting in self._waiting.items():
            if waiting:
                self._insert(table, columns, waiting)


@contextmanager
def _writing(database: Database) -> Iterator[Writer]:
    """Write within the block, with no index but those of constraints; at its end the schema is what it was."""
    opened = _writing_postgresql if database.kind == "postgresql" else _writing_sqlite
    with plain_engine(database.url) as engine:
        plain = engine.raw_connection()
        connection: Any = plain.driver_connection
        try:
            with opened(connection) as writer:
                yield writer
        finally:
            plain.close()


@contextmanager
def _writing_sqlite(connection: Any) -> Iterator[Writer]:
    connection.isolation_level = None
    for pragma in ("synchronous = OFF", "cache_size = -200000", "foreign_keys = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    named = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
    indexes = connection.execute(named).fetchall()

    def insert(table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        places = ", ".join("?" * len(columns))
        connection.executemany(f'INSERT INTO "{table}" ({_listed(columns)}) VALUES ({places})', rows)

    writer = _Buffered(insert)
    connection.execute("BEGIN")
    for name, _ in indexes:
        connection.execute(f'DROP INDEX "{name}"')
    yield writer
    writer.flush()
    for _, definition in indexes:
        connection.execute(definition)
    connection.execute("COMMIT")
    if connection.execute(named).fetchall() != indexes:
        raise WrongResult("the indexes are not what they were")


@contextmanager
def _writing_postgresql(connection: Any) -> Iterator[Writer]:
    named = (
        "SELECT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema()"
        " AND NOT c.relispartition"
        " AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid) ORDER BY 1"
    )
    cursor: psycopg.Cursor[Any] = connection.cursor()
    indexes = cursor.execute(named).fetchall()

    def insert(table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        with cursor.copy(f'COPY "{table}" ({_listed(columns)}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)

    writer = _Buffered(insert)
    cursor.execute("SET session_replication_role = replica")  # no foreign key is looked up
    cursor.execute("SET maintenance_work_mem = '512MB'")
    for name, _ in indexes:
        cursor.execute(f'DROP INDEX "{name}"')
    yield writer
    writer.flush()
    for _, definition in indexes:
        cursor.execute(
            definition.replace(" ON ONLY ", " ON ", 1)
        )  # of a table in parts: with those of its parts
    if cursor.execute(named).fetchall() != indexes:
        raise WrongResult("the indexes are not what they were")
    connection.commit()
    connection.autocommit = True
    cursor.execute("VACUUM (ANALYZE)")


def _listed(columns: tuple[str, ...]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _contents(database: Database) -> dict[str, list[Values]]:
    with plain_engine(database.url) as engine, engine.connect() as conn:
        return {
            name: [dict(row._mapping) for row in conn.exec_driver_sql(f'SELECT * FROM "{name}"')]
            for name in table_names(conn)
        }
