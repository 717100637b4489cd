"""Tiles: what is read back is the tree, and a path has one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.merkle import MAX_SIZE, Tree, leaf_hash, node_hash
from quidnunc.crypto.tiles import (
    ENTRIES,
    MAX_LEVEL,
    Tile,
    bundle_entries,
    parse_tile_path,
    split_bundle,
    split_tile,
    tile_bytes,
    tile_path,
    tile_root,
    tiles_of,
)

SIZE = 70_000
TREE = Tree()
for number in range(SIZE):
    TREE.append(leaf_hash(number.to_bytes(4, "big")))


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    level = draw(st.integers(ENTRIES, MAX_LEVEL))
    hashes = MAX_SIZE >> (8 * max(level, 0))
    number = draw(st.integers(0, hashes >> 8))
    return Tile(level, number, draw(st.integers(1, min(256, hashes - (number << 8)))))


@given(tiles())
@settings(deadline=None, max_examples=300)
def test_every_path_reads_back(tile: Tile) -> None:
    assert parse_tile_path(tile_path(tile)) == tile


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from(["tile/", "x", "0", "12", "345", "/", ".p/", "entries"])).map("".join)
)
@settings(deadline=None, max_examples=300)
def test_any_other_text_is_refused(path: str) -> None:
    try:
        tile = parse_tile_path(path)
    except Malformed:
        return
    assert tile_path(tile) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "tile", "tile/0", "tile/0/", "tile/0/1", "tile/0/01", "tile/0/0001", "tile/00/001", "tile/8/000"),
        *("tile/63/000", "tile/-1/000", "tile/0/001/002", "tile/0/x000/001", "tile/0/x001", "/tile/0/001"),
        *("tile/0/001/", "tile/0/001.p", "tile/0/001.p/", "tile/0/001.p/0", "tile/0/001.p/256", "tile/0/001.p/017"),
        *("tile/0/001.p/300", "tile/0/\u0660\u0660\u0661", "tile/0/X001/002", "tile/entries", "tile/Entries/001"),
        *(
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/7/000",
            "tile/7/001.p/1",
            "tile/7/000.p/128",
            "tile/0/001\n",
        ),
    ],
)
def test_malformed_paths_are_refused(path: str) -> None:
    with pytest.raises(Malformed):
        parse_tile_path(path)


@pytest.mark.parametrize("tile", [Tile(-2, 0), Tile(8, 0, 1), Tile(0, -1), Tile(0, 0, 0), Tile(0, 0, 257), Tile(7, 0)])
def test_impossible_tiles_are_a_bug_of_ours(tile: Tile) -> None:
    with pytest.raises(LocalProtocolError):
        tile_path(tile)


def test_the_last_tile_of_the_largest_tree() -> None:
    assert parse_tile_path("tile/7/000.p/127") == Tile(7, 0, 127)


def naive(first: int, last: int) -> bytes:
    if last - first == 1:
        return TREE.leaf(first)
    middle = first + (1 << (last - first - 1).bit_length() - 1)
    return node_hash(naive(first, middle), naive(middle, last))


def test_tiles_hold_the_hashes_of_the_specification() -> None:
    for level, number, width in ((0, 3, 256), (0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)):
        hashes = split_tile(tile_bytes(TREE, Tile(level, number, width)), width)
        step = 256**level
        for at in {0, width // 2, width - 1}:
            start = (number * 256 + at) * step
            assert hashes[at] == naive(start, start + step)


def test_the_root_follows_from_the_tiles_alone() -> None:
    held = {tile: tile_bytes(TREE, tile) for tile in tiles_of(SIZE)}
    for tile, data in held.items():
        if tile.width == 256:
            above = Tile(
                tile.level + 1, tile.number >> 8, min(256, (SIZE >> 8 * (tile.level + 1)) - (tile.number >> 8 << 8))
            )
            assert held[above][32 * (tile.number & 255) :][:32] == tile_root(data)
    rebuilt = Tree()
    for tile in (tile for tile in held if tile.level == 0):
        for leaf in split_tile(held[tile], tile.width):
            rebuilt.append(leaf)
    assert rebuilt.root() == TREE.root()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_535, 65_536, 65_537, SIZE])
def test_tiles_cover_every_hash_once(size: int) -> None:
    held = list(tiles_of(size))
    assert len(set(held)) == len(held)
    for level in range(3):
        assert sum(tile.width for tile in held if tile.level == level) == size >> 8 * level


def test_tiles_outside_the_tree_are_a_bug_of_ours() -> None:
    for tile in (Tile(0, 273, 113), Tile(1, 1, 18), Tile(2, 0, 2), Tile(3, 0, 1), Tile(ENTRIES, 0)):
        with pytest.raises(LocalProtocolError):
            tile_bytes(TREE, tile)
    for size in (-1, MAX_SIZE + 1):
        with pytest.raises(LocalProtocolError):
            next(tiles_of(size))


@given(st.lists(st.binary(max_size=140), min_size=1, max_size=256))
@settings(deadline=None, max_examples=50)
def test_bundles_read_back(headers: list[bytes]) -> None:
    data = bundle_entries(headers)
    assert split_bundle(data, len(headers)) == headers
    for wrong, width in ((data[:-1], len(headers)), (data + b"\0", len(headers)), (data, len(headers) + 1)):
        with pytest.raises(Malformed):
            split_bundle(wrong, width)


@pytest.mark.parametrize("headers", [[], [b""] * 257, [bytes(65_536)]])
def test_bundles_that_do_not_fit_are_a_bug_of_ours(headers: list[bytes]) -> None:
    with pytest.raises(LocalProtocolError):
        bundle_entries(headers)


@pytest.mark.parametrize("size", [0, 8191, 8193])
def test_a_tile_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(Malformed):
        tile_root(bytes(size))
