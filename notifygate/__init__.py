"""notifygate: one gate for every SMS and email that may reach a customer.

Open a `Gateway`, `submit` a `Message`, and ask `explain` what became of it.
"""

from __future__ import annotations

from notifygate.address import ContactPoint
from notifygate.consent import ConsentEvent
from notifygate.decision import Decision, Finding, Outcome, Reason
from notifygate.errors import (
    BrokerError,
    ChannelError,
    ConfigError,
    IdempotencyConflict,
    InvalidConsent,
    InvalidContactPoint,
    InvalidMessage,
    LedgerError,
    NotCancellable,
    NotFound,
    NotifygateError,
)
from notifygate.gateway import Gateway
from notifygate.message import Email, Message, Purchase, Receipt, Sms, Status

__version__ = "0.1.0"

__all__ = [
    "BrokerError",
    "ChannelError",
    "ConfigError",
    "ConsentEvent",
    "ContactPoint",
    "Decision",
    "Email",
    "Finding",
    "Gateway",
    "IdempotencyConflict",
    "InvalidConsent",
    "InvalidContactPoint",
    "InvalidMessage",
    "LedgerError",
    "Message",
    "NotCancellable",
    "NotFound",
    "NotifygateError",
    "Outcome",
    "Purchase",
    "Reason",
    "Receipt",
    "Sms",
    "Status",
]
