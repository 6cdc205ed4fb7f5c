"""What becomes of a text message, whatever an HTTP provider does: every row is acted out by a real server.

The status codes are those of RFC 9110, 429 is that of RFC 6585. That a request which was sent, and not refused, may
have been carried out is RFC 9110 section 9.2.2; that an answer may be cut off is RFC 9112 section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from support.channel_contract import Promise, documented, each
from support.rude_servers import CLOSES, HANGS, RESETS, Does, RudeHttpServer, Then, free_port

from notifygate.address import Channel
from notifygate.channels import HandOff, Result
from notifygate.channels.http import HttpChannel
from notifygate.channels.kannel import KannelChannel

ACCEPTED, REJECTED, FAILED, IN_DOUBT = Result.ACCEPTED, Result.REJECTED, Result.FAILED, Result.IN_DOUBT

SMS = HandOff(
    message_id="m-1",
    attempt_id="a-1",
    channel=Channel.SMS,
    to="+4520123456",
    sender="Cykelpartn",
    text="Hej Anna",
    at=datetime(2026, 3, 4, 9, 30, tzinfo=UTC),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One way to act a row out: what the server does, and when; the driver's settings, and the message."""

    does: Does = CLOSES
    before_reading: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    message: HandOff = SMS

    def __str__(self) -> str:
        return f"{self.does.says!r} {self.does.then.name}" + (
            " before reading" if self.before_reading else ""
        )


def answer(status: int, body: str = "", *headers: str) -> Does:
    """A whole answer."""
    head = "\r\n".join([f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers])
    return Does(f"{head}\r\n\r\n{body}".encode("latin-1"))


def part_of_answer(status: int, then: Then) -> Does:
    """An answer that promises more than comes."""
    return Does(f"HTTP/1.1 {status} x\r\nContent-Length: 100\r\n\r\nshort".encode(), then)


def part_of_chunks(status: int, then: Then) -> Does:
    """The same, where the length is not told beforehand (RFC 9112 section 7.1)."""
    return Does(f"HTTP/1.1 {status} x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n".encode(), then)


def cases(acts: Iterable[Does], **more: Any) -> list[Case]:
    return [Case(does, **more) for does in acts]


def answers(*statuses: int, body: str = "anna and +4520123456") -> list[Case]:
    return cases(answer(status, body) for status in statuses)


# What the two drivers have in common.
COMMON: dict[Promise, list[Case]] = {
    # ---- no connection: nothing was sent, and the rest of the batch waits as well
    Promise("refuses the connection", FAILED, "connection refused"): [Case(url="http://127.0.0.1:{port}/")],
    Promise("has a name that DNS does not know", FAILED, "dns failure"): [
        Case(url="http://no-such-host.invalid/")
    ],
    Promise("speaks no TLS where the url is https", FAILED, "tls failure"): [
        Case(
            Does(b"220 mail.example\r\n" * 5, Then.HANG), before_reading=True, url="https://127.0.0.1:{port}/"
        )
    ],
    Promise("is silent in the TLS handshake", FAILED, "timeout at connect"): [
        Case(HANGS, before_reading=True, url="https://127.0.0.1:{port}/")
    ],
    Promise("has a certificate that is not trusted", FAILED, "certificate not trusted"): [
        Case(Does(then=Then.TLS), before_reading=True, url="https://127.0.0.1:{port}/")
    ],
    # ---- sent, and not answered
    Promise(
        "closes or resets the connection, whether it has read the request or not", IN_DOUBT, "connection lost"
    ): [
        *cases([CLOSES, RESETS], before_reading=True),
        *cases([CLOSES, RESETS]),
    ],
    Promise("is silent instead of an answer", IN_DOUBT, "timeout"): [
        *cases([HANGS, Does(b"HTTP/1.1 20", Then.HANG), Does(b"HTTP/1.1 200 OK\r\nContent-", Then.HANG)]),
        *cases([HANGS], before_reading=True),
    ],
    Promise("answers what is no HTTP, or is cut off in its head", IN_DOUBT, "connection lost"): cases(
        [
            Does(b"HTTP/1.1 20", Then.CLOSE),
            Does(b"HTTP/1.1 200 OK\r\nContent-Le", Then.CLOSE),
            Does(b"220 mail.example\r\n", Then.CLOSE),
            Does(b"HTTP/1.1 2_0 OK\r\n\r\n", Then.CLOSE),
            Does(b"HTTP/1.1 202 OK\r\nContent-Length: some\r\n\r\n", Then.CLOSE),
        ]
    ),
    # ---- answered
    Promise(
        "answers a yes whose content is cut off or does not come", IN_DOUBT, "http NNN, answer cut off"
    ): cases(
        part(202, then)
        for part in (part_of_answer, part_of_chunks)
        for then in (Then.CLOSE, Then.RESET, Then.HANG)
    ),
    Promise("redirects (3xx but 303)", FAILED, "http NNN"): cases(
        answer(status, "", f"Location: {where}")
        for status in (301, 302, 307, 308)
        for where in ("/elsewhere", "http:elsewhere", "http://[x", "\xff")
    ),
    Promise("says that the result is elsewhere (303)", IN_DOUBT, "http NNN"): cases(
        answer(303, "", f"Location: {where}") for where in ("/elsewhere", "http:elsewhere", "http://[x")
    ),
    Promise("finds fault with the message (400, 409, 413, 422 and other 4xx)", REJECTED, "http NNN"): [
        *answers(400, 409, 413, 414, 422, 431, 451, 499),
        *cases(part_of_answer(400, then) for then in (Then.CLOSE, Then.HANG)),
    ],
    Promise(
        "finds fault with us, or has no time (401, 402, 403, 404, 405, 406, 407, 408, 410, 411, 415, 421, 423, 425, "
        "426, 429)",
        FAILED,
        "http NNN",
    ): [
        *answers(401, 402, 403, 404, 405, 406, 407, 408, 410, 411, 415, 421, 423, 425, 426, 429),
        *cases(part_of_answer(429, then) for then in (Then.CLOSE, Then.HANG)),
        *cases(answer(429, "", f"Retry-After: {value}") for value in ("7", "soon", "9" * 400)),
        Case(answer(429, "", "Retry-After: Fri, 31 Dec 99999999999 23:59:59 GMT")),
    ],
    Promise("says 413 and when to come again (Retry-After)", FAILED, "http NNN"): cases(
        [answer(413, "", "Retry-After: 7")]
    ),
    Promise("says 5xx, with Retry-After or without", IN_DOUBT, "http NNN"): [
        *answers(500, 501, 502, 503, 504, 507, 599),
        *cases(answer(503, "", f"Retry-After: {value}") for value in ("7", "soon")),
        *cases(part_of_answer(503, then) for then in (Then.CLOSE, Then.HANG)),
    ],
    Promise("answers with a status that HTTP does not know", IN_DOUBT, "http NNN"): answers(600, 999),
    # ---- not the provider's doing
    Promise("is not asked: the number is not international", REJECTED, "no international number"): [
        Case(message=replace(SMS, to="20 12 34 56"))
    ],
}

