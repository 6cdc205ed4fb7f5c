"""Proofs for outsiders: that rows are in the log that a checkpoint is of, and that one checkpoint goes on from another.

They can be checked without the ledger and without this package: `examples/verify_proof.py` does. A proof of a row is
in the form of C2SP tlog-proof (c2sp.org/tlog-proof), beside the row's canonical form (RFC 8785).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from notifygate.errors import LedgerError, NotFound
from notifygate.ledger import seals
from notifygate.ledger.seals import SealedRow
from notifygate.merkle import Tree
from notifygate.notes import Checkpoint

FORMAT = "notifygate-proof/1"
_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProof:
    """One row: its place among the leaves, its canonical form, and the proof that it is there."""

    position: int
    leaf: int
    record: str = field(repr=False)
    proof: str = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        return {"position": self.position, "leaf": self.leaf, "record": self.record, "proof": self.proof}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """That rows are in the log, all against one checkpoint, whose signature `key` checks."""

    about: str
    rows: tuple[RowProof, ...]
    checkpoint: Checkpoint
    key: str

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "about": self.about,
            "verifier_key": self.key,
            "checkpoint": self.checkpoint.note,
            "rows": [row.to_json() for row in self.rows],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """That the log of a newer checkpoint begins with all of an older one, row by row."""

    old: Checkpoint
    new: Checkpoint
    path: tuple[bytes, ...]
    key: str

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "verifier_key": self.key,
            "old_checkpoint": self.old.note,
            "new_checkpoint": self.new.note,
            "path": [_encoded(step) for step in self.path],
        }


def prove(
    conn: sa.Connection, about: str, positions: Sequence[int], checkpoint: Checkpoint, key: str
) -> Proof:
    """Prove that the rows at some positions are in the log. Raises `NotFound`, and `LedgerError` where they are not."""
    tree = _tree_of(conn, checkpoint)
    rows = {row.position: row for row in seals.rows_at(conn, positions)}
    if not rows:
        raise NotFound(f"no row of the send log is about {about}")
    proved = []
    for position in sorted(rows):
        sealed = seals.leaf_of(conn, position)
        if sealed is None or sealed[0] >= checkpoint.size:
            raise LedgerError(f"row {position} was sealed after the checkpoint: take a newer one")
        leaf, expected = sealed
        if rows[position].hash != expected:
            raise LedgerError(
                f"row {position} was altered, and no proof fits it: run 'notifygate log verify'"
            )
        proved.append(_row_proof(rows[position], leaf, tree, checkpoint))
    return Proof(about=about, rows=tuple(proved), checkpoint=checkpoint, key=key)


def consistency(conn: sa.Connection, old: Checkpoint, new: Checkpoint, key: str) -> Consistency:
    """Prove that one checkpoint goes on from another. Raises `LedgerError` where either is not of this log."""
    if old.size > new.size:
        old, new = new, old
    _tree_of(conn, old)
    tree = _tree_of(conn, new)
    return Consistency(old=old, new=new, path=tuple(tree.consistency(old.size, new.size)), key=key)


def _tree_of(conn: sa.Connection, checkpoint: Checkpoint) -> Tree:
    """The tree that a checkpoint is of."""
    tree = seals.tree(conn)
    try:
        is_it = checkpoint.size <= seals.size(conn) and tree.root(checkpoint.size) == checkpoint.root
    except KeyError:
        is_it = False
    if not is_it:
        raise LedgerError(
            f"the checkpoint of {checkpoint.size:,} rows is not of the log as it is: run 'notifygate log verify'"
        )
    return tree


def _row_proof(row: SealedRow, leaf: int, tree: Tree, checkpoint: Checkpoint) -> RowProof:
    path = [_encoded(step) for step in tree.inclusion(leaf, checkpoint.size)]
    lines = [_HEADER, f"index {leaf}", *path, "", checkpoint.note]
    return RowProof(position=row.position, leaf=leaf, record=row.data.decode(), proof="\n".join(lines))


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()
