"""Files that verbs write: there whole or not at all, and never over another by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO

from notifygate.cli.output import CommandError


def check(path: Path, *, force: bool) -> None:
    """Raise `CommandError` where a file could not be written: before anything is read that would go into it."""
    if path.is_dir():
        raise CommandError(f"{path} is a folder; name a file")
    if path.exists() and not force:
        raise there_already(path)
    if not path.parent.is_dir():
        raise CommandError(f"{path} cannot be written: there is no folder {path.parent}")


def there_already(path: Path) -> CommandError:
    """What to raise where a file would be overwritten."""
    return CommandError(f"{path} is there already; choose another name, or say --force")


def write(path: Path, text: str, *, force: bool, is_private: bool = False) -> None:
    """Write a text. Where it `is_private`, it is readable for its owner only. Raises `CommandError`."""
    with writing(path, force=force, is_private=is_private) as file:
        file.write(text)


@contextmanager
def writing(path: Path, *, force: bool, is_private: bool = False) -> Iterator[IO[str]]:
    """A file to write to, which takes its name at the end of the block. Raises `CommandError`."""
    from notifygate import whole_files

    check(path, force=force)
    mode = whole_files.ITS_OWNERS if is_private else whole_files.AS_USUAL
    try:
        with whole_files.writing(path, replaces=force, mode=mode) as whole:
            file = TextIOWrapper(whole, encoding="utf-8", newline="")
            yield file
            file.detach()  # flushes, and leaves it to be closed by whoever opened it
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or type(error).__name__}") from error
