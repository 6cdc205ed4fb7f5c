"""Keyed fingerprints: they tell whether two values are the same, and not what they are."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata

_SPACE = " "


class Fingerprints:
    """HMAC-SHA256 (RFC 2104) under one secret key, with a separate domain for each kind of value."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, kind: str, *parts: str) -> str:
        """The fingerprint of some texts in the domain `kind`: 64 hexadecimal digits."""
        value = "".join(f"{len(part)}:{part}" for part in (kind, *parts))
        return hmac.digest(self._key, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()


def normalised(text: str) -> str:
    """Text with what readers do not notice folded: case, white space, Unicode's compatible forms (NFKC)."""
    return _SPACE.join(unicodedata.normalize("NFKC", text).casefold().split())
