"""The endpoint for operators: `/healthz`, `/readyz` and `/metrics` by HTTP, from one process beside the workers.

Dramatiq runs `serve` in that process (see `WorkerLife.forks` in `actors`). It ends with the workers, and they do not
need it: whatever happens here, they go on.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from notifygate import config, logs, metrics_folder
from notifygate.config import Config
from notifygate.config.values import Listen
from notifygate.errors import NotifygateError
from notifygate.probes import Probes

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

_TRY_AGAIN_AFTER_S = 3.0
_LOOK_AFTER_PARENT_S = 0.5
_REQUEST_WITHIN_S = 5.0
_CONNECTIONS_AT_ONCE = 32
_TEXT = "text/plain; charset=utf-8"

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type, content."""


def serve() -> int:
    """Answer until the parent process ends, or SIGTERM. Return the exit code."""
    try:
        loaded = config.load()
        logs.set_up(loaded.settings.monitoring.log_format)
        listen = loaded.settings.monitoring.listen
        if listen is None:
            return 0  # the config was changed since the workers read it
        pages = _pages(loaded)
    except NotifygateError as error:
        print(f"notifygate: {error}", file=sys.stderr)
        return 2
    _end_with_parent()
    with _listening(listen, pages) as server:
        logger.info("monitoring_started", extra={"listen": str(listen)})
        server.serve_forever()
    return 0


def _pages(loaded: Config) -> Mapping[str, Callable[[], Answer]]:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    probes = Probes(loaded.settings.gateway)
    registry: CollectorRegistry = CollectorRegistry()
    folder = metrics_folder.join(loaded.settings.gateway.data_dir)
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]  # untyped in the library
    registry.register(probes)

    def health() -> Answer:
        return HTTPStatus.OK, _TEXT, b"ok\n"

    def readiness() -> Answer:
        found = probes.readiness()
        is_ready = all(state == "ok" for state in found.values())
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "application/json", json.dumps(found).encode() + b"\n"

    def figures() -> Answer:
        return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)

    return {"/healthz": health, "/readyz": readiness, "/metrics": figures}


def _listening(listen: Listen, pages: Mapping[str, Callable[[], Answer]]) -> _Server:
    """A server that listens; where it cannot, say so once and try until it can."""
    said = False
    while True:
        try:
            return _Server(listen, pages)
        except OSError as error:
            if not said:
                told = {"listen": str(listen), "error": error.strerror or type(error).__name__}
                logger.error("monitoring_cannot_listen", extra=told)  # noqa: TRY400  # the words are enough
                said = True
            time.sleep(_TRY_AGAIN_AFTER_S)


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, however that came about."""
    parent, parent_id = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        while os.getppid() == parent_id and (parent is None or parent.is_alive()):
            time.sleep(_LOOK_AFTER_PARENT_S)
        os._exit(0)  # nothing here needs putting in order, and the log went through the parent

    threading.Thread(target=watch, name="notifygate-parent", daemon=True).start()


class _Server(ThreadingHTTPServer):
    """Answers a few requests at once, each in a thread that ends soon whatever the other side does."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listen: Listen, pages: Mapping[str, Callable[[], Answer]]) -> None:
        self.pages = pages
        self._places = threading.BoundedSemaphore(_CONNECTIONS_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        super().__init__((listen.host, listen.port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks the DNS for this machine's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # the other side went away, or took too long
            logger.warning("monitoring_request_failed", extra={"error": type(error).__name__})


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_WITHIN_S
    server: _Server

    # http.server calls these by their names.
    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        try:
            answer = (HTTPStatus.NOT_FOUND, _TEXT, b"not found\n") if page is None else page()
        except Exception as error:  # noqa: BLE001  # the endpoint must go on, whatever it was
            told = {"error": type(error).__name__, "where": logs.where(error)}
            logger.error("monitoring_page_failed", extra=told)  # noqa: TRY400  # its words are nobody's business
            answer = (HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"failed\n")
        self._write(*answer, with_content=with_content)

    def _write(self, status: int, content_type: str, content: bytes, *, with_content: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library answers to other methods and to what is no HTTP: without a word of the request."""
        self.close_connection = True
        with_content = getattr(self, "command", None) != "HEAD"
        self._write(code, _TEXT, f"{HTTPStatus(code).phrase.lower()}\n".encode(), with_content=with_content)

    def version_string(self) -> str:
        return "notifygate"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""
