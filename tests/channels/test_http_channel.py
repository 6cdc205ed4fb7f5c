"""The HTTP and Kannel drivers, against a real HTTP server and against sockets that misbehave."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import ssl
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
import trustme
from support.rude_servers import CLOSES, HANGS, Does, RudeHttpServer, Then, free_port

from notifygate.address import Channel
from notifygate.channels import HandOff, HandOffOutcome, Result
from notifygate.channels.http import HttpChannel
from notifygate.channels.kannel import KannelChannel
from notifygate.errors import ChannelError

SMS = HandOff(
    message_id="m-1",
    attempt_id="a-1",
    channel=Channel.SMS,
    to="+4520123456",
    sender="Cykelpartn",
    text="Hej Anna & Bo: 100% æøå {to} + ja?",
    at=datetime(2026, 3, 4, 9, 30, tzinfo=UTC),
)


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True, strict_parsing=True))


@dataclass
class Sink:
    """Keeps every request, and gives the answer it was told to."""

    port: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    requests: list[Request] = field(default_factory=list)
    peers: set[object] = field(default_factory=set)

    def url(self, rest: str = "/send") -> str:
        return f"http://127.0.0.1:{self.port}{rest}"


@pytest.fixture
def sink() -> Iterator[Sink]:
    answer = Sink()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer.requests.append(Request(self.command, self.path, headers, self.rfile.read(length)))
            answer.peers.add(self.client_address)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = _any  # noqa: N815  # the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answer.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


Make = Callable[..., HttpChannel]
MakeKannel = Callable[..., KannelChannel]


@pytest.fixture
def http() -> Iterator[Make]:
    made: list[HttpChannel] = []

    def make(url: str, **settings: Any) -> HttpChannel:
        made.append(HttpChannel(url=url, **({"timeout_s": 5} | settings)))
        return made[-1]

    yield make
    for channel in made:
        channel.close()


@pytest.fixture
def kannel() -> Iterator[MakeKannel]:
    made: list[KannelChannel] = []

    def make(url: str, **settings: Any) -> KannelChannel:
        login = {"username": "shop", "password": "p&ss ø"}
        made.append(KannelChannel(url=url, **(login | {"timeout_s": 5} | settings)))
        return made[-1]

    yield make
    for channel in made:
        channel.close()


def send(channel: HttpChannel | KannelChannel, *batch: HandOff) -> list[HandOffOutcome]:
    return list(channel.send(batch or [SMS]))


# ---- requests ---------------------------------------------------------------------------------------------


def test_with_only_a_url_the_message_goes_as_json(sink: Sink, http: Make) -> None:
    [outcome] = send(http(sink.url()))
    assert outcome == HandOffOutcome(result=Result.ACCEPTED, detail="http 200")
    [request] = sink.requests
    assert (request.method, request.target) == ("POST", "/send")
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {
        "to": "+4520123456",
        "sender": "Cykelpartn",
        "text": SMS.text,
        "message_id": "m-1",
        "attempt_id": "a-1",
    }


def test_values_in_url_and_query_are_encoded_once(sink: Sink, http: Make) -> None:
    channel = http(
        sink.url("/to/{to}/x%2Fy?text={text}&key={secret.key}"),
        method="GET",
        query={"from": "{sender}", "digits": "{to_digits}", "again": "<{text}>", "lit": "{{a+b}} %41"},
        secrets={"key": "a&b=c/ø"},
    )
    send(channel)
    [request] = sink.requests
    assert request.method == "GET"
    assert urlsplit(request.target).path == "/to/%2B4520123456/x%2Fy"
    assert request.query == {
        "text": SMS.text,
        "key": "a&b=c/ø",
        "from": "Cykelpartn",
        "digits": "4520123456",
        "again": f"<{SMS.text}>",
        "lit": "{a+b} %41",
    }


def test_a_form_is_urlencoded(sink: Sink, http: Make) -> None:
    send(http(sink.url(), form={"to": "{to}", "text": "{text}", "subject": "{subject}"}))
    [request] = sink.requests
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    fields = parse_qs(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    assert fields == {"to": ["+4520123456"], "text": [SMS.text], "subject": [""]}


def test_json_is_filled_in_at_any_depth_and_only_its_texts(sink: Sink, http: Make) -> None:
    template = {
        "messages": [{"from": "{sender}", "destinations": [{"to": "{to_digits}", "id": "{message_id}"}]}],
        "body": {"text": "{text}", "flash": False, "parts": 3, "price": 0.5, "nothing": None},
    }
    send(http(sink.url(), json=template, method="put"))
    [request] = sink.requests
    assert request.method == "PUT"
    assert json.loads(request.body) == {
        "messages": [{"from": "Cykelpartn", "destinations": [{"to": "4520123456", "id": "m-1"}]}],
        "body": {"text": SMS.text, "flash": False, "parts": 3, "price": 0.5, "nothing": None},
    }


def test_a_raw_body_and_headers_are_templates_too(sink: Sink, http: Make) -> None:
    channel = http(
        sink.url(),
        body="{{{to}|{text}}}",
        headers={"X-Id": "{attempt_id}", "Authorization": "Bearer {secret.token}", "content-type": "text/x"},
        secrets={"token": "t0k"},
    )
    send(channel)
    [request] = sink.requests
    assert request.body.decode() == "{" + f"+4520123456|{SMS.text}" + "}"
    assert request.headers["x-id"] == "a-1"
    assert request.headers["authorization"] == "Bearer t0k"
    assert request.headers["content-type"] == "text/x"


def test_basic_authentication(sink: Sink, http: Make) -> None:
    send(http(sink.url(), username="shop", password="s3cret:ø"))
    scheme, _, value = sink.requests[0].headers["authorization"].partition(" ")
    assert (scheme, b64decode(value).decode()) == ("Basic", "shop:s3cret:ø")


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "æ", "a\x00b"])
def test_a_value_that_no_header_can_hold_is_rejected(text: str, sink: Sink, http: Make) -> None:
    channel = http(sink.url(), headers={"X-Text": "{text}"})
    first, second = send(channel, replace(SMS, text=text), replace(SMS, text="plain"))
    assert (first.result, first.detail) == (Result.REJECTED, "header cannot hold this value")
    assert second.result is Result.ACCEPTED
    assert len(sink.requests) == 1


@pytest.mark.parametrize(
    ("to", "sent"), [("+45 20 12 34 56", "+4520123456"), ("20 12 34 56", None), ("+45", None)]
)
def test_only_an_international_number_is_sent(to: str, sent: str | None, sink: Sink, http: Make) -> None:
    [outcome] = send(http(sink.url()), replace(SMS, to=to))
    if sent is None:
        assert (outcome.result, outcome.detail) == (Result.REJECTED, "no international number")
        assert sink.requests == []
    else:
        assert json.loads(sink.requests[0].body)["to"] == sent


def test_connections_are_used_again(sink: Sink, http: Make) -> None:
    channel = http(sink.url())
    send(channel, *[SMS] * 10)
    send(channel, *[SMS] * 10)
    assert (len(sink.requests), len(sink.peers)) == (20, 1)


def test_threads_share_a_channel(sink: Sink, http: Make) -> None:
    channel = http(sink.url())
    outcomes: list[HandOffOutcome] = []
    threads = [threading.Thread(target=lambda: outcomes.extend(send(channel, *[SMS] * 10))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.result for outcome in outcomes] == [Result.ACCEPTED] * 60
    assert len(sink.requests) == 60


def test_a_forked_child_does_not_use_its_parents_connections(
    sink: Sink, http: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = http(sink.url())
    send(channel)
    parents = channel._exchange._client
    own_pid = os.getpid()
    monkeypatch.setattr("notifygate.channels.http.os.getpid", lambda: own_pid + 1)
    send(channel)
    assert len(sink.peers) == 2
    assert parents is not None
    parents.close()


def test_proxies_of_the_environment_are_not_followed(
    sink: Sink, http: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(http(sink.url()))[0].result is Result.ACCEPTED


def test_no_address_in_logs(
    sink: Sink, http: Make, kannel: MakeKannel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.Logger.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    sink.status, sink.headers = 302, {"Location": "/elsewhere?to=4520123456"}
    send(http(sink.url("/{to}/{to_digits}"), query={"text": "{text}"}, method="GET"))
    send(kannel(sink.url()))
    with RudeHttpServer(CLOSES) as server:
        send(http(server.url + "?to={to}&text={text}", method="GET"))
    assert len(sink.requests) == 2
    everything = "\n".join(
        f"{record.name} {record.getMessage()} {record.args!r}" for record in caplog.records
    )
    for secret in ("20123456", "Hej", "p%26ss"):
        assert secret not in everything


def test_an_applications_own_requests_are_still_logged(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="httpx")
    with httpx.Client(trust_env=False) as client:
        client.get(sink.url("/own"))
    assert any(record.name == "httpx" for record in caplog.records)


# ---- answers; what becomes of one message is in test_http_contract ------------------------------------------


@pytest.mark.parametrize(
    ("value", "low_s", "high_s"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        (timedelta(minutes=10), 500, 600),
        (timedelta(minutes=-10), 0, 0),
        ("9" * 400, 86_400, 86_400),
        ("soon", None, None),
        ("-5", None, None),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None, None),
        ("Fri, 31 Dec 2026 23:59:59 +99999999999999999999", None, None),
        ("", None, None),
    ],
    ids=[
        "seconds",
        "zero",
        "date to come",
        "date gone by",
        "for ever",
        "no number",
        "below zero",
        "no year",
        "no zone",
        "empty",
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_seconds_or_a_date(
    status: int, value: str | timedelta, low_s: float | None, high_s: float | None, sink: Sink, http: Make
) -> None:
    if isinstance(value, timedelta):
        value = format_datetime(datetime.now(UTC) + value, usegmt=True)
    sink.status, sink.headers = status, {"Retry-After": value}
    [outcome] = send(http(sink.url()))
    assert outcome.result is (Result.FAILED if status == 429 else Result.IN_DOUBT)
    if low_s is None or high_s is None:
        assert outcome.retry_after is None
    else:
        assert outcome.retry_after is not None
        assert low_s <= outcome.retry_after.total_seconds() <= high_s


@pytest.mark.parametrize(
    ("body", "provider_id"),
    [
        (b'{"messages": [{"id": "abc-1"}]}', "abc-1"),
        (b'{"messages": [{"id": 17}]}', "17"),
        (b'{"messages": [{"id": true}]}', None),
        (b'{"messages": [{"id": null}]}', None),
        (b'{"messages": []}', None),
        (b'{"messages": "id"}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"\xff\xfe", None),
        (b"[" * 60_000, None),
        (b"", None),
        (b" " * 100_000 + b'{"messages": [{"id": "far"}]}', None),
    ],
)
def test_the_providers_id_is_found_or_missing_but_a_yes_stays_a_yes(
    body: bytes, provider_id: str | None, sink: Sink, http: Make
) -> None:
    sink.body = body
    [outcome] = send(http(sink.url(), provider_id_path="messages.0.id"))
    assert (outcome.result, outcome.provider_id) == (Result.ACCEPTED, provider_id)


SLOW_HEAD = b"HTTP/1.1 202 x\r\nContent-Length: 9999\r\n\r\n"


class SlowServer(RudeHttpServer):
    """Sends its answer byte by byte: no wait is long, and there is no end of them."""

    def _do(self, client: socket.socket, does: Does) -> bool:
        while does.says == SLOW_HEAD:
            super()._do(client, replace(does, then=Then.STAY))
            for _ in range(999):
                client.sendall(b" ")
                time.sleep(0.02)
        return super()._do(client, does)


@pytest.mark.parametrize("driver", ["http", "kannel"])
@pytest.mark.parametrize(
    ("kind", "does"),
    [
        (RudeHttpServer, HANGS),
        (RudeHttpServer, Does(SLOW_HEAD + b"and", Then.HANG)),
        (SlowServer, Does(SLOW_HEAD)),
    ],
    ids=["silent", "silent in the content", "slow"],
)
def test_two_timeouts_in_a_row_end_the_batch(
    kind: type[RudeHttpServer], does: Does, driver: str, http: Make, kannel: MakeKannel
) -> None:
    with kind(does) as server:
        channel = (http if driver == "http" else kannel)(server.url, timeout_s=0.2)
        outcomes = send(channel, *[SMS] * 50)
        assert len(server.requests) == 2
    assert [outcome.result for outcome in outcomes] == [Result.IN_DOUBT] * 2 + [Result.FAILED] * 48
    assert [outcome.channel_down for outcome in outcomes[:2]] == [False, True]
    assert not outcomes[-1].attempted


@pytest.mark.parametrize("driver", ["http", "kannel"])
def test_without_a_connection_the_rest_of_the_batch_is_not_tried(
    driver: str, http: Make, kannel: MakeKannel
) -> None:
    channel = (http if driver == "http" else kannel)(f"http://127.0.0.1:{free_port()}/send")
    first, second = send(channel, SMS, SMS)
    assert (first.detail, first.channel_down) == ("connection refused", True)
    assert (second.result, second.attempted) == (Result.FAILED, False)
    with pytest.raises(ChannelError, match="connection refused; start the server, or correct the url"):
        channel.check()


def test_a_server_that_never_accepts_is_failed(http: Make) -> None:
    """A full backlog: the handshake is not completed, so nothing can have been sent."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        time.sleep(0.05)
        outcomes = send(http(f"http://127.0.0.1:{address[1]}/", timeout_s=0.2), *[SMS] * 100)
        for filler in fillers:
            filler.close()
    assert {outcome.result for outcome in outcomes} == {Result.FAILED}
    assert outcomes[0].detail == "timeout at connect"