HTTP: dict[Promise, list[Case]] = COMMON | {
    Promise("answers 2xx", ACCEPTED, "http NNN"): [
        *answers(200, 201, 202, 204),
        Case(answer(202), settings={"accepted_statuses": [200, 202]}),
        # A yes is a yes, whatever else the answer fails to say.
        *cases(
            [answer(200, body) for body in ("<html>", '{"id": ', "", "[" * 60_000, " " * 100_000)],
            settings={"provider_id_path": "id"},
        ),
        Case(answer(200, "not gzip", "Content-Encoding: gzip"), settings={"provider_id_path": "id"}),
    ],
    Promise("answers a 2xx that `accepted_statuses` does not name", IN_DOUBT, "http NNN"): [
        Case(answer(206), settings={"accepted_statuses": [200, 202]})
    ],
    Promise("is not asked: a header cannot hold the value", REJECTED, "header cannot hold this value"): [
        Case(settings={"headers": {"X-Text": "{text}"}}, message=replace(SMS, text="a\r\nX-Evil: 1"))
    ],
}

KANNEL: dict[Promise, list[Case]] = COMMON | {
    Promise("answers 202, or 200 with Kannel's own words", ACCEPTED, "http NNN"): [
        *answers(202, 200, body="0: Accepted for delivery"),
        *answers(202, 200, body="3: Queued for later delivery"),
        *answers(202, 200, body="Sent."),
        *answers(202),
    ],
    Promise("answers 200 with other words, or another 2xx", IN_DOUBT, "http NNN"): answers(
        200, 201, 204, body="<html>log in to the wifi"
    ),
    Promise("says 503 `Temporal failure`", FAILED, "kannel NNN temporal failure"): answers(
        503, body="Temporal failure, try again later."
    ),
    Promise("says 403 `Not routable`", REJECTED, "kannel NNN not routable"): answers(
        403, body="Not routable. Do not try again."
    ),
}


def test_the_page_promises_what_is_tested_here() -> None:
    assert documented("http and kannel") == list(COMMON)
    assert documented("http") == [promise for promise in HTTP if promise not in COMMON]
    assert documented("kannel") == [promise for promise in KANNEL if promise not in COMMON]


@pytest.mark.parametrize(("promise", "case"), each(HTTP), ids=str)
def test_http_sent_is_in_doubt(promise: Promise, case: Case) -> None:
    act_out(promise, case, lambda url: HttpChannel(url=url, timeout_s=0.2, **case.settings))


@pytest.mark.parametrize(("promise", "case"), each(KANNEL), ids=str)
def test_kannel_sent_is_in_doubt(promise: Promise, case: Case) -> None:
    act_out(
        promise, case, lambda url: KannelChannel(url=url, timeout_s=0.2, username="shop", password="secret")
    )


def act_out(promise: Promise, case: Case, open_channel: Callable[[str], HttpChannel | KannelChannel]) -> None:
    with RudeHttpServer(case.does, before_reading=case.before_reading) as server:
        nobody = case.url is not None and not case.before_reading
        url = (case.url or server.url).format(port=free_port() if nobody else server.port)
        with closing(open_channel(url)) as channel:
            [outcome] = channel.send([case.message])
    promise.check(outcome)
    # Nothing is asked twice, and what nothing was sent of is never in doubt.
    assert len(server.requests) <= 1
    assert server.connections <= 1
    if server.connections == 0:
        assert outcome.result in (FAILED, REJECTED)
