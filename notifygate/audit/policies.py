"""Policies that decided something, read back from the text that the ledger keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from notifygate import sentences
from notifygate.policy import Policy, PurposeClass

_POLICY = TypeAdapter(Policy)
_SPAN = frozenset({"days", "seconds", "microseconds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """A policy that decided something: its hash and its canonical JSON text. `first_seen_at` is its first decision."""

    hash: str
    text: str = field(repr=False)
    first_seen_at: datetime

    def to_json(self) -> dict[str, Any]:
        return {"hash": self.hash, "text": self.text, "first_seen_at": self.first_seen_at.isoformat()}

    def in_sentences(self) -> list[tuple[str, list[str]]]:
        """All rules of it, under headings; empty where this version of notifygate cannot read it."""
        policy = read_policy(self.text)
        return list(sentences.explain(policy)) if policy else []

    def in_sentences_about(self, merchant: str, purpose: str) -> list[tuple[str, list[str]]]:
        """What it says of a merchant and a purpose, under headings."""
        policy = read_policy(self.text)
        if policy is None:
            return []
        known = policy.purposes.get(purpose)
        wanted = [f'Purpose "{purpose}"']
        if (sender := policy.merchants.get(merchant)) is not None:
            wanted.append(f"Merchant {sender.name} ({merchant})")
        if known is not None and known.purpose_class is PurposeClass.REVIEW:
            wanted.append("Review requests")
        return [
            (title, told)
            for title, told in sentences.explain(policy)
            if any(title == one or title.startswith(f"{one}:") for one in wanted)
        ]


def read_policy(text: str) -> Policy | None:
    """The policy of a canonical text; None for one that another version of notifygate wrote in another form."""
    try:
        policy = _POLICY.validate_python(_with_spans(orjson.loads(text)))
    except (ValidationError, ValueError):
        return None
    return policy if policy.text == text else None


def _with_spans(value: Any) -> Any:
    """JSON values, with spans of time where the text has their parts."""
    if isinstance(value, Mapping):
        if value.keys() == _SPAN:
            return timedelta(**value)
        return {key: _with_spans(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_spans(inner) for inner in value]
    return value
