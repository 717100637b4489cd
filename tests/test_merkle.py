"""The tree and its proofs against RFC 6962's recursion, published vectors and every kind of wrong proof."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.merkle import (
    MAX_PATH,
    MAX_SIZE,
    Tree,
    empty_root,
    leaf_hash,
    node_hash,
    root_from_inclusion,
    verify_consistency,
    verify_inclusion,
)

# The tree of certificate-transparency's own tests.
CT_LEAVES = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION = {
    (0, 8): ["96a296", "5f083f", "6b47aa"],
    (5, 8): ["bc1a06", "ca854e", "d37ee4"],
    (2, 3): ["fac542"],
    (1, 5): ["6e340b", "5f083f", "bc1a06"],
}
CT_CONSISTENCY = {
    (1, 8): ["96a296", "5f083f", "6b47aa"],
    (6, 8): ["0ebc5d", "ca854e", "d37ee4"],
    (2, 5): ["5f083f", "bc1a06"],
    (1, 1): [],
}
N = 64
LEAVES = [leaf_hash(bytes([number])) for number in range(N)]


def tree_of(leaves: Sequence[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


TREE = tree_of(LEAVES)


def split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def naive_root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*naive_path(index, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), naive_root(leaves[:k])]


def naive_proof(old: int, leaves: Sequence[bytes], known: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if old == len(leaves):
        return [] if known else [naive_root(leaves)]
    k = split(len(leaves))
    if old <= k:
        return [*naive_proof(old, leaves[:k], known), naive_root(leaves[k:])]
    return [*naive_proof(old - k, leaves[k:], False), naive_root(leaves[:k])]


def test_the_hashes_are_those_of_rfc_6962() -> None:
    assert empty_root().hex() == CT_ROOTS[0]
    assert leaf_hash(b"").hex() == CT_ROOTS[1]
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    expected = "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    assert node_hash(b"N123", b"N456").hex() == expected


def test_the_published_tree_of_eight() -> None:
    tree = tree_of([leaf_hash(bytes.fromhex(leaf.strip("-"))) for leaf in CT_LEAVES])
    assert tree.leaf(7).hex().startswith("46f6ffadd3d06a09")
    for size, root in enumerate(CT_ROOTS):
        assert tree.root(size).hex() == root
    for (index, size), path in CT_INCLUSION.items():
        assert [each.hex()[:6] for each in tree.inclusion(index, size)] == path
    for (old, new), path in CT_CONSISTENCY.items():
        assert [each.hex()[:6] for each in tree.consistency(old, new)] == path


def test_every_root_and_inclusion_path_up_to_64() -> None:
    for size in range(N + 1):
        root = naive_root(LEAVES[:size])
        assert TREE.root(size) == root
        for index in range(size):
            path = TREE.inclusion(index, size)
            assert path == naive_path(index, LEAVES[:size])
            assert root_from_inclusion(LEAVES[index], index, size, path) == root
            verify_inclusion(LEAVES[index], index, size, path, root)


def test_every_consistency_proof_up_to_64() -> None:
    for new in range(1, N + 1):
        for old in range(1, new + 1):
            path = TREE.consistency(old, new)
            assert path == naive_proof(old, LEAVES[:new])
            verify_consistency(old, new, TREE.root(old), TREE.root(new), path)


def wrong_paths(path: list[bytes], root: bytes) -> Iterator[list[bytes]]:
    """The classes of wrong proofs in the tests of transparency-dev/merkle, and a flipped bit in each hash."""
    if path:
        yield []
        yield path[:-1]
        yield path[1:]
        yield [*path[:-1], path[-1][:-1]]
        yield [*path[:-1], path[-1] + b"\0"]
        yield [*path[:-1], b""]
    yield [*path, b""]
    yield [*path, bytes(32)]
    yield [*path, root]
    yield [root, *path]
    yield [bytes(32), *path]
    yield path + path[-1:] if path else [root]
    for number, each in enumerate(path):
        flipped = bytearray(each)
        flipped[number % 32] ^= 1 << number % 8
        yield [*path[:number], bytes(flipped), *path[number + 1 :]]


def test_wrong_inclusion_proofs_are_refused() -> None:
    for size in range(1, 34):
        for index in range(size):
            leaf, path, root = LEAVES[index], TREE.inclusion(index, size), TREE.root(size)
            cases: list[tuple[bytes, int, int, list[bytes], bytes]] = [
                (leaf, index, size, wrong, root) for wrong in wrong_paths(path, root)
            ]
            cases += [(leaf, other, size, path, root) for other in (index - 1, index + 1, index ^ 2, -1, size)]
            cases += [(leaf, index, size, path, other) for other in (leaf_hash(root), b"", TREE.root(size + 1))]
            cases += [(leaf_hash(leaf), index, size, path, root), (leaf[:-1], index, size, path, root)]
            cases += [(leaf, index, 0, path, root), (leaf, index, -size, path, root)]
            for case in cases:
                with pytest.raises(Malformed):
                    verify_inclusion(*case)


def test_a_proof_for_another_size_is_refused_or_of_the_same_shape() -> None:
    # The size is no input of a path's hashes, only of its shape: a size that gives the same shape gives the
    # same root. That is why the size is signed beside the root.
    for size in range(2, 34):
        for index in range(size):
            path, root = TREE.inclusion(index, size), TREE.root(size)
            for other in (size - 1, size + 1, size * 2, size // 2):
                try:
                    verify_inclusion(LEAVES[index], index, other, path, root)
                except Malformed:
                    continue
                assert len(naive_path(index, [b""] * other)) == len(path)


def test_wrong_consistency_proofs_are_refused() -> None:
    for new in range(1, 34):
        for old in range(1, new + 1):
            before, after, path = TREE.root(old), TREE.root(new), TREE.consistency(old, new)
            cases = [(old, new, before, after, wrong) for wrong in wrong_paths(path, after)]
            cases += [(0, new, empty_root(), after, []), (0, new, before, after, path)]
            cases += [(old, old - 1, before, after, path), (-1, new, before, after, path)]
            cases += [(old, new, leaf_hash(before), after, path), (old, new, before, leaf_hash(after), path)]
            cases += [(old, new, before[1:], after, path), (old, new, before, b"", path)]
            if old < new:
                cases += [(old, new, after, before, path), (new, old, after, before, path)]
                cases += [(old, new, after, after, path), (old, new, before, before, path)]
                cases += [(new, new, before, after, path), (old, old, before, after, [])]
            for case in cases:
                with pytest.raises(Malformed):
                    verify_consistency(*case)


def test_roots_that_are_no_hashes_are_refused() -> None:
    for old, new in ((5, 5), (4, 5)):
        with pytest.raises(Malformed, match="a hash of 0 bytes"):
            verify_consistency(old, new, b"", b"", [bytes(32)] * (new - old))


def test_a_forked_tree_has_no_consistency_proof_of_ours() -> None:
    forked = tree_of([*LEAVES[:40], *(leaf_hash(b"forked") for _ in range(24))])
    for path in (TREE.consistency(50, 64), forked.consistency(50, 64)):
        with pytest.raises(Malformed):
            verify_consistency(50, 64, TREE.root(50), forked.root(64), path)


@pytest.mark.parametrize(
    ("index", "size"), [(0, MAX_SIZE + 1), (MAX_SIZE, MAX_SIZE), (2**64, 2**65), (0, 2**4096), (-1, 5)]
)
def test_sizes_beyond_the_limit_are_refused(index: int, size: int) -> None:
    with pytest.raises(Malformed):
        root_from_inclusion(bytes(32), index, size, [])
    for length in (63, 64, 65):
        with pytest.raises(Malformed):
            root_from_inclusion(bytes(32), index, size, [bytes(32)] * length)
    with pytest.raises(Malformed):
        verify_consistency(1, max(size, MAX_SIZE + 1), bytes(32), bytes(32), [])


@given(st.integers(1, MAX_SIZE), st.data())
@settings(deadline=None, max_examples=100)
def test_no_path_is_longer_than_the_limit(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    accepted = []
    for length in range(70):
        try:
            root_from_inclusion(bytes(32), index, size, [bytes(32)] * length)
        except Malformed:
            continue
        accepted.append(length)
    assert len(accepted) == 1
    assert accepted[0] <= min(MAX_PATH, (size - 1).bit_length())


@given(st.integers(1, 5000), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_large_trees_prove_what_they_hold(size: int, seed: int) -> None:
    rng = random.Random(seed)
    leaves = [rng.randbytes(32) for _ in range(size)]
    tree = tree_of(leaves)
    assert tree.size == size
    assert tree.root() == naive_root(leaves)
    for _ in range(10):
        new = rng.randint(1, size)
        old, index = rng.randint(1, new), rng.randrange(new)
        verify_inclusion(leaves[index], index, new, tree.inclusion(index, new), tree.root(new))
        verify_consistency(old, new, tree.root(old), tree.root(new), tree.consistency(old, new))


@pytest.mark.parametrize("leaf", [b"", bytes(31), bytes(33)])
def test_a_leaf_that_is_no_hash_is_a_bug_of_ours(leaf: bytes) -> None:
    tree = Tree()
    with pytest.raises(LocalProtocolError):
        tree.append(leaf)
    assert tree.size == 0


def test_questions_outside_the_tree_are_a_bug_of_ours() -> None:
    for ask in (
        lambda: TREE.root(N + 1),
        lambda: TREE.root(-1),
        lambda: TREE.leaf(N),
        lambda: TREE.inclusion(3, 3),
        lambda: TREE.inclusion(-1, 3),
        lambda: TREE.inclusion(0, N + 1),
        lambda: TREE.consistency(0, 3),
        lambda: TREE.consistency(4, 3),
        lambda: TREE.consistency(1, N + 1),
    ):
        with pytest.raises(LocalProtocolError):
            ask()


def test_memory_is_two_hashes_per_leaf() -> None:
    count = 20_000
    tracemalloc.start()
    try:
        tree = Tree()
        for number in range(count):
            tree.append(number.to_bytes(32, "big"))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert tree.size == count
    assert held < 80 * count
