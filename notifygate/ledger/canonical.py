"""The canonical form of a row of the send log: the bytes whose hash is its leaf in the Merkle tree.

It is the JSON object of all columns, in the JSON Canonicalization Scheme. `at` is in microseconds since 1970 UTC, and
`body` the object that it is. `position` is in it, so that the order in which rows are shown is proved as well.

Source: RFC 8785. A whole number of 2 ** 53 or more, which that does not know, is written out in digits. A row with a
column that is not what it should be, which the gateway never writes, has a form of its own: it must neither stop the
sealing nor pass for another. Where it is the body, the row is sealed as it stands, and does not verify.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import orjson
import rfc8785

from notifygate.ledger.schema import ledger

COLUMNS = tuple(sorted(str(column.name) for column in ledger.columns))
"""The columns of the canonical form, in its order."""

# Numbers that are not whole: orjson may write them otherwise. What a number may begin with is made one digit first: so
# little begins like this then that it is found fast. A text that looks like a number only costs time.
_ALIKE = bytes.maketrans(b"-123456789E", b"0" * 10 + b"e")
_IN_OBJECT, _IN_LIST, _LATER_IN_LIST = (
    re.compile(start + rb"0*[.e]").search for start in (rb'":0', rb"\[0", rb",0")
)
_SPACED, _BEGINNING = '": ', 100  # what others write where the gateway writes no space, and where one is seen
_ODD = b"odd row: "


class _Columns(Protocol):
    def __getitem__(self, name: str, /) -> Any: ...


def canonical(row: _Columns) -> bytes:
    """The canonical form of a row, given by its columns as the database has them: `body` is JSON text."""
    shown = {name: row[name] for name in COLUMNS}
    try:
        return _canonical(shown)
    except (TypeError, ValueError):
        return _ODD + ascii(sorted(shown.items())).encode()


def canonical_of_ours(values: Sequence[Any]) -> bytes:
    """The canonical form of a row that the gateway wrote, given by its `COLUMNS` in order, in half the time.

    It writes bodies in their canonical form, which therefore are not parsed. A row that somebody else put in may so get
    another form than `canonical` gives it, and does not pass for one of the gateway's.
    """
    shown = dict(zip(COLUMNS, values, strict=True))
    try:
        _check_numbers(shown)
        if _SPACED in shown["body"][:_BEGINNING]:
            return canonical(shown)
        written = orjson.dumps({**shown, "body": orjson.Fragment(shown["body"])})
    except (TypeError, ValueError):
        return canonical(shown)
    return written if _is_canonical(written) else canonical(shown)


def _check_numbers(row: dict[str, Any]) -> None:
    if type(row["at"]) is not int or type(row["position"]) is not int:
        raise TypeError("at and position are whole numbers")


def _is_canonical(written: bytes) -> bool:
    """Whether what orjson wrote, with its keys in order, is certainly in the scheme: plain ASCII without fractions."""
    alike = written.translate(_ALIKE)
    return written.isascii() and not (_IN_OBJECT(alike) or _IN_LIST(alike) or _LATER_IN_LIST(alike))


def _canonical(row: dict[str, Any]) -> bytes:
    """Raises `TypeError` or `ValueError` for what is no row as the gateway writes it: SQLite keeps anything."""
    _check_numbers(row)
    shown = {**row, "body": orjson.loads(row["body"])}
    written = orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)
    if _is_canonical(written):
        return written
    try:
        return rfc8785.dumps(shown)
    except rfc8785.CanonicalizationError:
        return written
