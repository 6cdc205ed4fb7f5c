"""What is sent: newsletters to people who allowed them, under every rule, and service messages beside them.

Nothing is turned off: dedupe, two caps that count (and are wide enough for all to be allowed), quiet hours (of which
none is quiet), and a row in the ledger for each decision.
"""

from __future__ import annotations

import json
from pathlib import Path

from notifygate import Email, Message

MERCHANT = "shop"
NEWSLETTER = "newsletter"
DIGEST = "digest"
SERVICE = "order_update"
MESSAGES_PER_PERSON = 5

_CONFIG = """\
[gateway]
ledger = {ledger}
broker = {broker}
data_dir = "data"
default_region = "DK"
default_timezone = "Europe/Copenhagen"
[channels.email]
driver = "null"
[merchants.shop]
name = "The shop"
kind = "shop"
email_from = "The shop <news@shop.example>"
[purposes.order_update]
class = "service"
permission = "none"
[purposes.newsletter]
class = "marketing"
permission = ["consent", "soft_opt_in"]
dedupe = "24h"
caps = [{{ limit = 5000, window = "7d", per = "merchant" }}, {{ limit = 9000, window = "30d", per = "person" }}]
quiet_hours = "always"
[purposes.digest]
class = "marketing"
permission = ["consent", "soft_opt_in"]
dedupe = "24h"
caps = [{{ limit = 5000, window = "7d", per = "merchant" }}, {{ limit = 9000, window = "30d", per = "person" }}]
quiet_hours = "mondays"
[quiet_hours.always]
allow = {{ daily = "00:00-24:00" }}
[quiet_hours.mondays]
allow = {{ mon = "09:00-10:00" }}
"""


def write_config(folder: Path, *, ledger: str, broker: str = "none") -> Path:
    """Write the config of a gateway over that ledger, with a data folder of its own; return its path."""
    path = folder / "notifygate.toml"
    path.write_text(_CONFIG.format(ledger=json.dumps(ledger), broker=json.dumps(broker)), "utf-8")
    return path


def address(person: int) -> str:
    return f"p{person}@example.com"


def newsletter(person: int, key: str, *, purpose: str = NEWSLETTER) -> Message:
    """One issue for one person; the key makes it another issue than all others."""
    return Message(
        merchant=MERCHANT,
        purpose=purpose,
        content=Email(
            address(person),
            "Spring is here",
            text=f"Spring is here, and so is letter {key} with all that is new in the shop this week.",
        ),
        idempotency_key=key,
    )


def service(person: int, key: str) -> Message:
    """News about an order, which nobody has to allow."""
    return Message(
        merchant=MERCHANT,
        purpose=SERVICE,
        content=Email(address(person), "Your order", text=f"Your order {key} has left us."),
        idempotency_key=key,
    )