# ---- TLS --------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    authority = trustme.CA()
    ca_file = str(tmp_path_factory.mktemp("ca") / "ca.pem")
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(client, server_side=True) as secure:
                    if _read_request(secure):
                        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1], ca_file
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


def _read_request(client: socket.socket) -> bytes:
    """One whole request: closing with some of it unread would reset the connection, and lose the answer."""
    with client.makefile("rb") as lines:
        head = b""
        while (line := lines.readline()) not in (b"", b"\r\n"):
            head += line
        length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
        return head + lines.read(int(length[1]) if length else 0)


def test_https_checks_the_certificate(tls_port: tuple[int, str], http: Make) -> None:
    port, ca_file = tls_port
    trusting = http(f"https://127.0.0.1:{port}/send", ca_file=ca_file)
    assert send(trusting)[0].result is Result.ACCEPTED
    assert trusting.check() == f"https 127.0.0.1:{port} answers, TLS ok"

    wary = http(f"https://127.0.0.1:{port}/send")
    [outcome] = send(wary)
    assert (outcome.result, outcome.detail) == (Result.FAILED, "certificate not trusted")
    with pytest.raises(ChannelError, match=r"certificate not trusted; .*ca_file"):
        wary.check()


def test_check_sends_nothing(sink: Sink, http: Make, kannel: MakeKannel) -> None:
    assert http(sink.url("/{to}?t={text}")).check() == f"http 127.0.0.1:{sink.port} answers"
    assert kannel(sink.url()).check() == f"kannel: http 127.0.0.1:{sink.port} answers"
    assert sink.requests == []


