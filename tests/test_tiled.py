"""Trees that are not held whole: the right edge for whoever reads a log once, and proofs from every eighth level."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import Author

from quidnunc.crypto.errors import LedgerCorrupt, LocalProtocolError
from quidnunc.crypto.merkle import Tree, verify_consistency, verify_inclusion
from quidnunc.crypto.tiled import Frontier, Tiled
from quidnunc.peer.ledger.store import Store

SIZES = (0, 1, 2, 3, 255, 256, 257, 511, 512, 513, 1000, 65_535, 65_536, 65_537, 66_000)


def leaf(index: int) -> bytes:
    return hashlib.sha256(b"%d" % index).digest()


@pytest.fixture(scope="module")
def tree() -> Tree:
    made = Tree()
    for index in range(SIZES[-1]):
        made.append(leaf(index))
    return made


def tiled(tree: Tree, size: int, asked: list[int] | None = None) -> Tiled:
    def hashes(level: int, start: int, stop: int) -> Sequence[bytes]:
        assert level % 8 == 0
        assert stop - start <= 256
        if asked is not None:
            asked.append(stop - start)
        return [tree.subtree(level, position) for position in range(start, stop)]

    return Tiled(size, hashes)


@pytest.mark.parametrize("size", SIZES)
def test_the_right_edge_has_the_root_of_every_size(tree: Tree, size: int) -> None:
    edge = Frontier()
    kept = {(level, (edge.size >> level) - 1, node) for i in range(size) for level, node in edge.append(leaf(i))}
    assert (edge.size, edge.root()) == (size, tree.root(size))
    wanted = {(level, p, tree.subtree(level, p)) for level in (8, 16) for p in range(size >> level)}
    assert kept == wanted


@given(st.integers(1, SIZES[-1]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_tiled_tree_gives_the_same_proofs(tree: Tree, size: int, data: st.DataObject) -> None:
    asked: list[int] = []
    view = tiled(tree, size, asked)
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    assert view.root() == tree.root(size)
    assert view.inclusion(index) == tree.inclusion(index, size)
    verify_inclusion(leaf(index), index, size, view.inclusion(index), view.root())
    assert view.consistency(old) == tree.consistency(old, size)
    verify_consistency(old, size, view.root(old), view.root(), view.consistency(old))
    assert len(asked) <= 3 * 4, "a handful of tiles for each proof"


def test_a_tiled_tree_is_a_view(tree: Tree) -> None:
    view = tiled(tree, 300)
    with pytest.raises(LocalProtocolError, match="nothing can be added"):
        view.append(leaf(300))
    with pytest.raises(LocalProtocolError, match="must be 44"):
        Tiled(300, lambda level, start, stop: []).inclusion(299)
    with pytest.raises(LocalProtocolError, match="no complete subtree"):
        tree.subtree(8, SIZES[-1] >> 8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """600 entries in three commits, one of which completes two stored subtrees."""
    author = Author()
    made = Store.create(tmp_path / "ledger.db", author.log_id, author.key.public)
    for count in (10, 560, 30):
        made.commit(author.entries(count), author.note())
    return made


def test_a_store_gives_proofs_from_a_few_rows(store: Store) -> None:
    view = store.tree()
    assert view.root() == store.root
    for seq in (0, 255, 256, 570, 599):
        verify_inclusion(store.entry(seq).leaf, seq, 600, view.inclusion(seq), store.root)
    rows = store._connection.execute("SELECT level, position FROM node").fetchall()
    assert rows == [(8, 0), (8, 1)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE node SET hash = zeroblob(32) WHERE position = 1", "stored subtree 1 of level 8: not what"),
        ("DELETE FROM node WHERE position = 0", "stored subtree 0 of level 8: missing"),
        ("INSERT INTO node VALUES (8, 2, zeroblob(32))", "3 subtrees are stored, the entries make 2"),
    ],
)
def test_a_damaged_stored_tree_is_named_and_opens_no_store(store: Store, change: str, why: str) -> None:
    store._connection.execute(change)
    report = store.verify()
    assert [p.code for p in report.layer("merkle").problems] == ["I6"]
    assert why in report.layer("merkle").problems[0].why
    assert report.layer("chain").ok
    store.close()
    with pytest.raises(LedgerCorrupt, match="stored tree"):
        Store.open(store.path)
