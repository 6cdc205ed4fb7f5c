"""Servers that misbehave on purpose: at any stage they may say anything, close, reset, hang, or speak TLS.

What a server has taken is the truth that a driver's outcome is held against.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from io import BufferedReader
from typing import Any, Self

import trustme


class Then(Enum):
    """What a server does after it has spoken."""

    STAY = auto()
    CLOSE = auto()
    RESET = auto()
    HANG = auto()
    TLS = auto()


@dataclass(frozen=True, slots=True)
class Does:
    """What a server does at one stage: says these bytes, if any, and then something."""

    says: bytes = b""
    then: Then = Then.STAY


CLOSES = Does(then=Then.CLOSE)
RESETS = Does(then=Then.RESET)
HANGS = Does(then=Then.HANG)


def says(line: str) -> Does:
    """It says one line, and stays."""
    return Does(f"{line}\r\n".encode("latin-1"))


def breaks_off(text: str) -> Does:
    """It says this much, with no end of line but those in it, and closes."""
    return Does(text.encode("latin-1"), Then.CLOSE)


@cache
def untrusted_tls() -> ssl.SSLContext:
    """The TLS of a server whose certificate nobody has heard of."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class RudeServer:
    """Takes connections, each in a thread of its own, until the end of the `with` block."""

    def __init__(self, *, receives_at_once: int | None = None) -> None:
        self.connections = 0
        self._listener = socket.socket()
        if receives_at_once is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives_at_once)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._clients.append(client)
            thread = threading.Thread(target=self._serve_one, args=(client, self.connections - 1))
            self._threads.append(thread)
            thread.start()

    def _serve_one(self, client: socket.socket, number: int) -> None:
        with client:
            try:
                self._serve(client, number)
            except OSError:
                return

    def _serve(self, client: socket.socket, number: int) -> None:
        raise NotImplementedError

    def _do(self, client: socket.socket, does: Does) -> bool:
        """Do it; return whether the connection goes on."""
        if does.says:
            client.sendall(does.says)
        match does.then:
            case Then.RESET:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            case Then.HANG:
                self._stopping.wait(60)
            case Then.TLS:
                with untrusted_tls().wrap_socket(client, server_side=True) as secure:
                    secure.recv(1)
        return does.then is Then.STAY


class Stage(Enum):
    """The places of an SMTP session where a server can misbehave. CONTENT is in the midst of the message."""

    GREETING = "GREETING"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "CONTENT"
    DOT = "DOT"
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"


Script = Mapping[Stage, Does]

_USUAL = {
    Stage.GREETING: says("220 rude.example"),
    Stage.DATA: says("354 go on"),
    Stage.QUIT: says("221 bye"),
}


class RudeSmtpServer(RudeServer):
    """Follows a script: per connection, what it does at which stage. The last script is that of all further ones.

    `taken` are the messages that it said yes to, even if half the yes was lost.
    """

    def __init__(self, *scripts: Script, **options: Any) -> None:
        super().__init__(**options)
        self._scripts: list[dict[Stage, Does]] = [dict(script) for script in scripts or ({},)]
        self.taken: list[bytes] = []

    def change(self, stage: Stage, does: Does) -> None:
        """Do this at that stage from now on, on connections of the first script."""
        self._scripts[0][stage] = does

    def _serve(self, client: socket.socket, number: int) -> None:
        script = self._scripts[min(number, len(self._scripts) - 1)]

        def goes_on(stage: Stage) -> bool:
            return self._do(client, script.get(stage, _USUAL.get(stage, says("250 ok"))))

        with client.makefile("rb") as lines:
            if not goes_on(Stage.GREETING):
                return
            while line := lines.readline():
                word = re.split(rb"[\s:]", line, maxsplit=1)[0].upper().decode("latin-1")
                stage = Stage.__members__.get(word, Stage.NOOP)
                if not goes_on(stage) or stage is Stage.QUIT:
                    return
                if stage is Stage.DATA and script.get(stage, _USUAL[stage]).says.startswith(b"354"):
                    if Stage.CONTENT in script:
                        client.recv(10)
                        self._do(client, script[Stage.CONTENT])
                        return
                    self._take(lines, script.get(Stage.DOT))
                    if not goes_on(Stage.DOT):
                        return

    def _take(self, lines: BufferedReader, answer: Does | None) -> None:
        content = b""
        while (line := lines.readline()) != b".\r\n":
            if not line:
                raise ConnectionError
            content += line
        if answer is None or answer.says.startswith(b"2"):
            self.taken.append(content)


class RudeHttpServer(RudeServer):
    """Does one thing to every request: after having read the whole of it, or, where told so, before.

    `requests` are those that were read in full.
    """

    def __init__(self, does: Does, *, before_reading: bool = False) -> None:
        super().__init__()
        self._does = does
        self._before_reading = before_reading
        self.requests: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/send"

    def _serve(self, client: socket.socket, number: int) -> None:
        if self._before_reading:
            client.recv(1, socket.MSG_PEEK)  # it has come, and lies unread
            self._do(client, self._does)
            return
        with client.makefile("rb") as lines:
            while request := _read_request(lines):
                self.requests.append(request)
                if not self._do(client, self._does):
                    return


def _read_request(lines: BufferedReader) -> bytes:
    head = b""
    while (line := lines.readline()) not in (b"", b"\r\n"):
        head += line
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    return head + line + lines.read(int(length[1]) if length else 0)
