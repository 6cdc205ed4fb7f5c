"""Asking an HTTP provider what became of a message in doubt. A wrong "never accepted" would send it twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Any

import pytest
from support.rude_servers import CLOSES, HANGS, RESETS, Does, RudeHttpServer, Then, free_port

from notifygate.channels import HandOffOutcome, Inquiry, LooksUp, Result
from notifygate.channels.http import HttpChannel
from notifygate.channels.kannel import KannelChannel
from notifygate.channels.null import NullChannel
from notifygate.channels.smtp import SmtpChannel

AT = datetime(2026, 3, 4, 9, 30, tzinfo=UTC)
INQUIRY = Inquiry(message_id="m-1", attempt_id="a-1", provider_id="p/1 æ", at=AT)
UNNAMED = Inquiry(message_id="m-1", attempt_id="a-1", provider_id=None, at=AT)


def answer(status: int, body: str = "", *headers: str) -> Does:
    head = "\r\n".join([f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers])
    return Does(f"{head}\r\n\r\n{body}".encode("latin-1"))


def half(status: int, then: Then) -> Does:
    return Does(f"HTTP/1.1 {status} x\r\nContent-Length: 100\r\n\r\nshort".encode(), then)


Ask = Callable[..., HandOffOutcome | None]


@pytest.fixture
def servers() -> list[RudeHttpServer]:
    """The servers that were asked."""
    return []


@pytest.fixture
def ask(servers: list[RudeHttpServer]) -> Iterator[Ask]:
    """Ask a server that does one thing; `path` is that of the look-up."""
    with ExitStack() as open_ones:

        def ask(
            does: Does, inquiry: Inquiry = INQUIRY, path: str = "/status/{message_id}", **settings: Any
        ) -> HandOffOutcome | None:
            server = open_ones.enter_context(RudeHttpServer(does))
            servers.append(server)
            origin = f"http://127.0.0.1:{server.port}"
            options: dict[str, Any] = {"timeout_s": 0.2, "lookup_url": origin + path} | settings
            with closing(HttpChannel(url=f"{origin}/send", **options)) as channel:
                return channel.look_up(inquiry)

        yield ask


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_what_the_provider_knows_was_accepted(status: int, ask: Ask) -> None:
    assert ask(answer(status)) == HandOffOutcome(result=Result.ACCEPTED, detail=f"look-up http {status}")


def test_its_id_is_read_as_from_any_answer(ask: Ask) -> None:
    known = answer(200, '{"messages": [{"id": 17}]}')
    found = ask(known, provider_id_path="messages.0.id")
    assert found is not None
    assert found.provider_id == "17"
    nameless = ask(answer(200, "<html>"), provider_id_path="messages.0.id")
    assert nameless == HandOffOutcome(result=Result.ACCEPTED, detail="look-up http 200")


@pytest.mark.parametrize("status", [404, 410])
def test_what_the_provider_has_never_heard_of_was_never_accepted(status: int, ask: Ask) -> None:
    assert ask(answer(status)) == HandOffOutcome(result=Result.FAILED, detail=f"look-up http {status}")


@pytest.mark.parametrize(
    "does",
    [
        *[answer(status) for status in (400, 401, 403, 405, 406, 408, 409, 422, 429, 451)],
        answer(429, "", "Retry-After: 7"),
        *[answer(status) for status in (500, 501, 502, 503, 504, 600)],
        *[answer(status, "", "Location: /nowhere") for status in (301, 302, 303, 307, 308)],
        answer(302, "", "Location: http:nowhere"),
        *[half(status, then) for status in (200, 404, 410) for then in (Then.CLOSE, Then.RESET, Then.HANG)],
        *[CLOSES, RESETS, HANGS],
        Does(b"HTTP/1.1 40", Then.CLOSE),
        Does(b"HTTP/1.1 404 x\r\nContent-Le", Then.CLOSE),
        Does(b"404\r\n", Then.CLOSE),
    ],
    ids=str,
)
def test_only_unknown_is_never_accepted(does: Does, ask: Ask, servers: list[RudeHttpServer]) -> None:
    assert ask(does) is None
    assert len(servers[0].requests) == 1, "asked once, and not sent elsewhere"


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/{message_id}", "http://127.0.0.1:{port}/{{message_id}}"]
)
def test_where_nobody_answers_nothing_is_known(url: str, ask: Ask) -> None:
    if "{port}" in url:
        url = url.format(port=free_port())
    assert ask(answer(404), lookup_url=url) is None


def test_it_is_a_get_with_the_drivers_own_authentication_and_headers(
    ask: Ask, servers: list[RudeHttpServer]
) -> None:
    found = ask(
        answer(200),
        path="/v1/{provider_id}/{message_id}?try={attempt_id}&key={secret.key}",
        username="shop",
        password="right",
        secrets={"key": "a&b"},
        headers={
            "X-Id": "{message_id}",
            "X-Key": "{secret.key}",
            "X-To": "{to}",
            "X-Text": "{text}",
            "Content-Type": "application/json",
        },
    )
    assert found is not None
    [request] = servers[0].requests
    head = request.decode("latin-1").split("\r\n")
    assert head[0] == "GET /v1/p%2F1%20%C3%A6/m-1?try=a-1&key=a%26b HTTP/1.1"
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    assert headers["authorization"] == "Basic c2hvcDpyaWdodA=="
    assert (headers["x-id"], headers["x-key"]) == ("m-1", "a&b")
    assert headers.keys().isdisjoint({"x-to", "x-text", "content-type", "content-length"})


@pytest.mark.parametrize("provider_id", [None, "", ".", ".."])
def test_without_the_providers_id_it_is_not_asked_by_it(
    provider_id: str | None, ask: Ask, servers: list[RudeHttpServer]
) -> None:
    inquiry = Inquiry(message_id="m-1", attempt_id="a-1", provider_id=provider_id, at=AT)
    assert ask(answer(404), inquiry, path="/status/{provider_id}") is None
    assert servers[0].requests == []


def test_without_the_providers_id_it_is_asked_by_ours(ask: Ask) -> None:
    assert ask(answer(404), UNNAMED) is not None


def test_nothing_that_was_asked_or_answered_is_logged(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ask(answer(200, "+4520123456"), path="/{message_id}?key={secret.key}", secrets={"key": "s3cret"})
    everything = "\n".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    for secret in ("s3cret", "20123456", "/m-1"):
        assert secret not in everything


def test_who_looks_up_says_so() -> None:
    settings: dict[str, Any] = {"url": "http://x.example/send"}
    asking = HttpChannel(**settings, lookup_url="http://x.example/status/{message_id}")
    silent = HttpChannel(**settings)
    drivers: list[object] = [
        SmtpChannel(host="localhost"),
        KannelChannel(**settings, username="a", password="b"),
        NullChannel(),
    ]
    assert isinstance(asking, LooksUp)
    assert (asking.looks_up, silent.looks_up, silent.look_up(INQUIRY)) == (True, False, None)
    assert not any(isinstance(driver, LooksUp) for driver in drivers)
