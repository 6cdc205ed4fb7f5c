"""How log lines look, and that no error's own words get into them."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from notifygate import logs
from notifygate.errors import LedgerError

FORMATTERS = pytest.mark.parametrize("formatter", [logs.TextLines(), logs._json()], ids=["text", "json"])


def record(event: str, *arguments: object, **extra: object) -> logging.LogRecord:
    logger = logging.getLogger("notifygate.delivery")
    return logger.makeRecord(
        logger.name, logging.WARNING, "delivery.py", 7, event, arguments, None, extra=extra
    )


def failed(error: BaseException) -> logging.LogRecord:
    """A record as Dramatiq makes it of a job that raised."""
    made = record("Failed to process message %s with unhandled exception.", "process_service(['msg_1'])")
    try:
        raise error
    except type(error):
        made.exc_info = sys.exc_info()
    return made


def test_a_line_of_text_reads_time_level_event_fields() -> None:
    line = logs.TextLines().format(
        record("lease_ran_out", message_id="msg_1", reasons=["expired", "duplicate"])
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 WARNING lease_ran_out message_id=msg_1 "
        r"reasons=expired,duplicate logger=notifygate\.delivery process=\d+",
        line,
    )


def test_a_line_of_json_has_the_same() -> None:
    told = json.loads(logs._json().format(record("lease_ran_out", message_id="msg_1", reasons=["expired"])))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", told.pop("time"))
    assert isinstance(told.pop("process"), int)
    assert told == {
        "level": "WARNING",
        "logger": "notifygate.delivery",
        "event": "lease_ran_out",
        "message_id": "msg_1",
        "reasons": ["expired"],
    }


@FORMATTERS
def test_a_record_is_one_line_whatever_is_in_it(formatter: logging.Formatter) -> None:
    line = formatter.format(record("two\nlines %s", "\r\x1b[2J", detail='a b\u2028c="d"', empty=""))
    assert line.isprintable()


@FORMATTERS
def test_a_field_cannot_take_the_place_of_what_every_line_has(formatter: logging.Formatter) -> None:
    line = formatter.format(record("event", level="NONE", time="never"))
    assert "NONE" not in line
    assert "never" not in line


@FORMATTERS
def test_of_a_foreign_error_only_types_and_places_are_told(formatter: logging.Formatter) -> None:
    error = RuntimeError("kirsten@example.dk")
    error.__cause__ = KeyError("26714839")
    error.__cause__.__context__ = ValueError("overraskelse")
    line = formatter.format(failed(error))

    assert "RuntimeError from KeyError from ValueError" in line
    assert "test_logs.py:" in line
    assert "msg_1" in line
    assert not re.search("kirsten|26714839|overraskelse|Traceback", line)


@FORMATTERS
def test_of_an_error_of_ours_the_words_are_told_too(formatter: logging.Formatter) -> None:
    error = LedgerError("the ledger cannot be used")
    error.__cause__ = ValueError("kirsten@example.dk")
    line = formatter.format(failed(error))

    assert "the ledger cannot be used" in line
    assert "LedgerError from ValueError" in line
    assert "kirsten" not in line


def test_an_error_in_a_ring_of_causes_ends_somewhere() -> None:
    first, second = RuntimeError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert "RuntimeError from KeyError" in logs.TextLines().format(failed(first))
