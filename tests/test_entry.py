"""Entries: frozen bytes made without our code, and every header or content that must be refused."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey, VerifyKey

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import (
    MAX_HEADER_BYTES,
    Entry,
    EntryType,
    Header,
    commit_payload,
    commit_private,
    encode_header,
    log_id_of,
    open_entry,
    parse_header,
)
from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.log import Log
from quidnunc.crypto.merkle import Tree, leaf_hash, node_hash
from quidnunc.crypto.note import (
    COSIGNATURE,
    Verifier,
    add_signature,
    format_note,
    parse_note,
    sign_note,
    verify_note,
)
from quidnunc.crypto.token import make_token, open_token

VECTOR: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "ledger.json").read_text("utf-8"))
SALT = bytes([0x11]) * 16
GOOD = Header(bytes([1]) * 32, 7, bytes([2]) * 32, 1_760_000_000_000, 0x10, 3, 90, bytes([4]) * 32)

hashes = st.binary(min_size=32, max_size=32)
headers = st.builds(
    Header,
    log_id=hashes,
    seq=st.integers(1, 2**63 - 2),
    prev=hashes.filter(any),
    t_ms=st.integers(0, 2**64 - 1),
    type=st.integers(0, 255),
    key_epoch=st.integers(0, 2**32 - 1),
    payload_len=st.integers(0, 65_535),
    payload_cmt=hashes,
)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_the_frozen_log_follows_from_the_documented_formulas() -> None:
    """The vector is checked with hashlib, nacl and msgpack alone."""
    key = SigningKey(bytes.fromhex(VECTOR["seed"]))
    assert bytes(key.verify_key).hex() == VECTOR["public"]
    payloads = [bytes.fromhex(entry["payload"]) for entry in VECTOR["entries"]]
    log_id = sha(b"quidnunc/v1/log-id\0", payloads[0])
    assert log_id.hex() == VECTOR["log_id"]
    prev, leaves = bytes(32), []
    for seq, entry in enumerate(VECTOR["entries"]):
        commitment = sha(b"quidnunc/v1/payload\0", bytes.fromhex(VECTOR["salt"]), payloads[seq])
        assert commitment.hex() == entry["commitment"]
        size = len(payloads[seq])
        fields = [1, log_id, seq, prev, entry["t_ms"], entry["type"], 0, size, commitment]
        header = msgpack.packb(fields)
        assert header.hex() == entry["header"]
        prev = sha(b"\0", header)
        assert prev.hex() == entry["leaf"]
        leaves.append(prev)
    root = sha(b"\x01", *leaves)
    assert root.hex() == VECTOR["root"]
    body = f"quidnunc/v1/{log_id.hex()}\n2\n{base64.b64encode(root).decode()}\n"
    assert body == VECTOR["body"]
    signature = base64.b64decode(VECTOR["signature"])
    assert signature[:4] == sha(f"quidnunc/v1/{log_id.hex()}\n\x01".encode(), bytes(key.verify_key))[:4]
    VerifyKey(bytes.fromhex(VECTOR["public"])).verify(body.encode(), signature[4:])
    cosignature = base64.b64decode(VECTOR["witness"]["cosignature"])
    witness = SigningKey(bytes.fromhex(VECTOR["witness"]["seed"])).verify_key
    assert cosignature[:4] == sha(b"quidnunc/v1/witness-w\n\x04", bytes(witness))[:4]
    assert int.from_bytes(cosignature[4:12], "big") == VECTOR["witness"]["time"]
    witness.verify(b"cosignature/v1\ntime 1760000002\n" + body.encode(), cosignature[12:])


def test_our_code_makes_the_frozen_log() -> None:
    key = SecretKey(bytes.fromhex(VECTOR["seed"]))
    payloads = [bytes.fromhex(entry["payload"]) for entry in VECTOR["entries"]]
    log = Log(log_id_of(payloads[0]))
    assert log.origin == VECTOR["origin"]
    entries = []
    for frozen, payload in zip(VECTOR["entries"], payloads, strict=True):
        entry = log.append(frozen["type"], payload, salt=SALT, t_ms=frozen["t_ms"])
        assert entry.header.hex() == frozen["header"]
        assert entry.leaf.hex() == frozen["leaf"] == log.head.hex()
        entries.append(entry)
    assert log.root.hex() == VECTOR["root"]
    witness = VECTOR["witness"]
    note = format_note(
        add_signature(
            parse_note(log.checkpoint(key)),
            witness["name"],
            SecretKey(bytes.fromhex(witness["seed"])),
            COSIGNATURE,
            time=witness["time"],
        )
    )
    assert note == VECTOR["note"]
    token = make_token(entries[1], log.inclusion(1), note.encode())
    assert token.hex() == VECTOR["token"]
    opened = open_token(token, log_id=log.log_id, public=key.public)
    assert (opened.payload, opened.size, opened.root) == (payloads[1], 2, log.root)


# Printed in the study that proposed the format, made by another program with other tags: what does not depend
# on the tags must agree with ours.
STUDY_ID = "03be1cb966d4a1b0a462d5844d6aab2a800bb121526e94a45a642cbe375fbbb2"
STUDY_HEADERS = (
    f"9901c420{STUDY_ID}00c420{'00' * 32}cf00000199c82cc0000100cc90"
    "c42080cc117485f4ffdadc7097983acfec7e2159be507f1584c64aa1101c00e001ec",
    f"9901c420{STUDY_ID}01c420073e7f535001ef8023c6df9c7b81529fcb0c0fa9a54dcb4b68d34017cf3da4cd"
    "cf00000199c82cc3e8100065c420def4c9784fc71be59537c5b20cbae3561b47f10c89e7b0a8ac9176eb8913e7bc",
)
STUDY_LEAVES = (
    "073e7f535001ef8023c6df9c7b81529fcb0c0fa9a54dcb4b68d34017cf3da4cd",
    "2af8ddbabac097558ca477f203f418cc4bdc8dceaf588e5da32145fe5af9fd42",
)
STUDY_ROOT = "1c8a473a8de6cb8e24c9d46f27069ad41ca9c5c29e5bcace5ae78c653e0b1833"
STUDY_SIGNATURE = "7Uxr3SazA125uQv/syO+ncLTWn0QRV7P2441KDHJlK2wuYmTpBBKNZxLkPy92prrSTonpipVjp0TZ3wb1z/yNp4Qgww="
STUDY_COSIGNATURE = (
    "lbOeDgAAAABo53gC2oDNuGAZ3H8nqQVv/R8VX0IXrI2RHs1pQ0D83tjYV+OICvZ4ZI1u3GnI25PWP5Bww+8up2PiNs02jQOwgu1rCA=="
)


def test_the_log_of_another_program_is_read_and_signed_alike() -> None:
    tree = Tree()
    for seq, (data, leaf) in enumerate(zip(STUDY_HEADERS, STUDY_LEAVES, strict=True)):
        header = parse_header(bytes.fromhex(data))
        assert header.log_id.hex() == STUDY_ID
        assert (header.seq, header.t_ms) == (seq, 1_760_000_000_000 + 1000 * seq)
        assert leaf_hash(bytes.fromhex(data)).hex() == leaf
        assert encode_header(header).hex() == data
        tree.append(bytes.fromhex(leaf))
    assert tree.root().hex() == node_hash(*map(bytes.fromhex, STUDY_LEAVES)).hex() == STUDY_ROOT
    origin = f"ledger.example/v1/{STUDY_ID}"
    body = f"{origin}\n2\n{base64.b64encode(tree.root()).decode()}\n"
    note = sign_note(body, origin, SecretKey(bytes(range(32))))
    assert note == f"{body}\n— {origin} {STUDY_SIGNATURE}\n"
    witness, name = SecretKey(bytes([7]) * 32), "ledger.example/v1/witness-w"
    cosigned = add_signature(parse_note(note), name, witness, COSIGNATURE, time=1_760_000_002)
    assert format_note(cosigned) == f"{note}— {name} {STUDY_COSIGNATURE}\n"
    assert verify_note(cosigned, [Verifier(name, witness.public, COSIGNATURE)]) == [name]


@given(headers)
@settings(deadline=None, max_examples=200)
def test_every_header_survives_and_is_small(header: Header) -> None:
    data = encode_header(header)
    assert parse_header(data) == header
    assert 109 <= len(data) <= 132
    assert msgpack.unpackb(data) == [1, *header]


def test_a_header_of_today_is_117_to_131_bytes() -> None:
    smallest = GOOD._replace(seq=1, key_epoch=0, payload_len=0, type=1)
    largest = GOOD._replace(seq=2**40, key_epoch=2**20, payload_len=65_535, type=1)
    assert [len(encode_header(header)) for header in (smallest, largest)] == [117, 131]


@given(headers, st.integers(0), st.integers(0, 255))
@settings(deadline=None, max_examples=200)
def test_a_mutated_header_is_another_or_refused(header: Header, where: int, value: int) -> None:
    data = bytearray(encode_header(header))
    data[where % len(data)] = value
    try:
        parsed = parse_header(bytes(data))
    except Malformed:
        return
    assert encode_header(parsed) == bytes(data)


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=100)
def test_arbitrary_bytes_are_no_header(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_header(data)


FIELDS: list[Any] = [1, *GOOD]


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 0),
        (0, 2),
        (0, True),
        (0, None),
        (1, bytes(31)),
        (1, "a" * 32),
        (2, -1),
        (2, 2**63 - 1),
        (2, False),
        (2, 0),
        (3, bytes(32)),
        (3, b""),
        (3, None),
        (4, -1),
        (4, "1"),
        (5, 256),
        (5, -1),
        (5, True),
        (6, 2**32),
        (7, 65_536),
        (7, [1]),
        (8, bytes(33)),
        (8, None),
    ],
)
def test_a_header_with_a_wrong_field_is_refused(index: int, value: Any) -> None:
    fields = [*FIELDS]
    parse_header(encode(fields))
    fields[index] = value
    with pytest.raises(Malformed):
        parse_header(encode(fields))
    if index:
        with pytest.raises(LocalProtocolError):
            encode_header(Header(*fields[1:]))


@pytest.mark.parametrize(
    "value", [FIELDS[:8], [*FIELDS, 0], {"v": 1}, None, [], [FIELDS], b"x" * (MAX_HEADER_BYTES - 2)]
)
def test_other_shapes_are_no_header(value: Any) -> None:
    with pytest.raises(Malformed):
        parse_header(encode(value))


def test_the_size_of_a_header_is_capped_before_it_is_parsed() -> None:
    with pytest.raises(Malformed, match="257 encoded bytes, limit is 256"):
        parse_header(bytes(MAX_HEADER_BYTES + 1))


def entry_of(payload: bytes, private: bytes = b"", private_salt: bytes = b"") -> Entry:
    return Log(bytes(32)).append(
        EntryType.MERGE, payload, salt=SALT, t_ms=5, private=private, private_salt=private_salt
    )


@given(st.binary(max_size=100), st.binary(max_size=100))
@settings(deadline=None, max_examples=100)
def test_only_the_committed_payload_opens(payload: bytes, other: bytes) -> None:
    entry = entry_of(payload)
    header = open_entry(entry)
    assert (header.type, header.t_ms, header.payload_len) == (EntryType.MERGE, 5, len(payload))
    assert type(header.type) is int
    if other != payload:
        with pytest.raises(Malformed):
            open_entry(entry._replace(payload=other))


@pytest.mark.parametrize("salt", [b"", bytes(15), bytes(16), bytes(17), SALT + b"\0"])
def test_only_the_committed_salt_opens(salt: bytes) -> None:
    with pytest.raises(Malformed):
        open_entry(entry_of(b"payload")._replace(salt=salt))


def test_bytes_cannot_move_between_salt_and_payload() -> None:
    moved = Entry(entry_of(b"ab").header, b"\x11ab", SALT[:-1])
    with pytest.raises(Malformed):
        open_entry(moved)


def test_a_private_part_is_committed_to_by_the_payload() -> None:
    private, salt = b"scores", bytes([9]) * 16
    payload = encode({"pv": commit_private(salt, private)})
    entry = entry_of(payload, private, salt)
    open_entry(entry)
    # Shown without the private part, it is the same entry.
    open_entry(entry._replace(private=b"", private_salt=b""))
    for wrong in (
        entry._replace(private=b"other"),
        entry._replace(private=b""),
        entry._replace(private_salt=SALT),
        entry._replace(private_salt=b""),
        entry._replace(private=bytes(65_536)),
    ):
        with pytest.raises(Malformed):
            open_entry(wrong)


@pytest.mark.parametrize("payload", [encode({"x": 1}), encode(["pv"]), b"\xff", b""])
def test_a_private_part_that_no_payload_names_is_refused(payload: bytes) -> None:
    with pytest.raises(Malformed):
        open_entry(entry_of(payload)._replace(private=b"x", private_salt=SALT))
    log = Log(bytes(32))
    with pytest.raises(LocalProtocolError):
        log.append(0x11, payload, salt=SALT, t_ms=0, private=b"x", private_salt=SALT)
    assert log.size == 0


def test_commitments_hide_under_their_own_tags() -> None:
    assert commit_payload(SALT, b"x") == sha(b"quidnunc/v1/payload\0", SALT, b"x")
    assert commit_private(SALT, b"x") == sha(b"quidnunc/v1/private\0", SALT, b"x")
    assert log_id_of(b"x") == sha(b"quidnunc/v1/log-id\0x")
    for size in (0, 15, 17):
        with pytest.raises(LocalProtocolError):
            commit_payload(bytes(size), b"x")


def test_entry_types_are_frozen() -> None:
    assert {each.label: each.value for each in EntryType} == {
        "genesis": 0x01,
        "charter.adopt": 0x02,
        "key.rotate": 0x03,
        "key.revoke": 0x04,
        "log.retire": 0x05,
        "log.recover": 0x06,
        "node.start": 0x07,
        "member.join": 0x08,
        "member.leave": 0x09,
        "member.evict": 0x0A,
        "reputation.change": 0x0B,
        "member.notice": 0x0C,
        "update.published": 0x10,
        "update.received": 0x11,
        "merge": 0x12,
        "rollback": 0x13,
        "eval": 0x14,
        "message.refused": 0x15,
        "dp.spend": 0x18,
        "dp.exhausted": 0x19,
        "witness.summary": 0x20,
        "equivocation.proof": 0x21,
        "suspicion": 0x22,
        "suspicion.cleared": 0x23,
        "payload.erased": 0x28,
        "blob.pruned": 0x29,
        "config.change": 0x2A,
    }
