"""Check a proof that `notifygate log prove` or `notifygate log consistency` made, without notifygate.

    python verify_proof.py proof.json --key 'shop.example/notifygate+03390d05+Aaji…' [--checkpoint KEPT.txt]

The key must come from the one who runs the log, by another way than the proof did. It needs Python 3.11 and the package
`cryptography`. Exit code 0 where the proof holds, 1 where it does not, 2 where it cannot be read.

What is checked: that the checkpoint is signed by that key (C2SP signed-note, Ed25519); that each record is a leaf of
the tree whose root the checkpoint states (C2SP tlog-proof, RFC 6962 section 2.1.1); or that the tree of the newer
checkpoint begins with that of the older one (RFC 6962 section 2.1.2).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class DoesNotHold(Exception):
    """The proof proves nothing."""


def leaf_hash(record: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of_path(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that an audit path leads to. `path` goes from the leaf's sibling up."""
    if not 0 <= index < size:
        raise DoesNotHold("the place is not below the size of the log")
    if size == 1:
        if path:
            raise DoesNotHold("the path is too long")
        return leaf
    if not path:
        raise DoesNotHold("the path is too short")
    half = 1 << (size - 1).bit_length() - 1
    if index < half:
        return node_hash(root_of_path(leaf, index, half, path[:-1]), path[-1])
    return node_hash(path[-1], root_of_path(leaf, index - half, size - half, path[:-1]))


def roots_of_consistency(
    old: int, new: int, path: list[bytes], old_root: bytes, *, is_whole: bool = True
) -> tuple[bytes, bytes]:
    """The roots of the older and of the newer tree that a consistency proof leads to."""
    if old == new:
        if is_whole:
            if path:
                raise DoesNotHold("the path is too long")
            return old_root, old_root
        if len(path) != 1:
            raise DoesNotHold("the path has the wrong length")
        return path[0], path[0]
    if not path:
        raise DoesNotHold("the path is too short")
    half = 1 << (new - 1).bit_length() - 1
    if old <= half:
        before, after = roots_of_consistency(old, half, path[:-1], old_root, is_whole=is_whole)
        return before, node_hash(after, path[-1])
    before, after = roots_of_consistency(old - half, new - half, path[:-1], old_root, is_whole=False)
    return node_hash(path[-1], before), node_hash(path[-1], after)


def checked(note: str, key: str) -> tuple[str, int, bytes]:
    """The origin, the size and the root of a checkpoint, once its signature was found to be that of the key."""
    name, _, rest = key.strip().partition("+")
    public = base64.b64decode(rest.partition("+")[2], validate=True)
    if public[:1] != b"\x01":
        raise ValueError("the key is not an Ed25519 key")
    key_id = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
    text, _, lines = note.rpartition("\n\n")
    for line in lines.splitlines():
        dash, signer, encoded = line.split(" ")
        signature = base64.b64decode(encoded, validate=True)
        if (dash, signer, signature[:4]) != ("\u2014", name, key_id):
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[4:], f"{text}\n".encode())
        except InvalidSignature:
            raise DoesNotHold("the signature of the checkpoint is not that of the key") from None
        origin, size, root = text.split("\n")[:3]
        return origin, int(size), base64.b64decode(root, validate=True)
    raise DoesNotHold("the checkpoint is not signed by that key")


def check_rows(proof: dict[str, Any], key: str) -> None:
    origin, size, root = checked(proof["checkpoint"], key)
    if not proof["rows"]:
        raise DoesNotHold("it proves no record")
    places = set()
    for row in proof["rows"]:
        head, _, note = row["proof"].partition("\n\n")
        form, index, *path = head.split("\n")
        if form != "c2sp.org/tlog-proof@v1" or not index.startswith("index "):
            raise ValueError("a row's proof is not a tlog-proof")
        if note != proof["checkpoint"]:
            raise DoesNotHold("a row's proof is against another checkpoint")
        place = int(index.removeprefix("index "))
        leaf = leaf_hash(row["record"].encode())
        if root_of_path(leaf, place, size, [base64.b64decode(step, validate=True) for step in path]) != root:
            raise DoesNotHold(f"the record said to be at {place} is not there, or not as it is told here")
        record = json.loads(row["record"])
        if record["message_id"] != proof["about"]:
            raise DoesNotHold(f"the record at {place} is not about {proof['about']}")
        if place in places:
            raise DoesNotHold(f"the record at {place} is told twice")
        places.add(place)
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=record["at"])
        outcome = f" ({record['outcome']})" if record["outcome"] else ""
        print(f"leaf {place} (row {record['position']}): {record['kind']}{outcome} at {at.isoformat()}")
    print(
        f"holds: these {len(places)} records about {proof['about']} are in {origin}, as it was with {size} records"
    )
    print("whether there are others about it, this does not show")


def check_consistency(proof: dict[str, Any], key: str) -> None:
    old_origin, old, old_root = checked(proof["old_checkpoint"], key)
    origin, new, root = checked(proof["new_checkpoint"], key)
    path = [base64.b64decode(step, validate=True) for step in proof["path"]]
    if old_origin != origin or not 0 < old <= new:
        raise DoesNotHold("the two checkpoints are not an older and a newer one of the same log")
    if roots_of_consistency(old, new, path, old_root) != (old_root, root):
        raise DoesNotHold("the newer log does not begin with the older one")
    print(f"holds: {origin} with {new} records begins with all {old} that it had before")


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a proof made by notifygate.")
    parser.add_argument("proof", type=Path, help="the JSON file")
    parser.add_argument("--key", required=True, help="the key of the log, as 'notifygate log key' prints it")
    parser.add_argument(
        "--checkpoint", type=Path, help="a checkpoint that you have kept: the proof must be against this one"
    )
    given = parser.parse_args()
    try:
        proof = json.loads(given.proof.read_text(encoding="utf-8"))
        if proof["format"] != "notifygate-proof/1":
            raise ValueError(f"unknown format {proof['format']!r}")
        is_consistency = "path" in proof
        if given.checkpoint is not None:
            kept = given.checkpoint.read_text(encoding="utf-8")
            if kept != proof["old_checkpoint" if is_consistency else "checkpoint"]:
                raise DoesNotHold("it is against another checkpoint than the one that you have kept")
        (check_consistency if is_consistency else check_rows)(proof, given.key)
    except DoesNotHold as error:
        print(f"does not hold: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        print(f"cannot be read: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
