"""Files that prove consent, known by their hash: a scanned form, a screenshot, a recorded call.

What is written to an event is `sha256:HEX SIZE TYPE`, and `; ` with what the row itself said, if anything. Neither the
file nor its name is: both may say who the person is.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile

from notifygate.cli.forms import Wrong
from notifygate.cli.output import CommandError

_WRITTEN = re.compile(
    r"sha256:(?P<sha256>[0-9a-f]{64}) (?P<size>[0-9]+) (?P<media_type>\S+)(?:; (?P<more>.*))?", re.S
)
_TYPES = mimetypes.MimeTypes()  # those that Python knows itself, so that all machines say the same
_REMEMBERED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What is known of a file: its hash, its size in bytes and its media type."""

    sha256: str
    size: int
    media_type: str

    def __str__(self) -> str:
        return f"sha256:{self.sha256} {self.size} {self.media_type}"

    def beside(self, evidence: str | None) -> str:
        """The text of an event's evidence."""
        return f"{self}; {evidence}" if evidence else str(self)


class EvidenceFolder:
    """The folder that the files of an import are in. With `keep`, those that are used are copied there by hash."""

    def __init__(self, folder: Path, keep: Path | None) -> None:
        try:
            self._folder = folder.resolve(strict=True)
        except OSError as error:
            raise CommandError(f"--evidence-dir: {folder} is not there") from error
        if not self._folder.is_dir():
            raise CommandError(f"--evidence-dir: {folder} is no folder")
        self._keep = keep
        self._read = lru_cache(maxsize=_REMEMBERED)(_attachment)  # many rows may rest on one file

    def attachment(self, name: str) -> tuple[Path, Attachment]:
        """The file of that name, and what is known of it. Raises `Wrong`, which does not repeat the name."""
        try:
            path = (self._folder / name).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise Wrong("evidence_file", "no such file in the folder of --evidence-dir") from error
        # INVARIANT(evidence stays in its folder): neither `..`, nor a link, nor an absolute path leads out of it.
        if not path.is_relative_to(self._folder):
            raise Wrong("evidence_file", "leads out of the folder of --evidence-dir")
        if not path.is_file():
            raise Wrong("evidence_file", "is no file")
        try:
            return path, self._read(path)
        except OSError as error:
            raise Wrong(
                "evidence_file", f"cannot be read: {error.strerror or type(error).__name__}"
            ) from error

    def keep(self, path: Path, attachment: Attachment) -> None:
        """Copy a file to where it is kept, if there is such a place, under its hash; once."""
        if self._keep is None:
            return
        target = self._keep / attachment.sha256
        try:
            self._keep.mkdir(mode=0o700, parents=True, exist_ok=True)
            if target.exists():
                return
            with path.open("rb") as source, NamedTemporaryFile(dir=self._keep, delete=False) as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            if _attachment(Path(copy.name)).sha256 != attachment.sha256:
                Path(copy.name).unlink()
                raise CommandError("--evidence-dir: a file changed while it was read; import again")
            Path(copy.name).replace(target)  # NamedTemporaryFile made it readable by its owner only
        except OSError as error:
            problem = error.strerror or type(error).__name__
            raise CommandError(f"--keep-evidence: {self._keep} cannot be written: {problem}") from error


def written(evidence: str | None) -> Attachment | None:
    """The file that an event's evidence names by hash, if it names one."""
    match = _WRITTEN.fullmatch(evidence or "")
    if match is None:
        return None
    return Attachment(sha256=match["sha256"], size=int(match["size"]), media_type=match["media_type"])


def is_kept_unaltered(folder: Path, attachment: Attachment) -> bool | None:
    """Whether the folder holds the file as it was. None: it is there neither by hash nor by content.

    False: the file that is kept under that hash is no longer the one that was hashed.
    """
    kept = folder / attachment.sha256
    if kept.is_file():
        return _attachment(kept).sha256 == attachment.sha256
    found = any(
        path.stat().st_size == attachment.size and _attachment(path).sha256 == attachment.sha256
        for path in _files(folder)
    )
    return True if found else None


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path


def _attachment(path: Path) -> Attachment:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
    kind, _ = _TYPES.guess_type(path.name)
    return Attachment(sha256=sha256, size=size, media_type=kind or "application/octet-stream")
