"""Two servers on this machine that take whatever arrives and keep it: the demo's mail server and SMS provider.

What they hold is what the customers got. The demo is judged by it, not by what the gateway says about itself.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parseaddr
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from aiosmtpd.smtp import SMTP, Envelope, Session

HOST = "127.0.0.1"

_LAST_CONNECTION_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """One message as it arrived. `message_id` is what it says about itself, None if it says nothing."""

    channel: Literal["email", "sms"]
    to: str
    sender: str
    subject: str | None = None
    text: str
    message_id: str | None


@dataclass(slots=True, kw_only=True)
class Sinks:
    """Both servers: their ports, and what has arrived so far, in that order."""

    smtp_port: int
    sms_port: int
    arrived: list[Arrived] = field(default_factory=list)

    def still_open(self) -> list[str]:
        """Which of the two still takes connections."""
        found = []
        for name, port in (("SMTP server", self.smtp_port), ("SMS sink", self.sms_port)):
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((HOST, port)) == 0:
                    found.append(name)
        return found


@contextmanager
def listening() -> Iterator[Sinks]:
    """Run both servers, each in a thread and on a port that is free."""
    sinks = Sinks(smtp_port=0, sms_port=0)
    with _mail_server(sinks), _sms_server(sinks):
        yield sinks


@contextmanager
def _mail_server(sinks: Sinks) -> Iterator[None]:
    up: Future[Callable[[], object]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve_mail(sinks, up)), daemon=True)
    thread.start()
    stop = up.result()
    try:
        yield
    finally:
        stop()
        thread.join()


async def _serve_mail(sinks: Sinks, up: Future[Callable[[], object]]) -> None:
    """Serve until the function that `up` is given is called.

    Instead of aiosmtpd's Controller, which cannot take a port that the system chooses, and does not close the
    connections that are open when it is stopped.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    connections: list[SMTP] = []

    def connection() -> SMTP:
        connections.append(SMTP(_Mail(sinks), hostname="localhost", enable_SMTPUTF8=True, loop=loop))
        return connections[-1]

    try:
        server = await loop.create_server(connection, HOST, 0)
    except OSError as error:
        up.set_exception(error)
        return
    async with server:
        sinks.smtp_port = server.sockets[0].getsockname()[1]
        up.set_result(lambda: loop.call_soon_threadsafe(stopped.set))
        await stopped.wait()
        # A connection that was just accepted can only be closed once asyncio is done with setting it up.
        await asyncio.sleep(_LAST_CONNECTION_S)
        for one in connections:
            if one.transport is not None:
                one.transport.close()


@contextmanager
def _sms_server(sinks: Sinks) -> Iterator[None]:
    with _SmsServer(sinks) as server:
        sinks.sms_port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Mail:
    """The handler of aiosmtpd: called with each email that was received whole."""

    def __init__(self, sinks: Sinks) -> None:
        self._sinks = sinks

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        raw = content.encode() if isinstance(content, str) else content or b""
        mail = message_from_bytes(raw, EmailMessage, policy=policy.default)
        body, message_id = mail.get_body(("plain",)), mail["X-Notifygate-Message-Id"]
        for to in envelope.rcpt_tos:
            self._sinks.arrived.append(
                Arrived(
                    channel="email",
                    to=to,
                    sender=parseaddr(str(mail["From"]))[1],
                    subject=str(mail["Subject"]),
                    text=str(body.get_content()) if body is not None else "",
                    message_id=str(message_id) if message_id else None,
                )
            )
        return "250 2.0.0 Message accepted"


class _SmsServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, sinks: Sinks) -> None:
        self.sinks = sinks
        super().__init__((HOST, 0), _SmsRequest)


class _SmsRequest(BaseHTTPRequestHandler):
    """An SMS provider's interface: one JSON object a message, as `config.toml` sets it up."""

    server: _SmsServer

    def do_POST(self) -> None:
        sms = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.sinks.arrived.append(
            Arrived(
                channel="sms",
                to=sms["to"],
                sender=sms["from"],
                text=sms["text"],
                message_id=sms["id"] or None,
            )
        )
        answer = json.dumps({"id": f"sms-{len(self.server.sinks.arrived)}"}).encode()
        self.send_response(202)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are not news."""
