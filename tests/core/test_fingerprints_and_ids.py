"""Keyed fingerprints, folded texts, and ids that sort by time."""

from __future__ import annotations

import os
import re
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from notifygate import ids
from notifygate.fingerprint import Fingerprints, normalised
from notifygate.ids import new_id

KEYED = Fingerprints(b"secret")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=5), max_size=3), st.lists(st.text(max_size=5), max_size=3))
def test_different_parts_have_different_fingerprints_however_they_are_cut(
    one: list[str], other: list[str]
) -> None:
    assume(one != other)
    assert KEYED.of("kind", *one) != KEYED.of("kind", *other)


def test_the_same_parts_have_the_same_fingerprint_under_the_same_key_and_kind_only() -> None:
    assert KEYED.of("kind", "a", "b") == Fingerprints(b"secret").of("kind", "a", "b")
    assert KEYED.of("kind", "a", "b") != KEYED.of("kind", "ab")
    assert KEYED.of("kind", "a") != KEYED.of("other", "a")
    assert KEYED.of("kind", "a") != Fingerprints(b"other").of("kind", "a")
    assert re.fullmatch(r"[0-9a-f]{64}", KEYED.of("kind", "a"))


def test_half_a_surrogate_pair_breaks_nothing() -> None:
    assert KEYED.of("kind", "\ud800") != KEYED.of("kind", "\udfff")


@pytest.mark.parametrize(
    "alike",
    ["hello world", " Hello \n\t WORLD ", "\uff48\uff45\uff4c\uff4c\uff4f\u00a0world", "HELLO\u2003WORLD"],
)
def test_what_readers_do_not_notice_is_folded(alike: str) -> None:
    assert normalised(alike) == "hello world"


@pytest.mark.parametrize("other", ["hello, world", "helloworld", "hello world 1"])
def test_what_readers_do_notice_is_kept(other: str) -> None:
    assert normalised(other) != "hello world"


def test_ids_are_unique_and_sort_by_the_time_they_were_made() -> None:
    made = [new_id("msg") for _ in range(10_000)]

    assert len(set(made)) == 10_000
    assert made == sorted(made)
    assert re.fullmatch(r"msg_[0-9a-f]{32}", made[0])


def test_ids_sort_in_the_order_of_their_making_where_the_clock_stands_still_or_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time_ns()
    monkeypatch.setattr(ids, "_pool", ids._Pool())
    times = iter([now, now, now, now - 5_000_000, now + 1, now + 3_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(times))

    made = [new_id("msg") for _ in range(6)]

    assert made == sorted(made)
    assert len(set(made)) == 6


def test_a_forked_process_makes_other_ids_than_its_parent() -> None:
    new_id("msg")  # from here on there are random bytes at hand
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, "".join(new_id("msg")[-15:] for _ in range(50)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 1_000).decode()
    theirs = {told[start : start + 15] for start in range(0, len(told), 15)}

    assert len(theirs) == 50
    assert theirs.isdisjoint({new_id("msg")[-15:] for _ in range(200)})