# ---- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "ftp://x/"}, r"^url: not an http"),
        ({"url": "http:///x"}, r"^url: "),
        ({"url": "http://x:port/"}, r"^url: "),
        ({"url": "http://{to}.example/"}, r"^url: the host"),
        ({"url": "http://me:pw@x.example/"}, r"^url: credentials"),
        ({"url": "http://x.example/#a"}, r"^url: .*#"),
        ({"url": "http://x.example/{number}"}, r"^url: \{number\} is not known; use one of \{to\}"),
        ({"query": {"a": "{to.__class__}"}}, r"^query\.a: \{to\.__class__\} is not known"),
        ({"query": {"a": "{to[0]}"}}, r"^query\.a: "),
        ({"query": {"a": "{}"}}, r"^query\.a: "),
        ({"query": {"a": "{0}"}}, r"^query\.a: "),
        ({"form": {"a": "{to!r}"}}, r"^form\.a: .*conversion"),
        ({"form": {"a": "{to:>99}"}}, r"^form\.a: .*format"),
        ({"form": {"a": "{to"}}, r"^form\.a: a brace"),
        ({"form": {"a": 7}}, r"^form\.a: text is wanted"),
        ({"json": {"a": [{"b": "{tekst}"}]}}, r"^json\.a\.0\.b: \{tekst\}"),
        ({"json": {"a": {1, 2}}}, r"^json\.a: set"),
        ({"body": "{secret.key}"}, r"^body: \{secret\.key\} is not known"),
        ({"headers": {"a b": "x"}}, r"^headers: 'a b'"),
        ({"headers": {"A": "{nope}"}}, r"^headers\.A: "),
        ({"form": {"to": "{to}"}, "body": "{text}"}, r"^body: give only one"),
        ({"form": {"to": "{to}"}}, r"^url: no template uses \{text\}"),
        ({"method": "GET"}, r"^url: no template uses \{to\}"),
        ({"method": "GET", "form": {}}, r"^form: a GET request"),
        ({"username": "x"}, r"^password: "),
        ({"accepted_statuses": [200, 302]}, r"^accepted_statuses: "),
        ({"lookup_url": "/status/{message_id}"}, r"^lookup_url: not an http"),
        ({"lookup_url": "http://{provider_id}/"}, r"^lookup_url: the host"),
        (
            {"lookup_url": "http://x.example/{to}"},
            r"^lookup_url: \{to\} is not known; use one of \{message_id\}",
        ),
        ({"lookup_url": "http://x.example/{secret.key}"}, r"^lookup_url: \{secret\.key\} is not known"),
        ({"lookup_url": "http://x.example/status"}, r"^lookup_url: it names no message"),
        ({"timeout_s": 0}, r"^timeout_s: "),
        ({"ca_file": "/nowhere/ca.pem"}, r"^ca_file: "),
    ],
)
def test_wrong_settings_are_named_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ChannelError, match=message):
        HttpChannel(**({"url": "http://x.example/"} | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:13013"}, r"^url: "),
        ({"dlr_url": "/dlr"}, r"^dlr_url: "),
        ({"dlr_url": "http://x.example/{to}"}, r"^dlr_url: \{to\} is not known"),
        ({"dlr_mask": 64}, r"^dlr_mask: "),
    ],
)
def test_wrong_kannel_settings_are_named_at_once(settings: dict[str, Any], message: str) -> None:
    login = {"url": "http://x.example/", "username": "a", "password": "b"}
    with pytest.raises(ChannelError, match=message):
        KannelChannel(**(login | settings))


