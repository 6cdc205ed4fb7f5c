"""How worker processes write their log: one line a record, for people or as JSON, with the fields of each event.

Of an exception a line tells its type and where it was raised. Its own words are shown only where it is one of ours:
those hold no address and no text; of any other nobody knows what it quotes.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

from notifygate.errors import NotifygateError

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What every record has: anything else is a field of the event."""


def set_up(log_format: Literal["text", "json"]) -> None:
    """Let all handlers of this process write in that format, and warnings of Python go to them as well."""
    formatter = _json() if log_format == "json" else TextLines()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    logging.captureWarnings(capture=True)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line tells of a record."""
    told: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "event": record.getMessage(),
        "process": record.process,
    }
    extra = {name: value for name, value in vars(record).items() if name not in _OWN}
    return told | _about_error(record) | {name: extra[name] for name in extra if name not in told}


class TextLines(logging.Formatter):
    """`time level event key=value …`"""

    def format(self, record: logging.LogRecord) -> str:
        told = fields(record)
        start = [str(told.pop(name)) for name in ("time", "level", "event")]
        told |= {name: told.pop(name) for name in ("logger", "process")}  # at the end
        line = " ".join([*start, *(f"{name}={_shown(value)}" for name, value in told.items())])
        # A line is a record: nothing that was logged may look like another.
        return "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class JsonLines(JsonFormatter):
        def add_fields(
            self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
        ) -> None:
            log_data.update(fields(record))

    return JsonLines()


def _shown(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    plain = text and not any(one.isspace() or one in "\"'=" for one in text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _about_error(record: logging.LogRecord) -> dict[str, Any]:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return {}
    told: dict[str, Any] = {"error_type": _causes(error), "where": where(error)}
    if isinstance(error, NotifygateError):
        told["error"] = str(error)
    return told


def _causes(error: BaseException) -> str:
    """The types of an error and of what caused it, as `LedgerError from OperationalError`."""
    names: list[str] = []
    link: BaseException | None = error
    while link is not None and len(names) < 10:
        names.append(type(link).__name__)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return " from ".join(names)


def where(error: BaseException) -> str:
    """The lines that led to an error, the last first: file and number, nothing of what was in them."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
