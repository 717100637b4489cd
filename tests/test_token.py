"""Tokens: what opens is what was signed, for the one log and key that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.checkpoint import Checkpoint, sign_checkpoint
from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import Entry, encode_header, parse_header
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.log import Log
from quidnunc.crypto.merkle import Tree
from quidnunc.crypto.note import COSIGNATURE, add_signature, format_note, parse_note, sign_note
from quidnunc.crypto.token import MAX_TOKEN_BYTES, Token, make_token, open_token

ID = bytes([5]) * 32
KEY = SecretKey(bytes(range(32)))
WITNESS = SecretKey(bytes([7]) * 32)
SALT = bytes(range(16))
TREE = 11
SEQ = 6


def filled(log_id: bytes = ID, last: bytes = b"end") -> tuple[Log, list[Entry]]:
    log = Log(log_id)
    payloads = [b"payload %d" % n for n in range(TREE - 1)] + [last]
    return log, [log.append(0x10, payload, salt=SALT, t_ms=n) for n, payload in enumerate(payloads)]


LOG, ENTRIES = filled()
NOTE = LOG.checkpoint(KEY)
TOKEN = make_token(ENTRIES[SEQ], LOG.inclusion(SEQ), NOTE)
COSIGNED = make_token(
    ENTRIES[SEQ],
    LOG.inclusion(SEQ),
    format_note(add_signature(parse_note(NOTE), "witness", WITNESS, COSIGNATURE, time=77)).encode(),
)


def opened(data: bytes) -> Token:
    return open_token(data, log_id=ID, public=KEY.public)


def refused(data: bytes, reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        opened(data)
    assert caught.value.reason is reason, caught.value.message


def parts(data: bytes = TOKEN) -> list[Any]:
    value = decode(data, max_bytes=MAX_TOKEN_BYTES)
    assert isinstance(value, list)
    return value


def with_part(index: int, value: Any) -> bytes:
    changed = parts()
    changed[index] = value
    return encode(changed)


def test_every_entry_of_every_size_opens() -> None:
    log = Log(ID)
    entries = []
    for n in range(TREE):
        entries.append(log.append(0x10, b"payload %d" % n, salt=SALT, t_ms=n))
        note = log.checkpoint(KEY)
        for seq, entry in enumerate(entries):
            token = opened(make_token(entry, log.inclusion(seq), note))
            assert token == Token(
                header=parse_header(entry.header),
                header_bytes=entry.header,
                payload=entry.payload,
                leaf=entry.leaf,
                size=n + 1,
                root=log.root,
                note=note,
            )


def test_the_private_part_stays_at_home() -> None:
    entry = ENTRIES[SEQ]._replace(private=b"score", private_salt=SALT)
    assert make_token(entry, LOG.inclusion(SEQ), NOTE) == TOKEN


@pytest.mark.parametrize("token", [TOKEN, COSIGNED], ids=["plain", "cosigned"])
def test_no_single_byte_can_be_changed_unnoticed(token: bytes) -> None:
    original = opened(token)
    for where in range(len(token)):
        for flip in (0x01, 0x80, 0xFF):
            mutated = token[:where] + bytes([token[where] ^ flip]) + token[where + 1 :]
            accepted_only_unchanged(mutated, original)


@given(st.integers(0), st.integers(0, 255), st.sampled_from(["set", "insert", "delete", "cut"]))
@settings(deadline=None, max_examples=200)
def test_no_edit_goes_unnoticed(where: int, value: int, action: str) -> None:
    data = bytearray(COSIGNED)
    where %= len(data)
    if action == "set":
        data[where] = value
    elif action == "insert":
        data.insert(where, value)
    elif action == "delete":
        del data[where]
    else:
        del data[where:]
    accepted_only_unchanged(bytes(data), opened(COSIGNED))


def accepted_only_unchanged(data: bytes, original: Token) -> None:
    try:
        token = opened(data)
    except RemoteProtocolError:
        return
    # Signatures by unknown keys are not ours to judge, so a cosignature may differ; what is signed may not.
    assert token._replace(note=b"") == original._replace(note=b"")
    assert parse_note(token.note).text == parse_note(original.note).text


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=100)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        opened(data)


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.binary(max_size=40), st.lists, max_leaves=9))
@settings(deadline=None, max_examples=100)
def test_any_other_value_in_any_place_is_refused(value: Any) -> None:
    for index in range(6):
        if value != parts()[index]:
            with pytest.raises(RemoteProtocolError):
                opened(with_part(index, value))
    with pytest.raises(Malformed):
        opened(encode(value))


def test_another_log_is_a_stranger() -> None:
    other, entries = filled(bytes([6]) * 32)
    refused(make_token(entries[SEQ], other.inclusion(SEQ), other.checkpoint(KEY)), Reason.STRANGER)
    # Its note beneath our entry is one too.
    refused(with_part(5, other.checkpoint(KEY)), Reason.STRANGER)
    # The owner of a log may sign a tree of foreign headers; they are still not entries of this log.
    tree = Tree()
    for entry in entries:
        tree.append(entry.leaf)
    note = sign_checkpoint(Checkpoint(LOG.origin, TREE, tree.root()), KEY)
    refused(make_token(entries[SEQ], tree.inclusion(SEQ), note), Reason.STRANGER)


def test_another_key_is_a_bad_signature() -> None:
    refused(with_part(5, LOG.checkpoint(WITNESS)), Reason.BAD_SIGNATURE)
    with pytest.raises(RemoteProtocolError) as caught:
        open_token(TOKEN, log_id=ID, public=WITNESS.public)
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_only_the_logs_own_signature_counts() -> None:
    text = parse_note(NOTE).text
    refused(with_part(5, sign_note(text, "witness", KEY).encode()), Reason.BAD_SIGNATURE)
    cosigned = sign_note(text, LOG.origin, KEY, COSIGNATURE, time=5).encode()
    refused(with_part(5, cosigned), Reason.BAD_SIGNATURE)


def test_an_entry_must_stand_where_it_says_in_the_signed_tree() -> None:
    refused(with_part(4, []), Reason.MALFORMED)
    refused(with_part(4, LOG.inclusion(SEQ - 1)), Reason.MALFORMED)
    refused(with_part(4, LOG.inclusion(SEQ)[::-1]), Reason.MALFORMED)
    refused(with_part(4, [*LOG.inclusion(SEQ), bytes(32)]), Reason.MALFORMED)
    refused(with_part(4, [bytes(32)] * 64), Reason.MALFORMED)
    refused(with_part(4, [bytes(31)] * 4), Reason.MALFORMED)
    # A note from before the entry, and one of another history.
    early = Log(ID)
    for entry in ENTRIES[:SEQ]:
        early.replay(entry)
    refused(with_part(5, early.checkpoint(KEY)), Reason.MALFORMED)
    forked, _ = filled(last=b"forked")
    refused(with_part(5, forked.checkpoint(KEY)), Reason.MALFORMED)


def test_a_payload_that_was_not_committed_is_refused() -> None:
    refused(with_part(2, b"payload 7"), Reason.MALFORMED)
    refused(with_part(2, b"payload 66"), Reason.MALFORMED)
    refused(with_part(3, bytes(16)), Reason.MALFORMED)
    refused(with_part(3, SALT[:15]), Reason.MALFORMED)
    refused(with_part(1, ENTRIES[SEQ - 1].header), Reason.MALFORMED)
    late = encode_header(parse_header(ENTRIES[SEQ].header)._replace(t_ms=10**6))
    refused(with_part(1, late), Reason.MALFORMED)


def test_the_tag_and_the_shape_are_checked() -> None:
    refused(with_part(0, "quidnunc/v2/token"), Reason.MALFORMED)
    refused(encode(parts()[:5]), Reason.MALFORMED)
    refused(encode([*parts(), b""]), Reason.MALFORMED)
    refused(encode(parts()[1:]), Reason.MALFORMED)


def test_the_size_of_a_token_is_limited() -> None:
    log = Log(ID)
    entry = log.append(0x10, bytes(MAX_TOKEN_BYTES - 1000), salt=SALT, t_ms=0)
    token = make_token(entry, log.inclusion(0), log.checkpoint(KEY))
    assert len(opened(token).payload) == MAX_TOKEN_BYTES - 1000
    entry = log.append(0x10, bytes(MAX_TOKEN_BYTES), salt=SALT, t_ms=0)
    with pytest.raises(LocalProtocolError, match="limit is 16384"):
        make_token(entry, log.inclusion(1), log.checkpoint(KEY))
    refused(bytes(MAX_TOKEN_BYTES + 1), Reason.MALFORMED)


def test_a_token_of_a_large_log_stays_small() -> None:
    log = Log(ID)
    entry = log.append(0x10, bytes(200), salt=SALT, t_ms=0)
    token = make_token(entry, [bytes(32)] * 20, NOTE)
    assert len(token) < 2048
