"""Key files that are not locked: read back exactly or refused with a remedy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.encoding import Value, encode
from quidnunc.crypto.errors import KeyFileError, LocalProtocolError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.keyfile import KeyFile, decode_key_file, encode_key_file

SECRET = bytes(range(32))


def fields(**changes: Value) -> dict[str, Value]:
    base: dict[str, Value] = {
        "v": 1,
        "kind": "root",
        "kdf": "none",
        "pub": SecretKey(SECRET).public,
        "secret": SECRET,
    }
    return {**base, **changes}


@pytest.mark.parametrize("kind", ["root", "operational"])
@given(secret=st.binary(min_size=32, max_size=32))
@settings(deadline=None, max_examples=30)
def test_a_key_survives_its_file(kind: str, secret: bytes) -> None:
    assert decode_key_file(encode_key_file(kind, secret)) == KeyFile(kind, secret)


def test_the_bytes_are_frozen() -> None:
    public = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    expected = f"85a36b6466a46e6f6e65a46b696e64a4726f6f74a3707562c420{public}a6736563726574c420{SECRET.hex()}a17601"
    assert encode_key_file("root", SECRET).hex() == expected


@given(st.integers(0), st.integers(0, 7))
@settings(deadline=None, max_examples=200)
def test_a_flipped_bit_never_makes_another_identity(where: int, bit: int) -> None:
    data = bytearray(encode_key_file("root", SECRET))
    data[where % len(data)] ^= 1 << bit
    with pytest.raises(KeyFileError) as caught:
        decode_key_file(bytes(data))
    assert caught.value.hint


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(KeyFileError):
        decode_key_file(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kdf": "argon2id13"}, "must hold exactly box, check, kdf"),
        ({"kdf": "scrypt", "salt": b"x"}, "locked with 'scrypt', this program reads 'argon2id13' and 'none'"),
        ({"kdf": 1}, "locked with 1, this program reads 'argon2id13' and 'none'"),
        ({"v": 2, "more": True}, "version 2, this program reads 1"),
        ({"v": True}, "version True, this program reads 1"),
        ({"kind": "witness"}, "kind 'witness', known are root, operational"),
        ({"kind": b"root"}, "known are root, operational"),
        ({"pub": bytes(32)}, "not that of its secret"),
        ({"secret": bytes(32)}, "not that of its secret"),
        ({"secret": bytes(31)}, "not 32 bytes"),
        ({"secret": "x"}, "not 32 bytes"),
        ({"extra": None}, "must hold exactly kdf, kind, pub, secret, v"),
    ],
)
def test_a_file_that_differs_is_refused_by_name(changes: dict[str, Value], message: str) -> None:
    with pytest.raises(KeyFileError, match=message) as caught:
        decode_key_file(encode(fields(**changes)))
    assert caught.value.hint


@pytest.mark.parametrize("missing", ["v", "kind", "kdf", "pub", "secret"])
def test_every_field_is_needed(missing: str) -> None:
    without = {key: value for key, value in fields().items() if key != missing}
    with pytest.raises(KeyFileError):
        decode_key_file(encode(without))


@pytest.mark.parametrize("value", [[], None, "key", [1, 2]])
def test_other_values_are_refused(value: Value) -> None:
    with pytest.raises(KeyFileError, match="does not hold a map"):
        decode_key_file(encode(value))


def test_a_large_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(KeyFileError, match="4097 encoded bytes, limit is 4096"):
        decode_key_file(bytes(4097))


def test_the_secret_is_not_shown() -> None:
    key = decode_key_file(encode_key_file("operational", SECRET))
    for shown in (repr(key), str(key), f"{key}"):
        assert SECRET.hex() not in shown
        assert repr(SECRET) not in shown
        assert "operational" in shown
    with pytest.raises(KeyFileError) as caught:
        decode_key_file(encode(fields(pub=bytes(32), kdf=SECRET)))
    assert SECRET.hex() not in str(caught.value)
    assert repr(SECRET) not in str(caught.value)


@pytest.mark.parametrize(("kind", "secret"), [("witness", SECRET), ("", SECRET), ("root", bytes(31))])
def test_no_file_is_made_that_could_not_be_read(kind: str, secret: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode_key_file(kind, secret)
