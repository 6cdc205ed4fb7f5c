"""`gate.proofs`: proving that the send log was not altered, to oneself and to others."""

from __future__ import annotations

from collections.abc import Sequence

from notifygate.audit import proofs, verification
from notifygate.audit.progress import Progress
from notifygate.audit.proofs import Consistency, Proof
from notifygate.audit.verification import Verification
from notifygate.errors import LedgerError, NotFound
from notifygate.ledger import journal, seals
from notifygate.notes import Checkpoint, Verifier
from notifygate.runtime import Runtime


class Proofs:
    """Checkpoints, proofs and the verification of the send log. Obtained as `gate.proofs`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def verifiers(self) -> tuple[Verifier, ...]:
        """The keys that checkpoints of this log are checked with: those of this machine, else those the ledger names.

        Raises `NoteError` for a key that cannot be read.
        """
        return self._keys()[0]

    def verify(
        self,
        *,
        checkpoints: Sequence[Checkpoint] = (),
        keys: Sequence[Verifier] = (),
        progress: Progress = lambda done, of: None,
    ) -> Verification:
        """Recompute the whole log, and compare it with the ledger's checkpoints and with those kept elsewhere.

        Only against `checkpoints` that were kept elsewhere can it be seen that the end was cut off. `keys` are those to
        trust, and default to those of this machine. `progress` is called with the rows verified so far, and of all.

        Raises `LedgerError` where the ledger cannot be read; what is wrong in it is in the result.
        """
        known, are_the_ledgers_own = (tuple(keys), False) if keys else self._keys()
        with self._runtime.ledger.read() as conn:
            seen_here = self._runtime.sealer.last_signed_here(conn)
        return verification.verify(
            self._runtime.ledger,
            origin=self._runtime.sealer.keys.origin,
            trusted=known,
            outside=checkpoints,
            seen_here=seen_here,
            keys_are_the_ledgers_own=are_the_ledgers_own,
            progress=progress,
        )

    def checkpoint(self) -> Checkpoint:
        """Seal what is not sealed yet, and sign what the log says now; return the checkpoint.

        Raises `NotFound` where nothing is in the log, `LedgerError` where this machine has no key to sign with, or
        where the seals are not those that were signed before.
        """
        sealer = self._runtime.sealer
        made = sealer.sign_all()
        if made is None:
            raise NotFound("nothing is in the send log yet, so there is nothing to sign")
        with self._runtime.ledger.read() as conn:
            size = seals.size(conn)
        if made.size < size and sealer.keys.signer is None:
            raise LedgerError(
                "checkpoints of this ledger are signed with a key that is not on this machine: set log.key_file, or "
                "run this where the key is"
            )
        return made

    def prove(self, message_id: str, *, checkpoint: Checkpoint | None = None) -> Proof:
        """Prove that all rows about a message are in the log: what was asked, decided, and tried.

        Against the newest checkpoint, or against one that was kept elsewhere. Raises `NotFound`, and `LedgerError`
        where no checkpoint is new enough, or the log is not the one that it is of.
        """
        with self._runtime.ledger.read() as conn:
            rows = journal.of_message(conn, message_id)
        if not rows:
            raise NotFound(f"no message {message_id!r}")
        positions = [row.position for row in rows if row.position is not None]
        against = self.checkpoint() if checkpoint is None else self._known(checkpoint)
        with self._runtime.ledger.read(at_one_moment=True) as conn:
            return proofs.prove(conn, message_id, positions, against, self._key_of(against))

    def consistency(self, old: Checkpoint, new: Checkpoint | None = None) -> Consistency:
        """Prove that the log of one checkpoint goes on from that of another: nothing before it was altered.

        `new` defaults to a checkpoint of now. Raises `NoteError` where one is not signed by a key of this log, and
        `LedgerError` where one is not of the log as it is.
        """
        newer = self.checkpoint() if new is None else self._known(new)
        with self._runtime.ledger.read(at_one_moment=True) as conn:
            return proofs.consistency(conn, self._known(old), newer, self._key_of(newer))

    def _known(self, checkpoint: Checkpoint) -> Checkpoint:
        checkpoint.check(self.verifiers())
        return checkpoint

    def _key_of(self, checkpoint: Checkpoint) -> str:
        return str(checkpoint.check(self.verifiers()))

    def _keys(self) -> tuple[tuple[Verifier, ...], bool]:
        keys = self._runtime.sealer.keys
        own = keys.public()
        return (own, False) if own else (keys.named_by_the_ledger(), True)
