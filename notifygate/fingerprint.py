"""Keyed fingerprints: they tell whether two values are the same, and not what they are."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata

_SPACE = " "


class Fingerprints:
    """HMAC-SHA256 (RFC 2104) under one secret key, with a separate domain for each kind of value."""

    def __init__(self, key: bytes) -> None:
        # Copied for each value: the key is taken in once, and unlike hmac.digest it lets no other thread in between.
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)

    def of(self, kind: str, *parts: str) -> str:
        """The fingerprint of some texts in the domain `kind`: 64 hexadecimal digits."""
        value = "".join(f"{len(part)}:{part}" for part in (kind, *parts))
        keyed = self._keyed.copy()
        keyed.update(value.encode("utf-8", "surrogatepass"))
        return keyed.hexdigest()


def normalised(text: str) -> str:
    """Text with what readers do not notice folded: case, white space, Unicode's compatible forms (NFKC)."""
    return _SPACE.join(unicodedata.normalize("NFKC", text).casefold().split())
