"""`gate.doubt`: hand-offs that may or may not have been accepted, shown to people, and resolved by them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from notifygate.doubt import Resolution, Verdict
from notifygate.errors import InvalidMessage, NotFound
from notifygate.ledger import messages
from notifygate.ledger.messages import Doubt
from notifygate.message import check_aware, check_unicode
from notifygate.runtime import Runtime

_ADDRESS = re.compile(r"@|[0-9][0-9 ()./-]{5,}[0-9]")


class DoubtBook:
    """What is in doubt. Obtained as `gate.doubt`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(
        self,
        *,
        merchant: str | None = None,
        purpose: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> Sequence[Doubt]:
        """The messages in doubt, the oldest first: those of one merchant or purpose, or handed over from `since` on.

        Raises `InvalidMessage` for an instant without a time zone.
        """
        with self._runtime.ledger.read() as conn:
            return messages.doubts(
                conn,
                merchant=merchant,
                purpose=purpose,
                since=check_aware("since", since),
                limit=limit,
            )

    def count(self) -> int:
        """How many messages are in doubt."""
        with self._runtime.ledger.read() as conn:
            return messages.count_in_doubt(conn)

    def resolve(
        self,
        message_id: str,
        verdict: Verdict | str,
        *,
        evidence: str,
        send_again: bool = False,
        actor: str | None = None,
    ) -> None:
        """Record what became of a message in doubt, as somebody found out who asked the provider.

        `verdict` is `sent` or `not_sent`. What was not sent has failed, and gives back its place in caps and its ask;
        with `send_again` it is decided afresh instead, and sent if it still may be. `evidence` says how it is known (a
        ticket, a line of the provider's log); it is kept with the message, and erased with it. `actor` is the name or
        role of who says so; it is kept in the send log for good, so it must not be an address.

        Raises `NotFound` where no such message is in doubt, and `InvalidMessage`.
        """
        if not evidence.strip():
            raise InvalidMessage("evidence", "say how it is known, such as a ticket or the provider's log")
        check_unicode("evidence", evidence)
        check_unicode("actor", actor or "")
        if actor is not None and _ADDRESS.search(actor):
            raise InvalidMessage("actor", "give a name or a role; an address must not be in the send log")
        decided = _verdict(verdict)
        if send_again and decided is Verdict.SENT:
            raise InvalidMessage("send_again", "only what was not sent may be sent again")
        resolution = Resolution(
            verdict=decided, by="person", evidence=evidence.strip(), again=send_again, actor=actor
        )
        if not self._runtime.doubts.resolve(message_id, resolution):
            with self._runtime.ledger.read() as conn:
                found = messages.get(conn, message_id)
            if found is None:
                raise NotFound(f"no message {message_id!r}")
            raise NotFound(f"message {message_id} is {found.status}, and not in doubt")


def _verdict(verdict: Verdict | str) -> Verdict:
    try:
        return Verdict(verdict)
    except ValueError as error:
        raise InvalidMessage("verdict", f"must be {' or '.join(Verdict)}") from error
