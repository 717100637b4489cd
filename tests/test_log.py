"""The log: what is appended is what replays, and nothing else replays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.checkpoint import open_checkpoint
from quidnunc.crypto.entry import Entry, encode_header, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, LocalProtocolError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.log import Log
from quidnunc.crypto.merkle import empty_root, leaf_hash, verify_consistency, verify_inclusion

ID = bytes([5]) * 32
SALT = bytes(range(16))
KEY = SecretKey(bytes(range(32)))


def filled(count: int, log_id: bytes = ID) -> tuple[Log, list[Entry]]:
    log = Log(log_id)
    entries = [log.append(0x10 + n % 3, b"entry %d" % n, salt=SALT, t_ms=1000 + 10 * n) for n in range(count)]
    return log, entries


def state(log: Log) -> tuple[int, bytes, int, bytes]:
    return log.size, log.head, log.last_t_ms, log.root


def test_an_empty_log() -> None:
    log = Log(ID)
    assert state(log) == (0, bytes(32), 0, empty_root())
    assert log.origin == "quidnunc/v1/" + "05" * 32
    assert open_checkpoint(log.checkpoint(KEY), log.origin, KEY.public).size == 0


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50), st.integers(0, 2**40)), max_size=30))
@settings(deadline=None, max_examples=100)
def test_what_was_appended_replays_to_the_same_log(steps: list[tuple[int, bytes, int]]) -> None:
    log, mirror, headers = Log(ID), Log(ID), Log(ID)
    latest = 0
    for seq, (kind, payload, t_ms) in enumerate(steps):
        prev = log.head
        entry = log.append(kind, payload, salt=SALT, t_ms=t_ms, key_epoch=seq)
        latest = max(latest, t_ms)
        header = parse_header(entry.header)
        assert header[:6] == (ID, seq, prev, latest, kind, seq)
        assert (log.head, log.last_t_ms, log.size) == (leaf_hash(entry.header), latest, seq + 1)
        assert mirror.replay(entry) == headers.replay_header(entry.header) == header
        assert state(log) == state(mirror) == state(headers)
        assert log.leaf(seq) == entry.leaf


def test_proofs_and_checkpoints_hold_at_every_size() -> None:
    log, entries = filled(40)
    for size in range(1, 41):
        part = Log(ID)
        for entry in entries[:size]:
            part.replay(entry)
        checkpoint = open_checkpoint(part.checkpoint(KEY), log.origin, KEY.public)
        assert (checkpoint.size, checkpoint.root) == (size, log.root_at(size))
        verify_consistency(size, 40, checkpoint.root, log.root, log.consistency(size))
        for seq in (0, size // 2, size - 1):
            verify_inclusion(entries[seq].leaf, seq, size, log.inclusion(seq, size), checkpoint.root)
            verify_inclusion(entries[seq].leaf, seq, 40, log.inclusion(seq), log.root)


def test_time_never_runs_back() -> None:
    log = Log(ID)
    times = [parse_header(log.append(1, b"", salt=SALT, t_ms=t).header).t_ms for t in (50, 20, 50, 51, 0)]
    assert times == [50, 50, 50, 51, 51]


def changed(entry: Entry, **fields: Any) -> Entry:
    return entry._replace(header=encode_header(parse_header(entry.header)._replace(**fields)))


def replay_all(entries: list[Entry]) -> None:
    log = Log(ID)
    for entry in entries:
        log.replay(entry)


def test_an_entry_out_of_place_does_not_replay() -> None:
    _, entries = filled(5)
    _, foreign = filled(5, bytes([6]) * 32)
    cases = {
        "calls itself entry 4": entries[4],
        "calls itself entry 2": entries[2],
        "belongs to log 0606": foreign[3],
        "calls itself entry 0": entries[0],
        "follows 0909": changed(entries[3], prev=bytes([9]) * 32),
        "is of 1019 ms": changed(entries[3], t_ms=1019),
        "belongs to log 0707": changed(entries[3], log_id=bytes([7]) * 32),
        "payload of 9 bytes, the header says 7": entries[3]._replace(payload=b"entry 3xx"),
        "payload is not the one": entries[3]._replace(payload=b"entry 4"),
        "payload of 7 bytes, the header says 8": changed(entries[3], payload_len=8),
        "salt of 0 bytes": entries[3]._replace(salt=b""),
        "not canonical msgpack": entries[3]._replace(header=b"\xc1"),
        "array of 9": entries[3]._replace(header=b"\x90"),
    }
    for why, entry in cases.items():
        log = Log(ID)
        for good in entries[:3]:
            log.replay(good)
        before = state(log)
        with pytest.raises(LedgerCorrupt, match=why) as caught:
            log.replay(entry)
        assert caught.value.seq == 3
        assert caught.value.why in str(caught.value)
        # Refusing changes nothing: the right entry still fits.
        assert state(log) == before
        log.replay(entries[3])


@given(st.integers(0, 3), st.integers(0), st.integers(0, 7), st.sampled_from(["header", "payload", "salt"]))
@settings(deadline=None, max_examples=200)
def test_a_flipped_bit_anywhere_in_a_ledger_is_found(seq: int, where: int, bit: int, part: str) -> None:
    _, entries = filled(5)
    content = bytearray(getattr(entries[seq], part))
    content[where % len(content)] ^= 1 << bit
    entries[seq] = entries[seq]._replace(**{part: bytes(content)})
    with pytest.raises(LedgerCorrupt) as caught:
        replay_all(entries)
    # A header may stay well-formed when a bit flips; its successor then follows another hash.
    assert caught.value.seq in ((seq, seq + 1) if part == "header" else (seq,))


def test_removed_swapped_and_repeated_entries_are_found() -> None:
    _, entries = filled(5)
    for broken, seq in (
        ([*entries[:2], *entries[3:]], 2),
        ([entries[1], entries[0], *entries[2:]], 0),
        ([*entries[:3], entries[2], *entries[3:]], 3),
        (entries[1:], 0),
    ):
        with pytest.raises(LedgerCorrupt) as caught:
            replay_all(broken)
        assert caught.value.seq == seq


def test_two_histories_share_their_common_prefix_only() -> None:
    ours, entries = filled(5)
    theirs = Log(ID)
    for entry in entries[:3]:
        theirs.replay(entry)
    theirs.append(0x10, b"another", salt=SALT, t_ms=2000)
    assert theirs.root_at(3) == ours.root_at(3)
    assert theirs.root_at(4) != ours.root_at(4)
    with pytest.raises(LedgerCorrupt, match="follows"):
        theirs.replay(entries[4])


@pytest.mark.parametrize(
    ("payload", "options"),
    [
        (bytes(65_536), {}),
        (b"", {"salt": bytes(15)}),
        (b"", {"type": 256}),
        (b"", {"type": -1}),
        (b"", {"key_epoch": 2**32}),
        (b"", {"t_ms": 2**64}),
        (b"", {"private": b"x", "private_salt": b"short"}),
        (b"", {"private": b"x"}),
    ],
)
def test_a_bad_entry_of_ours_changes_nothing(payload: bytes, options: dict[str, Any]) -> None:
    log, _ = filled(2)
    before = state(log)
    arguments = {"type": 1, "salt": SALT, "t_ms": 9999, **options}
    with pytest.raises(LocalProtocolError):
        log.append(payload=payload, **arguments)
    assert state(log) == before


def test_the_largest_payload_fits() -> None:
    log = Log(ID)
    entry = log.append(1, bytes(65_535), salt=SALT, t_ms=-5)
    assert parse_header(entry.header).t_ms == 0
    assert Log(ID).replay(entry).payload_len == 65_535


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_log_id_is_a_hash(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"{size} bytes, must be 32"):
        Log(bytes(size))
