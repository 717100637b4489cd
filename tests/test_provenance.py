"""Ledger payloads: typed maps that are written in one way and read strictly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Malformed, Reason
from quidnunc.gossip.attestation import CosignatureRow, SuspicionCleared, SuspicionRaised, WitnessSummary
from quidnunc.gossip.jobs import Standing
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate
from quidnunc.gossip.provenance import (
    RECORDS,
    CharterAdopt,
    ContributionClaim,
    EquivocationProof,
    LogRecover,
    MemberNotice,
    Merge,
    MergeRow,
    MessageRefused,
    MetricRow,
    NodeStart,
    PayloadErased,
    PrivacyClaim,
    PrivacyExhausted,
    PrivacySpend,
    Record,
    RecoveredFrom,
    ReputationChange,
    UpdatePublished,
    UpdateReceived,
    parse_record,
    parse_standings,
    payload_of,
    reason_labels,
    standing_code,
    write_standings,
)
from quidnunc.gossip.reputation import StandingClass
from quidnunc.gossip.retirement import LogRetire

BOUNDED = settings(deadline=None, max_examples=100)
UINTS = st.integers(0, 2**64 - 1)
HASHES = st.binary(min_size=32, max_size=32)
WORDS = st.text(max_size=64).filter(lambda s: s.isprintable())
CLAIMS = st.builds(PrivacyClaim, UINTS, UINTS, UINTS, UINTS, UINTS, UINTS, UINTS, UINTS, UINTS, st.just("a/1"), UINTS)
MERGE_ROWS = st.builds(MergeRow, HASHES, st.none() | HASHES, st.none() | UINTS, UINTS, UINTS, UINTS)
RECORD_STRATEGIES: list[st.SearchStrategy[Record]] = [
    st.builds(EquivocationProof, HASHES, st.sampled_from(("A", "B", "B2", "C", "C2", "D")), HASHES, st.none() | UINTS),
    st.builds(MemberNotice, HASHES, UINTS, UINTS, HASHES),
    st.builds(CharterAdopt, HASHES, UINTS, st.lists(HASHES, max_size=3).map(tuple), UINTS, HASHES),
    st.builds(NodeStart, UINTS, st.just("1.0"), st.just("3.12"), st.just(""), st.just("cpu")),
    st.builds(
        UpdatePublished,
        *[HASHES] * 2,
        *[UINTS] * 2,
        *[HASHES] * 4,
        *[UINTS] * 3,
        HASHES,
        UINTS,
        st.none() | CLAIMS,
        st.lists(st.builds(MetricRow, UINTS, UINTS, st.booleans()), max_size=2).map(tuple),
        st.lists(st.builds(ContributionClaim, HASHES, UINTS), max_size=2).map(tuple),
    ),
    st.builds(
        UpdateReceived,
        HASHES,
        UINTS,
        HASHES,
        UINTS,
        HASHES,
        HASHES,
        UINTS,
        HASHES,
        HASHES,
        st.booleans(),
        UINTS,
        st.lists(UINTS, max_size=16).map(tuple),
    ),
    st.builds(MessageRefused, st.none() | HASHES, UINTS, UINTS, UINTS, HASHES),
    st.builds(
        Merge,
        UINTS,
        HASHES,
        HASHES,
        st.lists(MERGE_ROWS, max_size=3).map(tuple),
        st.booleans(),
        UINTS,
        st.lists(UINTS, max_size=5).map(tuple),
        st.none() | HASHES,
    ),
    st.builds(ReputationChange, HASHES, UINTS, UINTS, st.lists(UINTS, max_size=3).map(tuple)),
    st.builds(PrivacySpend, *[UINTS] * 9, HASHES, st.just(1_000_000) | UINTS, st.just(1) | UINTS),
    st.builds(PrivacyExhausted, *[UINTS] * 4, HASHES),
    st.builds(
        LogRecover, UINTS, UINTS, st.lists(st.builds(RecoveredFrom, HASHES, HASHES), max_size=3).map(tuple), UINTS
    ),
    st.builds(KeyRotate, HASHES, UINTS, *[st.binary(min_size=64, max_size=64)] * 2),
    st.builds(KeyRevoke, UINTS, UINTS, st.binary(min_size=64, max_size=64)),
    st.builds(LogRetire, st.none() | HASHES, UINTS, UINTS, st.binary(min_size=64, max_size=64)),
    st.builds(PayloadErased, st.lists(UINTS, max_size=5).map(tuple), UINTS),
    st.builds(
        WitnessSummary,
        UINTS,
        st.lists(st.builds(CosignatureRow, HASHES, UINTS, st.binary(min_size=72, max_size=72)), max_size=3).map(tuple),
    ),
    st.builds(SuspicionRaised, HASHES, st.sampled_from(("E", "E2", "E3", "F")), HASHES, UINTS),
    st.builds(SuspicionCleared, HASHES, UINTS),
]
ANY_RECORD = st.one_of(RECORD_STRATEGIES)


@BOUNDED
@given(record=ANY_RECORD)
def test_a_record_is_read_back_as_it_was_written(record: Record) -> None:
    assert parse_record(record.TYPE, payload_of(record)) == record


def test_every_record_is_tried_here() -> None:
    assert len(RECORD_STRATEGIES) == len(RECORDS)


@BOUNDED
@given(kind=st.sampled_from(sorted(RECORDS)), payload=st.binary(max_size=200))
def test_arbitrary_payloads_are_malformed(kind: int, payload: bytes) -> None:
    with pytest.raises(Malformed):
        parse_record(kind, payload)


WRONG = st.sampled_from([None, True, -1, 2**63, "text", b"", b"x" * 33, [], [[1]], {}, ["x"] * 4000])


@BOUNDED
@given(record=ANY_RECORD, pick=st.integers(0, 100), value=WRONG)
def test_a_wrong_value_under_any_key_is_malformed_or_another_record(record: Record, pick: int, value: Any) -> None:
    fields = decode(payload_of(record), max_bytes=65_535)
    assert isinstance(fields, dict)
    key = sorted(fields)[pick % len(fields)]
    changed = encode({**fields, key: value})
    if changed == payload_of(record):
        return
    try:
        parsed = parse_record(record.TYPE, changed)
    except Malformed:
        return
    assert parsed != record
    assert payload_of(parsed) == changed


@BOUNDED
@given(record=ANY_RECORD, pick=st.integers(0, 100))
def test_missing_and_unknown_keys_are_malformed(record: Record, pick: int) -> None:
    fields = decode(payload_of(record), max_bytes=65_535)
    assert isinstance(fields, dict)
    key = sorted(fields)[pick % len(fields)]
    attribute, kind = record.FIELDS[key]
    without = encode({k: v for k, v in fields.items() if k != key})
    if kind.absent is None:
        with pytest.raises(Malformed):
            parse_record(record.TYPE, without)
    else:
        assert parse_record(record.TYPE, without) == replace(record, **{attribute: kind.absent})
    with pytest.raises(Malformed) as caught:
        parse_record(record.TYPE, encode({**fields, "zz" * 2000: 1}))
    assert len(caught.value.message) < 200, "an error does not repeat what a stranger wrote at length"


def test_a_key_that_is_left_out_at_its_usual_value_may_not_be_written_there() -> None:
    """One record, one payload: a full-batch spend has no q_ppm and no st, a sampled one has what is not usual."""
    spend = PrivacySpend(1, 1, 1, 1, 1, 5, 1, 1, 1, bytes(32))
    fields = decode(payload_of(spend), max_bytes=65_535)
    assert isinstance(fields, dict)
    assert not {"q_ppm", "st"} & fields.keys()
    for key, usual in (("q_ppm", 1_000_000), ("st", 1)):
        with pytest.raises(Malformed, match=f"must be left out where it is {usual}"):
            parse_record(spend.TYPE, encode({**fields, key: usual}))
    sampled = replace(spend, rate_ppm=50_000)
    assert payload_of(sampled) == encode({**fields, "q_ppm": 50_000})


def test_an_entry_type_without_a_format_is_malformed() -> None:
    with pytest.raises(Malformed):
        parse_record(EntryType.GENESIS, b"\x80")


ROW = MergeRow(bytes(32), None, None, 0, 0, 0)


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (
            lambda n: Merge(
                1, bytes(32), bytes(32), (MergeRow(bytes(32), None, None, 0, 0, 0),) * n, False, 0, (), None
            ),
            513,
        ),
        (lambda n: ReputationChange(bytes(32), 0, 1, tuple(range(n))), 64),
        (lambda n: CharterAdopt(bytes(32), 0, (bytes(32),) * n, 1, bytes(32)), 512),
    ],
)
def test_lists_are_read_up_to_their_limit_and_not_one_past_it(make: Any, limit: int) -> None:
    at = make(limit)
    assert parse_record(at.TYPE, payload_of(at)) == at
    assert len(payload_of(at)) <= 65_535
    past = make(limit + 1)
    with pytest.raises(Malformed):
        parse_record(past.TYPE, payload_of(past))


# Private parts and names.

STANDINGS = st.builds(Standing, st.integers(0, 10**7), st.integers(0, 4 * 10**7), st.integers(0, 10**7)).map(
    lambda s: Standing(s.good / 1e6, s.bad / 1e6, s.harm / 1e6)
)


@BOUNDED
@given(standings=st.dictionaries(HASHES, STANDINGS, max_size=4))
def test_standings_are_read_back_as_they_were_written(standings: dict[bytes, Standing]) -> None:
    assert parse_standings(write_standings(standings)) == standings


@BOUNDED
@given(data=st.binary(max_size=100))
def test_arbitrary_standings_are_malformed_or_none(data: bytes) -> None:
    try:
        parse_standings(data)
    except Malformed:
        return
    assert data == write_standings(parse_standings(data))


@pytest.mark.parametrize(
    "rows", [{}, [1], [[b"x", 1, 2]], [["x", 1, 2, 3]], [[b"x", "1", 2, 3]], [[b"x" * 32, True, 2, 3]]]
)
def test_wrong_rows_of_standings_are_malformed(rows: Any) -> None:
    with pytest.raises(Malformed):
        parse_standings(encode(rows))


def test_names_in_the_ledger() -> None:
    assert reason_labels((Reason.STALE, 999)) == ["stale", "reason-999"]
    assert [standing_code(each) for each in StandingClass] == [0, 1, 2]
