"""The folder of the demo: made anew for each run, and never out of one that is not a demo's."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from notifygate.errors import NotifygateError

FOLDER_VARIABLE = "NOTIFYGATE_DEMO_DIR"
DEFAULT_FOLDER = "notifygate-demo"
MARK = ".notifygate-demo"
"""The file that says that a folder may be emptied by the demo."""


class FolderRefused(NotifygateError):
    """The folder cannot be used for the demo."""


def chosen() -> Path:
    """$NOTIFYGATE_DEMO_DIR, else `notifygate-demo` in the working directory."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    """Make the folder, empty but for its mark, and keep a second demo out of it meanwhile.

    Raises `FolderRefused` for one that holds files and is not a demo's, or that another demo is using.
    """
    try:
        lock = _lock(folder)
    except OSError as error:
        raise FolderRefused(
            f"{folder} cannot be used ({error.strerror}); name another folder in {FOLDER_VARIABLE}"
        ) from error
    with lock:
        yield


def _lock(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / MARK
    if not mark.is_file() and any(folder.iterdir()):
        raise FolderRefused(
            f"{folder} holds files and is not the demo's, so it is left alone; move it, or name another folder "
            f"in {FOLDER_VARIABLE}"
        )
    lock = mark.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != mark:
                path.unlink()
    except BlockingIOError as error:
        lock.close()
        raise FolderRefused(f"another demo is running in {folder}; wait for its end") from error
    except BaseException:
        lock.close()
        raise
    return lock