# ---- Kannel -----------------------------------------------------------------------------------------------


def test_kannel_gets_its_parameters(sink: Sink, kannel: MakeKannel) -> None:
    sink.status, sink.body = 202, b"0: Accepted for delivery"
    channel = kannel(sink.url("/cgi-bin/sendsms?smsc=tdc"))
    [outcome] = send(channel, replace(SMS, to="+45 20 12 34 56"))
    assert outcome.result is Result.ACCEPTED
    [request] = sink.requests
    assert request.method == "GET"
    assert request.target.startswith("/cgi-bin/sendsms?")
    assert request.query == {
        "smsc": "tdc",
        "username": "shop",
        "password": "p&ss ø",
        "to": "+4520123456",
        "from": "Cykelpartn",
        "text": SMS.text,
        "charset": "UTF-8",
        "coding": "0",
    }


def test_kannel_is_asked_for_news(sink: Sink, kannel: MakeKannel) -> None:
    sink.status = 202
    channel = kannel(sink.url(), dlr_url="https://gate.example/dlr?id={message_id}&what=%d")
    send(channel)
    query = sink.requests[0].query
    assert query["dlr-url"] == "https://gate.example/dlr?id=m-1&what=%d"
    assert query["dlr-mask"] == "19"


@pytest.mark.parametrize(
    ("text", "coding"),
    [
        ("Hej @£$ÆØÅæøåÄÖäöñüà€[]{}~|^\\\n", "0"),
        ("ê", "2"),
        ("ç", "2"),
        ("Ç", "0"),
        ("“citat”", "2"),
        ("😀", "2"),
        ("`", "2"),
        ("a\tb", "2"),
    ],
)
def test_kannel_is_told_whether_the_text_is_gsm_7(
    text: str, coding: str, sink: Sink, kannel: MakeKannel
) -> None:
    sink.status = 202
    send(kannel(sink.url()), replace(SMS, text=text))
    query = sink.requests[0].query
    assert (query["text"], query["coding"]) == (text, coding)
