"""The folder in which the processes of one `dramatiq` command keep their figures together.

It is named for the parent of these processes, and found unused, is emptied: figures start afresh with a command. Each
process holds a lock on it while it lives, so that what is left of others can be told from what is in use; a process id
alone would not tell, for the system gives it out again.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import shutil
import socket
from pathlib import Path
from typing import IO

from notifygate.errors import NotifygateError

_LOCK = "users.lock"
_held: dict[Path, IO[bytes]] = {}


def join(data_dir: Path) -> Path:
    """Make or find the folder of this process and its siblings; hold it until this process ends.

    The folders of commands that have ended are removed. Raises `NotifygateError` where `data_dir` cannot be written.
    """
    try:
        return _join(data_dir.resolve() / "metrics")
    except OSError as error:
        raise NotifygateError(
            f"gateway.data_dir: {data_dir} cannot be written ({error.strerror or type(error).__name__}), "
            "and monitoring.listen needs it"
        ) from error


def _join(all_folders: Path) -> Path:
    folder = all_folders / _name()
    if folder in _held:
        return folder
    all_folders.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (all_folders / "folders.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for one in all_folders.iterdir():
            if one.is_dir() and not _in_use(one):
                shutil.rmtree(one, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _held[folder] = (folder / _LOCK).open("ab")
        fcntl.flock(_held[folder], fcntl.LOCK_SH)
    return folder


def _in_use(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _name() -> str:
    """The parent by host and process id: containers that share a disk have process ids of their own."""
    parent = multiprocessing.parent_process()
    pid = os.getpid() if parent is None else parent.pid
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "host"
    return f"{host}-{pid}"
