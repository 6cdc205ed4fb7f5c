"""The sealer: gives the rows of the send log their places in a Merkle tree, and signs what the tree says of itself.

A row is sealed within about a second after it was committed. From then on nobody can change it, remove it, put one in
before it or take it elsewhere, without the tree telling; see `audit.verification`. It runs beside the work in every
worker process, and at the end of `drain`. Any number of them may: the ledger lets one in at a time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa

from notifygate import logs, whole_files
from notifygate.config import LogSettings
from notifygate.errors import LedgerError, NotifygateError
from notifygate.failpoints import FailPoint, reach
from notifygate.ledger import restores, seals
from notifygate.ledger.database import Ledger, LedgerConflict
from notifygate.ledger.schema import to_micros
from notifygate.notes import Checkpoint, NoteError, Signer, Verifier, new_private_key, sign_restored

logger = logging.getLogger(__name__)

_AT_ONCE = 2_000
_MICROSECOND = timedelta(microseconds=1)
_LOCK_NAME = "sealing.lock"
_KEY_NAME = "log-key.pem"
_SEE = "run 'notifygate log verify'"
_INCOMPLETE = f"the seals of the send log are not whole: {_SEE}"
_VERIFIERS_NAME = "log-verifiers.txt"


class LogKeys:
    """The key that signs the checkpoints of a ledger on this machine, and the keys that the ledger names.

    The private key is that of the config, or else one that is made in the data folder when
    the ledger has none yet. It is never in the ledger: who can change the rows there must not be able to sign them.
    """

    def __init__(self, ledger: Ledger, settings: LogSettings, data_dir: Path) -> None:
        self._ledger = ledger
        self._settings = settings
        self._path = data_dir / _KEY_NAME
        self._verifiers_path = data_dir / _VERIFIERS_NAME

    @property
    def origin(self) -> str:
        """What the checkpoints call this log."""
        return self._settings.origin or f"notifygate/{self._ledger.id}"

    @cached_property
    def signer(self) -> Signer | None:
        """The signer of this machine; None where the ledger is signed elsewhere, and the key is not here.

        Raises `NoteError` for a key that cannot be read.
        """
        if self._settings.key is not None:
            return self._noted(Signer.from_pem(self.origin, self._settings.key.get_secret_value().encode()))
        try:
            return self._noted(Signer.from_pem(self.origin, self._path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return self._first()
        except OSError as error:
            raise NoteError(
                f"{self._path} cannot be read: {error.strerror or type(error).__name__}"
            ) from error

    def public(self) -> tuple[Verifier, ...]:
        """The keys that this machine knows without asking the ledger: its own, and those that it ever signed with."""
        found = {str(one): one for one in self._read_noted()}
        if (signer := self.signer) is not None:
            found[str(signer.verifier)] = signer.verifier
        return tuple(found.values())

    def named_by_the_ledger(self) -> tuple[Verifier, ...]:
        """The keys that the ledger says have signed it. Whoever can change it can change these."""
        with self._ledger.read() as conn:
            return tuple(map(Verifier.parse, seals.verifiers(conn)))

    def _first(self) -> Signer | None:
        """The first key of a ledger that has none. Of two machines that make one at once, one throws its own away."""
        if self.named_by_the_ledger():
            return None
        pem, is_ours = self._make()
        signer = Signer.from_pem(self.origin, pem)
        verifier = str(signer.verifier)
        # The file is there before the ledger names the key: a key that is named and lost could never be replaced.
        if self._ledger.transact(lambda conn: seals.name_first_verifier(conn, verifier)) == verifier:
            return self._noted(signer)
        if is_ours:
            with suppress(OSError):
                self._path.unlink()
        return None

    def _make(self) -> tuple[bytes, bool]:
        """A new private key, and whether it is this process that has made it."""
        pem = new_private_key()
        try:
            _make_folder(self._path.parent)
            with whole_files.writing(self._path, replaces=False, mode=whole_files.ITS_OWNERS) as file:
                file.write(pem)
        except FileExistsError:
            return self._path.read_bytes(), False  # another process was quicker
        except OSError as error:
            told = error.strerror or type(error).__name__
            raise NoteError(
                f"gateway.data_dir: no key to sign the log with can be kept in it ({told})"
            ) from error
        return pem, True

    def _noted(self, signer: Signer) -> Signer:
        """Have the ledger name a key, and note it here, so that what it signed is known when there is another."""
        verifier = str(signer.verifier)
        if verifier not in map(str, self._read_noted()):
            with suppress(OSError):
                _make_folder(self._verifiers_path.parent)
                with self._verifiers_path.open("a", encoding="utf-8") as file:
                    file.write(f"{verifier}\n")
        with self._ledger.read() as conn:
            is_known = verifier in seals.verifiers(conn)
        if not is_known:
            self._ledger.transact(lambda conn: seals.name_verifier(conn, verifier))
        return signer

    def _read_noted(self) -> list[Verifier]:
        try:
            lines = self._verifiers_path.read_text(encoding="utf-8").splitlines()
            return [Verifier.parse(line) for line in lines]
        except (OSError, ValueError):  # not there, or not written by us
            return []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    """The newest checkpoint that this machine knows of."""

    checkpoint: Checkpoint
    at: datetime


class SignedHere:
    """A note in the data folder of the newest checkpoint that this machine has signed or seen.

    So nobody who changes the ledger can have a history signed that is another than the one signed before: not even
    by taking away the seals and the checkpoints with it.
    """

    def __init__(self, data_dir: Path, ledger_id: Callable[[], str]) -> None:
        self._data_dir = data_dir
        self._ledger_id = ledger_id

    @property
    def _path(self) -> Path:
        return self._data_dir / f"log-signed-{self._ledger_id()[:12]}.json"

    def read(self) -> _Signed | None:
        """What was noted. Raises `NoteError` for a file that is not what was written."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return _Signed(
                checkpoint=Checkpoint.parse(found["checkpoint"]), at=datetime.fromisoformat(found["at"])
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoteError(f"{self._path} cannot be read ({type(error).__name__})") from error

    def write(self, checkpoint: Checkpoint, at: datetime) -> None:
        """Note a checkpoint; a folder that cannot be written is no reason to stop."""
        text = json.dumps({"checkpoint": checkpoint.note, "at": at.isoformat()})
        with suppress(OSError):
            whole_files.write(self._path, text)


