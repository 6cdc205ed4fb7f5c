"""A channel to a file: one JSON object a line. For development, checks, and hand-over to other programs."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from datetime import UTC
from pathlib import Path

from notifygate.channels import HandOff, HandOffOutcome, Result
from notifygate.errors import ChannelError

_logger = logging.getLogger(__name__)

# JSON leaves these unescaped, but many readers (str.splitlines among them) end a line at them.
_LINE_BREAKS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


class FileChannel:
    """Appends one JSON object a hand-off to `path`, with these keys in this order.

    `message_id`, `attempt_id`, `channel`, `to`, `sender`, `subject` (null for SMS), `text`, `at` (ISO 8601,
    UTC).

    Guarantees whole lines, whatever number of threads and processes write to one file, on any file system
    where `flock` works. A batch is on disk (`fsync`) when its last outcome has been taken. The file is
    created readable by its owner only, for it holds addresses and texts; it is opened anew for each batch
    and may be rotated.

    Raises `ChannelError` when the folder is missing or `path` is no file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        folder = self._path.parent
        if not folder.is_dir():
            raise ChannelError(
                f"path: the folder {str(folder)!r} does not exist; create it, or correct the path"
            )
        if self._path.is_dir():
            raise ChannelError(f"path: {str(self._path)!r} is a folder; name a file in it")

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        """Append each message. `failed` only when nothing of it is in the file; `in_doubt` if part may be."""
        fd: int | None = None
        try:
            for hand_off in batch:
                try:
                    if fd is None:
                        fd = self._open()
                    outcome = _append(fd, _line(hand_off))
                except OSError as error:
                    outcome = HandOffOutcome(result=Result.FAILED, detail=_detail(error))
                yield outcome
        finally:
            if fd is not None:
                _sync_and_close(fd)

    def check(self) -> str:
        """Open the file as for writing, creating it where it is missing. Raises `ChannelError`."""
        try:
            os.close(self._open())
        except OSError as error:
            wanted = "let this user write there, or correct the path"
            raise ChannelError(
                f"file {str(self._path)!r} cannot be written: {_detail(error)}; {wanted}"
            ) from error
        return f"file {self._path} can be written"

    def close(self) -> None:
        """Do nothing: the file is open only while a batch is written."""

    def _open(self) -> int:
        # Read as well as write: the last byte tells whether an earlier writer was cut off.
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _line(hand_off: HandOff) -> bytes:
    fields = {
        "message_id": hand_off.message_id,
        "attempt_id": hand_off.attempt_id,
        "channel": str(hand_off.channel),
        "to": hand_off.to,
        "sender": hand_off.sender,
        "subject": hand_off.subject,
        "text": hand_off.text,
        "at": hand_off.at.astimezone(UTC).isoformat(),
    }
    return json.dumps(fields, ensure_ascii=False).translate(_LINE_BREAKS).encode() + b"\n"


def _append(fd: int, line: bytes) -> HandOffOutcome:
    """Append one line under the lock. An `OSError` means that the file is as it was."""
    # The lock belongs to this open file, so it also keeps out other threads: each batch opens its own.
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        before = os.fstat(fd).st_size
        if before and os.pread(fd, 1, before - 1) != b"\n":
            line = b"\n" + line  # A writer was killed, or the power went: end its line so that ours is whole.
        # INVARIANT(file-whole-lines): one write for one line; a short one (disk full) is taken back.
        written = os.write(fd, line)
        if written == len(line):
            return HandOffOutcome(result=Result.ACCEPTED)
        try:
            os.ftruncate(fd, before)
        except OSError:
            return HandOffOutcome(result=Result.IN_DOUBT, detail="file line torn")
        return HandOffOutcome(result=Result.FAILED, detail="file short write")
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        # EINVAL: a pipe or a device, which cannot be synced. Else the outcomes are out already: say so,
        # loudly.
        if error.errno != errno.EINVAL:
            _logger.error("file_channel_not_synced error=%s", _detail(error))  # noqa: TRY400  # no path in logs
    finally:
        os.close(fd)


def _detail(error: OSError) -> str:
    return f"file {errno.errorcode.get(error.errno or 0, 'error')}"
