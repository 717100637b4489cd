"""Locked key files: opened by their passphrase only, cheap to refuse, and the same to other implementations."""

from __future__ import annotations

import hashlib

import pytest
from Crypto.Cipher import ChaCha20_Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_pwhash_alg,
    crypto_pwhash_ALG_ARGON2ID13,
)

from quidnunc.crypto import keyfile
from quidnunc.crypto.encoding import Value, decode, encode
from quidnunc.crypto.errors import KeyFileError, LocalProtocolError
from quidnunc.crypto.identity import SecretKey, tagged, tagged_hash
from quidnunc.crypto.keyfile import (
    MAX_MEM_KIB,
    MAX_OPS,
    MIN_MEM_KIB,
    MIN_OPS,
    Cost,
    KeyFile,
    LockedKeyFile,
    decode_key_file,
    lock_key_file,
)

SECRET = bytes(range(32))
PHRASE = b"correct horse"
SALT = bytes(range(100, 116))
NONCE = bytes(range(200, 224))
CHEAP = Cost(MIN_OPS, MIN_MEM_KIB)
LOCKED = lock_key_file("root", SECRET, PHRASE, salt=SALT, nonce=NONCE, cost=CHEAP)


def opened(data: bytes) -> LockedKeyFile:
    found = decode_key_file(data)
    assert isinstance(found, LockedKeyFile)
    return found


def doctored(**changes: Value) -> bytes:
    """The file with other fields and a ``check`` that fits them, as somebody with intent would make it."""
    fields = decode(LOCKED, max_bytes=4096)
    assert isinstance(fields, dict)
    fields |= changes
    rest = {key: value for key, value in fields.items() if key != "check"}
    return encode({**rest, "check": tagged_hash("key-check", encode(rest)), **changes})


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test as soon as anything is derived."""

    def refuse(*args: object) -> bytes:
        raise AssertionError("work was done")

    monkeypatch.setattr(keyfile, "crypto_pwhash_alg", refuse)


@pytest.mark.parametrize("kind", ["root", "operational"])
def test_a_key_survives_its_lock(kind: str) -> None:
    data = lock_key_file(kind, SECRET, PHRASE, salt=SALT, nonce=NONCE, cost=CHEAP)
    assert opened(data).unlock(PHRASE) == KeyFile(kind, SECRET)
    assert SECRET not in data


def test_kind_public_key_and_cost_show_without_the_passphrase(no_work: None) -> None:
    found = opened(LOCKED)
    assert (found.kind, found.public, found.cost) == ("root", SecretKey(SECRET).public, CHEAP)
    assert len(LOCKED) == 228


def test_another_passphrase_does_not_open_it() -> None:
    for phrase in (b"correct hors", b"correct horse ", b"Correct horse", PHRASE * 2):
        with pytest.raises(KeyFileError, match="the passphrase does not open the key file") as caught:
            opened(LOCKED).unlock(phrase)
        assert caught.value.hint
        assert phrase.decode() not in caught.value.message + caught.value.hint


def test_an_empty_passphrase_is_misuse() -> None:
    with pytest.raises(LocalProtocolError):
        opened(LOCKED).unlock(b"")
    with pytest.raises(LocalProtocolError):
        lock_key_file("root", SECRET, b"", salt=SALT, nonce=NONCE, cost=CHEAP)


# Known answers.


def test_argon2id_is_that_of_libsodiums_own_vectors() -> None:
    """The first of libsodium's test/default/pwhash_argon2id.c and .exp: the function we call is version 0x13."""
    password = bytes.fromhex(
        "a347ae92bce9f80f6f595a4480fc9c2fe7e7d7148d371e9487d75f5c23008ffae065577a928febd9b1973a5a95073acdbeb6a030"
        "cfc0d79caa2dc5cd011cef02c08da232d76d52dfbca38ca8dcbd665b17d1665f7cf5fe59772ec909733b24de97d6f58d220b20c6"
        "0d7c07ec1fd93c52c31020300c6c1facd77937a597c7a6"
    )
    salt = bytes.fromhex("5541fbc995d5c197ba290346d2c559de")
    expected = (
        "18acec5d6507739f203d1f5d9f1d862f7c2cdac4f19d2bdff64487e60d969e3ced615337b9eec6ac4461c6ca07f0939741e57c24"
        "d0005c7ea171a0ee1e7348249d135b38f222e4dad7b9a033ed83f5ca27277393e316582033c74affe2566a2bea47f91f0fd9fe49"
        "ece7e1f79f3ad6e9b23e0277c8ecc4b313225748dd2a80f5679534a0700e246a79a49b3f74eb89ec6205fe1eeb941c73b1fcf1"
    )
    assert crypto_pwhash_alg(155, password, salt, 5, 7_256_678, crypto_pwhash_ALG_ARGON2ID13).hex() == expected


