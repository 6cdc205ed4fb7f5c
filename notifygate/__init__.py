"""notifygate: one gate for every SMS and email that may reach a customer.

Open a `Gateway`, `submit` a `Message`, and ask `explain` what became of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        OnHold,
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
    "OnHold",
    "Outcome",
    "Purchase",
    "Reason",
    "Receipt",
    "Sms",
    "Status",
]

# Loaded when asked for (PEP 562), so that a command that needs little starts quickly.
_WHERE = {
    "ContactPoint": "address",
    "ConsentEvent": "consent",
    "Decision": "decision",
    "Finding": "decision",
    "Outcome": "decision",
    "Reason": "decision",
    "Gateway": "gateway",
    "Email": "message",
    "Message": "message",
    "Purchase": "message",
    "Receipt": "message",
    "Sms": "message",
    "Status": "message",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"notifygate.{_WHERE.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