def _make_folder(path: Path) -> None:
    """Make the data folder if it is not there. Raises `OSError`, and no `FileExistsError`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


class Sealer:
    """Seals what is not sealed yet. Safe in any number of processes and threads."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Callable[[], LogSettings],
        data_dir: Path,
        clock: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._data_dir = data_dir
        self._clock = clock
        self._keys: LogKeys | None = None
        self._signed_here = SignedHere(data_dir, lambda: ledger.id)
        self._has_told = False

    @property
    def keys(self) -> LogKeys:
        if self._keys is None:
            self._keys = LogKeys(self._ledger, self._settings(), self._data_dir)
        return self._keys

    def work(self, *, is_last: bool = False) -> int:
        """Seal what there is, and make a checkpoint where the last is old enough; return how many rows were sealed.

        Whoever ends, and does this for the last time, makes the checkpoint at once.
        """
        sealed = self.seal()
        self.checkpoint(unless_newer_than=timedelta(0) if is_last else self._settings().checkpoint_every)
        return sealed

    def work_quietly(self, *, is_last: bool = False) -> None:
        """The same for whoever has done something more important: a failure is logged, and made good by the next."""
        try:
            self.work(is_last=is_last)
        except NotifygateError as error:
            logger.warning("log_not_sealed", extra={"error": str(error)})
        except Exception as error:  # noqa: BLE001  # what was sent is sent, whatever this is
            logger.warning(
                "log_not_sealed", extra={"error": f"{type(error).__name__} at {logs.where(error)}"}
            )

    def seal(self, *, patiently: bool = False) -> int:
        """Give all rows that are committed their places; return how many.

        Where another process is doing it, it is left to it, or `patiently` waited for: then all that was committed
        before the call has its place when it returns.
        """
        total = 0
        while True:
            with self._ledger.read() as conn:
                size = _size(conn)
            try:
                with self._turn_on_this_machine(patiently) as is_ours:
                    while is_ours and (count := self._seal_some(patiently)):
                        total += count
                        if count < _AT_ONCE:
                            break
            except LedgerConflict:
                with self._ledger.read() as conn:
                    is_stuck = _size(conn) == size
                if is_stuck:  # nobody was quicker: what is there already was not written by a sealer
                    raise LedgerError(_INCOMPLETE) from None
                if patiently:
                    continue
            except KeyError:
                raise LedgerError(_INCOMPLETE) from None
            return total

    @contextmanager
    def _turn_on_this_machine(self, patiently: bool) -> Iterator[bool]:
        """Let one process of this machine do it, so that not all of them read the same rows.

        Where the data folder cannot be written, all do: the ledger lets one of them in.
        """
        try:
            _make_folder(self._data_dir)
            lock = (self._data_dir / _LOCK_NAME).open("ab")
        except OSError:
            yield True
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if patiently else fcntl.LOCK_NB))
                is_ours = True
            except OSError as error:
                is_ours = not isinstance(error, BlockingIOError)  # a file system that knows no locks
            yield is_ours

    def _seal_some(self, patiently: bool) -> int:
        if self._ledger.dialect == "postgresql":
            with self._ledger.begin() as conn:
                if not seals.take_turn(conn, patiently=patiently):
                    return 0
                found = seals.unsealed(conn, _AT_ONCE)
                if found.positions:
                    self._add(conn, seals.prepare(conn, found))
                return len(found.positions)
        # All is computed before, for nobody else can write meanwhile.
        with self._ledger.read() as conn:
            found = seals.unsealed(conn, _AT_ONCE)
            if not found.positions:
                return 0
            ready = seals.prepare(conn, found)
        with self._ledger.begin() as conn:
            if seals.size(conn) != ready.first_leaf:
                raise LedgerConflict("another process has sealed rows just now")
            self._add(conn, ready)
        return len(found.positions)

    def _add(self, conn: sa.Connection, ready: seals.Ready) -> None:
        seals.add(conn, ready, self._clock())
        reach(FailPoint.SEAL_WRITTEN)

    def sign_all(self) -> Checkpoint | None:
        """Seal all that was committed before the call, and sign it; return what `checkpoint` does."""
        self.seal(patiently=True)
        return self.checkpoint()

    def last_signed_here(self, conn: sa.Connection) -> Checkpoint | None:
        """What this machine signed last, unless the ledger was restored from a backup since, as a key says."""
        here = self._signed_here.read()
        if here is None:
            return None
        restored = restores.told_of(conn, self._ledger.id, self.keys.public())
        if any(told.signed_at is not None and told.signed_at >= here.at for told in restored):
            return None
        return here.checkpoint

    def attest_restored(self, at: datetime) -> str | None:
        """Sign that the ledger was restored from a backup; None where this machine has no key."""
        signer = self.keys.signer
        return None if signer is None else sign_restored(signer, self._ledger.id, at)

    def checkpoint(self, *, unless_newer_than: timedelta = timedelta(0)) -> Checkpoint | None:
        """Sign what the tree says now, and keep it; return the newest checkpoint there is.

        None where nothing is sealed yet, or where this machine has no key and no other has signed. Raises
        `LedgerError` where the tree is not the one that the last checkpoint is of: that is never signed.
        """
        with self._ledger.read() as conn:
            newest, size = seals.newest_checkpoint(conn), _size(conn)
        if newest is not None:
            of_size, note, made_at = newest
            age = to_micros(self._clock()) - made_at
            if of_size == size or 0 <= age < unless_newer_than / _MICROSECOND:
                return Checkpoint.parse(note)
        if not size:
            return None
        signer = self.keys.signer
        if signer is None:
            self._tell_that_it_cannot_sign()
            return Checkpoint.parse(newest[1]) if newest else None
        with self._ledger.read(at_one_moment=True) as conn:
            made = self._signed(conn, signer, newest[1] if newest else None)
        # Noted before it is kept: what was signed once must never be signed otherwise.
        self._signed_here.write(made, self._clock())
        with suppress(LedgerConflict), self._ledger.begin() as conn:  # another process may have been quicker
            seals.add_checkpoint(conn, made.size, made.note, self._clock())
            reach(FailPoint.CHECKPOINT_WRITTEN)
        self._copy(made)
        return made

    def _signed(self, conn: sa.Connection, signer: Signer, last: str | None) -> Checkpoint:
        size, tree = seals.size(conn), seals.tree(conn)
        before = (Checkpoint.parse(last) if last else None, self.last_signed_here(conn))
        try:
            # INVARIANT(one history): what was signed before is the beginning of what is signed now.
            if any(
                one is not None and (one.size > size or tree.root(one.size) != one.root) for one in before
            ):
                raise LedgerError(f"the seals of the send log are not those that were signed: {_SEE}")
            root = tree.root(size)
        except KeyError:
            raise LedgerError(_INCOMPLETE) from None
        return Checkpoint.signed(signer, self.keys.origin, size, root)

    def _copy(self, made: Checkpoint) -> None:
        """Write the checkpoint where a copy is to live, if that is configured."""
        path = self._settings().checkpoint_file
        if path is None:
            return
        try:
            whole_files.write(path, made.note)
        except OSError as error:
            told = error.strerror or type(error).__name__
            logger.warning("checkpoint_not_copied", extra={"error": f"log.checkpoint_file: {told}"})

    def _tell_that_it_cannot_sign(self) -> None:
        if not self._has_told:
            self._has_told = True
            logger.warning(
                "log_not_signed_here", extra={"error": "the key is not on this machine: set log.key_file"}
            )


def _size(conn: sa.Connection) -> int:
    """How many leaves there are. Raises `LedgerError` where the last seal is not whole."""
    try:
        return seals.size(conn)
    except KeyError:
        raise LedgerError(_INCOMPLETE) from None
