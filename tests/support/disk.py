"""Disks that are full when a test says so, for an SQLite ledger."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from notifygate import Gateway


class Disk(Protocol):
    """Something that a ledger is kept on."""

    def fill(self) -> None:
        """Leave no room at all."""

    def clear(self) -> None:
        """Make room again."""


class PageLimit:
    """No disk, but SQLite's own limit: its file may not grow. For machines on which a test may mount nothing."""

    def __init__(self, gate: Gateway) -> None:
        self._is_full = False
        sa.event.listen(gate._runtime.ledger.engine, "checkout", self._set)

    def fill(self) -> None:
        self._is_full = True

    def clear(self) -> None:
        self._is_full = False

    def _set(self, connection: Any, record: object, proxy: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0] if self._is_full else 2**30
        connection.execute(f"PRAGMA max_page_count = {pages}")


class Tmpfs:
    """A file system of a few megabytes, mounted for the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def clear(self) -> None:
        self._filler.unlink(missing_ok=True)

    def make_read_only(self) -> None:
        _mount("-o", "remount,ro", str(self.folder))


@contextmanager
def mounted(folder: Path) -> Iterator[Tmpfs | None]:
    """Mount a small disk on a new folder; yield None where this user, or this machine, may not mount."""
    folder.mkdir()
    if os.geteuid() != 0 or not _mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)):
        yield None
        return
    try:
        yield Tmpfs(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