def test_the_cipher_is_that_of_the_draft() -> None:
    """draft-irtf-cfrg-xchacha-03, appendix A.3.1."""
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen "
        b"would be it."
    )
    aad, key = bytes.fromhex("50515253c0c1c2c3c4c5c6c7"), bytes(range(0x80, 0xA0))
    nonce = bytes(range(0x40, 0x58))
    box = crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, aad, nonce, key)
    assert box[:16].hex() == "bd6d179d3e83d43b9576579493c0e939"
    assert box[-16:].hex() == "c0875924c1c7987947deafd8780acf49"


def test_another_implementation_reads_the_file() -> None:
    """OpenSSL's Argon2id and PyCryptodome's XChaCha20-Poly1305 open what libsodium locked."""
    fields = decode(LOCKED, max_bytes=4096)
    assert isinstance(fields, dict)
    salt, nonce, box, check = (fields[key] for key in ("salt", "nonce", "box", "check"))
    assert isinstance(salt, bytes)
    assert isinstance(box, bytes)
    kdf = Argon2id(salt=salt, length=32, iterations=MIN_OPS, lanes=1, memory_cost=MIN_MEM_KIB)
    cipher = ChaCha20_Poly1305.new(key=kdf.derive(PHRASE), nonce=nonce)
    bound = {key: value for key, value in fields.items() if key not in ("box", "check")}
    cipher.update(b"quidnunc/v1/key-file\x00" + encode(bound))
    assert cipher.decrypt_and_verify(box[:32], box[32:]) == SECRET
    rest = {key: value for key, value in fields.items() if key != "check"}
    assert check == hashlib.sha256(b"quidnunc/v1/key-check\x00" + encode(rest)).digest()


def test_the_bytes_are_frozen() -> None:
    assert hashlib.sha256(LOCKED).hexdigest() == "ee963c4e7bfa7266d2b777530588f774d1648c600d878329db75cf1a826e9ba6"


# Damage and forgery.


@given(st.integers(0, len(LOCKED) - 1), st.integers(1, 255))
@settings(deadline=None, max_examples=500)
def test_a_changed_byte_is_damage_and_no_wrong_passphrase(where: int, change: int) -> None:
    data = bytearray(LOCKED)
    data[where] ^= change
    with pytest.raises(KeyFileError) as caught:
        decode_key_file(bytes(data))
    assert caught.value.hint
    assert "passphrase" not in caught.value.message


def test_every_flipped_bit_is_found_before_any_work(no_work: None) -> None:
    for where in range(len(LOCKED)):
        for bit in range(8):
            data = bytearray(LOCKED)
            data[where] ^= 1 << bit
            with pytest.raises(KeyFileError):
                decode_key_file(bytes(data))
    for end in range(len(LOCKED)):
        with pytest.raises(KeyFileError):
            decode_key_file(LOCKED[:end])


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "operational"},
        {"pub": SecretKey(bytes(32)).public},
        {"ops": MIN_OPS + 1},
        {"mem": MIN_MEM_KIB + 1},
        {"salt": bytes(16)},
        {"nonce": bytes(24)},
        {"box": bytes(48)},
    ],
    ids=lambda changes: "".join(changes),
)
def test_what_stands_in_the_open_cannot_be_exchanged(changes: dict[str, Value]) -> None:
    with pytest.raises(KeyFileError, match="does not open"):
        opened(doctored(**changes)).unlock(PHRASE)


