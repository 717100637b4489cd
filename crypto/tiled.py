"""Trees that nobody holds whole: the right edge alone, and a view of which every eighth level is kept somewhere.

A long log is read once with a :class:`Frontier`, in O(log n) memory; the subtrees that it reports are kept (a few
bytes for 256 entries), and a :class:`Tiled` tree over them gives the roots and proofs of :class:`Tree` from a few
hundred hashes. Heights are those of C2SP tlog-tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.crypto.merkle import Tree, empty_root, node_hash
from quidnunc.crypto.tiles import TILE_HEIGHT


class Frontier:
    """The right edge of an append-only tree in O(log n) memory: enough for its root, not for proofs.

    For whoever reads a long log once, from the beginning.
    """

    __slots__ = ("_edge", "_size")

    def __init__(self) -> None:
        self._edge: list[bytes] = []
        self._size = 0

    @classmethod
    def of(cls, tree: Tree) -> Frontier:
        """The right edge of ``tree`` as it stands, to go on from without changing it."""
        made = cls()
        size = made._size = tree.size
        made._edge = [tree.subtree(k, (size >> k) - 1) for k in reversed(range(size.bit_length())) if size >> k & 1]
        return made

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> tuple[tuple[int, bytes], ...]:
        """Add a leaf by its 32-byte hash; the complete subtrees of 2**8, 2**16, ... leaves that end with it.

        They are (level, hash), the lowest first: what :class:`Tiled` wants to be kept.
        """
        index, level, edge = self._size, 0, self._edge
        kept: tuple[tuple[int, bytes], ...] = ()
        while index & 1:
            leaf = node_hash(edge.pop(), leaf)
            index >>= 1
            level += 1
            if not level % TILE_HEIGHT:
                kept += ((level, leaf),)
        edge.append(leaf)
        self._size += 1
        return kept

    def root(self) -> bytes:
        """The root of all leaves so far."""
        if not self._edge:
            return empty_root()
        node = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            node = node_hash(left, node)
        return node


class Tiled(Tree):
    """A tree of ``size`` leaves of which only every eighth level is kept somewhere: proofs without the whole.

    ``hashes(level, start, stop)`` must give the hashes of the complete subtrees of 2**level leaves from position
    ``start`` up to ``stop``, for level 0 (the leaves), 8, 16, ...; at most 256 at a time are asked for. They are
    believed: whoever made them checks them.
    """

    __slots__ = ("_hashes", "_tiles")

    def __init__(self, size: int, hashes: Callable[[int, int, int], Sequence[bytes]]) -> None:
        super().__init__()
        self._size = size
        self._hashes = hashes
        self._tiles: dict[tuple[int, int], list[list[bytes]]] = {}

    def append(self, leaf: bytes) -> int:
        """Not possible: this tree is a view."""
        raise LocalProtocolError("a tiled tree is a view of what is kept; nothing can be added to it")

    def _node(self, level: int, position: int) -> bytes:
        base = level - level % TILE_HEIGHT
        above = level - base
        number = position >> (TILE_HEIGHT - above)
        return self._tile(base, number)[above][position - (number << (TILE_HEIGHT - above))]

    def _tile(self, base: int, number: int) -> list[list[bytes]]:
        """A tile and the levels above it, each as far as it is complete."""
        known = self._tiles.get((base, number))
        if known is None:
            start = number << TILE_HEIGHT
            stop = min(start + (1 << TILE_HEIGHT), self._size >> base)
            row = list(self._hashes(base, start, stop))
            if len(row) != stop - start:
                raise LocalProtocolError(f"{len(row)} hashes of level {base} from {start}, must be {stop - start}")
            known = [row]
            while len(row) > 1:
                row = list(map(node_hash, row[::2], row[1::2]))
                known.append(row)
            self._tiles[base, number] = known
        return known
