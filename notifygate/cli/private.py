"""Files with personal data: readable for their owner only, and never written over by mistake."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from notifygate.cli.output import CommandError


def check(path: Path, *, force: bool) -> None:
    """Raise `CommandError` where a file could not be written: before anything is read that would go into it."""
    if path.exists() and not force:
        raise CommandError(f"{path} is there already; choose another name, or say --force")
    if path.is_dir() or not path.parent.is_dir():
        raise CommandError(f"{path} cannot be written: name a file in a folder that is there")


def write(path: Path, text: str, *, force: bool) -> None:
    """Write a file with mode 0600, whole or not at all. Raises `CommandError`."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(
            os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if force:
            draft.replace(path)
        else:
            os.link(draft, path)  # which fails where a file came there meanwhile
            draft.unlink()
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise CommandError(f"{path} cannot be written: {error.strerror or type(error).__name__}") from error
