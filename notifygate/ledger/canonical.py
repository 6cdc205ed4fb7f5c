"""The canonical form of a row of the send log: the bytes whose hash is its leaf in the Merkle tree.

It is the JSON object of all columns, in the JSON Canonicalization Scheme. `at` is in microseconds since 1970 UTC, and
`body` the object that it is. `position` is in it, so that the order in which rows are shown is proved as well.

Source: RFC 8785. A whole number of 2 ** 53 or more, which that does not know, is written out in digits. A row with a
column that is not what it should be, which the gateway never writes, has a form of its own: it must neither stop the
sealing nor pass for another.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import orjson
import rfc8785

from notifygate.ledger.schema import ledger

COLUMNS = tuple(sorted(str(column.name) for column in ledger.columns))
"""The columns of the canonical form, in its order."""

# Numbers that are not whole: orjson may write them otherwise. A text that looks like one only costs time. Three, each
# with a beginning of its own, are found several times as fast as all at once.
_FRACTIONS = tuple(re.compile(start + rb"-?\d+[.eE]").search for start in (rb'":', rb"\[", rb","))
_ODD = b"odd row: "
_NUMBERS = ("at", "position")


class _Columns(Protocol):
    def __getitem__(self, name: str, /) -> Any: ...


def canonical(row: _Columns) -> bytes:
    """The canonical form of a row, given by its columns as the database has them: `body` is JSON text."""
    shown = {name: row[name] for name in COLUMNS}
    try:
        return _canonical(shown)
    except (TypeError, ValueError):
        return _ODD + ascii(sorted(shown.items())).encode()


def _canonical(row: dict[str, Any]) -> bytes:
    """Raises `TypeError` or `ValueError` for what is no row as the gateway writes it: SQLite keeps anything."""
    for name in _NUMBERS:
        if type(row[name]) is not int:
            raise TypeError(name)
    shown = {**row, "body": orjson.loads(row["body"])}
    written = orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)
    if written.isascii() and not any(search(written) for search in _FRACTIONS):
        return written
    try:
        return rfc8785.dumps(shown)
    except rfc8785.CanonicalizationError:
        return written
