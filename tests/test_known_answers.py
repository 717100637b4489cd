"""The log core against answers published elsewhere: tests/vectors/transparency.json, each with its source."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quidnunc.crypto.checkpoint import Checkpoint, format_checkpoint
from quidnunc.crypto.errors import Malformed
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.merkle import (
    MAX_SIZE,
    Tree,
    empty_root,
    leaf_hash,
    node_hash,
    root_from_inclusion,
    verify_consistency,
    verify_inclusion,
)
from quidnunc.crypto.note import format_vkey, parse_note, parse_vkey, sign_note, verify_note
from quidnunc.crypto.tiles import Tile, parse_tile_path, tile_path, tiles_of

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "transparency.json").read_text("utf-8"))
CT = VECTORS["ct tree"]


def tree_of(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


TREE = tree_of([leaf_hash(bytes.fromhex(leaf)) for leaf in CT["leaves"]])


def test_every_vector_names_its_source() -> None:
    blocks = [block for value in VECTORS.values() for block in (value if isinstance(value, list) else [value])]
    assert all(block["source"] for block in blocks)


def test_the_hashes_of_rfc_6962() -> None:
    known = VECTORS["rfc6962"]
    assert empty_root().hex() == known["empty root"]
    for data, expected in known["leaf"].items():
        assert leaf_hash(data.encode()).hex() == expected
    assert node_hash(known["node"]["left"].encode(), known["node"]["right"].encode()).hex() == known["node"]["hash"]


def test_every_hash_of_the_ct_tree() -> None:
    for level, hashes in enumerate(CT["levels"]):
        assert [TREE.subtree(level, position).hex() for position in range(len(hashes))] == hashes
    assert [TREE.root(size).hex() for size in range(9)] == CT["roots"]


@pytest.mark.parametrize("known", CT["inclusion"], ids=lambda each: f"{each['index']}of{each['size']}")
def test_inclusion_proofs_of_the_ct_tree(known: dict[str, Any]) -> None:
    path = [bytes.fromhex(each) for each in known["path"]]
    root = bytes.fromhex(CT["roots"][known["size"]])
    assert TREE.inclusion(known["index"], known["size"]) == path
    verify_inclusion(TREE.leaf(known["index"]), known["index"], known["size"], path, root)


@pytest.mark.parametrize("known", CT["consistency"], ids=lambda each: f"{each['old']}to{each['new']}")
def test_consistency_proofs_of_the_ct_tree(known: dict[str, Any]) -> None:
    path = [bytes.fromhex(each) for each in known["path"]]
    old, new = known["old"], known["new"]
    assert TREE.consistency(old, new) == path
    verify_consistency(old, new, bytes.fromhex(CT["roots"][old]), bytes.fromhex(CT["roots"][new]), path)


@pytest.mark.parametrize("known", VECTORS["notes"], ids=lambda each: each["source"].split("/")[0])
def test_published_notes(known: dict[str, Any]) -> None:
    verifier = parse_vkey(known["vkey"])
    note = f"{known['text']}\n{known['line']}\n"
    assert format_vkey(verifier) == known["vkey"]
    assert verify_note(parse_note(note), [verifier]) == [verifier.name]
    if known["secret"]:
        assert sign_note(known["text"], verifier.name, SecretKey(base64.b64decode(known["secret"])[1:])) == note


def test_the_tree_note_of_sumdb() -> None:
    known = VECTORS["sumdb tree"]
    text = format_checkpoint(Checkpoint("any/origin", known["size"], leaf_hash(known["leaf"].encode())))
    assert text == f"any/origin\n{known['size']}\n{known['root']}\n"


@pytest.mark.parametrize("known", VECTORS["tiles"]["paths"], ids=lambda each: each["path"])
def test_published_tile_paths(known: dict[str, Any]) -> None:
    tile = Tile(known["level"], known["number"], known["width"])
    assert tile_path(tile) == known["path"]
    assert parse_tile_path(known["path"]) == tile


@pytest.mark.parametrize("known", VECTORS["tiles"]["trees"], ids=lambda each: str(each["size"]))
def test_published_numbers_of_tiles(known: dict[str, Any]) -> None:
    tiles = list(tiles_of(known["size"]))
    for level, (full, partial) in enumerate(zip(known["full"], known["partial"], strict=True)):
        of_level = [tile for tile in tiles if tile.level == level]
        assert sum(tile.width == 256 for tile in of_level) == full
        assert [tile.width for tile in of_level if tile.width < 256] == ([partial] if partial else [])
    assert max(tile.level for tile in tiles) == len(known["full"]) - 1


# Negative classes for every element of a proof.

N = 21
LEAVES = [leaf_hash(bytes([number])) for number in range(N + 1)]
BIG = tree_of(LEAVES)


def broken(path: list[bytes]) -> Iterator[list[bytes]]:
    """``path`` with each of its hashes flipped (every bit of the first and last byte), dropped, doubled, swapped."""
    for at, each in enumerate(path):
        for bit in (*range(8), *range(248, 256)):
            flipped = (int.from_bytes(each, "big") ^ 1 << bit).to_bytes(32, "big")
            yield [*path[:at], flipped, *path[at + 1 :]]
        yield [*path[:at], *path[at + 1 :]]
        yield [*path[: at + 1], *path[at:]]
        yield [*path[:at], each[:-1], *path[at + 1 :]]
        yield [*path[:at], each + b"\0", *path[at + 1 :]]
        yield [*path[:at], bytes(32), *path[at + 1 :]]
        for other in range(at + 1, len(path)):
            swapped = list(path)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            yield swapped
    for extra in (b"", bytes(32), *path[:1]):
        yield [extra, *path]
        yield [*path, extra]
    if path:
        yield []
        yield [path[0]] * len(path) if len(path) > 1 else [bytes(32)]


def test_every_element_of_an_inclusion_proof_counts() -> None:
    refused = 0
    for size in range(1, N):
        root = BIG.root(size)
        for index in range(size):
            path = BIG.inclusion(index, size)
            cases = [(index, size, wrong, root) for wrong in broken(path)]
            cases += [(other, size, path, root) for other in range(-1, size + 2) if other != index]
            cases += [(index, other, path, root) for other in (0, -1, index, MAX_SIZE, MAX_SIZE + 1, 2**200)]
            cases += [(other, MAX_SIZE, path, root) for other in (2**62, MAX_SIZE - 1, MAX_SIZE)]
            cases += [(index, size, path, other) for other in (BIG.root(size + 1), BIG.leaf(index + 1), b"")]
            for at, count, wrong, top in cases:
                with pytest.raises(Malformed):
                    verify_inclusion(LEAVES[index], at, count, wrong, top)
            refused += len(cases)
    assert refused > 15_000


def test_every_element_of_a_consistency_proof_counts() -> None:
    refused = 0
    for new in range(1, N):
        for old in range(1, new + 1):
            path, before, after = BIG.consistency(old, new), BIG.root(old), BIG.root(new)
            cases = [(old, new, before, after, wrong) for wrong in broken(path)]
            cases += [(at, new, before, after, path) for at in (0, -1, new + 1, MAX_SIZE, MAX_SIZE + 1)]
            cases += [(old, at, before, after, path) for at in (0, -1, old - 1, MAX_SIZE + 1, 2**200)]
            cases += [(old, new, other, after, path) for other in (BIG.root(old - 1), bytes(32), b"")]
            cases += [(old, new, before, other, path) for other in (BIG.root(new + 1), bytes(32), b"")]
            for at, to, first, second, wrong in cases:
                with pytest.raises(Malformed):
                    verify_consistency(at, to, first, second, wrong)
            refused += len(cases)
    assert refused > 15_000


def test_a_consistency_proof_is_of_one_old_size() -> None:
    for new in range(2, N):
        for old in range(1, new):
            path, before, after = BIG.consistency(old, new), BIG.root(old), BIG.root(new)
            for other in (old - 1, old + 1, old * 2, old // 2):
                if other != old and 0 < other <= new:
                    with pytest.raises(Malformed):
                        verify_consistency(other, new, before, after, path)


def test_the_empty_tree_proves_nothing() -> None:
    for path in ([], [bytes(32)], [empty_root()]):
        with pytest.raises(Malformed):
            verify_consistency(0, 0, empty_root(), empty_root(), path)
        with pytest.raises(Malformed):
            verify_consistency(0, 1, empty_root(), LEAVES[0], path)
        with pytest.raises(Malformed):
            root_from_inclusion(LEAVES[0], 0, 0, path)
