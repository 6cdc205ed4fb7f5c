"""Merkle trees: RFC 6962 and RFC 9162."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifygate import merkle
from notifygate.merkle import EMPTY_ROOT, Tree, fold, is_consistent, is_included, leaf_hash, root_of

# The entries and the roots that implementations of Certificate Transparency are tested with.
ENTRIES = tuple(
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
)
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)

LEAVES = [leaf_hash(str(number).encode()) for number in range(300)]
SIZES = st.integers(0, len(LEAVES))


def tree() -> Tree:
    return Tree(lambda level, number: fold(LEAVES[number << level : (number + 1) << level]))


def test_roots_are_those_of_certificate_transparency() -> None:
    hashes = [leaf_hash(entry) for entry in ENTRIES]

    assert [root_of(hashes[: size + 1]).hex() for size in range(len(hashes))] == list(ROOTS)
    assert root_of([]) == EMPTY_ROOT == hashlib.sha256().digest()


@given(size=SIZES)
def test_a_tree_seen_through_its_subtrees_has_the_same_roots(size: int) -> None:
    assert tree().root(size) == root_of(LEAVES[:size])


@given(size=st.integers(1, len(LEAVES)), data=st.data())
def test_a_leaf_is_proved_at_its_own_place_and_at_no_other(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    path, root = tree().inclusion(index, size), root_of(LEAVES[:size])

    assert is_included(LEAVES[index], index, size, path, root)
    other = data.draw(st.integers(0, size + 2).filter(lambda one: one != index))
    assert not is_included(LEAVES[index], other, size, path, root)
    assert not is_included(leaf_hash(b"another"), index, size, path, root)
    assert not is_included(LEAVES[index], index, size, [*path, LEAVES[0]], root)
    if path:
        assert not is_included(LEAVES[index], index, size, path[:-1], root)


@given(sizes=st.tuples(SIZES, SIZES).map(sorted), data=st.data())
def test_a_tree_is_proved_to_begin_with_an_older_one(sizes: list[int], data: st.DataObject) -> None:
    old, new = sizes
    before, after = root_of(LEAVES[:old]), root_of(LEAVES[:new])
    path = tree().consistency(old, new)

    assert is_consistent(old, before, new, after, path)
    if 0 < old < new:
        forged = root_of([leaf_hash(b"forged"), *LEAVES[1:old]])
        assert not is_consistent(old, forged, new, after, path)
        place = data.draw(st.integers(0, len(path) - 1))
        assert not is_consistent(old, before, new, after, path[:place] + path[place + 1 :])
        bent = [*path[:place], hashlib.sha256(path[place]).digest(), *path[place + 1 :]]
        assert not is_consistent(old, before, new, after, bent)


@pytest.mark.parametrize(("leaf", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_proof_is_made_for_a_leaf_that_is_not_there(leaf: int, size: int) -> None:
    with pytest.raises(ValueError, match="below its size"):
        tree().inclusion(leaf, size)


def test_a_tree_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="grows only"):
        tree().consistency(5, 4)


def test_a_leaf_cannot_pass_for_a_node() -> None:
    left, right = LEAVES[:2]

    assert leaf_hash(left + right) != merkle.node_hash(left, right)
