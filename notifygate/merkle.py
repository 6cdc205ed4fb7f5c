"""Merkle trees as transparency logs have them: roots, inclusion and consistency proofs, and their checks.

Source: RFC 6962, section 2.1, with SHA-256; the checks are those of RFC 9162, sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

HASH_BYTES = 32
_LEAF = b"\x00"
_NODE = b"\x01"

EMPTY_ROOT = hashlib.sha256().digest()
"""The root of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf that holds `data`: 32 bytes."""
    return hashlib.sha256(_LEAF + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of the node above two others."""
    return hashlib.sha256(_NODE + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes of one level, whose number is a power of two."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[index], level[index + 1]) for index in range(0, len(level), 2)]
    return level[0]


class Frontier:
    """A tree that grows leaf by leaf, of which only the roots of its whole subtrees are kept."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []  # of subtrees that get smaller from left to right

    def append(self, leaf: bytes) -> None:
        """Add the hash of one more leaf."""
        self._peaks.append(leaf)
        filled = self.size
        self.size += 1
        while filled & 1:
            right, left = self._peaks.pop(), self._peaks.pop()
            self._peaks.append(node_hash(left, right))
            filled >>= 1

    def root(self) -> bytes:
        """The root of the tree as it stands."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


class Subtrees(Protocol):
    """What a stored tree can tell: the root over `2 ** level` leaves from `number * 2 ** level` on."""

    def __call__(self, level: int, number: int) -> bytes: ...


class Tree:
    """The tree over the first leaves of a log, seen through the roots of its whole subtrees."""

    def __init__(self, subtree: Subtrees) -> None:
        self._subtree = subtree

    def root(self, size: int) -> bytes:
        """The root over the first `size` leaves."""
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion(self, leaf: int, size: int) -> list[bytes]:
        """The audit path of a leaf in the tree over the first `size`, from its sibling up (RFC 6962, 2.1.1)."""
        if not 0 <= leaf < size:
            raise ValueError("a tree holds only leaves below its size")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _half(end - start)
            if leaf < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree over the first `old` leaves is the beginning of that over `new` (RFC 6962, 2.1.2)."""
        if not 0 <= old <= new:
            raise ValueError("a tree grows only")
        if old in (0, new):
            return []
        path: list[bytes] = []
        start, end, is_whole = 0, new, True
        while old != end:
            middle = start + _half(end - start)
            if old <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start, is_whole = middle, False
        if not is_whole:
            path.append(self._range(start, end))
        return path[::-1]

    def _range(self, start: int, end: int) -> bytes:
        count = end - start
        level = count.bit_length() - 1
        if count == 1 << level and start % count == 0:
            return self._subtree(level, start >> level)
        middle = start + _half(count)
        return node_hash(self._range(start, middle), self._range(middle, end))


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over some leaves, given by their hashes."""
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether an audit path leads from the hash of a leaf to a root (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        place >>= 1
        last >>= 1
    return last == 0 and found == root


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a proof shows that one tree is the beginning of another (RFC 9162, section 2.1.4.2)."""
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    if not 0 < old < new or not path:
        return False
    steps = list(path)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    place, last = old - 1, new - 1
    while place & 1:
        place >>= 1
        last >>= 1
    before = after = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            after = node_hash(after, step)
        place >>= 1
        last >>= 1
    return last == 0 and before == old_root and after == new_root


def _half(count: int) -> int:
    """The largest power of two below a count of at least two."""
    return 1 << (count - 1).bit_length() - 1
