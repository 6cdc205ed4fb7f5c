"""Every error that notifygate raises on purpose. One root, so that a caller can catch them all.

A refusal to send is not an error: it is a `Decision`. These are for wrong use and broken infrastructure.
No error ever carries an address or a message text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NotifygateError(Exception):
    """The root of all notifygate errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFault:
    """One thing wrong in a config file: where, what, and what would be right."""

    key: str
    problem: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


class ConfigError(NotifygateError):
    """The config cannot be used. `faults` holds every fault found, not only the first."""

    def __init__(self, source: str, faults: Sequence[ConfigFault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{source}: {fault}" for fault in self.faults))


class InvalidMessage(NotifygateError, ValueError):
    """A message, or a part of it, cannot be accepted. `field` names the argument at fault."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class InvalidContactPoint(InvalidMessage):
    """Text that is no usable phone number or email address."""


class InvalidConsent(NotifygateError, ValueError):
    """A consent event that must not be written: too broad a permission, a missing proof."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class IdempotencyConflict(NotifygateError):
    """The same idempotency key was handed over again with different content."""

    def __init__(self, merchant: str, message_id: str) -> None:
        self.merchant = merchant
        self.message_id = message_id
        super().__init__(
            f"idempotency_key: merchant {merchant!r} used this key before for other content, "
            f"as message {message_id}; use a new key for a new request"
        )


class NotFound(NotifygateError, LookupError):
    """No message, contact point, purchase or suppression is known by that name."""


class NotCancellable(NotifygateError):
    """The message can no longer be cancelled: it is being sent, was sent, or has ended."""


class OnHold(NotifygateError):
    """A legal hold stands in the way of an erasure."""


class LedgerError(NotifygateError):
    """The ledger cannot be reached, has the wrong schema, or refused a write."""


class LedgerUnreachable(LedgerError):
    """The ledger's database does not answer, or takes nothing at all: nothing is wrong with what was asked of it."""


class BrokerError(NotifygateError):
    """The queue is not usable: a wrong URL, a missing extra, a server that does not start."""


class ChannelError(NotifygateError):
    """A channel is not usable: wrong settings, a server that does not answer."""
