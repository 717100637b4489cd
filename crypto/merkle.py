"""The Merkle tree of RFC 6962, growing in memory, and its proofs.

::

    leaf_hash(data)    = SHA-256(00 data)
    node_hash(l, r)    = SHA-256(01 l r)
    root of n leaves   = node_hash(root of the first k, root of the rest), k the largest power of two below n
    root of no leaf    = SHA-256("")

An *inclusion* proof shows that a leaf stands at an index of the tree with a given root; a *consistency* proof
shows that the tree with one root is a prefix of the tree with another. Both are lists of 32-byte hashes of at
most 63 elements, computed and checked as in RFC 9162, section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from quidnunc.crypto.errors import LocalProtocolError, Malformed

HASH_BYTES = 32
MAX_SIZE = 2**63 - 1
"""The largest tree anybody may claim to have."""

MAX_PATH = 63
"""The longest inclusion path in a tree of :data:`MAX_SIZE` leaves."""


def empty_root() -> bytes:
    """The root of the tree without leaves."""
    return hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf holding ``data``."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over two 32-byte hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """An append-only tree in memory: 64 bytes per leaf, any earlier root and any proof in O(log n).

    Level k holds the hashes of all *complete* subtrees of 2**k leaves, packed one behind the other; the
    ragged right edge is recomputed when asked for.
    """

    __slots__ = ("_levels", "_size")

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]
        self._size = 0

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> int:
        """Add a leaf by its 32-byte hash and return its index; amortized one inner hash."""
        if len(leaf) != HASH_BYTES:
            raise LocalProtocolError(f"a leaf hash is {len(leaf)} bytes, must be {HASH_BYTES}")
        index = self._size
        self._levels[0] += leaf
        node, level, position = leaf, 0, index
        while position & 1:
            node = node_hash(self._node(level, position - 1), node)
            level, position = level + 1, position >> 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += node
        self._size = index + 1
        return index

    def leaf(self, index: int) -> bytes:
        """The hash of the leaf at ``index``."""
        if not 0 <= index < self._size:
            raise LocalProtocolError(f"leaf {index} is not in a tree of {self._size}")
        return self._node(0, index)

    def subtree(self, level: int, position: int) -> bytes:
        """The root of the complete subtree over leaves ``position << level`` up to the next one's first."""
        if not (0 <= level <= MAX_PATH and position >= 0 and (position + 1) << level <= self._size):
            raise LocalProtocolError(f"no complete subtree {position} of height {level} in a tree of {self._size}")
        return self._node(level, position)

    def root(self, size: int | None = None) -> bytes:
        """The root of the first ``size`` leaves, of all of them by default."""
        size = self._checked(self._size if size is None else size)
        return self._edge(size, size.bit_length()) if size else empty_root()

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The path that shows leaf ``index`` in the tree of the first ``size`` leaves, leaf side first."""
        size = self._checked(self._size if size is None else size)
        if not 0 <= index < size:
            raise LocalProtocolError(f"leaf {index} is not in a tree of {size}")
        return self._climb(0, index, size)

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """The proof that the first ``old`` leaves (at least 1) are a prefix of the first ``new``."""
        new = self._checked(self._size if new is None else new)
        if not 0 < old <= new:
            raise LocalProtocolError(f"no consistency proof from size {old} to {new}")
        if old == new:
            return []
        # The largest complete subtree that ends where the old tree ends; it is a node of both trees. Where it
        # is the whole old tree the verifier knows its hash already.
        level = (old & -old).bit_length() - 1
        position = (old >> level) - 1
        start = [self._node(level, position)] if position else []
        return start + self._climb(level, position, new)

    def _node(self, level: int, position: int) -> bytes:
        start = position * HASH_BYTES
        return bytes(self._levels[level][start : start + HASH_BYTES])

    def _checked(self, size: int) -> int:
        if not 0 <= size <= self._size:
            raise LocalProtocolError(f"tree size {size} is outside 0 to {self._size}")
        return size

    def _edge(self, size: int, height: int) -> bytes:
        """The hash of the ragged last subtree, less than 2**height leaves, of the first ``size`` leaves."""
        node = b""
        for level in range(height):
            if size >> level & 1:
                complete = self._node(level, (size >> level) - 1)
                node = node_hash(complete, node) if node else complete
        return node

    def _climb(self, level: int, position: int, size: int) -> list[bytes]:
        """The siblings on the way up from a complete node to the root of the first ``size`` leaves."""
        path = []
        while 1 << level < size:
            sibling = position ^ 1
            if (sibling + 1) << level <= size:
                path.append(self._node(level, sibling))
            elif sibling << level < size:
                path.append(self._edge(size, level))
            level, position = level + 1, position >> 1
        return path


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Return if ``path`` shows the leaf hash at ``index`` under ``root``; else raise :class:`Malformed`."""
    if root_from_inclusion(leaf, index, size, path) != root:
        raise Malformed(f"inclusion path of leaf {index} does not lead to the root of size {size}")


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The one root under which ``path`` shows ``leaf`` at ``index`` in a tree of ``size`` leaves.

    A path of the wrong length or form raises :class:`Malformed`.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise Malformed(f"leaf {index} is not in a tree of {size}")
    _check_hashes([leaf], 1)
    inner, border = _path_shape(index, size)
    _check_hashes(path, inner + border)
    return _chain_right(_chain_inner(leaf, path[:inner], index), path[inner:])


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> None:
    """Return if ``path`` shows that the tree of ``old`` leaves is a prefix of the one of ``new``.

    Anything else raises :class:`Malformed`, also ``old`` = 0: the empty tree is a prefix of every tree, and a
    proof of that would say nothing.
    """
    if not 0 < old <= new <= MAX_SIZE:
        raise Malformed(f"no consistency from size {old} to {new}")
    _check_hashes([old_root, new_root], 2)
    if old == new:
        _check_hashes(path, 0)
        if old_root != new_root:
            raise Malformed(f"two roots at size {old}")
        return
    # The proof climbs from the subtree that ends the old tree, `shift` levels up: its first hash is that
    # subtree's, unless that is the old tree itself.
    shift = (old & -old).bit_length() - 1
    inner, border = _path_shape(old - 1, new)
    inner -= shift
    whole = old == 1 << shift
    _check_hashes(path, inner + border + (0 if whole else 1))
    seed, rest = (old_root, path) if whole else (path[0], path[1:])
    index = (old - 1) >> shift
    if _chain_right(_chain_left(seed, rest[:inner], index), rest[inner:]) != old_root:
        raise Malformed(f"consistency proof does not lead to the old root, of size {old}")
    if _chain_right(_chain_inner(seed, rest[:inner], index), rest[inner:]) != new_root:
        raise Malformed(f"consistency proof does not lead to the new root, of size {new}")


