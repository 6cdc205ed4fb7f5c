"""Where messages arrive: an SMTP server and an SMS gateway. What a sink holds is the truth about what was sent."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One message that the SMTP server took responsibility for. `message_id` is the gateway's."""

    message_id: str
    envelope_from: str
    envelope_to: tuple[str, ...]
    message: EmailMessage


class _AnyPort(Controller):
    """A controller that takes whatever port is free; aiosmtpd's own would try to connect to port 0."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd leaves this untyped


class MailSink:
    """A real SMTP server. `answers` maps an address to the reply that its RCPT gets instead of 250.

    `takes_s` is how long the server thinks about each message before it takes it.
    """

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.takes_s = 0.0
        self._mails: list[Mail] = []
        self._lock = threading.Lock()
        self._controller = _AnyPort(self, hostname="127.0.0.1", port=0)

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        return self._controller.port

    @property
    def settings(self) -> dict[str, Any]:
        """What `[channels.email]` says to send here."""
        return {"driver": "smtp", "host": self.host, "port": self.port, "tls": "none"}

    @property
    def mails(self) -> list[Mail]:
        """What has arrived so far, in the order in which it was taken."""
        with self._lock:
            return list(self._mails)

    @property
    def message_ids(self) -> list[str]:
        """The gateway's ids of what has arrived, one for each arrival."""
        return [mail.message_id for mail in self.mails]

    def start(self) -> None:
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    # aiosmtpd calls these by their names.
    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.takes_s:
            await asyncio.sleep(self.takes_s)
        content = envelope.content or b""
        assert isinstance(content, bytes)
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        mail = Mail(
            message_id=str(message["X-Notifygate-Message-Id"]),
            envelope_from=envelope.mail_from or "",
            envelope_to=tuple(envelope.rcpt_tos),
            message=message,
        )
        with self._lock:
            self._mails.append(mail)
        return "250 2.0.0 Ok: queued as TEST1"


class SmsSink:
    """An SMS gateway that takes JSON by HTTP POST, as the `http` driver writes it.

    `takes_s` is how long it thinks about each message before it takes it.
    """

    def __init__(self) -> None:
        self.takes_s = 0.0
        self._requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # http.server calls it by this name
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                time.sleep(sink.takes_s)
                with sink._lock:
                    sink._requests.append(content)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def settings(self) -> dict[str, Any]:
        """What `[channels.sms]` says to send here."""
        return {"driver": "http", "url": f"http://127.0.0.1:{self._server.server_port}/send"}

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What has arrived so far."""
        with self._lock:
            return list(self._requests)

    @property
    def message_ids(self) -> list[str]:
        """The gateway's ids of what has arrived, one for each arrival."""
        return [str(request["message_id"]) for request in self.requests]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
