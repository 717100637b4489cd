"""Keys, derivation and tags."""

from __future__ import annotations

import copy
import hashlib
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import LocalProtocolError, Reason, RemoteProtocolError
from quidnunc.crypto.identity import Role, SecretKey, derive_seed, hkdf_sha256, tagged, tagged_hash, verify

SEED = bytes(range(32))


@pytest.mark.parametrize(
    ("secret", "salt", "info", "size", "output"),
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            "0b" * 22,
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
    ids=["A.1", "A.2", "A.3"],
)
def test_hkdf_gives_the_answers_of_rfc_5869(secret: str, salt: str, info: str, size: int, output: str) -> None:
    got = hkdf_sha256(bytes.fromhex(secret), salt=bytes.fromhex(salt), info=bytes.fromhex(info), size=size)
    assert got.hex() == output


@pytest.mark.parametrize("size", [0, 255 * 32 + 1])
def test_hkdf_refuses_sizes_that_the_rfc_does_not_define(size: int) -> None:
    with pytest.raises(LocalProtocolError, match="limit is 8160"):
        hkdf_sha256(SEED, salt=b"", info=b"", size=size)


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
    ids=["RFC 8032 test 1", "RFC 8032 test 2"],
)
def test_signatures_are_those_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    key = SecretKey.from_seed(bytes.fromhex(seed))
    assert key.public.hex() == public
    assert key.seed.hex() == seed
    assert key.sign(bytes.fromhex(message)).hex() == signature
    verify(key.public, bytes.fromhex(message), bytes.fromhex(signature))


@given(st.binary(max_size=100), st.integers(0, 2), st.data())
@settings(deadline=None, max_examples=100)
def test_any_flipped_bit_is_refused(message: bytes, which: int, data: st.DataObject) -> None:
    key = SecretKey(SEED)
    parts = [key.public, message, key.sign(message)]
    verify(*parts)
    if not parts[which]:
        return
    bit = data.draw(st.integers(0, len(parts[which]) * 8 - 1))
    flipped = bytearray(parts[which])
    flipped[bit // 8] ^= 1 << bit % 8
    parts[which] = bytes(flipped)
    with pytest.raises(RemoteProtocolError) as caught:
        verify(*parts)
    assert caught.value.reason is Reason.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("public", "signature"),
    [
        (b"", bytes(64)),
        (bytes(31), bytes(64)),
        (bytes(33), bytes(64)),
        (bytes(32), b""),
        (bytes(32), bytes(65)),
    ],
)
def test_wrong_sizes_are_a_bad_signature(public: bytes, signature: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="must be 32 and 64") as caught:
        verify(public, b"x", signature)
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_a_second_signature_cannot_be_made_without_the_key() -> None:
    # S + L is as good as S in a verifier that does not check S < L.
    order = 2**252 + 27742317777372353535851937790883648493
    key = SecretKey(SEED)
    signature = key.sign(b"x")
    twin = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    with pytest.raises(RemoteProtocolError):
        verify(key.public, b"x", twin)


def test_a_key_of_small_order_signs_nothing() -> None:
    identity_point = b"\x01" + bytes(31)
    with pytest.raises(RemoteProtocolError):
        verify(identity_point, b"x", identity_point + bytes(32))


def test_derived_keys_differ_by_role_and_epoch_and_secret() -> None:
    seeds = {
        derive_seed(secret, role, epoch)
        for secret in (SEED, bytes(32))
        for role in Role
        for epoch in (0, 1, 256, 2**32 - 1)
    }
    assert len(seeds) == 2 * 3 * 4
    assert all(len(seed) == 32 for seed in seeds)


def test_derivation_is_frozen() -> None:
    # Computed from the formula with hashlib alone: a change here would lose every existing identity.
    def mac(key: bytes, message: bytes) -> bytes:
        key = key.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + message).digest()
        return hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).digest()

    info = b"quidnunc/v1/role-key\0" + b"witness" + b"\0" + b"\0\0\0\x07"
    expected = mac(mac(bytes(32), SEED), info + b"\x01")
    assert derive_seed(SEED, Role.WITNESS, 7) == expected
    assert derive_seed(SEED, Role.LOG, 0).hex() == "a3943cf305347c9621095ee5ad8c152319c6e6be96ccedc4bb2fce7c4d4d56cf"


@pytest.mark.parametrize(("secret", "epoch"), [(bytes(31), 0), (SEED, -1), (SEED, 2**32)])
def test_derivation_refuses_short_secrets_and_wild_epochs(secret: bytes, epoch: int) -> None:
    with pytest.raises(LocalProtocolError):
        derive_seed(secret, Role.LOG, epoch)


def test_a_secret_key_does_not_show_its_secret() -> None:
    key = SecretKey(SEED)
    for shown in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert SEED.hex() not in shown
        assert repr(SEED) not in shown
        assert key.public.hex() in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(LocalProtocolError):
            leak(key)
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_is_32_bytes(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"{size} bytes, must be 32"):
        SecretKey.from_seed(bytes(size))


def test_tags_are_the_documented_bytes() -> None:
    assert tagged("payload", b"ab", b"c") == b"quidnunc/v1/payload\x00abc"
    assert tagged_hash("payload", b"abc") == hashlib.sha256(b"quidnunc/v1/payload\x00abc").digest()
    for bad in ("", "a\x00b", "é"):
        with pytest.raises(LocalProtocolError):
            tagged(bad)
