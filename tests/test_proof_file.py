"""Proof files: what opens is what the log signed, every byte of it, and nothing else opens."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from histories import History, cosigned, key_of
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import MAX_PAYLOAD_BYTES
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.merkle import MAX_PATH, MAX_SIZE
from quidnunc.crypto.note import Verifier, parse_note
from quidnunc.crypto.proof_file import (
    ENTRY_TAG,
    MAX_EXTRA_BYTES,
    MAX_PROOF_BYTES,
    EntryProof,
    ProofFile,
    entry_proof,
    format_proof,
    open_proof,
    parse_proof,
)

HISTORY = History("clinic").grow(40)
SEQ, SIZE = 13, 37
NOTE = cosigned(HISTORY.note(SIZE), "b", "c")
FILE = entry_proof(HISTORY.entries[SEQ], HISTORY.log.inclusion(SEQ, SIZE), NOTE, index=SEQ)
HEAD, _, NOTE_TEXT = FILE.decode().partition("\n\n")
LINES = HEAD.split("\n")


def opened(data: bytes) -> EntryProof:
    return open_proof(data, [HISTORY.verifier])


def refused(data: bytes | str, reason: Reason = Reason.MALFORMED, match: str | None = None) -> None:
    with pytest.raises(RemoteProtocolError, match=match) as caught:
        opened(data.encode() if isinstance(data, str) else data)
    assert caught.value.reason is reason, caught.value.message


def with_lines(lines: list[str]) -> str:
    return "\n".join(lines) + "\n\n" + NOTE_TEXT


def with_extra(value: Any) -> str:
    return with_lines([LINES[0], "extra " + base64.b64encode(encode(value)).decode(), *LINES[2:]])


def test_the_file_is_the_one_of_the_specification() -> None:
    assert LINES[0] == "c2sp.org/tlog-proof@v1"
    assert LINES[1].startswith("extra ")
    assert LINES[2] == f"index {SEQ}"
    assert [base64.b64decode(line) for line in LINES[3:]] == HISTORY.log.inclusion(SEQ, SIZE)
    assert NOTE_TEXT.encode() == NOTE


def test_every_entry_of_every_size_opens() -> None:
    for size in range(1, 41):
        for seq in range(0, size, 3):
            data = entry_proof(HISTORY.entries[seq], HISTORY.log.inclusion(seq, size), HISTORY.note(size), index=seq)
            proof = opened(data)
            assert (proof.header.seq, proof.leaf) == (seq, HISTORY.log.leaf(seq))
            assert (proof.checkpoint.size, proof.checkpoint.root) == (size, HISTORY.log.root_at(size))
            assert proof.payload == HISTORY.entries[seq].payload
            assert format_proof(parse_proof(data)) == data


def test_an_erased_payload_leaves_the_proof_intact() -> None:
    erased = HISTORY.entries[SEQ]._replace(payload=b"", salt=b"")
    proof = opened(entry_proof(erased, HISTORY.log.inclusion(SEQ, SIZE), NOTE, index=SEQ))
    assert proof.payload is None
    assert proof._replace(payload=HISTORY.entries[SEQ].payload) == opened(FILE)
    # Payload and salt go together.
    header, payload, salt = HISTORY.entries[SEQ][:3]
    refused(with_extra([ENTRY_TAG, header, payload, None]))
    refused(with_extra([ENTRY_TAG, header, None, salt]))


def test_no_single_byte_can_be_changed_unnoticed() -> None:
    original = opened(FILE)
    for where in range(len(FILE)):
        for flip in (0x01, 0x20, 0x80):
            mutated = FILE[:where] + bytes([FILE[where] ^ flip]) + FILE[where + 1 :]
            try:
                proof = opened(mutated)
            except RemoteProtocolError:
                continue
            # Cosignatures by keys that nobody asked for are not judged here.
            assert proof._replace(note=original.note) == original
            assert proof.note.text == original.note.text


@given(st.integers(0), st.integers(0, 255), st.sampled_from(["set", "insert", "delete", "cut", "repeat"]))
@settings(deadline=None, max_examples=300)
def test_what_parses_is_canonical(where: int, value: int, action: str) -> None:
    data = bytearray(FILE)
    where %= len(data)
    if action == "set":
        data[where] = value
    elif action == "insert":
        data.insert(where, value)
    elif action == "delete":
        del data[where]
    elif action == "cut":
        del data[where:]
    else:
        data[where:where] = data[: value + 1]
    try:
        proof = parse_proof(bytes(data))
    except RemoteProtocolError:
        return
    assert format_proof(proof) == bytes(data)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["c2sp.org/tlog-proof", *LINES[1:]], "not a proof file"),
        (["", *LINES], "not a proof file"),
        ([LINES[0], *LINES[2:]], "no extra line"),
        ([LINES[0], "extra ", *LINES[2:]], "must be left out"),
        ([LINES[0], "extra", *LINES[2:]], "line 'index N'"),
        ([*LINES[:2], LINES[1], *LINES[2:]], "line 'index N'"),
        ([LINES[0], LINES[2], LINES[1], *LINES[3:]], "base64"),
        (LINES[:2], "line 'index N'"),
        (LINES[:1], "line 'index N'"),
        *(
            ([*LINES[:2], f"index {index}", *LINES[3:]], "")
            for index in [
                "",
                "013",
                "+13",
                "-1",
                "13 ",
                "0x0d",
                "12",
                "14",
                str(2**63 - 1),
                str(2**63),
                "9" * 400,
                "١٣",
            ]
        ),
        ([*LINES[:3], *LINES[4:]], "hashes"),
        (LINES[:3], "hashes"),
        ([*LINES, LINES[-1]], "hashes"),
        ([*LINES[:3], *reversed(LINES[3:])], "does not lead"),
        ([*LINES[:-1], LINES[-1][:-4]], ""),
        ([*LINES[:-1], LINES[-1] + " "], "base64"),
        ([*LINES, *([LINES[-1]] * MAX_PATH)], "limit is 63"),
        ([line + "\r" for line in LINES], ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_heads_are_refused(lines: list[str], why: str) -> None:
    refused(with_lines(lines), match=why or None)


def test_other_files_are_told_apart() -> None:
    refused(b"", match="not a proof file")
    refused(b"\n\n", match="not a proof file")
    refused(NOTE, match="not a proof file")
    refused(bytes(range(256)), match="must be UTF-8")
    refused(HEAD, match="cut short")
    refused(FILE[:-1], match="ending in a newline")
    refused(FILE + b"\n")
    refused(FILE.replace(b"tlog-proof@v1", b"tlog-proof@v2"), Reason.VERSION, "c2sp.org/tlog-proof@v2")
    refused(with_extra(["quidnunc/v2/entry", 1, 2]), Reason.VERSION, "quidnunc/v2/entry")
    refused(with_extra(["quidnunc/v1/token", 1, 2]), match="must be an array")
    for value in (None, [], [ENTRY_TAG], {"a": 1}, [ENTRY_TAG, b"", b"", b""], [ENTRY_TAG, 1, 2, 3], ["x" * 200]):
        refused(with_extra(value))


def test_the_entry_must_be_the_one_in_the_tree() -> None:
    header, payload, salt = HISTORY.entries[SEQ][:3]
    other = HISTORY.entries[SEQ + 1]
    refused(with_extra([ENTRY_TAG, header, payload + b"x", salt]))
    refused(with_extra([ENTRY_TAG, header, payload, bytes(16)]))
    refused(with_extra([ENTRY_TAG, header, payload, salt[:15]]))
    refused(with_extra([ENTRY_TAG, *other[:3]]), match="entry 14")
    forged = HISTORY.fork(SEQ).grow(1, "forged").entries[SEQ]
    refused(with_extra([ENTRY_TAG, *forged[:3]]), match="does not lead")


def test_another_log_and_another_key() -> None:
    stranger = History("stranger").grow(40)
    data = entry_proof(stranger.entries[SEQ], stranger.log.inclusion(SEQ, SIZE), stranger.note(SIZE), index=SEQ)
    refused(data, Reason.STRANGER, "not known here")
    assert open_proof(data, [HISTORY.verifier, stranger.verifier]).header.log_id == stranger.log.log_id
    foreign = HISTORY.note(SIZE, key_of("thief"))
    path = HISTORY.log.inclusion(SEQ, SIZE)
    refused(entry_proof(HISTORY.entries[SEQ], path, foreign, index=SEQ), Reason.BAD_SIGNATURE)
    # An entry of another log in a tree that our key signed.
    refused(entry_proof(stranger.entries[SEQ], path, NOTE, index=SEQ), match="of log")
    with pytest.raises(RemoteProtocolError, match="not signed"):
        open_proof(FILE, [Verifier(HISTORY.origin, key_of("thief").public)])


def test_an_older_note_without_the_entry_and_one_of_another_history() -> None:
    path = HISTORY.log.inclusion(SEQ, SIZE)
    for note in (HISTORY.note(SEQ), HISTORY.note(0), HISTORY.fork(SEQ).grow(30, "forked").note(SIZE)):
        refused(entry_proof(HISTORY.entries[SEQ], path, note, index=SEQ))


def test_limits_are_exact() -> None:
    log = History("big")
    entry = log.add(0x10, bytes(MAX_PAYLOAD_BYTES))
    data = entry_proof(entry, [], log.note(), index=0)
    assert len(data) <= MAX_PROOF_BYTES
    assert open_proof(data, [log.verifier]).payload == bytes(MAX_PAYLOAD_BYTES)
    refused(bytes(MAX_PROOF_BYTES + 1), match="limit is 131072")
    note = parse_note(NOTE)
    assert parse_proof(format_proof(ProofFile(MAX_SIZE - 1, (bytes(32),) * MAX_PATH, note, bytes(MAX_EXTRA_BYTES))))
    for proof in (
        ProofFile(MAX_SIZE, (), note),
        ProofFile(-1, (), note),
        ProofFile(0, (bytes(32),) * (MAX_PATH + 1), note),
        ProofFile(0, (bytes(31),), note),
        ProofFile(0, (), note, bytes(MAX_EXTRA_BYTES + 1)),
    ):
        with pytest.raises(LocalProtocolError):
            format_proof(proof)
    extra = base64.b64encode(bytes(MAX_EXTRA_BYTES + 1)).decode()
    with pytest.raises(Malformed, match="limit is 66560"):
        parse_proof(with_lines([LINES[0], f"extra {extra}", *LINES[2:]]).encode())
