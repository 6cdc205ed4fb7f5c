"""Messages as the two stories of DESIGN.md section 1 tell them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from notifygate import Email, Message, Purchase, Sms

ANNA_EMAIL = "email:anna@example.dk"
ANNA_SMS = "sms:+4520123456"


def order_update(
    to: str = "anna@example.dk", text: str = "Your parcel is on its way.", **more: Any
) -> Message:
    """A service message from the shop, by email."""
    content = Email(to, "Your order", text=text)
    basics: dict[str, Any] = {"merchant": "cykelpartner", "purpose": "order_update", "content": content}
    return Message(**basics | more)


def newsletter(to: str = "anna@example.dk", text: str = "New bicycles are here.", **more: Any) -> Message:
    """A marketing message from the shop, by email."""
    content = Email(to, "News", text=text)
    basics: dict[str, Any] = {"merchant": "cykelpartner", "purpose": "newsletter", "content": content}
    return Message(**basics | more)


def review_request(purchase: Purchase, to: str = "email:anna@example.dk", **more: Any) -> Message:
    """A review request, from the purchase's seller unless said otherwise, on the channel of `to`."""
    channel, _, address = to.partition(":")
    text = "What do you think of your purchase?"
    content = Email(address, "Your opinion", text=text) if channel == "email" else Sms(address, text)
    basics: dict[str, Any] = {"merchant": purchase.seller, "purpose": "review_request", "content": content}
    return Message(**basics | {"purchase": purchase} | more)


def delivered_purchase(now: datetime, order_id: str = "1001", seller: str = "cykelpartner") -> Purchase:
    """A purchase about which one may ask `now`: bought 12 days ago, delivered 8 days ago."""
    return Purchase(
        seller,
        order_id,
        purchased_at=now - timedelta(days=12),
        delivered_at=now - timedelta(days=8),
    )
