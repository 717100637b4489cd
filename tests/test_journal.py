"""The format of a journal: what is written comes back, a torn end is an end, all else is one error."""

from __future__ import annotations

import contextlib
import io
import types
from collections import Counter
from enum import Enum
from itertools import pairwise
from typing import Any, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import journal_of

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import JournalCorrupt, Malformed, StoreNewer
from quidnunc.gossip.events import Event, Finished, Frame, PeerUp, Received, Started, TimerFired
from quidnunc.gossip.jobs import Described, JobFailed
from quidnunc.gossip.journal import frames
from quidnunc.gossip.journal.forms import _fields, form
from quidnunc.gossip.journal.frames import MAGIC, OVERHEAD_BYTES, Reader, seal
from quidnunc.gossip.journal.marks import KINDS, MARK_BYTES, marks
from quidnunc.gossip.journal.records import (
    BODY_BYTES_MAX,
    SECONDS_MAX,
    End,
    Heard,
    Kept,
    Set,
    Step,
    kept,
    read_record,
    revived,
    write_record,
)
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.settings import Settings

LIMIT = 2**20

WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    bytes: st.binary(max_size=40),
    str: WORDS,
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False).map(lambda number: number + 0.0),
    types.NoneType: st.none(),
}


def of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a declared type."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return PLAIN[hint]
    if origin in (Union, types.UnionType):
        return st.one_of([of(each) for each in parts])
    if origin is tuple and parts[-1] is not Ellipsis:
        return st.tuples(*map(of, parts))
    if origin in (tuple, list):
        return st.lists(of(parts[0]), max_size=3).map(origin)
    if origin is set:
        return st.sets(of(parts[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(of(parts[0]), of(parts[1]), max_size=2)
    if origin is Counter:
        return st.dictionaries(of(parts[0]), of(int), max_size=2).map(Counter)
    if issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    return st.builds(hint, **{name: of(each) for name, each in _fields(hint).items()})


@given(of(Kept) | of(Resume) | of(Settings))
def test_whatever_a_node_is_told_or_built_from_comes_back(value: Any) -> None:
    kinds: dict[type, Any] = {Resume: Resume, Settings: Settings}
    shape = form(kinds.get(type(value), Kept))
    back = shape.read(decode(encode(shape.write(value)), max_bytes=LIMIT))
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, Resume):
        assert list(back.tracked) == list(value.tracked), "the order of a map is told as well"
        assert type(back.accepted_of) is Counter


@pytest.mark.parametrize(
    ("hint", "value", "why"),
    [
        (int, True, "bool where int belongs"),
        (bytes, "a", "str where bytes belongs"),
        (float, b"1234567", "a float is not 8 bytes"),
        (tuple[int, int], [1], "a tuple of 1 fields, must be 2"),
        (set[int], [2, 1], "a set is not sorted"),
        (set[int], [1, 1], "a set is not sorted"),
        (dict[int, int], [[1, 1], [1, 2]], "a map has a key twice"),
        (Counter[int], [[1, 1], [1, 2]], "a map has a key twice"),
        (list[int], b"", "bytes where an array belongs"),
        (Kept, ["Nothing"], "none of Started"),
        (Kept, [], "none of Started"),
        (Kept, ["PeerUp", b"p", b"q"], "PeerUp of 2 fields, must be 1"),
    ],
)
def test_what_was_not_declared_is_refused(hint: Any, value: Any, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        form(hint).read(value)


def test_a_type_without_a_form_is_found_when_it_is_declared() -> None:
    with pytest.raises(TypeError, match="has no form"):
        form(frozenset[int])


def step(event: Kept = Started(), now: float = 1.0, **changes: Any) -> Step:  # noqa: B008  it is frozen
    return Step(**{"now": now, "event": event} | EMPTY | changes)


EMPTY: dict[str, Any] = {"entropy": (), "signatures": (), "effects": b"", "leaves": b"", "raised": ""}


@pytest.mark.parametrize(
    ("good", "bad", "why"),
    [
        (
            step(Heard(b"p", b"h", BODY_BYTES_MAX, bytes(32))),
            step(Heard(b"p", b"h", BODY_BYTES_MAX + 1, bytes(32))),
            "body",
        ),
        (step(Heard(b"p", b"h", 0, bytes(32))), step(Heard(b"p", b"h", -1, bytes(32))), "body"),
        (step(Heard(b"p", b"h", 0, bytes(32))), step(Heard(b"p", b"h", 0, bytes(31))), "body"),
        (step(now=0.0), step(now=-0.1), "an event at"),
        (step(now=SECONDS_MAX - 1), step(now=SECONDS_MAX), "an event at"),
        (step(), step(now=float("nan")), "an event at"),
        (step(leaves=bytes(64)), step(leaves=bytes(63)), "leaf hashes"),
    ],
)
def test_a_record_is_read_up_to_its_bounds(good: Step, bad: Step, why: str) -> None:
    assert read_record(write_record(good)) == good
    with pytest.raises(Malformed, match=why):
        read_record(write_record(bad))


def test_an_event_comes_back_without_bodies_and_words_of_the_task() -> None:
    heard = Received(b"p" * 32, Frame(b"header", b"weights"))
    back = revived(kept(heard))
    assert isinstance(back, Received)
    assert (back.frame.header, len(back.frame.body), back.frame.body) == (b"header", 7, bytes(7))
    assert back.frame.digest() == heard.frame.digest()
    failed = JobFailed("TrainJob", "row 7: Smith", b"m" * 32, b"a", 3, True, True)
    event: Event = Finished(failed)
    assert kept(event) == Finished(JobFailed("TrainJob", "(left out)", b"m" * 32, b"a", 3, True, True))
    described = Described(b"s", 1, b"g", 10, 2, b"secret")
    assert kept(Finished(described)) == Finished(Described(b"s", 1, b"g", 10, 2, b""))
    assert kept(Started()) == revived(Started()) == Started()


RECORDS = [
    step(),
    Set(True),
    step(TimerFired("round"), 2.5),
    step(PeerUp(b"p" * 32), 3.0, entropy=(b"e" * 16,)),
    End("full"),
]
WHOLE = journal_of(RECORDS)


def reader_of(data: bytes) -> Reader:
    return Reader(io.BytesIO(data).read)


def records_in(data: bytes) -> tuple[list[Any], Reader]:
    reader = reader_of(data)
    return [read_record(record) for record in reader], reader


def test_a_journal_is_read_to_its_end() -> None:
    found, reader = records_in(WHOLE)
    assert found == RECORDS
    assert (reader.count, reader.end, reader.torn) == (len(RECORDS), len(WHOLE), False)
    whole, _ = seal(reader.last, write_record(Set(False)))
    assert records_in(WHOLE + whole)[0] == [*RECORDS, Set(False)]
    assert len(whole) == len(write_record(Set(False))) + OVERHEAD_BYTES


def test_wherever_it_is_cut_off_the_whole_records_before_are_read() -> None:
    ends = [len(MAGIC)]
    for record in RECORDS:
        ends.append(ends[-1] + len(write_record(record)) + OVERHEAD_BYTES)
    assert ends[-1] == len(WHOLE)
    for size in range(len(WHOLE) + 1):
        found, reader = records_in(WHOLE[:size])
        assert found == RECORDS[: len(found)]
        assert reader.end == (max(end for end in ends if end <= size) if size >= len(MAGIC) else 0)
        assert reader.torn == (size not in ends)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_wherever_a_byte_is_changed_it_is_damage_and_nothing_behind_it_is_read(at: int, by: int) -> None:
    data = bytearray(WHOLE)
    data[at] ^= by
    found: list[Any] = []
    with pytest.raises((JournalCorrupt, StoreNewer)) as refused:
        found.extend(read_record(record) for record in reader_of(bytes(data)))
    assert found == RECORDS[: len(found)]
    if isinstance(refused.value, JournalCorrupt) and at >= len(MAGIC):
        assert refused.value.record == len(found) + 1


@given(st.permutations(range(len(RECORDS))))
def test_records_in_another_order_are_damage(order: list[int]) -> None:
    ends = [len(MAGIC)]
    for record in RECORDS:
        ends.append(ends[-1] + len(write_record(record)) + OVERHEAD_BYTES)
    pieces = [WHOLE[a:b] for a, b in pairwise(ends)]
    if order == sorted(order):
        return
    with pytest.raises(JournalCorrupt):
        list(reader_of(MAGIC + b"".join(pieces[i] for i in order)))


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
def test_bytes_of_anybody_end_in_a_record_or_in_the_one_error(noise: bytes, edits: list[tuple[int, int]]) -> None:
    record = bytearray(write_record(step(Heard(b"p" * 32, b"h", 5, bytes(32)), entropy=(b"e" * 16,))))
    for at, value in edits:
        record[at % len(record)] = value
    for data in (noise, bytes(record)):
        with contextlib.suppress(Malformed):
            read_record(data)
        sealed, _ = seal(frames.FIRST_SEAL, data)
        assert list(reader_of(MAGIC + sealed)) == [data]
        assert_refused_or_torn(MAGIC + data)


def assert_refused_or_torn(data: bytes) -> None:
    reader = reader_of(data)
    try:
        assert list(reader) == []
        assert reader.torn or data == MAGIC
    except JournalCorrupt:
        pass


def test_a_record_is_as_long_as_the_limit_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "RECORD_BYTES_MAX", 100)
    fits, _ = seal(frames.FIRST_SEAL, bytes(100))
    assert list(reader_of(MAGIC + fits)) == [bytes(100)]
    longer, _ = seal(frames.FIRST_SEAL, bytes(101))
    asked: list[int] = []
    stream = io.BytesIO(MAGIC + longer)

    def read(size: int) -> bytes:
        asked.append(size)
        return stream.read(size)

    with pytest.raises(JournalCorrupt, match="101 bytes, limit is 100"):
        list(Reader(read))
    assert max(asked) <= 40, "nothing is read before the size is compared with the limit"


@pytest.mark.parametrize("version", ["2", "10"])
def test_a_later_version_is_named_as_such(version: str) -> None:
    with pytest.raises(StoreNewer):
        list(reader_of(f"quidnunc/v{version}/journal\nwhatever".encode()))


@pytest.mark.parametrize(
    "data", [b"SQLite format 3\x00", b"quidnunc/v1/charter\n" + bytes(50), b"\n", b"quidnunc/v1/jourmal\n"]
)
def test_another_file_is_no_journal(data: bytes) -> None:
    with pytest.raises(JournalCorrupt, match="does not begin as a journal does"):
        list(reader_of(data))


@given(st.data())
def test_every_effect_has_a_mark_that_its_contents_change(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    one, other = data.draw(of(kind)), data.draw(of(kind))
    mark = marks([one])
    assert len(mark) == MARK_BYTES
    assert mark == marks([one])
    if kind.__name__ not in ("Report", "StoreBlob"):
        assert (mark == marks([other])) == (one == other)
    assert marks([one, other]) == mark + marks([other])
