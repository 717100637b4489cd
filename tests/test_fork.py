"""Proofs of equivocation: what is guilty is convicted from bytes and public keys alone, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from histories import T_MS, History, cosigned, key_of, known, witness
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.checkpoint import Checkpoint, origin_of, sign_checkpoint
from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import EntryType, encode_header, parse_header
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.fork import Fork, KeySpan, KnownKeys, verify_fork
from quidnunc.crypto.fork_build import (
    against_witness,
    fault_of_headers,
    fork_of_headers,
    fork_of_kept,
    fork_of_notes,
    fork_of_prefix,
    fork_of_tokens,
)
from quidnunc.crypto.fork_proof import (
    FORK_TAG,
    MAX_FORK_BYTES,
    MAX_LEAF_BYTES,
    ChainFault,
    EntryFork,
    ForkKind,
    ForkProof,
    PrefixFork,
    SizeFork,
    TwiceFault,
    WitnessFork,
    encode_fork,
    kind_of,
    parse_fork,
)
from quidnunc.crypto.merkle import MAX_SIZE, Tree, leaf_hash
from quidnunc.crypto.suspicion import (
    MAX_MATERIAL_BYTES,
    Suspicion,
    SuspicionKind,
    encode_suspicion,
    parse_suspicion,
)

AT = 12
HONEST = History("honest").grow(40)
OURS = History("guilty").grow(40)
THEIRS = OURS.fork(AT).grow(28, "forked")
KNOWN = known(HONEST, OURS, witnesses=("w", "v"))


def convicted(proof: ForkProof | None, keys: KnownKeys = KNOWN) -> Fork:
    assert proof is not None
    data = encode_fork(proof)
    assert parse_fork(data) == proof
    return verify_fork(data, keys)


def refused(proof: ForkProof | bytes, reason: Reason = Reason.MALFORMED, keys: KnownKeys = KNOWN) -> None:
    data = proof if isinstance(proof, bytes) else encode_fork(proof)
    with pytest.raises(RemoteProtocolError) as caught:
        verify_fork(data, keys)
    assert caught.value.reason is reason, caught.value.message


# Each kind.


def test_a_two_roots_at_one_size() -> None:
    proof = fork_of_notes(OURS.note(30), THEIRS.note(30))
    assert proof == fork_of_notes(THEIRS.note(30), OURS.note(30)), "one spelling, whoever finds it"
    found = convicted(proof)
    assert found == Fork(
        ForkKind.SIZE, OURS.origin, OURS.origin, (OURS.key.public,), (30, 30), None, "two roots at size 30"
    )


def test_b_two_entries_at_one_index() -> None:
    proof = fork_of_headers(OURS.note(20), OURS.headers, THEIRS.note(33), THEIRS.headers)
    assert proof == fork_of_headers(THEIRS.note(33), THEIRS.headers, OURS.note(20), OURS.headers)
    found = convicted(proof)
    assert (found.kind, found.culprit, found.sizes, found.seq) == (ForkKind.ENTRY, OURS.origin, (20, 33), AT)
    # Any later index at which both histories have an entry does as well.
    assert isinstance(proof, EntryFork)
    for seq in range(AT, 20):
        shown = proof._replace(
            seq=seq,
            header_a=OURS.headers[seq],
            path_a=tuple(OURS.log.inclusion(seq, 20)),
            header_b=THEIRS.headers[seq],
            path_b=tuple(THEIRS.log.inclusion(seq, 33)),
        )
        assert convicted(shown).seq == seq


def test_b2_without_the_older_history() -> None:
    tree = Tree()
    for header in THEIRS.headers:
        tree.append(leaf_hash(header))
    for older in range(AT + 1, 33):
        found = convicted(fork_of_prefix(OURS.note(older), THEIRS.note(33), tree))
        assert (found.kind, found.sizes, found.seq) == (ForkKind.PREFIX, (older, 33), None)
    for older in range(AT + 1):
        assert fork_of_prefix(OURS.note(older), THEIRS.note(33), tree) is None


def liar(wrong: int, **changes: Any) -> tuple[bytes, list[bytes]]:
    """A signed history of 30 headers in which header ``wrong`` was changed and the next ones follow it."""
    headers = OURS.headers[:30]
    for at in range(wrong, 30):
        fields = parse_header(headers[at])
        if at == wrong:
            fields = fields._replace(**changes)
        else:
            fields = fields._replace(prev=leaf_hash(headers[at - 1]))
        headers[at] = encode_header(fields)
    return signed(headers), headers


def signed(headers: list[bytes]) -> bytes:
    tree = Tree()
    for header in headers:
        tree.append(leaf_hash(header))
    return sign_checkpoint(Checkpoint(OURS.origin, tree.size, tree.root()), OURS.key)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prev": b"p" * 32}, "entry 17 follows 7070"),
        ({"t_ms": T_MS}, "ms, the entry before of"),
        ({"seq": 18}, "entry 17 calls itself entry 18"),
        ({"log_id": b"x" * 32}, "entry 17 belongs to log 7878"),
    ],
)
def test_c_an_entry_that_no_log_can_hold(changes: dict[str, Any], why: str) -> None:
    note, headers = liar(17, **changes)
    found = convicted(fault_of_headers(note, headers))
    assert (found.kind, found.culprit, found.seq) == (ForkKind.CHAIN, OURS.origin, 17)
    assert why in found.why


def test_c_after_a_retirement_and_headers_that_do_not_parse() -> None:
    headers = OURS.headers[:9]
    note, retired = liar(8, type=int(EntryType.LOG_RETIRE))
    assert "follows a retirement" in convicted(fault_of_headers(note, retired)).why
    for wrong in (OURS.headers[9][:-1], OURS.headers[9] + b"\0", b"\x99\x01" + bytes(3000)):
        bad = [*headers, wrong]
        found = convicted(fault_of_headers(signed(bad), bad))
        assert "entry 9 does not parse" in found.why
    # A header of a later version may be right: nobody is convicted of being newer.
    for newer in (b"\x99\x02" + OURS.headers[9][2:], b"\xa0", b""):
        bad = [*headers, newer]
        proof = fault_of_headers(signed(bad), bad)
        assert isinstance(proof, ChainFault)
        refused(proof, Reason.VERSION)


def test_c2_one_update_number_twice() -> None:
    again = OURS.fork(20)
    payload = again.entries[15].payload
    entry = again.add(EntryType.UPDATE_PUBLISHED, payload.replace(b"mark", b"mark"), t_ms=T_MS * 2)
    assert parse_header(entry.header).seq == 20
    proof = fork_of_tokens(again.token(15), again.token(20))
    assert proof == fork_of_tokens(again.token(20), again.token(15))
    found = convicted(proof)
    assert (found.kind, found.seq, found.sizes) == (ForkKind.TWICE, 20, (21, 21))
    assert found.why == "entries 15 and 20 both publish update 8"


def received(**changes: Any) -> bytes:
    return encode({"so": b"s" * 32, "un": 4, "dc": 0, "sp": False} | changes)


@pytest.mark.parametrize(
    ("second", "guilty"),
    [
        ({}, True),
        ({"sp": True}, False),
        ({"dc": 1}, False),
        ({"un": 5}, False),
        ({"so": b"t" * 32}, False),
        ({"dc": False}, False),
        ({"un": True}, False),
        ({"sp": None}, False),
    ],
)
def test_c2_one_update_accepted_twice(second: dict[str, Any], guilty: bool) -> None:
    log = History("guilty").grow(3)
    for changes in ({"sp": True}, second):
        log.add(EntryType.UPDATE_RECEIVED, received(**changes), t_ms=T_MS * 2)
    proof = fork_of_tokens(log.token(3), log.token(4))
    assert isinstance(proof, TwiceFault)
    if guilty:
        assert convicted(proof).why == "entries 3 and 4 both accept update 4 of one author"
    else:
        refused(proof)


def test_c2_from_tokens_of_two_histories() -> None:
    """What a neighbor holds when one update number comes twice: no tree, no other header."""
    for size_a, size_b, kind in ((30, 30, ForkKind.SIZE), (20, 30, ForkKind.ENTRY), (30, 20, ForkKind.ENTRY)):
        found = convicted(fork_of_tokens(OURS.token(13, size_a), THEIRS.token(13, size_b)))
        assert found.kind is kind
    late = OURS.fork(AT).grow(1, "late", step_ms=1001)
    late.add(EntryType.UPDATE_PUBLISHED, OURS.entries[13].payload, t_ms=T_MS * 2)
    late.add(EntryType.UPDATE_PUBLISHED, OURS.entries[13].payload, t_ms=T_MS * 2)
    assert convicted(fork_of_tokens(OURS.token(13), late.token(14))).kind is ForkKind.TWICE


def test_d_a_witness_that_cosigned_both() -> None:
    pairs = {
        ForkKind.SIZE: (OURS.note(30), THEIRS.note(30)),
        ForkKind.ENTRY: (OURS.note(20), THEIRS.note(30)),
        ForkKind.PREFIX: (OURS.note(20), THEIRS.note(30)),
    }
    name = origin_of(witness("v")[0])
    tree = Tree()
    for header in THEIRS.headers:
        tree.append(leaf_hash(header))
    for kind, (ours, theirs) in pairs.items():
        both = cosigned(ours, "v"), cosigned(theirs, "w", "v")
        proof: Any = fork_of_headers(both[0], OURS.headers, both[1], THEIRS.headers)
        if kind is ForkKind.PREFIX:
            proof = fork_of_prefix(*both, tree)
        order = both if proof[0].split(b"\n\n")[0] == both[0].split(b"\n\n")[0] else both[::-1]
        found = convicted(against_witness(name, proof, *order))
        assert (found.kind, found.culprit, found.origin) == (ForkKind.WITNESS, name, OURS.origin)
        assert found.keys == (witness("v")[1].public,)
        # The other witness signed one of them only.
        refused(against_witness(origin_of(witness("w")[0]), proof, *order), Reason.BAD_SIGNATURE)


def test_d_needs_one_key_under_both() -> None:
    ours, theirs = cosigned(OURS.note(30), "v"), cosigned(THEIRS.note(30), "v2")
    name, later = origin_of(witness("v")[0]), origin_of(witness("v2")[0])
    renamed = theirs.replace(later.encode(), name.encode())
    proof = fork_of_notes(ours, renamed)
    assert proof is not None
    notes = sorted((ours, renamed), key=lambda note: note.split(b"\n\n")[0])
    keys = KnownKeys({}, {name: [witness("v")[1].public, witness("v2")[1].public]})
    refused(against_witness(name, proof, *notes), Reason.BAD_SIGNATURE, keys)


# What an honest log's own material gives.


def test_one_history_gives_no_proof_whatever_its_ages() -> None:
    restarted = HONEST.fork(25).grow(15)
    assert restarted.headers == HONEST.headers, "a restart that goes on where it was"
    for size_a in range(0, 41, 3):
        for size_b in range(1, 41, 4):
            a, b = HONEST.note(size_a), restarted.note(size_b)
            assert fork_of_notes(a, b) is None
            assert fork_of_headers(a, HONEST.headers, b, restarted.headers) is None
            assert fork_of_prefix(a, b, HONEST.log._tree) is None
            if size_a < size_b and size_a:
                path = tuple(HONEST.log.consistency(size_a, size_b))
                refused(PrefixFork(a, b, HONEST.log.root_at(size_a), path))
    for seq_a in range(40):
        for seq_b in range(40):
            proof = fork_of_tokens(HONEST.token(seq_a), restarted.token(seq_b))
            if proof is not None:
                refused(proof)
    assert fault_of_headers(HONEST.note(), HONEST.headers) is None


def test_the_same_note_or_entry_twice_is_no_fork() -> None:
    note = HONEST.note(30)
    refused(SizeFork(note, note))
    refused(SizeFork(note, cosigned(note, "w")))
    refused(TwiceFault(HONEST.token(13), HONEST.token(13)))
    refused(TwiceFault(HONEST.token(13), HONEST.token(13, 20)))
    refused(TwiceFault(HONEST.token(13), HONEST.token(15)))
    same = tuple(HONEST.log.inclusion(13, 20)), tuple(HONEST.log.inclusion(13, 30))
    entry = HONEST.headers[13]
    refused(EntryFork(HONEST.note(20), note, 13, entry, same[0], entry, same[1]))


def test_an_older_and_a_newer_checkpoint_are_no_two_roots() -> None:
    refused(SizeFork(HONEST.note(20), HONEST.note(30)))
    refused(SizeFork(HONEST.note(30), HONEST.note(20)))


def test_two_honest_logs_cannot_be_spliced() -> None:
    second = History("second").grow(40)
    keys = known(HONEST, second)
    for a, b in ((HONEST, second), (second, HONEST)):
        refused(SizeFork(a.note(30), b.note(30)), keys=keys)
        paths = tuple(a.log.inclusion(13, 20)), tuple(b.log.inclusion(13, 30))
        proof = EntryFork(a.note(20), b.note(30), 13, a.headers[13], paths[0], b.headers[13], paths[1])
        refused(proof, keys=keys)
        refused(proof._replace(note_b=a.note(30)), keys=keys)
        refused(
            PrefixFork(a.note(20), b.note(30), b.log.root_at(20), tuple(b.log.consistency(20, 30))),
            keys=keys,
        )
        refused(TwiceFault(a.token(13), b.token(15)), keys=keys)
        refused(ChainFault(a.note(30), 13, b.headers[13], tuple(b.log.inclusion(13, 30)), None, ()), keys=keys)
        before = a.headers[12], tuple(a.log.inclusion(12, 30))
        refused(ChainFault(a.note(30), 13, a.headers[13], tuple(a.log.inclusion(13, 30)), *before), keys=keys)
        assert fork_of_notes(a.note(30), b.note(30)) is None
        assert fork_of_headers(a.note(20), a.headers, b.note(30), b.headers) is None
        assert fork_of_tokens(a.token(13), b.token(13)) is None


def test_another_key_convicts_nobody() -> None:
    thief = key_of("thief")
    forged = HONEST.fork(AT).grow(28, "forged")
    for theirs in (
        forged.note(30, thief),
        forged.note(30, thief).replace(HONEST.origin.encode(), OURS.origin.encode()),
    ):
        proof = SizeFork(*sorted((HONEST.note(30), theirs), key=lambda note: note.split(b"\n\n")[0]))
        with pytest.raises(RemoteProtocolError) as caught:
            convicted(proof)
        assert caught.value.reason in (Reason.BAD_SIGNATURE, Reason.STRANGER)
    # The honest key's own line under a text it did not sign.
    text = forged.note(30, thief).split(b"\n\n")[0]
    grafted = text + b"\n\n" + HONEST.note(30).split(b"\n\n")[1]
    refused(SizeFork(*sorted((HONEST.note(30), grafted))), Reason.BAD_SIGNATURE)
    refused(SizeFork(OURS.note(30), THEIRS.note(30)), Reason.STRANGER, known(HONEST))
    refused(EXAMPLES[ForkKind.SIZE], Reason.STRANGER, known())


def test_a_rotated_key_counts_for_its_own_sizes() -> None:
    old, new = HONEST.key, key_of("honest, later")
    keys = KnownKeys({HONEST.origin: [KeySpan(old.public, 0, 25), KeySpan(new.public, 25)]}, {})
    # Honest: every size under the key of its time, the boundary under both.
    notes = [HONEST.note(size, old) for size in range(1, 26)] + [HONEST.note(size, new) for size in range(25, 41)]
    assert all(fork_of_notes(a, b) is None for a in notes for b in notes)
    tree = HONEST.log._tree
    path = tuple(tree.consistency(20, 30))
    refused(PrefixFork(HONEST.note(20, old), HONEST.note(30, new), tree.root(20), path), keys=keys)
    # Whoever steals the old key after the rotation cannot convict the log with it.
    stolen = HONEST.fork(AT).grow(28, "stolen")
    for size in (26, 30, 40):
        proof = fork_of_notes(HONEST.note(size, new), stolen.note(size, old))
        assert proof is not None
        refused(proof, Reason.BAD_SIGNATURE, keys)
    # Within its own sizes the old key did sign two histories, and is named alone.
    assert convicted(fork_of_notes(HONEST.note(20, old), stolen.note(20, old)), keys).keys == (old.public,)
    across = convicted(
        fork_of_headers(stolen.note(20, old), stolen.headers, HONEST.note(30, new), HONEST.headers), keys
    )
    assert set(across.keys) == {old.public, new.public}


# Form.


def examples() -> dict[ForkKind, ForkProof]:
    note, headers = liar(17, prev=b"p" * 32)
    size = fork_of_notes(OURS.note(30), THEIRS.note(30))
    assert size is not None
    prefix = fork_of_prefix(OURS.note(20), THEIRS.note(33), THEIRS.log._tree)
    name = origin_of(witness("v")[0])
    order = sorted((cosigned(OURS.note(30), "v"), cosigned(THEIRS.note(30), "v")))
    again = OURS.fork(20)
    again.add(EntryType.UPDATE_PUBLISHED, again.entries[15].payload, t_ms=T_MS * 2)
    found = [
        size,
        fork_of_headers(OURS.note(20), OURS.headers, THEIRS.note(33), THEIRS.headers),
        prefix,
        fault_of_headers(note, headers),
        fork_of_tokens(again.token(15), again.token(20)),
        against_witness(name, size, *order),
    ]
    return {kind_of(proof): proof for proof in found if proof is not None}


EXAMPLES = examples()


@pytest.mark.parametrize("kind", list(ForkKind))
def test_every_field_of_every_kind_counts(kind: ForkKind) -> None:
    data = encode_fork(EXAMPLES[kind])
    assert verify_fork(data, KNOWN).kind is kind
    fields: Any = decode(data, max_bytes=MAX_FORK_BYTES)
    for at in range(len(fields)):
        others: list[Any] = [None, b"", "", 0, -1, MAX_SIZE, 2**63, True, [], [b"x" * 32], {}, b"x" * 32]
        if isinstance(fields[at], list):
            others += [fields[at][1:], [*fields[at], bytes(32)], [*fields[at][::-1], bytes(32)], [*fields[at], 1]]
        if isinstance(fields[at], int):
            others += [fields[at] - 1, fields[at] + 1]
        for other in others:
            if type(other) is not type(fields[at]) or other != fields[at]:
                never(encode([*fields[:at], other, *fields[at + 1 :]]))
        never(encode([*fields[:at], *fields[at + 1 :]]))
        never(encode([*fields[:at], fields[at], *fields[at:]]))
        for to in range(at):
            if fields[at] != fields[to]:
                swapped = list(fields)
                swapped[at], swapped[to] = fields[to], fields[at]
                never(encode(swapped))


def never(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        verify_fork(data, KNOWN)


def test_the_spelling_is_one() -> None:
    size, entry, twice = (EXAMPLES[kind] for kind in (ForkKind.SIZE, ForkKind.ENTRY, ForkKind.TWICE))
    assert isinstance(size, SizeFork)
    assert isinstance(entry, EntryFork)
    assert isinstance(twice, TwiceFault)
    refused(SizeFork(size.note_b, size.note_a))
    refused(TwiceFault(twice.token_b, twice.token_a))
    refused(
        EntryFork(entry.note_b, entry.note_a, entry.seq, entry.header_b, entry.path_b, entry.header_a, entry.path_a)
    )
    # One size is kind A, whatever entries are shown.
    paths = tuple(OURS.log.inclusion(AT, 30)), tuple(THEIRS.log.inclusion(AT, 30))
    refused(EntryFork(OURS.note(30), THEIRS.note(30), AT, OURS.headers[AT], paths[0], THEIRS.headers[AT], paths[1]))
    # A header that is wrong by itself needs no other beside it.
    note, headers = liar(17, seq=18)
    alone = fault_of_headers(note, headers)
    assert isinstance(alone, ChainFault)
    assert alone.before is None
    tree = Tree()
    for header in headers:
        tree.append(leaf_hash(header))
    refused(alone._replace(before=headers[16], before_path=tuple(tree.inclusion(16))))


def test_builders_keep_only_the_lines_that_count() -> None:
    crowded = cosigned(OURS.note(30), "v", "w"), cosigned(THEIRS.note(30), *"abcdefgh")
    assert fork_of_notes(*crowded) == fork_of_notes(OURS.note(30), THEIRS.note(30))


def test_a_proof_stays_small() -> None:
    ours, theirs = History("large"), History("large")
    for log, mark in ((ours, b"\x80"), (theirs, b"\xa0")):
        for seq in range(1500):
            log.add(EntryType.EVAL, mark if seq >= 700 else b"\xc0", t_ms=T_MS + seq)
    proof = fork_of_headers(ours.note(1000), ours.headers, theirs.note(1500), theirs.headers)
    assert proof is not None
    assert convicted(proof, known(ours)).seq == 700
    assert len(encode_fork(proof)) < 2000


def test_what_is_no_proof_says_so() -> None:
    for data, reason, why in (
        (b"", Reason.MALFORMED, "not canonical"),
        (b"\x80", Reason.MALFORMED, "must be an array"),
        (encode([]), Reason.MALFORMED, "must be an array"),
        (encode(["hello", "A"]), Reason.MALFORMED, "not a proof"),
        (encode([FORK_TAG, "A"]), Reason.MALFORMED, "no kind of proof"),
        (encode([FORK_TAG, "Z", b""]), Reason.MALFORMED, "no kind of proof is 'Z'"),
        (encode([FORK_TAG, "E", b"", b""]), Reason.MALFORMED, "no kind of proof is 'E'"),
        (encode(["quidnunc/v2/equivocation", "A", 1, 2]), Reason.VERSION, "quidnunc/v2/equivocation"),
        (OURS.token(3), Reason.MALFORMED, "not a proof"),
        (OURS.note(), Reason.MALFORMED, "not canonical"),
        (bytes(MAX_FORK_BYTES + 1), Reason.MALFORMED, "limit is 65536"),
    ):
        with pytest.raises(RemoteProtocolError, match=why) as caught:
            verify_fork(data, KNOWN)
        assert caught.value.reason is reason


def test_limits_are_exact_and_a_bug_of_ours_beyond() -> None:
    fault = EXAMPLES[ForkKind.CHAIN]
    assert isinstance(fault, ChainFault)
    big = fault._replace(header=b"\x99\x01".ljust(MAX_LEAF_BYTES, b"\0"))
    assert parse_fork(encode_fork(big)) == big
    for wrong in (
        fault._replace(header=bytes(MAX_LEAF_BYTES + 1)),
        fault._replace(path=(bytes(32),) * 65),
        fault._replace(path=(bytes(31),)),
        fault._replace(note=bytes(16_385)),
        fault._replace(seq=MAX_SIZE),
        TwiceFault(bytes(16_385), b""),
        WitnessFork("a b", SizeFork(b"", b"")),
    ):
        with pytest.raises(LocalProtocolError):
            encode_fork(wrong)
    with pytest.raises(LocalProtocolError, match="not the 30 headers"):
        fault_of_headers(OURS.note(30), OURS.headers[1:])
    with pytest.raises(LocalProtocolError, match="not the tree"):
        fork_of_prefix(THEIRS.note(20), OURS.note(30), THEIRS.log._tree)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 5), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_every_fork_is_found_and_every_honest_pair_left_alone(at: int, a: int, b: int, cut_a: int, cut_b: int) -> None:
    trunk = History("guilty").grow(at)
    ours, theirs = trunk.fork(at).grow(a, "a"), trunk.fork(at).grow(b, "b")
    size_a, size_b = max(0, at + a - cut_a), max(0, at + b - cut_b)
    proof = fork_of_headers(ours.note(size_a), ours.headers, theirs.note(size_b), theirs.headers)
    if min(size_a, size_b) > at:
        found = convicted(proof)
        assert found.culprit == trunk.origin
        assert found.seq in (None, at)
    else:
        assert proof is None


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=6),
    st.integers(0, 20),
    st.integers(0, 20),
)
@settings(deadline=None, max_examples=60)
def test_what_is_kept_of_one_history_proves_every_fork_below_a_checkpoint_of_it(
    at: int, heard: list[tuple[bool, int]], shown: int, kept: int
) -> None:
    """Of the other history no entry is needed; what is over more entries than are kept says nothing."""
    trunk = History("guilty").grow(at)
    ours, theirs = trunk.fork(at).grow(20, "a"), trunk.fork(at).grow(20, "b")
    notes = [(theirs if other else ours).note(at + more) for other, more in heard] + [ours.note(at + shown)]
    sizes = [at + more for other, more in heard if not other] + [at + shown]
    newest = max((size for size in sizes if size <= at + kept), default=0)
    forked = any(other and at < at + more <= newest for other, more in heard)
    proof = fork_of_kept(notes, ours.headers[: at + kept])
    assert (proof is not None) == forked
    if proof is not None:
        assert convicted(proof).culprit == trunk.origin


def test_checkpoints_of_another_history_alone_prove_nothing_against_what_is_kept() -> None:
    """What is kept is not signed: it must be under a checkpoint itself."""
    assert fork_of_kept([THEIRS.note(20), THEIRS.note(30)], OURS.headers) is None
    assert fork_of_kept([], OURS.headers) is None
    assert fork_of_kept([OURS.note(20), THEIRS.note(30)], []) is None


# Suspicion.


def suspicion(kind: SuspicionKind = SuspicionKind.NO_ANSWER) -> Suspicion:
    return Suspicion(kind, OURS.log.log_id, T_MS, b"c" * 32, OURS.note(30))


@pytest.mark.parametrize("kind", list(SuspicionKind))
def test_a_suspicion_reads_back_and_never_verifies(kind: SuspicionKind) -> None:
    data = encode_suspicion(suspicion(kind))
    assert parse_suspicion(data) == suspicion(kind)
    assert kind.label in ("no_consistency", "no_answer", "stale_head", "omission")
    refused(data)
    fields: Any = decode(data, max_bytes=MAX_FORK_BYTES)
    for tag in (FORK_TAG, "quidnunc/v1/token"):
        refused(encode([tag, *fields[1:]]))


def test_malformed_suspicions_are_refused() -> None:
    fields: Any = decode(encode_suspicion(suspicion()), max_bytes=MAX_FORK_BYTES)
    for at, other in ((0, "x"), (1, "A"), (1, "Z"), (1, 5), (2, b"x" * 31), (3, -1), (3, True), (4, b""), (5, None)):
        with pytest.raises(Malformed):
            parse_suspicion(encode([*fields[:at], other, *fields[at + 1 :]]))
    for wrong in (fields[:-1], [*fields, 1], []):
        with pytest.raises(Malformed):
            parse_suspicion(encode(wrong))
    with pytest.raises(RemoteProtocolError) as caught:
        parse_suspicion(encode(["quidnunc/v3/suspicion"]))
    assert caught.value.reason is Reason.VERSION
    for data in (encode_fork(EXAMPLES[ForkKind.SIZE]), b"", OURS.note()):
        with pytest.raises(Malformed):
            parse_suspicion(data)
    full = suspicion()._replace(material=bytes(MAX_MATERIAL_BYTES))
    assert parse_suspicion(encode_suspicion(full)) == full
    for change in ({"material": bytes(MAX_MATERIAL_BYTES + 1)}, {"log_id": b""}, {"deadline_ms": 2**64}):
        with pytest.raises(LocalProtocolError):
            encode_suspicion(suspicion()._replace(**change))
