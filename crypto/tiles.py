"""Tiles: a Merkle tree as a finite set of files (C2SP tlog-tiles).

A tile of level L holds up to 256 consecutive hashes of complete subtrees of 256**L leaves; a full one is 8192
bytes, and its own root is one hash of the level above. Only the last tile of a level may be *partial*, and a
partial tile has no hash above. A path names a tile by level, by index in groups of three digits, and by width
where it is partial::

    tile/0/x001/x234/067          level 0, index 1234067, full
    tile/1/001.p/17               level 1, index 1, the first 17 hashes
    tile/entries/273.p/112        the entries under the level 0 tile of that index
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.merkle import HASH_BYTES, MAX_SIZE, Tree, node_hash

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
ENTRIES = -1
"""The level of a bundle of entries; it has the indices and widths of level 0."""

MAX_LEVEL = 7
"""The highest level of a tree of at most 2**63 - 1 leaves."""

MAX_BUNDLE_ENTRY_BYTES = 65_535

_PATH = re.compile(
    r"tile/(?P<level>[0-9]|entries)/(?P<index>(x[0-9]{3}/){0,6}[0-9]{3})(\.p/(?P<width>[1-9][0-9]{0,2}))?", re.ASCII
)


class Tile(NamedTuple):
    """The tile of a ``level`` (:data:`ENTRIES`, or 0 to 7) and number; ``width`` 256 is a full one."""

    level: int
    number: int
    width: int = TILE_WIDTH


def tile_path(tile: Tile) -> str:
    """The path of ``tile`` below the log's prefix; :func:`parse_tile_path` gives the same tile back."""
    wrong = _wrong(tile)
    if wrong:
        raise LocalProtocolError(wrong)
    groups = [f"{tile.number % 1000:03}"]
    rest = tile.number // 1000
    while rest:
        groups.append(f"x{rest % 1000:03}")
        rest //= 1000
    level = "entries" if tile.level == ENTRIES else str(tile.level)
    partial = "" if tile.width == TILE_WIDTH else f".p/{tile.width}"
    return f"tile/{level}/{'/'.join(reversed(groups))}{partial}"


def parse_tile_path(path: str) -> Tile:
    """The tile with exactly this path; anything else raises :class:`Malformed`."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise Malformed("a tile path must be tile/LEVEL/INDEX, the index in groups of three digits")
    level = ENTRIES if match["level"] == "entries" else int(match["level"])
    index = int(match["index"].replace("/", "").replace("x", ""))
    tile = Tile(level, index, int(match["width"] or TILE_WIDTH))
    if _wrong(tile) or tile_path(tile) != path:
        raise Malformed("a tile path must spell a level, an index and a width in the one shortest way")
    return tile


def tiles_of(size: int) -> Iterator[Tile]:
    """Every tile of a tree of ``size`` leaves, the lowest level first, each level from the left."""
    if not 0 <= size <= MAX_SIZE:
        raise LocalProtocolError(f"no tiles of a tree of size {size}")
    for level in range(MAX_LEVEL + 1):
        hashes = size >> (level * TILE_HEIGHT)
        for index in range(hashes >> TILE_HEIGHT):
            yield Tile(level, index)
        if hashes % TILE_WIDTH:
            yield Tile(level, hashes >> TILE_HEIGHT, hashes % TILE_WIDTH)


def tile_bytes(tree: Tree, tile: Tile) -> bytes:
    """The hashes of ``tile`` in ``tree``, one behind the other; a tile that it does not fill is a bug of ours."""
    if tile.level == ENTRIES or _wrong(tile):
        raise LocalProtocolError(f"no hashes in {tile}")
    first = tile.number << TILE_HEIGHT
    height = tile.level * TILE_HEIGHT
    return b"".join(tree.subtree(height, position) for position in range(first, first + tile.width))


def tile_root(data: bytes) -> bytes:
    """The hash of a full tile, as it stands in the tile above; anything but 256 hashes raises :class:`Malformed`."""
    hashes = split_tile(data, TILE_WIDTH)
    while len(hashes) > 1:
        hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def split_tile(data: bytes, width: int) -> list[bytes]:
    """The hashes of a tile that must hold ``width`` of them; else raises :class:`Malformed`."""
    if len(data) != width * HASH_BYTES:
        raise Malformed(f"a tile of {len(data)} bytes, must be {width * HASH_BYTES}")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def bundle_entries(headers: Sequence[bytes]) -> bytes:
    """An entry bundle: each of up to 256 headers behind its length as u16be."""
    if not 0 < len(headers) <= TILE_WIDTH or any(len(header) > MAX_BUNDLE_ENTRY_BYTES for header in headers):
        raise LocalProtocolError(f"an entry bundle holds 1 to {TILE_WIDTH} headers of up to {MAX_BUNDLE_ENTRY_BYTES}")
    return b"".join(len(header).to_bytes(2, "big") + header for header in headers)


def split_bundle(data: bytes, width: int) -> list[bytes]:
    """The headers of an entry bundle that must hold ``width`` of them; else raises :class:`Malformed`."""
    headers: list[bytes] = []
    at = 0
    while at < len(data) and len(headers) < width:
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise Malformed("an entry bundle is cut short")
        headers.append(data[at + 2 : end])
        at = end
    if at != len(data) or len(headers) != width:
        raise Malformed(f"an entry bundle must hold exactly {width} entries")
    return headers


def _wrong(tile: Tile) -> str:
    """What is wrong with ``tile``, "" if a tree of at most 2**63 - 1 leaves can have it."""
    if not ENTRIES <= tile.level <= MAX_LEVEL:
        return f"the level of a tile is {tile.level}, must be 0 to {MAX_LEVEL} or that of entries"
    if not 0 < tile.width <= TILE_WIDTH:
        return f"the width of a tile is {tile.width}, must be 1 to {TILE_WIDTH}"
    hashes = MAX_SIZE >> (max(tile.level, 0) * TILE_HEIGHT)
    if tile.number < 0 or (tile.number << TILE_HEIGHT) + tile.width > hashes:
        return f"tile {tile.number} of level {tile.level} lies beyond every tree"
    return ""
