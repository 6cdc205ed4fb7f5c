"""Config files: the policy of DESIGN.md section 9 with file drivers, and a few more senders and purposes."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BASE = tomllib.loads(
    """
[gateway]
broker = "none"
default_region = "DK"
default_timezone = "Europe/Copenhagen"

[channels.email]
driver = "file"
path = "outbox.jsonl"
[channels.sms]
driver = "file"
path = "outbox.jsonl"

[groups.interflora]
name = "Interflora"

[merchants.cykelpartner]
name = "Cykelpartner.dk"
kind = "shop"
asks_for_reviews = true
email_from = "Cykelpartner <hej@cykelpartner.example>"
sms_sender = "Cykelpartn"
[merchants.postdanmark]
name = "Post Danmark"
kind = "carrier"
email_from = "Post Danmark <pakke@postdanmark.example>"
sms_sender = "PostDanmark"
[merchants.stars]
name = "Stars"
kind = "platform"
email_from = "Stars <invite@stars.example>"
sms_sender = "Stars"
[merchants.florist]
name = "Florist"
kind = "shop"
group = "interflora"
email_from = "Florist <hej@florist.example>"
sms_sender = "Florist"
[merchants.headoffice]
name = "Interflora head office"
kind = "shop"
group = "interflora"
email_from = "Interflora <hej@interflora.example>"
sms_sender = "Interflora"

[purposes.order_update]
class = "service"
permission = "none"
[purposes.login_code]
class = "service"
permission = "none"
on_doubt = "resend"
[purposes.newsletter]
class = "marketing"
permission = ["consent", "soft_opt_in"]
dedupe = "24h"
caps = [{ limit = 2, window = "7d", per = "merchant" }, { limit = 5, window = "7d", per = "person" }]
quiet_hours = "evenings"
[purposes.review_request]
class = "review"
permission = ["consent", "soft_opt_in"]
quiet_hours = "evenings"

[quiet_hours.evenings]
allow = { mon-sat = "09:00-20:00" }
holidays = true

[review_requests]
asks_per_purchase = 1
per_person = { limit = 1, window = "30d" }
per_person_and_merchant = { limit = 1, window = "180d" }
precedence = ["shop", "platform", "carrier"]
yield = "deny"
delay = "7d"
delay_without_delivery = "30d"
expires = "60d"
"""
)


def write(path: Path, *layers: Mapping[str, Any]) -> Path:
    """Write the base config with `layers` laid over it, one after the other; a value of None takes its key away."""
    merged = copy.deepcopy(_BASE)
    for layer in layers:
        merged = _laid_over(merged, layer)
    path.write_text("".join(f"{_key(key)} = {_toml(value)}\n" for key, value in merged.items()), "utf-8")
    return path


def driver(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A layer for `[channels.X]` that takes the file driver's own key away with it."""
    return {"path": None} | dict(settings)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _laid_over(merged[key], value)
        elif isinstance(value, Mapping):
            merged[key] = _laid_over({}, value)
        else:
            merged[key] = value
    return merged


def _key(key: str) -> str:
    return json.dumps(key)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)
