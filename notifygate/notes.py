"""What is said of a log as signed notes: a checkpoint, which is its origin, size and root; and that it was restored.

Source: C2SP signed-note and tlog-checkpoint (c2sp.org/signed-note, c2sp.org/tlog-checkpoint); RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from notifygate.errors import NotifygateError
from notifygate.merkle import HASH_BYTES

_ED25519 = b"\x01"
_ID_BYTES = 4
_KEY_NAME = re.compile(r"[^\s+]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE = "\u2014 "
_RESTORED = "notifygate restored"
_LONGEST = 100_000


class NoteError(NotifygateError, ValueError):
    """A checkpoint or a key that is not well-formed, or that no trusted key has signed."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key under its name. Written as `name+id+key`, as verifiers of signed notes share it."""

    name: str
    public: Ed25519PublicKey = field(repr=False)

    @property
    def key_id(self) -> bytes:
        """The four bytes that name the key in a signature."""
        told = self.name.encode() + b"\n" + _ED25519 + self._raw
        return hashlib.sha256(told).digest()[:_ID_BYTES]

    @property
    def _raw(self) -> bytes:
        return self.public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_encoded(_ED25519 + self._raw)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name+id+key`. Raises `NoteError`."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            key = _decoded(encoded)
            if not _KEY_NAME.fullmatch(name) or key[:1] != _ED25519:
                raise ValueError
            found = cls(name, Ed25519PublicKey.from_public_bytes(key[1:]))
            if found.key_id != bytes.fromhex(key_id):
                raise ValueError
        except ValueError:
            raise NoteError("not a verifier key: it is written as name+id+key, in one line") from None
        return found


class Signer:
    """A private key under its name."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verifier = Verifier(name, private.public_key())

    @classmethod
    def from_pem(cls, name: str, pem: bytes) -> Self:
        """Read a private key in PEM (PKCS#8), as `openssl genpkey -algorithm ed25519` writes it. Raises `NoteError`."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise NoteError("not a private Ed25519 key in PEM without a password")
        return cls(name, key)

    def sign(self, text: str) -> str:
        """A note of a text that ends in a newline."""
        signature = self.verifier.key_id + self._private.sign(text.encode())
        return f"{text}\n{_SIGNATURE}{self.verifier.name} {_encoded(signature)}\n"


def new_private_key() -> bytes:
    """A new private key in PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log says of itself: that its first `size` leaves have this root. `note` is the signed text."""

    origin: str
    size: int
    root: bytes
    note: str = field(repr=False)

    @classmethod
    def signed(cls, signer: Signer, origin: str, size: int, root: bytes) -> Self:
        """A new one."""
        note = signer.sign(f"{origin}\n{size}\n{_encoded(root)}\n")
        return cls(origin=origin, size=size, root=root, note=note)

    @classmethod
    def parse(cls, note: str) -> Self:
        """Read a note, whoever signed it. Raises `NoteError`."""
        text, _ = _parts(note)
        lines = text.split("\n")[:-1]
        try:
            origin, size, root = lines[0], lines[1], _decoded(lines[2])
            if not origin or not _SIZE.fullmatch(size) or len(root) != HASH_BYTES or "" in lines:
                raise ValueError
        except (ValueError, IndexError):
            raise NoteError(
                "not a checkpoint: it says the origin, the size and the root, a line each"
            ) from None
        return cls(origin=origin, size=int(size), root=root, note=note)

    def check(self, trusted: Iterable[Verifier]) -> Verifier:
        """See that one of the keys has signed it; return that key. Raises `NoteError`, also for a false signature."""
        return _checked(self.note, trusted)[1]


def sign_restored(signer: Signer, ledger_id: str, at: datetime) -> str:
    """A note that says that a ledger was restored from a backup."""
    return signer.sign(f"{_RESTORED}\n{ledger_id}\n{at.isoformat()}\n")


def restored_at(note: str, ledger_id: str, trusted: Iterable[Verifier]) -> datetime:
    """When a ledger was restored, as one of the keys has signed. Raises `NoteError`."""
    text, _ = _checked(note, trusted)
    what, whose, at, *_ = [*text.split("\n"), "", ""]
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        found = None
    if (what, whose) != (_RESTORED, ledger_id) or found is None or found.utcoffset() is None:
        raise NoteError("it does not say when this ledger was restored")
    return found


def _checked(note: str, trusted: Iterable[Verifier]) -> tuple[str, Verifier]:
    """The text of a note, and the key of those given that has signed it. Raises `NoteError`."""
    text, signatures = _parts(note)
    known = {(key.name, key.key_id): key for key in trusted}
    signed_by = None
    for name, key_id, signature in signatures:
        key = known.get((name, key_id))
        if key is None:
            continue
        try:
            key.public.verify(signature, text.encode())
        except InvalidSignature:
            raise NoteError("its signature is not that of the key that it names: it was forged") from None
        signed_by = signed_by or key
    if signed_by is None:
        raise NoteError("it is not signed by a key that is trusted here")
    return text, signed_by


def _parts(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text that was signed, and for each signature the name and id of the key and its bytes."""
    text, blank, last = note.rpartition("\n\n")
    if not blank or not last.endswith("\n") or len(note) > _LONGEST:
        raise NoteError("not a signed note: it is a text, an empty line, and lines of signatures")
    if any(character < " " and character != "\n" for character in note):
        raise NoteError("not a signed note: it holds control characters")
    found = []
    for line in last.split("\n")[:-1]:
        name, _, encoded = line.removeprefix(_SIGNATURE).partition(" ")
        try:
            signature = _decoded(encoded)
        except ValueError:
            signature = b""
        if not line.startswith(_SIGNATURE) or not _KEY_NAME.fullmatch(name) or len(signature) <= _ID_BYTES:
            raise NoteError("not a signed note: a line of its signatures is not one")
        found.append((name, signature[:_ID_BYTES], signature[_ID_BYTES:]))
    return f"{text}\n", found


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
