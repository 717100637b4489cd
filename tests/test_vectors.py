"""The cache of vectors: bounded, transparent, and no way around the checks."""

from __future__ import annotations

import numpy as np
import pytest

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.learning.vectors import MissingBlob, Vectors


def test_the_cache_is_bounded_and_only_a_cache() -> None:
    blobs = MemoryBlobs()
    vectors = Vectors(blobs, capacity_bytes=100)
    made = [np.full(5, i, np.float32) for i in range(20)]
    names = [vectors.put(vector) for vector in made]
    assert vectors.held_bytes <= 100
    for name, vector in zip(names, made, strict=True):
        assert vectors.get(name, 5).tolist() == vector.tolist()
        assert vectors.held_bytes <= 100


def test_what_is_absent_or_no_vector_of_this_length_is_refused() -> None:
    blobs = MemoryBlobs()
    vectors = Vectors(blobs)
    with pytest.raises(MissingBlob, match="0101") as missing:
        vectors.get(b"\1" * 32, 5)
    assert missing.value.name == b"\1" * 32
    with pytest.raises(RemoteProtocolError) as refused:
        vectors.get(blobs.put(bytes(16)), 5)
    assert refused.value.reason is Reason.BAD_SHAPE


def test_cached_vectors_cannot_be_written() -> None:
    vectors = Vectors(MemoryBlobs())
    vector = vectors.get(vectors.put(np.zeros(3, np.float32)), 3)
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 1
