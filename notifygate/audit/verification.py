"""Verifying the send log: recompute every hash, and compare with the seals and with every checkpoint there is.

What it can tell: that a row was changed, removed, put in, or moved since it was sealed; that the end was cut off, where
a checkpoint is known that was kept elsewhere; that a checkpoint was forged. What it cannot: whether a row was true
when it was written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from notifygate.audit import originals
from notifygate.audit.progress import Progress
from notifygate.ledger import consents, removal, restores, seals
from notifygate.ledger.database import Ledger
from notifygate.ledger.schema import to_micros
from notifygate.ledger.seals import Seal, SealedRow
from notifygate.merkle import Frontier, fold
from notifygate.notes import Checkpoint, NoteError, Verifier

_LEAVES_AT_ONCE = 20_000
_SEALS_AT_ONCE = 200
_SHOWN = 100
_FOLLOWED = 100  # of more rows that do not fit nobody asks where they come from
_SEALED_LATE_MICROS = timedelta(hours=1) // timedelta(microseconds=1)
_TILE = 1 << seals.TILE_LEVEL


class Fault(StrEnum):
    """What is wrong at one place of the log."""

    ALTERED = "altered"
    MISSING = "missing"
    INSERTED = "inserted"
    REORDERED = "reordered"
    SEALED_TWICE = "sealed_twice"
    TRUNCATED = "truncated"
    SEAL_ALTERED = "seal_altered"
    CHECKPOINT_FORGED = "checkpoint_forged"
    CHECKPOINT_DIFFERS = "checkpoint_differs"
    CHECKPOINT_FOREIGN = "checkpoint_foreign"
    CHECKPOINT_UNTRUSTED = "checkpoint_untrusted"
    KEY_ALTERED = "key_altered"
    REMOVAL_FORGED = "removal_forged"
    CONSENT_ALTERED = "consent_altered"
    POLICY_ALTERED = "policy_altered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong. `leaf` is its place in the tree, `position` the row's, where it has one."""

    fault: Fault
    told: str
    leaf: int | None = None
    position: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"fault": self.fault.value, "leaf": self.leaf, "position": self.position, "told": self.told}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalTold:
    """What the log says was removed from it: when, by whom, how many rows of which part.

    It is believed because the log says so: whether it was one of yours is for you to say. `earlier` is how many more
    rows it says were removed before, by removals that it has no row of any more.
    """

    position: int
    at: datetime
    actor: str
    part: str
    rows: int
    earlier: int

    def to_json(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "at": self.at.isoformat(),
            "actor": self.actor,
            "part": self.part,
            "rows": self.rows,
            "earlier": self.earlier,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreTold:
    """That the log says that it was restored from a backup.

    Where `is_signed` by a trusted key, what was signed before it need not be the beginning of the log any more.
    """

    position: int
    at: datetime
    is_signed: bool

    def to_json(self) -> dict[str, Any]:
        return {"position": self.position, "at": self.at.isoformat(), "is_signed": self.is_signed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found. `problems` are in the order of the log, the first hundred of `problem_count`.

    `size` is the number of leaves, `removed` how many of their rows were removed by retention, as the log itself says
    in `removals`, and `unsealed` how many rows wait for their seal. `sealed_late` counts rows that were sealed more
    than an hour after the instant that they bear, or after rows that bear such an instant. `restorations` are from
    backups. `checkpoints` were compared, of which `outside` were brought from elsewhere.
    """

    size: int
    root: bytes
    removed: int
    removals: tuple[RemovalTold, ...]
    restorations: tuple[RestoreTold, ...]
    unsealed: int
    sealed_late: int
    checkpoints: int
    outside: int
    signed_up_to: int
    keys: tuple[str, ...]
    keys_are_the_ledgers_own: bool
    problems: tuple[Problem, ...]
    problem_count: int

    @property
    def is_intact(self) -> bool:
        return not self.problem_count

    def to_json(self) -> dict[str, Any]:
        return {
            "intact": self.is_intact,
            "size": self.size,
            "root": self.root.hex(),
            "removed": self.removed,
            "removals": [one.to_json() for one in self.removals],
            "restorations": [one.to_json() for one in self.restorations],
            "unsealed": self.unsealed,
            "sealed_late": self.sealed_late,
            "checkpoints": self.checkpoints,
            "outside_checkpoints": self.outside,
            "signed_up_to": self.signed_up_to,
            "keys": list(self.keys),
            "keys_are_the_ledgers_own": self.keys_are_the_ledgers_own,
            "problem_count": self.problem_count,
            "problems": [problem.to_json() for problem in self.problems],
        }


def verify(
    ledger: Ledger,
    *,
    origin: str,
    trusted: Sequence[Verifier],
    outside: Sequence[Checkpoint] = (),
    seen_here: Checkpoint | None = None,
    keys_are_the_ledgers_own: bool = False,
    progress: Progress = lambda done, of: None,
) -> Verification:
    """Verify the whole send log. Memory does not grow with it, but for a few bytes a checkpoint.

    `trusted` are the keys that checkpoints must be signed by, `outside` those that were kept elsewhere, and `seen_here`
    is the newest that this machine has signed.
    `progress` is called with the number of leaves verified, and of all. Raises `LedgerError`.
    """
    with ledger.read(at_one_moment=True) as conn, seals.reading_anything(conn):
        check = _Check(conn, ledger.id, origin, trusted, progress)
        check.take(outside, seen_here)
        check.run()
    return Verification(
        size=check.tree.size,
        root=check.tree.root(),
        removed=check.removed,
        removals=tuple(check.removals),
        restorations=tuple(check.restorations),
        unsealed=check.unsealed,
        sealed_late=check.sealed_late,
        checkpoints=check.checkpoints,
        outside=len(outside),
        signed_up_to=check.signed_up_to,
        keys=tuple(map(str, trusted)),
        keys_are_the_ledgers_own=keys_are_the_ledgers_own,
        problems=tuple(sorted(check.problems, key=_place)[:_SHOWN]),
        problem_count=check.problem_count,
    )


@dataclass(frozen=True, slots=True)
class _Misfit:
    """A row that is not as it was sealed; without its form, where there are so many that nobody follows them."""

    leaf: int
    position: int
    sealed: bytes
    row: SealedRow | None

    def belongs_at(self, other: _Misfit) -> bool:
        """Whether this row is what was sealed at another place."""
        return self.row is not None and self is not other and self.row.hash_at(other.position) == other.sealed


def _place(problem: Problem) -> tuple[bool, int]:
    return (problem.leaf is None, problem.leaf or 0)


@dataclass(slots=True)
class _Check:
    """One run over the log, leaf by leaf."""

    conn: sa.Connection
    ledger_id: str
    origin: str
    trusted: Sequence[Verifier]
    progress: Progress
    tree: Frontier = field(default_factory=Frontier)
    removed: int = 0
    unsealed: int = 0
    sealed_late: int = 0
    checkpoints: int = 0
    signed_up_to: int = 0
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    roots: dict[int, list[tuple[bytes, str]]] = field(default_factory=lambda: defaultdict(list))
    """What checkpoints say that the root is at a size, and how each is called."""
    gone: list[tuple[int, int]] = field(default_factory=list)
    """The leaves whose rows were removed, as the log says."""
    strays: set[int] = field(default_factory=set)
    """Positions of rows that no seal so far has; a later one may."""
    misfits: list[_Misfit] = field(default_factory=list)
    tile: list[bytes] = field(default_factory=list)
    good_up_to: int = 0
    removals: list[RemovalTold] = field(default_factory=list)
    restorations: list[RestoreTold] = field(default_factory=list)
    removed_until: datetime | None = None
    """What was removed is older."""
    named: list[Verifier] = field(default_factory=list)
    """The keys that the ledger says have signed it."""
    next_leaf: int = 0
    is_whole: bool = True
    """Whether the leaves so far are all there are, so that the tree over them can be compared."""
    settled: int = 0
    highest: int = 0
    latest: int = 0
    """The latest instant that a leaf so far bears."""
    events: originals.Tally = field(default_factory=originals.Tally)
    """The consent events that the log tells of, of those that may not be missing in it."""
    policies: set[str] = field(default_factory=set)
    """The policies that decisions name."""

    def take(self, outside: Sequence[Checkpoint], seen_here: Checkpoint | None) -> None:
        """Note what checkpoints say: those brought from elsewhere, the last of this machine, and the ledger's."""
        for text in seals.verifiers(self.conn):
            try:
                self.named.append(Verifier.parse(text))
            except NoteError as error:
                self._report(Fault.KEY_ALTERED, f"a key that the ledger names: {error}")
        for number, checkpoint in enumerate(outside, 1):
            self._note(checkpoint, f"checkpoint {number} of those given, of {checkpoint.size:,} rows")
        if seen_here is not None:
            self._note(seen_here, f"the checkpoint that this machine signed last, of {seen_here.size:,} rows")
        for size, note, _ in seals.all_checkpoints(self.conn):
            if type(size) is not int or not isinstance(note, str):
                self._report(Fault.CHECKPOINT_FORGED, "a checkpoint of the ledger is not a number and a text")
                continue
            called = f"the ledger's checkpoint of {size:,} rows"
            try:
                checkpoint = Checkpoint.parse(note)
                if checkpoint.size != size:
                    raise NoteError(f"it says that there are {checkpoint.size:,}")
            except NoteError as error:
                self._report(Fault.CHECKPOINT_FORGED, f"{called}: {error}", leaf=size)
            else:
                self._note(checkpoint, called)

    def _note(self, checkpoint: Checkpoint, called: str) -> None:
        self.checkpoints += 1
        # The log may have been called otherwise when it was signed: by a name that a trusted key goes by.
        if checkpoint.origin not in {self.origin, *(key.name for key in self.trusted)}:
            told = f"{called} is of another log: {checkpoint.origin}"
            self._report(Fault.CHECKPOINT_FOREIGN, told, leaf=checkpoint.size)
            return
        try:
            checkpoint.check(self.trusted)
        except NoteError as error:
            fault, told = Fault.CHECKPOINT_FORGED, str(error)
            if self._is_by_another_key(checkpoint):
                fault = Fault.CHECKPOINT_UNTRUSTED
                told = "it is signed by a key that the ledger names and that is not trusted here: give it with --key"
            self._report(fault, f"{called}: {told}", leaf=checkpoint.size)
        else:
            self.roots[checkpoint.size].append((checkpoint.root, called))

    def _is_by_another_key(self, checkpoint: Checkpoint) -> bool:
        try:
            checkpoint.check(self.named)
        except NoteError:
            return False
        return True

    def run(self) -> None:
        total = 0
        with suppress(KeyError):  # where the last seal is not whole, which is found below
            total = seals.size(self.conn)
            self._find_what_was_removed()
        self._find_restorations()
        last_position = -(2**63)
        for batch in self._batches():
            last_position = self._verify(batch, last_position)
            self.progress(self.tree.size, total)
        self._verify_nodes_above()
        self._look_at_the_rest(last_position)
        self._tell_of_moves()
        self._look_for_a_cut()
        self._look_at_originals()

    def _find_what_was_removed(self) -> None:
        """The leaves that rows about removals name, as far as what these say can be."""
        for told in removal.told_of(self.conn):
            if told.fault or told.at is None:
                what = f"row {told.position:,}, about a removal, {told.fault}"
                self._report(Fault.REMOVAL_FORGED, what, leaf=told.leaf, position=told.position)
                continue
            self.gone = list(told.leaves)
            if told.until is not None:
                self.removed_until = max(told.until, self.removed_until or told.until)
            self.removals.append(
                RemovalTold(
                    position=told.position,
                    at=told.at,
                    actor=told.actor,
                    part=told.part,
                    rows=told.rows,
                    earlier=told.earlier,
                )
            )

    def _find_restorations(self) -> None:
        for told in restores.told_of(self.conn, self.ledger_id, self.trusted):
            self.restorations.append(
                RestoreTold(position=told.position, at=told.at, is_signed=told.signed_at == told.at)
            )

    def _is_gone(self, leaf: int) -> bool:
        place = bisect_right(self.gone, (leaf, 2**63)) - 1
        return place >= 0 and leaf <= self.gone[place][1]

    def _batches(self) -> Iterator[list[Seal]]:
        """The seals in order, so many at a time that their rows are few enough."""
        batch: list[Seal] = []
        leaves = 0
        for seal in self._seals():
            batch.append(seal)
            leaves += len(seal.positions)
            if leaves >= _LEAVES_AT_ONCE:
                yield batch
                batch, leaves = [], 0
        if batch:
            yield batch

    def _seals(self) -> Iterator[Seal]:
        next_leaf, at_once = 0, _SEALS_AT_ONCE
        while True:
            try:
                found = seals.after(self.conn, next_leaf, at_once)
            except KeyError as error:
                if at_once > 1:
                    at_once = 1  # find the one that is not whole
                    continue
                broken = error.args[0][1]
                self.is_whole = False
                if type(broken) is not int:
                    self._report(Fault.SEAL_ALTERED, "a seal that is not whole begins at no leaf")
                    return
                self._report(
                    Fault.SEAL_ALTERED, f"the seal that begins at leaf {broken:,} is not whole", leaf=broken
                )
                next_leaf = broken + 1
                continue
            if not found:
                return
            yield from found
            next_leaf = found[-1].first_leaf + 1

    def _verify(self, batch: Sequence[Seal], last_position: int) -> int:
        """Verify the leaves of some seals; return the last position looked at."""
        positions = [position for seal in batch for position in seal.positions]
        highest = max(positions)
        rows = {row.position: row for row in seals.rows_between(self.conn, last_position + 1, highest)}
        late = [position for position in positions if position <= last_position]
        rows |= {row.position: row for row in seals.rows_at(self.conn, late)}
        self._look_for_a_second_place(batch, set(late))
        self._compare_originals(rows.values())
        self.strays.difference_update(late)
        for seal in batch:
            self._check_order(seal)
            for index, position in enumerate(seal.positions):
                leaf, row = seal.first_leaf + index, rows.pop(position, None)
                self._verify_leaf(leaf, position, seal.hash_of(index), row, seal.sealed_at)
        self.strays.update(rows)
        return max(highest, last_position)

    def _look_for_a_second_place(self, batch: Sequence[Seal], late: set[int]) -> None:
        """Report rows that have a place already. Only those that come after later ones can."""
        for seal in batch if late else ():
            for leaf, position in enumerate(seal.positions, seal.first_leaf):
                if position not in late:
                    continue
                other = None
                with suppress(KeyError):  # a seal that is not whole is found where it stands
                    other = seals.leaf_of(self.conn, position)
                if other is not None and other[0] < leaf:
                    told = f"row {position:,} has a place already, at leaf {other[0]:,}"
                    self._report(Fault.SEALED_TWICE, told, leaf=leaf, position=position)

    def _check_order(self, seal: Seal) -> None:
        expected, self.next_leaf = self.next_leaf, seal.end
        if seal.first_leaf > expected:
            if self.is_whole:
                told = f"the seal of the rows at leaves {expected:,} to {seal.first_leaf - 1:,} is missing"
                self._report(Fault.MISSING, told, leaf=expected)
            self.is_whole = False
        elif seal.first_leaf < expected:
            told = f"the seal that begins at leaf {seal.first_leaf:,} gives leaves that another has given"
            self._report(Fault.SEAL_ALTERED, told, leaf=seal.first_leaf)
            self.is_whole = False
        self.highest = max(self.highest, *seal.positions)
        # Only on PostgreSQL rows may be committed after later ones, so that it may lag.
        lowest = self.settled if self.conn.dialect.name == "postgresql" else max(seal.positions)
        if not lowest <= seal.settled <= self.highest:
            told = f"the seal that begins at leaf {seal.first_leaf:,} calls rows settled that cannot be"
            self._report(Fault.SEAL_ALTERED, told, leaf=seal.first_leaf)
        self.settled = max(self.settled, min(seal.settled, self.highest))

    def _verify_leaf(
        self, leaf: int, position: int, sealed: bytes, row: SealedRow | None, sealed_at: int
    ) -> None:
        if row is None:
            if self._is_gone(leaf):
                self.removed += 1
            else:
                self._report(Fault.MISSING, f"row {position:,} is missing", leaf=leaf, position=position)
        else:
            if row.hash != sealed:
                followed = row if len(self.misfits) < _FOLLOWED else None
                self.misfits.append(_Misfit(leaf, position, sealed, followed))
            self.latest = max(self.latest, row.at)
            self.sealed_late += max(sealed_at, self.latest) - row.at > _SEALED_LATE_MICROS
        self._append(sealed)

    def _append(self, sealed: bytes) -> None:
        self.tree.append(sealed)
        self.tile.append(sealed)
        if len(self.tile) == _TILE:
            if self.is_whole:
                self._verify_nodes(seals.TILE_LEVEL, self.tree.size // _TILE - 1, fold(self.tile))
            self.tile.clear()
        size = self.tree.size
        if self.is_whole and (said := self.roots.get(size)) is not None:
            self._compare(size, said)

    def _compare(self, size: int, said: Sequence[tuple[bytes, str]]) -> None:
        root = self.tree.root()
        differ = [called for told, called in said if told != root]
        for called in differ:
            self._report(
                Fault.CHECKPOINT_DIFFERS,
                f"{called} has another root: a seal among leaves {self.good_up_to:,} to {size - 1:,} was altered",
                leaf=self.good_up_to,
            )
        if not differ:
            self.good_up_to = self.signed_up_to = size

    def _verify_nodes(self, level: int, number: int, computed: bytes) -> None:
        kept = seals.nodes(self.conn, level, number, 1).get(number)
        if kept != computed:
            first = number << level
            what = "is missing" if kept is None else "was altered"
            self._report(
                Fault.SEAL_ALTERED,
                f"the kept root of leaves {first:,} to {first + (1 << level) - 1:,} {what}",
                leaf=first,
            )

    def _verify_nodes_above(self) -> None:
        """Compare the kept roots of each level with those of the level below."""
        level = 2 * seals.TILE_LEVEL
        while self.is_whole and self.tree.size >> level:
            for number in range(self.tree.size >> level):
                below = seals.nodes(self.conn, level - seals.TILE_LEVEL, number * _TILE, _TILE)
                if len(below) == _TILE:
                    self._verify_nodes(level, number, fold([below[one] for one in sorted(below)]))
            level += seals.TILE_LEVEL
        if self.is_whole and (found := seals.node_beyond(self.conn, self.tree.size)) is not None:
            told = "there are kept roots of leaves that are not there, of level {} and number {}".format(
                *found
            )
            self._report(Fault.SEAL_ALTERED, told, leaf=self.tree.size)

    def _look_at_the_rest(self, last_position: int) -> None:
        """Rows that no seal has: the newest are to be sealed yet, all others were put in."""
        for position in sorted(self.strays):
            if position <= self.settled:
                self._report(
                    Fault.INSERTED,
                    f"row {position:,} has no place in the tree, though later rows have: it was put in",
                    position=position,
                )
        self.unsealed = sum(position > self.settled for position in self.strays)
        while rows := seals.rows_after(self.conn, last_position, _LEAVES_AT_ONCE):
            self._compare_originals(rows)
            self.unsealed += len(rows)
            last_position = rows[-1].position

    def _tell_of_moves(self) -> None:
        """Of rows that do not fit: whether they were changed, or stand in another's place."""
        followed = [one for one in self.misfits if one.row is not None]
        for misfit in self.misfits:
            told, fault = f"row {misfit.position:,} was altered", Fault.ALTERED
            if (other := next((one for one in followed if misfit.belongs_at(one)), None)) is not None:
                told = f"row {misfit.position:,} holds what belongs in row {other.position:,}"
                fault = Fault.REORDERED
            self._report(fault, told, leaf=misfit.leaf, position=misfit.position)

    def _compare_originals(self, rows: Collection[SealedRow]) -> None:
        self.policies.update(originals.policies_named(row.data for row in rows))
        logged = list(originals.consent_rows(row.data for row in rows))
        for event_id, wrong in originals.altered_events(self.conn, logged):
            self._report(Fault.CONSENT_ALTERED, f"consent event {event_id} {wrong}")
        for event_id, at in originals.events_told(logged):
            if self.removed_until is None or at >= to_micros(self.removed_until):
                self.events.add(event_id)

    def _look_at_originals(self) -> None:
        """Policies, and consent events that the log does not know: it need not know those that rows removed told of."""
        for policy_hash, wrong in originals.altered_policies(self.conn, self.policies):
            self._report(Fault.POLICY_ALTERED, f"the text of policy {policy_hash} {wrong}")
        kept = originals.Tally()
        for event_id in consents.every_id(self.conn, since=self.removed_until):
            kept.add(event_id)
        if kept == self.events:
            return
        for event_id in originals.unlogged_events(self.conn, since=self.removed_until):
            self._report(Fault.CONSENT_ALTERED, f"consent event {event_id} is not in the log: it was put in")

    def _look_for_a_cut(self) -> None:
        size = self.next_leaf
        for beyond in sorted(one for one in self.roots if one > size):
            for _, called in self.roots[beyond]:
                told = f"{called} is of more rows than there are: those from leaf {size:,} on were cut off"
                self._report(Fault.TRUNCATED, told, leaf=size)

    def _report(
        self, fault: Fault, told: str, *, leaf: int | None = None, position: int | None = None
    ) -> None:
        self.problem_count += 1
        if len(self.problems) < 10 * _SHOWN:
            self.problems.append(Problem(fault=fault, told=told, leaf=leaf, position=position))
