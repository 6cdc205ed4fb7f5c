"""What the tests of the command line share: a config, what a command did, and lines to submit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = """
[gateway]
ledger = "sqlite:///ledger.db"
broker = "none"
default_region = "DK"
default_timezone = "Europe/Copenhagen"

[channels.email]
driver = "file"
path = "outbox.jsonl"
[channels.sms]
driver = "file"
path = "outbox.jsonl"

[merchants.myshop]
name = "My Shop"
kind = "shop"
email_from = "My Shop <hello@myshop.example>"
sms_sender = "MyShop"
[merchants.parcels]
name = "Parcels"
kind = "carrier"
email_from = "Parcels <hello@parcels.example>"
sms_sender = "Parcels"

[purposes.order_update]
class = "service"
permission = "none"
[purposes.newsletter]
class = "marketing"
permission = ["consent"]
caps = [{ limit = 2, window = "7d", per = "merchant" }]
[purposes.review_request]
class = "review"
permission = ["consent"]
"""


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object that was printed."""
        return json.loads(self.out)

    @property
    def jsons(self) -> list[Any]:
        """The JSON objects that were printed, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


def environment() -> dict[str, str]:
    """The environment of a command that runs as a process of its own."""
    here = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}


def write_lines(path: Path, *lines: object) -> Path:
    """Write a file of JSON lines; text stands as it is."""
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def sms(**more: object) -> dict[str, object]:
    """A service message that is in order, as one flat object."""
    return {"merchant": "myshop", "purpose": "order_update", "to": "+4520123456", "text": "On its way"} | more
