"""Data of simulated peers: pools, files, and how examples are shared out."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.data import images
from quidnunc.sim.data.images import parse_idx, parse_npz, read_images
from quidnunc.sim.data.pool import Pool, load_pool
from quidnunc.sim.data.shares import SIZE_MIN, share_out
from quidnunc.sim.data.spec import DataSpec


def small_pool(examples: int = 1000, classes: int = 5) -> Pool:
    return load_pool(DataSpec(source="synthetic", pool=examples * 5 // 4, classes=classes), 1)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("source", "shared", "tested", "least", "most"), [("digits", 1437, 360, 0, 1), ("breast-cancer", 455, 114, -1, 3)]
)
def test_built_in_pools_are_those_of_the_tasks(
    source: str, shared: int, tested: int, least: float, most: float
) -> None:
    pool = load_pool(DataSpec(source=source))
    assert (len(pool.labels), len(pool.test_labels)) == (shared, tested)
    assert least <= pool.inputs.min() <= pool.inputs.max() <= most


def test_synthetic_examples_follow_the_seed_and_can_be_told_apart() -> None:
    spec = DataSpec(source="synthetic", features=8, classes=3, pool=600, spread=0.2)
    pool, again, other = load_pool(spec, 1), load_pool(spec, 1), load_pool(spec, 2)
    assert np.array_equal(pool.inputs, again.inputs)
    assert not np.array_equal(pool.inputs, other.inputs)
    centers = np.stack([pool.inputs[pool.labels == c].mean(axis=0) for c in range(3)])
    near = np.linalg.norm(pool.test_inputs[:, None] - centers, axis=2).argmin(axis=1)
    assert (near == pool.test_labels).mean() > 0.95


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "by-quantity"])
def test_sharing_everything_out_gives_every_example_to_one_peer(partition: str) -> None:
    pool = small_pool()
    shares = share_out(pool, DataSpec(partition=partition), 12, 3)
    together = np.concatenate(shares.rows)
    assert not shares.replaced
    assert len(np.unique(together)) == len(together) <= 1000
    assert shares.sizes.min() >= SIZE_MIN
    if partition == "by-quantity":
        assert shares.sizes.max() > 2 * shares.sizes.min()
        assert len(together) > 980
    else:
        assert len(together) == 1000
        assert shares.sizes.max() - shares.sizes.min() <= 1


def test_extremely_skewed_sizes_never_ask_for_more_than_there_is() -> None:
    pool = small_pool(100)
    for seed in range(20):
        shares = share_out(pool, DataSpec(partition="by-quantity", skew=5.0), 20, seed)
        assert not shares.replaced
        assert shares.sizes.sum() <= 100
        assert shares.sizes.min() == SIZE_MIN


def test_by_label_gives_each_peer_its_number_of_classes() -> None:
    pool = small_pool()
    for spec in (DataSpec(partition="by-label"), DataSpec(partition="by-label", examples=400)):
        shares = share_out(pool, spec, 10, 3)
        assert shares.replaced == bool(spec.examples)
        assert all(len(np.unique(pool.labels[rows])) == 2 for rows in shares.rows)


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "by-label", "by-quantity"])
def test_asking_for_more_than_there_is_means_replacement_and_says_so(partition: str) -> None:
    pool = small_pool(100)
    shares = share_out(pool, DataSpec(partition=partition, examples=64), 40, 3)
    assert shares.replaced
    assert "WITH REPLACEMENT from a pool of 100" in shares.describe(100)
    assert all((rows >= 0).all() and (rows < 100).all() for rows in shares.rows)
    if partition != "by-quantity":
        assert shares.sizes.tolist() == [64] * 40
    with pytest.raises(ConfigError, match="the pool has 100"):
        share_out(pool, DataSpec(partition=partition, examples=64, replacement="never"), 40, 3)


def test_just_enough_examples_are_not_replaced_and_one_more_is() -> None:
    pool = small_pool(100)
    assert not share_out(pool, DataSpec(partition="iid", examples=10), 10, 3).replaced
    assert share_out(pool, DataSpec(partition="iid", examples=11), 10, 3).replaced
    assert share_out(pool, DataSpec(partition="iid", examples=5, replacement="always"), 10, 3).replaced


def test_the_same_seed_gives_the_same_shares() -> None:
    pool = small_pool()
    one, same, other = (share_out(pool, DataSpec(alpha=0.01, examples=200), 30, seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one.rows, same.rows))
    assert not all(map(np.array_equal, one.rows, other.rows))


def test_too_many_peers_for_a_pool_are_told_the_remedy() -> None:
    with pytest.raises(ConfigError, match="fewer than 4 each") as refused:
        share_out(small_pool(100), DataSpec(), 26, 1)
    assert "data.examples" in refused.value.hint
    with pytest.raises(ConfigError, match="the data have 5 classes"):
        share_out(small_pool(), DataSpec(partition="by-label", labels_per_peer=6), 4, 1)


def write_sites(folder: Path) -> None:
    for at, name in enumerate(("north", "south")):
        rows = [f"{20 + i % 50},{i % 7},{(i + at) % 2}" for i in range(60 + 40 * at)]
        (folder / f"{name}.csv").write_text("\n".join(["age,score,target", *rows, ""]))


def test_a_directory_of_tables_is_shared_out_naturally(tmp_path: Path) -> None:
    write_sites(tmp_path)
    spec = DataSpec(source="csv", path=str(tmp_path), partition="natural")
    pool = load_pool(spec)
    shares = share_out(pool, spec, 2, 1)
    assert pool.group_names == ("north", "south")
    assert shares.sizes.sum() + len(pool.test_labels) == 160
    assert shares.sizes[0] < shares.sizes[1]
    with pytest.raises(ConfigError, match="3 peers, the data have 2 sites") as refused:
        share_out(pool, spec, 3, 1)
    assert refused.value.hint == "set peers = 2"
    with pytest.raises(ConfigError, match="no sites of its own"):
        share_out(small_pool(), DataSpec(partition="natural"), 2, 1)


def test_a_bad_table_is_named(tmp_path: Path) -> None:
    write_sites(tmp_path)
    (tmp_path / "south.csv").write_text("age,score,target\n1,2\n")
    with pytest.raises(ConfigError, match=r"south\.csv"):
        load_pool(DataSpec(source="csv", path=str(tmp_path)))
    (tmp_path / "south.csv").unlink()
    with pytest.raises(ConfigError, match="1 files"):
        load_pool(DataSpec(source="csv", path=str(tmp_path)))
    with pytest.raises(ConfigError, match="not a directory"):
        load_pool(DataSpec(source="csv", path=str(tmp_path / "no")))


PICTURES = np.arange(6 * 3 * 2).reshape(6, 3, 2) % 256
CLASSES = np.array([0, 1, 2, 0, 1, 2])


def test_an_idx_pair_is_read_from_a_directory_packed_or_not(tmp_path: Path) -> None:
    (tmp_path / "images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PICTURES)))
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx(CLASSES))
    found = read_images(tmp_path)
    assert np.allclose(found.images, PICTURES / 255)
    assert found.labels.tolist() == CLASSES.tolist()
    pool = load_pool(DataSpec(source="images", path=str(tmp_path)))
    assert (pool.features, pool.shape, pool.classes, len(pool.test_labels)) == (6, (3, 2), 3, 1)
    with pytest.raises(ConfigError, match=r"set|needs one of labels"):
        read_images(tmp_path / "images-idx3-ubyte.gz")
    (tmp_path / "old-labels-idx1-ubyte").write_bytes(idx(CLASSES))
    with pytest.raises(ConfigError, match="2 IDX files of labels"):
        read_images(tmp_path)


def test_an_npz_file_is_read_without_unpickling(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    file.write_bytes(npz(x=PICTURES.astype(np.float32), y=CLASSES))
    assert np.array_equal(read_images(file).images, PICTURES)
    file.write_bytes(npz(x=np.array([{}], dtype=object), y=CLASSES))
    with pytest.raises(ConfigError, match="must be numbers"):
        read_images(file)
    file.write_bytes(npz(pictures=PICTURES, y=CLASSES))
    with pytest.raises(ConfigError, match="no array called images or x"):
        read_images(file)
    file.write_bytes(npz(x=PICTURES[:5], y=CLASSES))
    with pytest.raises(ConfigError, match=r"images of shape \(5, 3, 2\)"):
        read_images(file)
    file.write_bytes(npz(x=PICTURES, y=-CLASSES))
    with pytest.raises(ConfigError, match="whole numbers, 0 to"):
        read_images(file)
    file.write_bytes(npz(x=np.full((6, 2), np.nan), y=CLASSES))
    with pytest.raises(ConfigError, match="not finite"):
        read_images(file)


def test_a_header_that_claims_terabytes_costs_nothing() -> None:
    with pytest.raises(ConfigError, match="its header says 4,611,686"):
        parse_idx(struct.pack(">HBB2I", 0, 8, 2, 2**31, 2**31) + b"x")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"
        head += b" " * (117 - len(head)) + b"\n"
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 8)
    with pytest.raises(ConfigError, match="does not fit its"):
        parse_npz(stream.getvalue())


def test_unpacking_stops_at_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    data = idx(np.zeros((100, 10)))
    monkeypatch.setattr(images, "FILE_BYTES_MAX", len(data))
    assert parse_idx(gzip.compress(data)).shape == (100, 10)
    monkeypatch.setattr(images, "FILE_BYTES_MAX", len(data) - 1)
    with pytest.raises(ConfigError, match="unpacks to more than"):
        parse_idx(gzip.compress(data))
    packed = npz(x=np.zeros((1000, 10)))
    with pytest.raises(ConfigError, match="unpacks to more than"):
        parse_npz(packed)
    with pytest.raises(ConfigError, match="17 arrays, at most 16"):
        parse_npz(npz(**{f"a{i}": np.zeros(1) for i in range(17)}))


@given(st.binary(max_size=100), st.integers(0, 3))
def test_arbitrary_bytes_are_an_array_or_a_config_error(data: bytes, kind: int) -> None:
    whole = npz(x=CLASSES)
    at = len(data) * 3 % len(whole)
    attempts = [
        lambda: parse_idx(data),
        lambda: parse_idx(b"\0\0\x08\x01" + data),
        lambda: parse_idx(b"\x1f\x8b\x08" + data),
        lambda: parse_npz(whole[:at] + data + whole[at + len(data) :]),
    ]
    with contextlib.suppress(ConfigError):
        attempts[kind]()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (DataSpec(source="images"), "data.path is empty"),
        (DataSpec(path="x"), "data.path = 'x' with source 'digits'"),
        (DataSpec(source="images", path="missing.npz"), "cannot be read"),
        (DataSpec(source="synthetic", pool=10_000_000, features=1000), "at most"),
    ],
)
def test_data_that_cannot_be_had_are_refused_before_any_work(spec: DataSpec, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        load_pool(spec, base=tmp_path)
    assert refused.value.hint