def test_a_box_with_another_key_than_the_file_shows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who knows the passphrase made a file that shows one key and holds another."""
    other = bytes(32)
    bound = keyfile._bound("root", SecretKey(SECRET).public, CHEAP, SALT, NONCE)
    key = crypto_pwhash_alg(32, PHRASE, SALT, MIN_OPS, MIN_MEM_KIB * 1024, crypto_pwhash_ALG_ARGON2ID13)
    box = crypto_aead_xchacha20poly1305_ietf_encrypt(other, tagged("key-file", encode(bound)), NONCE, key)
    with pytest.raises(KeyFileError, match="not that of its secret"):
        opened(doctored(box=box)).unlock(PHRASE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ops": MIN_OPS - 1}, f"takes {MIN_OPS - 1} passes, must be {MIN_OPS} to {MAX_OPS}"),
        ({"ops": MAX_OPS + 1}, f"takes {MAX_OPS + 1} passes, must be {MIN_OPS} to {MAX_OPS}"),
        ({"ops": -1}, "takes -1 passes"),
        ({"ops": 2**64 - 1}, "passes, must be"),
        ({"mem": MIN_MEM_KIB - 1}, f"takes {MIN_MEM_KIB - 1} KiB of memory, must be {MIN_MEM_KIB} to {MAX_MEM_KIB}"),
        ({"mem": MAX_MEM_KIB + 1}, f"takes {MAX_MEM_KIB + 1} KiB of memory, must be {MIN_MEM_KIB} to {MAX_MEM_KIB}"),
        ({"mem": 2**64 - 1}, "KiB of memory, must be"),
        ({"ops": True}, "not two integers"),
        ({"mem": "262144"}, "not two integers"),
        ({"mem": None}, "not two integers"),
        ({"salt": bytes(15)}, "field salt in the key file is not 16 bytes"),
        ({"nonce": bytes(25)}, "field nonce in the key file is not 24 bytes"),
        ({"box": bytes(47)}, "field box in the key file is not 48 bytes"),
        ({"pub": bytes(31)}, "field pub in the key file is not 32 bytes"),
        ({"pub": "x"}, "field pub in the key file is not 32 bytes"),
        ({"check": bytes(32)}, "damaged: its check does not fit"),
        ({"check": None}, "damaged: its check does not fit"),
        ({"secret": SECRET}, "must hold exactly box, check"),
        ({"kind": "witness"}, "kind 'witness'"),
    ],
    ids=str,
)
def test_a_doctored_file_is_refused_before_any_work(no_work: None, changes: dict[str, Value], message: str) -> None:
    with pytest.raises(KeyFileError, match=message) as caught:
        decode_key_file(doctored(**changes))
    assert caught.value.hint


@pytest.mark.parametrize("cost", [Cost(MIN_OPS, MIN_MEM_KIB), Cost(MAX_OPS, MAX_MEM_KIB), Cost()])
def test_costs_at_the_limits_are_believed(no_work: None, cost: Cost) -> None:
    assert opened(doctored(ops=cost.ops, mem=cost.mem_kib)).cost == cost


@pytest.mark.parametrize("cost", [Cost(MIN_OPS - 1, MIN_MEM_KIB), Cost(MIN_OPS, MIN_MEM_KIB - 1), Cost(MAX_OPS + 1)])
def test_no_file_is_made_that_could_not_be_read(no_work: None, cost: Cost) -> None:
    with pytest.raises(KeyFileError, match="must be"):
        lock_key_file("root", SECRET, PHRASE, salt=SALT, nonce=NONCE, cost=cost)


def test_memory_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from nacl import exceptions

    def starved(*args: object) -> bytes:
        raise exceptions.RuntimeError("Unexpected failure in key derivation")

    monkeypatch.setattr(keyfile, "crypto_pwhash_alg", starved)
    with pytest.raises(KeyFileError, match="19456 KiB of memory for the passphrase cannot be had") as caught:
        opened(LOCKED).unlock(PHRASE)
    assert caught.value.hint


@pytest.mark.parametrize(("salt", "nonce"), [(bytes(15), NONCE), (SALT, bytes(23))])
def test_salt_and_nonce_have_one_size(no_work: None, salt: bytes, nonce: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        lock_key_file("root", SECRET, PHRASE, salt=salt, nonce=nonce, cost=CHEAP)


def test_nothing_shown_is_secret() -> None:
    found = opened(LOCKED)
    assert SECRET.hex() not in repr(found)
    assert repr(SECRET)[2:-1] not in repr(found)
    assert SECRET.hex() not in repr(found.unlock(PHRASE))
