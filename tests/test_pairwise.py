"""Keys of pairs and their noise: answers from the RFCs, from another library, and from docs/wire.md written anew."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from founders import founders
from learners import blobs_task
from nacl.utils import randombytes_deterministic
from numpy.typing import NDArray
from test_private_sum import sum_charter

from quidnunc.crypto.errors import ConfigError, LocalProtocolError, Malformed
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.noise import NoiseStream
from quidnunc.crypto.pairwise import PairKey, check_transport, pair_key, x25519
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.jobs import Described, DescribeJob, JobFailed, PrivacyStep, Trained, TrainJob, Unit
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.learning.pair_noise import pair_noise
from quidnunc.gossip.private_sum import pair_keys
from quidnunc.gossip.task import Plan, Site, Training

P = 2**255 - 19
LOW, HIGH, FEDERATION = b"\x01" * 32, b"\x02" * 32, b"f" * 32


def secret(number: int) -> SecretKey:
    return SecretKey(hashlib.sha256(b"%d" % number).digest())


@pytest.mark.parametrize(
    ("scalar", "point", "product"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e33" + "76f09b3c1e161742",
        ),
    ],
    ids=["5.2", "6.1"],
)
def test_the_shared_secret_is_that_of_rfc_7748(scalar: str, point: str, product: str) -> None:
    assert x25519(bytes.fromhex(scalar), bytes.fromhex(point)).hex() == product


def montgomery(public: bytes) -> bytes:
    """u = (1 + y) / (1 - y), as RFC 7748, section 4.1, has the map between the curves."""
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)
    return ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")


def test_a_pairs_key_is_the_documents_by_another_library() -> None:
    one, other = secret(1), secret(2)
    scalar = hashlib.sha512(one.seed).digest()[:32]
    shared = X25519PrivateKey.from_private_bytes(scalar).exchange(
        X25519PublicKey.from_public_bytes(montgomery(other.public))
    )
    info = b"quidnunc/v1/pair\x00" + LOW + HIGH
    derived = HKDF(SHA256(), 32, salt=FEDERATION, info=info).derive(shared)
    assert pair_key(one, LOW, other.public, HIGH, FEDERATION) == (derived, 1)
    assert pair_key(other, HIGH, one.public, LOW, FEDERATION) == (derived, -1)


def test_every_pair_and_every_federation_has_a_key_of_its_own() -> None:
    one, other, third = secret(1), secret(2), secret(3)
    keys = {
        pair_key(one, LOW, other.public, HIGH, FEDERATION).key,
        pair_key(one, LOW, other.public, HIGH, b"g" * 32).key,
        pair_key(one, LOW, third.public, HIGH, FEDERATION).key,
        pair_key(one, LOW, other.public, b"\x03" * 32, FEDERATION).key,
    }
    assert len(keys) == 4
    with pytest.raises(LocalProtocolError, match="with itself"):
        pair_key(one, LOW, one.public, LOW, FEDERATION)


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32], ids=["zero", "identity", "large"])
def test_a_transport_key_that_shares_no_secret_is_refused(public: bytes) -> None:
    with pytest.raises(Malformed, match="no key of Ed25519"):
        check_transport(public)
    with pytest.raises(Malformed):
        pair_key(secret(1), LOW, public, HIGH, FEDERATION)


def test_a_point_of_small_order_shares_no_secret() -> None:
    with pytest.raises(Malformed, match="small order"):
        x25519(hashlib.sha256(b"s").digest(), bytes(32))


def drawn(key: bytes, round_: int, dim: int) -> NDArray[np.float64]:
    """Section 3.4 of docs/wire.md."""
    child = hashlib.sha256(b"quidnunc/v1/noise-child\x00" + key + b"\x00\x00\x00\x04pair").digest()
    found = []
    for counter, start in enumerate(range(0, dim, 16384)):
        size = min(16384, dim - start)
        half = (size + 1) // 2
        name = b"round/%d" % round_ + counter.to_bytes(8, "big")
        seed = hashlib.sha256(b"quidnunc/v1/noise\x00" + child + name).digest()
        words = np.frombuffer(randombytes_deterministic(8 * 8 * half, seed), "<u8") >> np.uint64(11)
        u = words.astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2 * np.log(1 - u[: 4 * half])).reshape(4, half)
        angle = (2 * np.pi * u[4 * half :]).reshape(4, half)
        cosines, sines = (radius * np.cos(angle)).sum(0) / 2, (radius * np.sin(angle)).sum(0) / 2
        found += [cosines, sines[: size - half]]
    return np.concatenate(found)


@pytest.mark.parametrize("dim", [1, 7, 20_001])
def test_a_pairs_noise_is_the_documents(dim: int) -> None:
    key = bytes(range(32))
    np.testing.assert_allclose(pair_noise([PairKey(key, 1)], 12, dim), drawn(key, 12, dim), atol=1e-12)


def test_the_noise_of_all_members_cancels_and_differs_from_round_to_round() -> None:
    made = founders(5)
    terms = sum_charter(members=5)
    rounds = []
    for round_ in (1, 2):
        each = []
        for one in made:
            transport = SecretKey(derive_seed(one.secret, Role.TRANSPORT, 0))
            each.append(pair_noise(pair_keys(terms, one.member.log_id, transport), round_, 4000))
        assert np.abs(sum(each)).max() < 1e-12
        assert [noise.std() for noise in each] == pytest.approx([2.0] * 5, rel=0.05), "four pairs of variance 1"
        rounds.append(each)
    assert abs(np.corrcoef(rounds[0][0], rounds[1][0])[0, 1]) < 0.1


def test_a_release_without_its_pairs_is_none() -> None:
    with pytest.raises(ConfigError, match="without the keys of its pairs"):
        pair_noise([], 1, 10)
    blobs = MemoryBlobs()
    plan = Plan(0, 0, Training(0.5), "mean", private=True, rounds=6)
    compute = Compute(lambda site: blobs_task(), Site(0, 1, 1.0, 0), plan, blobs, NoiseStream(bytes(32), b"c"))
    described = compute.handle(DescribeJob())
    assert isinstance(described, Described)
    start = described.genesis
    job = TrainJob(1, 1, start, start, True, 1.0, PrivacyStep(1.0, 1.0, 1.0, 1, Unit.SUM, 2.0, 100))
    failed = compute.handle(job)
    assert isinstance(failed, JobFailed)
    assert "without the keys of its pairs" in failed.why
    compute.pairs = (PairKey(bytes(32), 1),)
    first, again, idle = (compute.handle(each) for each in (job, job, replace(job, train=False)))
    assert isinstance(first, Trained)
    assert first == again, "a round that is computed again"
    assert isinstance(idle, Trained)
    assert idle.result != first.result
    other = compute.handle(replace(job, round=2))
    assert isinstance(other, Trained)
    assert other.result != first.result
