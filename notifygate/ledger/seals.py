"""The Merkle tree over the send log: which row is which leaf, the hashes, and the checkpoints.

A seal gives many rows their places at once. Where two write a seal that begins at the same leaf, the primary key lets
one of them in.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import orjson
import sqlalchemy as sa

from notifygate.errors import LedgerError
from notifygate.ledger import rows
from notifygate.ledger.canonical import COLUMNS, canonical, canonical_of_ours
from notifygate.ledger.schema import IS_RARE_SQL, Instant, checkpoints, keys, ledger, seals, tree_nodes
from notifygate.merkle import HASH_BYTES, Tree, fold, leaf_hash

TILE_LEVEL = 8
"""The roots of subtrees of 2 ** 8 leaves are kept, of 2 ** 16, and so on."""

_TILE = 1 << TILE_LEVEL
_LOCK = 7_239_501_122  # any fixed number: the PostgreSQL advisory lock of whoever seals
_VERIFIER = "log_verifier_"
_FIRST_VERIFIER = f"{_VERIFIER}0"
_LIKELY = 4
_ROW: tuple[sa.Label[Any], ...] = tuple(
    sa.type_coerce(ledger.c[name], sa.BigInteger if name in ("at", "position") else sa.Text).label(name)
    for name in COLUMNS
)

_AT_POSITION = COLUMNS.index("position")
_ROWS_BETWEEN = rows.Query(
    sa.select(*_ROW).where(ledger.c.position.between(sa.bindparam("lowest"), sa.bindparam("highest")))
)
_POSITIONS_AFTER = rows.Query(
    sa.select(ledger.c.position)
    .where(ledger.c.position > sa.bindparam("position"))
    .order_by(ledger.c.position)
    .limit(sa.bindparam("limit", type_=sa.Integer()))
)


def _raw(table: sa.Table) -> sa.Select[Any]:
    """All columns of a table, instants as the numbers that they are kept as: what is odd must not stop the reading."""
    return sa.select(
        *(
            sa.type_coerce(column, sa.BigInteger).label(column.name)
            if isinstance(column.type, Instant)
            else column
            for column in table.columns
        )
    )


_SEALS = _raw(seals)
_CHECKPOINTS = _raw(checkpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Leaves in a row: leaf `first_leaf + i` is the row at `positions[i]`, and its hash is `hash_of(i)`."""

    first_leaf: int
    positions: tuple[int, ...]
    hashes: bytes
    settled: int
    sealed_at: int
    """In microseconds since 1970, as the database has it."""

    @property
    def end(self) -> int:
        """The first leaf after it."""
        return self.first_leaf + len(self.positions)

    def hash_of(self, index: int) -> bytes:
        return self.hashes[HASH_BYTES * index : HASH_BYTES * (index + 1)]


@contextmanager
def reading_anything(conn: sa.Connection) -> Iterator[None]:
    """On SQLite, let a text be read that is no UTF-8: it must not keep the rows beside it from being read."""
    driver: Any = conn.connection.driver_connection
    if conn.dialect.name != "sqlite":
        yield
        return
    driver.text_factory = _decoded
    try:
        yield
    finally:
        driver.text_factory = str


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRow:
    """A row of the send log as the tree sees it: its place, and its canonical form."""

    position: int
    at: int
    data: bytes

    @property
    def hash(self) -> bytes:
        return leaf_hash(self.data)

    def hash_at(self, position: int) -> bytes:
        """The hash that the row would have at another position."""
        head, _, tail = self.data.rpartition(b'"position":%d,' % self.position)
        return leaf_hash(head + b'"position":%d,' % position + tail)


def take_turn(conn: sa.Connection, *, patiently: bool) -> bool:
    """On PostgreSQL, be the only one who seals until the transaction ends; say whether it is so.

    Who is patient waits for whoever is at it.
    """
    if patiently:
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        return True
    return bool(conn.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK))).scalar_one())


def size(conn: sa.Connection) -> int:
    """How many leaves there are. Raises `KeyError` where the last seal is not whole."""
    last = _last(conn)
    return last.first_leaf + last.leaves if last else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsealed:
    """Rows that have no place yet, in order: their positions and hashes, and what is to be noted with their seal."""

    positions: tuple[int, ...]
    hashes: tuple[bytes, ...]
    settled: int
    snapshot_end: int | None


