"""Files that are there whole or not at all, also after a machine has lost power."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

ITS_OWNERS = 0o600
"""The mode of a file that only its owner may read."""
AS_USUAL = 0o666
"""The mode of all others, less what the process takes away (its umask)."""


@contextmanager
def writing(path: Path, *, replaces: bool, mode: int) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name at the end of the block. Raises `OSError`; then it is not there.

    Unless it `replaces`, one that is there by then is a `FileExistsError`.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replaces:
            draft.replace(path)
        else:
            os.link(draft, path)  # which fails where a file came there meanwhile
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a text, over another if one is there. Raises `OSError`."""
    with writing(path, replaces=True, mode=AS_USUAL) as file:
        file.write(text.encode())
