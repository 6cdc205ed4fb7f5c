"""The canonical form of rows of the send log: RFC 8785."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from notifygate.ledger.canonical import COLUMNS, canonical, canonical_of_ours
from notifygate.ledger.schema import ledger

numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(texts, values, max_size=5)


def row(body: Any, **columns: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | {
        "position": 7,
        "at": 1_780_000_000_000_000,
        "kind": "decision",
        **columns,
        "body": body,
    }


@given(body=bodies, merchant=st.none() | texts)
def test_is_the_json_canonicalization_scheme(body: dict[str, Any], merchant: str | None) -> None:
    expected = rfc8785.dumps(row(body, merchant=merchant))

    assert canonical(row(json.dumps(body), merchant=merchant)) == expected


@given(body=bodies, merchant=st.none() | texts)
def test_of_a_body_that_the_gateway_wrote_it_need_not_be_parsed(
    body: dict[str, Any], merchant: str | None
) -> None:
    as_written = row(orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode(), merchant=merchant)

    assert canonical_of_ours([as_written[name] for name in COLUMNS]) == canonical(as_written)


def test_a_body_that_is_spread_out_is_parsed() -> None:
    spread = row('{"a": [1, 2], "b": "x"}')

    assert canonical_of_ours([spread[name] for name in COLUMNS]) == canonical(spread)


def test_a_body_in_another_order_than_the_gateway_writes_does_not_pass_for_one_of_its_own() -> None:
    other = row('{"b":1,"a":2}')

    assert canonical_of_ours([other[name] for name in COLUMNS]) != canonical(other)


def test_does_not_depend_on_how_the_database_keeps_the_body() -> None:
    assert canonical(row('{"b": [1, 2],\n "a": "x"}')) == canonical(row('{"a":"x","b":[1,2]}'))


def test_has_every_column() -> None:
    written = json.loads(canonical(row("{}")))

    assert sorted(written) == sorted(column.name for column in ledger.columns)


@pytest.mark.parametrize(
    "odd",
    [{"body": "{"}, {"body": None}, {"at": "abc"}, {"at": None}, {"reason": b"\xff"}, {"reason": "\udcff"}],
)
def test_an_odd_row_has_a_form_of_its_own(odd: dict[str, Any]) -> None:
    written = canonical(row("{}") | odd)

    assert written.startswith(b"odd row: ")
    assert written != canonical(row("{}") | odd | {"kind": "attempt"})


@pytest.mark.parametrize("odd", [{"body": "{"}, {"body": None}, {"at": "abc"}, {"reason": b"\xff"}])
def test_an_odd_row_does_not_keep_those_beside_it_from_being_sealed(odd: dict[str, Any]) -> None:
    found = row("{}") | odd

    assert canonical_of_ours([found[name] for name in COLUMNS]) != canonical(row("{}"))


def test_a_number_that_the_scheme_does_not_know_is_written_out() -> None:
    assert b'"n":123456789012345678' in canonical(row('{"n": 123456789012345678}'))