def unsealed(conn: sa.Connection, limit: int) -> Unsealed:
    """The first rows that have no place yet, at most so many."""
    with reading_anything(conn):
        floor = settled_up_to(conn)
        known = _positions_above(conn, floor)
    xmin, xmax = _snapshot(conn)
    complete = _complete_up_to(conn, xmin, xmax)
    there = _POSITIONS_AFTER(conn, position=floor, limit=limit + len(known))
    wanted = [position for (position,) in there if position not in known][:limit]
    # Not all from the floor on: those that have a place already need not be read again.
    found = _forms_of_ours(conn, wanted) if wanted else {}
    positions = tuple(sorted(found))
    highest = max(wanted, default=floor)
    # With this seal, all rows up to the last of a full one have a place, or all that there are.
    settled = highest if complete is None else max(floor, complete)
    if len(found) == limit:
        settled = min(settled, highest)
    hashes = tuple(leaf_hash(found[position]) for position in positions)
    return Unsealed(positions=positions, hashes=hashes, settled=settled, snapshot_end=xmax)


def _forms_of_ours(conn: sa.Connection, positions: Sequence[int]) -> dict[int, bytes]:
    """The canonical forms of the rows at some positions, given in order."""
    wanted = set(positions)
    try:
        between = _ROWS_BETWEEN(conn, lowest=positions[0], highest=positions[-1])
    except sa.exc.OperationalError:
        if conn.dialect.name != "sqlite":
            raise
        with reading_anything(conn):
            between = _ROWS_BETWEEN(conn, lowest=positions[0], highest=positions[-1])
    return {row[_AT_POSITION]: canonical_of_ours(row) for row in between if row[_AT_POSITION] in wanted}


def count_unsealed(conn: sa.Connection, at_most: int) -> int:
    """How many rows have no place yet, counted no further than to so many."""
    floor = settled_up_to(conn)
    known = sum(position > floor for position in _positions_above(conn, floor))
    there = sa.select(ledger.c.position).where(ledger.c.position > floor).limit(at_most + known).subquery()
    found = conn.execute(sa.select(sa.func.count()).select_from(there)).scalar_one()
    return int(found) - known


def settled_up_to(conn: sa.Connection) -> int:
    """The position up to which every row that there will ever be has a place already."""
    last = _last(conn)
    return int(last.settled) if last else 0


def _last(conn: sa.Connection) -> Any:
    """The numbers of the last seal, if there is one. Raises `KeyError` where they are none: SQLite keeps anything."""
    query = sa.select(seals.c.first_leaf, seals.c.leaves, seals.c.settled).order_by(seals.c.first_leaf.desc())
    last = conn.execute(query.limit(1)).one_or_none()
    if last is not None and not _are_whole_numbers(last):
        raise KeyError((0, last.first_leaf))
    return last


def _are_whole_numbers(values: Iterable[Any]) -> bool:
    return all(type(value) is int for value in values)


def _snapshot(conn: sa.Connection) -> tuple[int | None, int | None]:
    """On PostgreSQL: all transactions before the first are over, and none from the second on is seen."""
    if conn.dialect.name != "postgresql":
        return None, None
    seen = "pg_snapshot_{}(pg_current_snapshot())::text::bigint"
    found = conn.exec_driver_sql(f"SELECT {seen.format('xmin')}, {seen.format('xmax')}").one()
    return int(found[0]), int(found[1])


