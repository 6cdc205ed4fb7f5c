"""Probes answer in bounded time, keep an answer for a moment, and ask no second question while one hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import sqlalchemy as sa
from support.processes import wait_until

from notifygate.errors import LedgerError
from notifygate.probes import Probe, _patient_url


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """What a question hangs on, until it is set."""
    event = threading.Event()
    yield event
    event.set()


def counting(answers: Iterator[int]) -> Callable[[], int]:
    return lambda: next(answers)


def test_an_answer_is_kept_for_a_moment() -> None:
    probe = Probe(counting(count(1)), within_s=5, keep_s=0.2)
    assert [probe.answer() for _ in range(3)] == [1, 1, 1]
    wait_until(lambda: probe.answer() == 2, within_s=5, what="it is asked again")


def test_a_question_that_hangs_is_unanswered_in_time_and_asked_by_one_thread_only(
    hanging: threading.Event,
) -> None:
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        hanging.wait(30)
        return "ok"

    probe = Probe(ask, within_s=0.3, keep_s=0)
    started_at = time.monotonic()
    assert [probe.answer() for _ in range(20)] == [None] * 20
    assert time.monotonic() - started_at < 3
    assert asked == [1]
    hanging.set()
    wait_until(lambda: probe.answer() == "ok", within_s=5, what="it is answered again")


@pytest.mark.parametrize("error", [LedgerError("down"), ValueError("a bug")])
def test_a_question_that_fails_is_unanswered(error: Exception) -> None:
    def ask() -> str:
        raise error

    assert Probe(ask, within_s=5, keep_s=1).answer() is None


def test_connections_of_the_endpoint_give_up_on_a_server_that_vanished_unless_the_url_says_otherwise() -> (
    None
):
    url = "postgresql+psycopg://gate:pass%40word@db/notifygate?connect_timeout=30"
    patient = sa.engine.make_url(_patient_url(url))
    assert patient.password == "pass@word"
    assert patient.query["connect_timeout"] == "30"
    assert patient.query["tcp_user_timeout"] == "5000"
    assert _patient_url("sqlite:////tmp/ledger.db") == "sqlite:////tmp/ledger.db"