def _path_shape(index: int, size: int) -> tuple[int, int]:
    """How many elements of an inclusion path lie below and above the point where it meets the right edge.

    Below, siblings stand on either side as the bits of the index say; above, always on the left.
    """
    inner = (index ^ (size - 1)).bit_length()
    return inner, (index >> inner).bit_count()


def _check_hashes(hashes: Sequence[bytes], count: int) -> None:
    if len(hashes) != count:
        raise Malformed(f"proof of {len(hashes)} hashes, must be {count}")
    for each in hashes:
        if len(each) != HASH_BYTES:
            raise Malformed(f"a hash of {len(each)} bytes, must be {HASH_BYTES}")


def _chain_inner(node: bytes, path: Sequence[bytes], index: int) -> bytes:
    """Climb with siblings on the side that each bit of ``index`` tells."""
    for level, sibling in enumerate(path):
        node = node_hash(sibling, node) if index >> level & 1 else node_hash(node, sibling)
    return node


def _chain_left(node: bytes, path: Sequence[bytes], index: int) -> bytes:
    """Climb with the left siblings only: they, and not the right ones, were in the old tree."""
    for level, sibling in enumerate(path):
        if index >> level & 1:
            node = node_hash(sibling, node)
    return node


def _chain_right(node: bytes, path: Sequence[bytes]) -> bytes:
    """Climb along the right edge, where every sibling is a left one."""
    for sibling in path:
        node = node_hash(sibling, node)
    return node