def _complete_up_to(conn: sa.Connection, xmin: int | None, xmax: int | None) -> int | None:
    """The position up to which all rows are seen that there will ever be; None on SQLite, where that is all of them.

    On PostgreSQL a row may be committed after later ones. The positions below the last of a seal were given out before
    the next seal saw its rows, by transactions that had begun by then; once those are over, none is still to come.
    """
    if xmin is None or xmax is None:
        return None
    # A number from beyond the present is of another server, whose rows were loaded here.
    is_over = (seals.c.snapshot_end <= xmin) | (seals.c.snapshot_end > xmax)
    over = sa.select(seals.c.first_leaf).where(is_over).order_by(seals.c.first_leaf.desc()).limit(1)
    highest = (
        sa.select(seals.c.highest_position)
        .where(seals.c.first_leaf < over.scalar_subquery())
        .order_by(seals.c.highest_position.desc())
        .limit(1)
    )
    return int(conn.execute(highest).scalar() or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A seal with all that is computed for it: the rows of `seals` and `tree_nodes`, but for the instant."""

    first_leaf: int
    seal: Mapping[str, Any]
    nodes: Sequence[Mapping[str, Any]]


def prepare(conn: sa.Connection, taken: Unsealed) -> Ready:
    """Compute the seal that gives rows the next places: it is as much work as reading them."""
    with reading_anything(conn):
        first = size(conn)
        nodes = _new_nodes(conn, first, taken.hashes)
    seal = {
        "first_leaf": first,
        "leaves": len(taken.hashes),
        "lowest_position": taken.positions[0],
        "highest_position": taken.positions[-1],
        "positions": orjson.dumps(taken.positions).decode(),
        "hashes": b"".join(taken.hashes),
        "settled": taken.settled,
        "snapshot_end": taken.snapshot_end,
    }
    return Ready(first_leaf=first, seal=seal, nodes=nodes)


def add(conn: sa.Connection, ready: Ready, now: datetime) -> None:
    """Add a seal.

    Raises `IntegrityError` (at the end of the transaction's block a `LedgerConflict`) where another was quicker.
    """
    conn.execute(sa.insert(seals).values(sealed_at=now, **ready.seal))
    if ready.nodes:
        conn.execute(sa.insert(tree_nodes), ready.nodes)


def _new_nodes(conn: sa.Connection, old: int, hashes: Sequence[bytes]) -> list[dict[str, Any]]:
    """The roots of the subtrees that are whole with leaves added to `old` ones, and were not before."""
    nodes: list[dict[str, Any]] = []
    new, level = old + len(hashes), TILE_LEVEL
    while new >> level:
        first, end = old >> level, new >> level
        start, known = first << TILE_LEVEL, old >> (level - TILE_LEVEL)
        hashes = [*_level(conn, level - TILE_LEVEL, start, known - start), *hashes] if end > first else []
        hashes = [fold(hashes[_TILE * index : _TILE * (index + 1)]) for index in range(end - first)]
        nodes += (
            {"level": level, "number": number, "hash": root} for number, root in enumerate(hashes, first)
        )
        level += TILE_LEVEL
    return nodes


def tree(conn: sa.Connection) -> Tree:
    """The tree as the database has it. Raises `KeyError` where a part of it is missing."""

    def subtree(level: int, number: int) -> bytes:
        stored = level - level % TILE_LEVEL
        return fold(_level(conn, stored, number << (level - stored), 1 << (level - stored)))

    return Tree(subtree)


def _level(conn: sa.Connection, level: int, first: int, count: int) -> list[bytes]:
    """The hashes of nodes in a row, of level 0 those of leaves. Raises `KeyError`."""
    if not count:
        return []
    if not level:
        return list(_leaf_hashes(conn, first, count))
    query = sa.select(tree_nodes.c.hash).where(
        tree_nodes.c.level == level, tree_nodes.c.number >= first, tree_nodes.c.number < first + count
    )
    found = [bytes(row[0]) for row in conn.execute(query.order_by(tree_nodes.c.number))]
    if len(found) != count:
        raise KeyError((level, first))
    return found


def _leaf_hashes(conn: sa.Connection, first: int, count: int) -> Iterator[bytes]:
    expected = first
    for seal in _overlapping(conn, first, first + count):
        for index in range(
            max(0, first - seal.first_leaf), min(len(seal.positions), first + count - seal.first_leaf)
        ):
            if seal.first_leaf + index != expected:
                raise KeyError((0, expected))
            yield seal.hash_of(index)
            expected += 1
    if expected != first + count:
        raise KeyError((0, expected))


def _overlapping(conn: sa.Connection, first: int, end: int) -> Iterator[Seal]:
    """The seals that hold some of the leaves, in order. Raises `KeyError` for one that is not whole."""
    begins = sa.select(sa.func.max(seals.c.first_leaf)).where(seals.c.first_leaf <= first).scalar_subquery()
    query = _SEALS.where(seals.c.first_leaf >= begins, seals.c.first_leaf < end)
    for row in conn.execute(query.order_by(seals.c.first_leaf)):
        yield _seal(row)


def after(conn: sa.Connection, leaf: int, limit: int) -> list[Seal]:
    """At most so many seals that begin at a leaf or later, in order. Raises `KeyError` for one that is not whole."""
    query = _SEALS.where(seals.c.first_leaf >= leaf).order_by(seals.c.first_leaf).limit(limit)
    return [_seal(row) for row in conn.execute(query)]


def _positions_above(conn: sa.Connection, position: int) -> set[int]:
    """The positions in all seals that hold a later one: few, where it is one of the last."""
    query = sa.select(seals.c.first_leaf, seals.c.positions).where(seals.c.highest_position > position)
    return {one for first_leaf, text in conn.execute(query) for one in _positions(text, first_leaf)}


def leaf_of(conn: sa.Connection, position: int) -> tuple[int, bytes] | None:
    """The leaf of the row at a position, and its hash, if it has a place."""
    for seal in _from(conn, position):
        if position in seal.positions:
            index = seal.positions.index(position)
            return seal.first_leaf + index, seal.hash_of(index)
    return None


def _from(conn: sa.Connection, position: int) -> Iterator[Seal]:
    """The seals that may hold a position, the likeliest first; only a row that was committed late is in another."""
    after = position - 1
    while True:
        query = _SEALS.where(seals.c.highest_position > after).order_by(seals.c.highest_position)
        found = conn.execute(query.limit(_LIKELY)).all()
        for row in found:
            if row.lowest_position <= position:
                yield _seal(row)
        if len(found) < _LIKELY:
            return
        after = found[-1].highest_position


def leaves_of(conn: sa.Connection, runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The leaves of the rows at some positions, both as runs: first and last."""
    if not runs:
        return []
    starts = [first for first, _ in runs]
    found: list[tuple[int, int]] = []
    for seal in _reaching_into(conn, runs[0][0], runs[-1][1]):
        for leaf, position in enumerate(seal.positions, seal.first_leaf):
            place = bisect_right(starts, position) - 1
            if place < 0 or position > runs[place][1]:
                continue
            if found and found[-1][1] == leaf - 1:
                found[-1] = (found[-1][0], leaf)
            else:
                found.append((leaf, leaf))
    return found


def hashes_at(conn: sa.Connection, positions: Sequence[int]) -> dict[int, bytes]:
    """The hashes of those of some positions, in order, that have a place. Raises `KeyError` for a seal not whole."""
    wanted = set(positions)
    return {
        position: seal.hash_of(index)
        for seal in _reaching_into(conn, positions[0], positions[-1])
        for index, position in enumerate(seal.positions)
        if position in wanted
    }


def _reaching_into(conn: sa.Connection, lowest: int, highest: int) -> Iterator[Seal]:
    """The seals that may hold rows at positions from one to another, in order. Raises `KeyError` as `_seal` does."""
    query = _SEALS.where(seals.c.highest_position >= lowest, seals.c.lowest_position <= highest)
    for row in conn.execute(query.order_by(seals.c.first_leaf)):
        yield _seal(row)


def rows_between(conn: sa.Connection, lowest: int, highest: int) -> Iterator[SealedRow]:
    """The rows at positions from one to another, as the tree sees them."""
    for values in _ROWS_BETWEEN(conn, lowest=lowest, highest=highest):
        yield _sealed_row(dict(zip(COLUMNS, values, strict=True)))


def rows_at(conn: sa.Connection, positions: Sequence[int]) -> Iterator[SealedRow]:
    """The rows at some positions, as the tree sees them."""
    for start in range(0, len(positions), _TILE):
        query = sa.select(*_ROW).where(ledger.c.position.in_(positions[start : start + _TILE]))
        for row in conn.execute(query):
            yield _sealed_row(row._mapping)


def rows_of_kind(conn: sa.Connection, kind: str) -> Iterator[SealedRow]:
    """The rows of one of the rare kinds, oldest first, as the tree sees them."""
    query = sa.select(*_ROW).where(sa.text(IS_RARE_SQL), ledger.c.kind == kind)
    for row in conn.execute(query.order_by(ledger.c.position)):
        yield _sealed_row(row._mapping)


def rows_after(conn: sa.Connection, position: int, limit: int) -> list[SealedRow]:
    """At most so many rows at later positions, in order, as the tree sees them."""
    query = sa.select(*_ROW).where(ledger.c.position > position).order_by(ledger.c.position).limit(limit)
    return [_sealed_row(row._mapping) for row in conn.execute(query)]


def nodes(conn: sa.Connection, level: int, first: int, count: int) -> dict[int, bytes]:
    """The kept roots of a level, by number."""
    query = sa.select(tree_nodes.c.number, tree_nodes.c.hash).where(
        tree_nodes.c.level == level, tree_nodes.c.number >= first, tree_nodes.c.number < first + count
    )
    return {int(number): bytes(found) for number, found in conn.execute(query)}


def node_beyond(conn: sa.Connection, of_size: int) -> tuple[Any, Any] | None:
    """A kept root, by level and number, of leaves that a tree of that size does not have; None where there is none."""
    levels = range(TILE_LEVEL, max(of_size.bit_length(), TILE_LEVEL + 1), TILE_LEVEL)
    own = (
        sa.and_(tree_nodes.c.level == level, tree_nodes.c.number.between(0, (of_size >> level) - 1))
        for level in levels
    )
    row = conn.execute(
        sa.select(tree_nodes.c.level, tree_nodes.c.number).where(~sa.or_(*own)).limit(1)
    ).first()
    return None if row is None else (row.level, row.number)


def add_checkpoint(conn: sa.Connection, of_size: int, note: str, now: datetime) -> None:
    """Keep a checkpoint. Raises `IntegrityError` as `add` does."""
    conn.execute(sa.insert(checkpoints).values(size=of_size, note=note, made_at=now))


def newest_checkpoint(conn: sa.Connection) -> tuple[int, str, int] | None:
    """The size and the note of the last checkpoint, and when it was made, in microseconds since 1970.

    Raises `LedgerError` for one that is not what is ever written.
    """
    query = _CHECKPOINTS.order_by(checkpoints.c.size.desc()).limit(1)
    row = conn.execute(query).one_or_none()
    if row and not (_are_whole_numbers((row.size, row.made_at)) and isinstance(row.note, str)):
        raise LedgerError("the newest checkpoint was altered: run 'notifygate log verify'")
    return (row.size, row.note, row.made_at) if row else None


def all_checkpoints(conn: sa.Connection) -> Iterator[tuple[Any, Any, Any]]:
    """Checkpoints in order, as the table has them: size, note, and when they were made in microseconds since 1970."""
    for row in conn.execute(_CHECKPOINTS.order_by(checkpoints.c.size)):
        yield row.size, row.note, row.made_at


def verifiers(conn: sa.Connection) -> list[str]:
    """The public keys that have signed checkpoints of this ledger, as it says itself."""
    query = sa.select(keys.c.value).where(keys.c.name.like(f"{_VERIFIER}%")).order_by(keys.c.name)
    return list(conn.execute(query).scalars())


def name_first_verifier(conn: sa.Connection, verifier: str) -> str:
    """Note the first public key that signs this ledger; return the one that was noted, ours or another's."""
    rows.insert_new(conn, keys, [{"name": _FIRST_VERIFIER, "value": verifier}])
    return str(conn.execute(sa.select(keys.c.value).where(keys.c.name == _FIRST_VERIFIER)).scalar_one())


def name_verifier(conn: sa.Connection, verifier: str) -> None:
    """Note that a public key signs checkpoints of this ledger."""
    digest = hashlib.sha256(verifier.encode()).hexdigest()
    rows.insert_new(conn, keys, [{"name": f"{_VERIFIER}{digest[:16]}", "value": verifier}])


def _seal(row: Any) -> Seal:
    """Read a seal. One whose parts do not fit together, which is never written so, is a `KeyError`."""
    positions = _positions(row.positions, row.first_leaf)
    is_whole = _are_whole_numbers((row.first_leaf, row.settled, row.sealed_at)) and isinstance(
        row.hashes, bytes
    )
    is_whole = is_whole and 0 < len(positions) == row.leaves == len(row.hashes) / HASH_BYTES
    if not is_whole or (min(positions), max(positions)) != (row.lowest_position, row.highest_position):
        raise KeyError((0, row.first_leaf))
    return Seal(
        first_leaf=row.first_leaf,
        positions=tuple(positions),
        hashes=row.hashes,
        settled=row.settled,
        sealed_at=row.sealed_at,
    )


def _positions(text: Any, first_leaf: int) -> list[int]:
    """Whole numbers, each greater than the one before. Raises `KeyError`."""
    try:
        found = orjson.loads(text)
        is_list = isinstance(found, list) and _are_whole_numbers(found)
    except (ValueError, TypeError):
        is_list = False
    if not is_list or any(one >= other for one, other in pairwise(found)):
        raise KeyError((0, first_leaf))
    return list(found)


def _sealed_row(row: Mapping[str, Any] | sa.RowMapping) -> SealedRow:
    at = row["at"]
    return SealedRow(position=int(row["position"]), at=at if isinstance(at, int) else 0, data=canonical(row))
