"""From a config with `lookup_url` to the end of a doubt: the provider is a real server that loses its first answer."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from support.clock import SimulatedClock
from support.config import driver
from support.fixtures import OpenGate
from support.messages import order_update
from support.rude_servers import HANGS, RESETS, Does, RudeHttpServer

from notifygate import Sms, Status

ACCEPTS = Does(b'HTTP/1.1 202 x\r\nContent-Length: 13\r\n\r\n{"id": "P-1"}')
KNOWS = Does(b'HTTP/1.1 200 x\r\nContent-Length: 13\r\n\r\n{"id": "P-1"}')
DOES_NOT_KNOW = Does(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n")


class Provider(RudeHttpServer):
    """Accepts the first message, and resets the connection of the second.

    `says` is its answer to look-ups of any message but the first, which it knows unless `is_elsewhere`: then it knows
    none, as if it were asked at a wrong address.
    """

    def __init__(self, says: Does, *, is_elsewhere: bool = False) -> None:
        super().__init__(says)
        self._is_elsewhere = is_elsewhere

    @property
    def references(self) -> list[str]:
        """The message ids of all requests to send."""
        contents = [
            request.partition(b"\r\n\r\n")[2] for request in self.requests if request.startswith(b"POST")
        ]
        return [json.loads(content)["message_id"] for content in contents]

    @property
    def looked_up(self) -> list[str]:
        """The paths that were asked for."""
        return [request.split()[1].decode() for request in self.requests if request.startswith(b"GET")]

    def _do(self, client: socket.socket, does: Does) -> bool:
        if self.requests[-1].startswith(b"POST"):
            does = RESETS if len(self.references) == 2 else ACCEPTS
        elif self._is_elsewhere:
            does = DOES_NOT_KNOW
        elif self.looked_up[-1] == f"/messages/{self.references[0]}":
            does = KNOWS
        return super()._do(client, does)

    @property
    def settings(self) -> dict[str, Any]:
        """What `[channels.sms]` says to send here, and to ask here."""
        origin = f"http://127.0.0.1:{self.port}"
        return driver(
            {
                "driver": "http",
                "url": f"{origin}/send",
                "lookup_url": f"{origin}/messages/{{message_id}}",
                "provider_id_path": "id",
                "timeout": "1s",
            }
        )


@pytest.mark.parametrize(
    ("says", "is_elsewhere", "status", "sends"),
    [
        (KNOWS, False, Status.SENT, 1),
        (DOES_NOT_KNOW, False, Status.SENT, 2),
        (HANGS, False, Status.IN_DOUBT, 1),
        (DOES_NOT_KNOW, True, Status.IN_DOUBT, 1),
    ],
    ids=["known: sent once", "unknown: sent again", "silent: in doubt", "asked at a wrong address: in doubt"],
)
def test_a_doubt_ends_as_the_provider_says(
    says: Does,
    is_elsewhere: bool,
    status: Status,
    sends: int,
    open_gate: OpenGate,
    clock: SimulatedClock,
) -> None:
    with Provider(says, is_elsewhere=is_elsewhere) as provider:
        gate = open_gate(channels={"sms": provider.settings})
        first = gate.submit(order_update(content=Sms("20 12 34 56", "På vej"))).message_id
        gate.drain()
        assert gate.status(first) is Status.SENT
        message_id = gate.submit(order_update(content=Sms("20 12 34 56", "Igen på vej"))).message_id
        gate.drain()
        assert gate.status(message_id) is Status.IN_DOUBT
        assert provider.looked_up == []
        clock.advance(seconds=30)
        gate.drain()

        assert gate.status(message_id) is status
        assert provider.references == [first] + [message_id] * sends
        assert provider.looked_up[0] == f"/messages/{message_id}"
        if status is Status.SENT:
            assert gate.explain(message_id).attempts[-1].provider_id == "P-1"
