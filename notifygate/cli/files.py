"""Files that verbs write: there whole or not at all, and never over another by mistake."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from notifygate.cli.output import CommandError


def check(path: Path, *, force: bool) -> None:
    """Raise `CommandError` where a file could not be written: before anything is read that would go into it."""
    if path.is_dir():
        raise CommandError(f"{path} is a folder; name a file")
    if path.exists() and not force:
        raise CommandError(f"{path} is there already; choose another name, or say --force")
    if not path.parent.is_dir():
        raise CommandError(f"{path} cannot be written: there is no folder {path.parent}")


def write(path: Path, text: str, *, force: bool, is_private: bool = False) -> None:
    """Write a text. Where it `is_private`, it is readable for its owner only. Raises `CommandError`."""
    with writing(path, force=force, is_private=is_private) as file:
        file.write(text)


@contextmanager
def writing(path: Path, *, force: bool, is_private: bool = False) -> Iterator[IO[str]]:
    """A file to write to, which takes its name at the end of the block. Raises `CommandError`."""
    check(path, force=force)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mode = 0o600 if is_private else 0o666
    try:
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            draft.replace(path)
        else:
            os.link(draft, path)  # which fails where a file came there meanwhile
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or type(error).__name__}") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
