"""Where messages arrive: an SMTP server and an SMS gateway, each in a process of its own, that misbehave a little.

Each writes down every message that it takes responsibility for, before it answers: `{"message_id", "attempt_id", "at"
(microseconds since 1970), "reserved"}`. `reserved` is what the ledger said, at that moment and to a connection of the
sink's own, to the question whether the attempt is reserved: true, false, or null where the ledger was down.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from aiosmtpd.smtp import SMTP, Envelope, Session

from soak.chances import Mood, moods

_HANGS_S = (0.2, 3.5)  # a moment, or longer than the gateway waits


class Arrivals:
    """The list of what arrived, in a file that only grows."""

    def __init__(self, path: Path, ledger: str) -> None:
        self._output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._engine = sa.create_engine(ledger)

    def take(self, message_id: str, attempt_id: str) -> None:
        reserved = self._is_reserved(attempt_id)
        arrival = {
            "message_id": message_id,
            "attempt_id": attempt_id,
            "at": time.time_ns() // 1000,
            "reserved": reserved,
        }
        os.write(self._output, json.dumps(arrival).encode() + b"\n")

    def _is_reserved(self, attempt_id: str) -> bool | None:
        query = sa.text("SELECT count(*) FROM reservations WHERE attempt_id = :attempt_id")
        try:
            with self._engine.connect() as conn:
                return bool(conn.execute(query, {"attempt_id": attempt_id}).scalar_one())
        except sa.exc.DBAPIError:
            return None


class _MailHandler:
    def __init__(self, arrivals: Arrivals, chance: random.Random) -> None:
        self._arrivals = arrivals
        self._moods = moods(chance)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        mood = next(self._moods)
        if mood is Mood.REFUSES:
            return "451 4.3.0 Try again later"
        if mood in (Mood.HANGS, Mood.HANGS_LONG):
            await asyncio.sleep(_HANGS_S[mood is Mood.HANGS_LONG])
        if mood is not Mood.DROPS_UNTAKEN:
            content = envelope.content or b""
            assert isinstance(content, bytes)
            mail = message_from_bytes(content)
            self._arrivals.take(
                str(mail["X-Notifygate-Message-Id"]), str(mail["Message-ID"])[1:].partition("@")[0]
            )
        if mood in (Mood.DROPS, Mood.DROPS_UNTAKEN):
            transport = server.transport
            assert isinstance(transport, asyncio.WriteTransport)
            transport.abort()
        return "250 2.0.0 Ok: queued"


def serve_mail(arrivals: Arrivals, chance: random.Random) -> None:
    handler = _MailHandler(arrivals, chance)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(handler, hostname="sink.example", loop=loop, enable_SMTPUTF8=True), "127.0.0.1", 0
        )
        _announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def serve_texts(arrivals: Arrivals, chance: random.Random) -> None:
    ours = moods(chance)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:  # http.server calls it by this name
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                mood = next(ours)
            if mood in (Mood.HANGS, Mood.HANGS_LONG):
                time.sleep(_HANGS_S[mood is Mood.HANGS_LONG])
            if mood not in (Mood.REFUSES, Mood.DROPS_UNTAKEN):
                arrivals.take(content["message_id"], content["attempt_id"])
            # Drops: taken or not, the answer is that of a server at fault.
            answer = {Mood.REFUSES: 429, Mood.DROPS: 500, Mood.DROPS_UNTAKEN: 500}.get(mood, 200)
            self.send_response(answer)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was killed is no error here."""

    server = Server(("127.0.0.1", 0), Handler)
    _announce(server.server_port)
    server.serve_forever()


def _announce(port: int) -> None:
    print(port, flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # nobody writes to it: it ends when the parent does, or closes it
    os._exit(0)


if __name__ == "__main__":
    channel, path, ledger, seed = sys.argv[1:]
    serve = {"email": serve_mail, "sms": serve_texts}[channel]
    serve(Arrivals(Path(path), ledger), random.Random(f"{seed}/{channel}"))
