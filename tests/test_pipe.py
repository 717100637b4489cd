"""The trainer pipe: what goes in comes out, and nothing else does."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason
from quidnunc.gossip import jobs
from quidnunc.gossip.federation.terms import DATA_SCHEMA_BYTES
from quidnunc.peer import pipe
from quidnunc.peer.pipe import (
    FRAME_BYTES_MAX,
    TO_CHILD,
    TO_PARENT,
    FrameReader,
    Heartbeat,
    Noted,
    Ready,
    Setup,
    SetupFailed,
    failed,
    frame,
    read_frame,
    write_frame,
)

names = st.binary(min_size=32, max_size=32)
ints = st.integers(0, 2**63 - 1)
reals = st.floats(allow_nan=False)
standings = st.builds(jobs.Standing, reals, reals, reals)
inputs = st.builds(jobs.MergeInput, names, names, ints, standings, st.booleans())
rows = st.builds(jobs.MergedRow, names, names, ints, ints, ints, standings, ints)

any_job = st.one_of(
    st.just(jobs.DescribeJob()),
    st.builds(
        jobs.TrainJob,
        ints,
        ints,
        names,
        names,
        st.booleans(),
        reals,
        st.none() | st.builds(jobs.PrivacyStep, reals, reals),
    ),
    st.builds(jobs.AdvanceJob, names, ints, names, names, names),
    st.builds(jobs.AdoptJob, names, ints, names),
    st.builds(jobs.MergeJob, ints, names, st.lists(inputs, max_size=4).map(tuple)),
    st.builds(jobs.MedianJob, st.lists(names, max_size=4).map(tuple)),
    st.builds(jobs.EvaluateJob, ints, names),
)
any_result = st.one_of(
    st.builds(jobs.Described, names, ints, names, ints, ints, names),
    st.builds(jobs.Trained, ints, ints, names, ints, names, reals),
    st.builds(jobs.Advanced, names, ints, names),
    st.builds(jobs.Rejected, names, ints, st.sampled_from(Reason), st.text(max_size=30)),
    st.builds(jobs.Merged, ints, names, st.lists(rows, max_size=4).map(tuple), ints, st.booleans()),
    st.builds(jobs.Adopted, names),
    st.builds(jobs.Evaluated, ints, names, reals, reals),
    st.builds(jobs.JobFailed, st.text(max_size=20), st.text(max_size=30), names, names, ints),
)


def test_every_kind_of_job_and_result_is_known_here() -> None:
    assert set(pipe._JOBS) == set(jobs.Job.__args__)
    assert set(pipe._RESULTS) == set(jobs.Result.__args__)


@given(any_job)
@settings(deadline=None, max_examples=150)
def test_jobs_survive_the_pipe(job: jobs.Job) -> None:
    assert TO_CHILD.decode(TO_CHILD.encode(job)) == job


@given(any_result)
@settings(deadline=None, max_examples=150)
def test_results_survive_the_pipe_with_their_types(result: jobs.Result) -> None:
    back = TO_PARENT.decode(TO_PARENT.encode(result))
    assert back == result
    if isinstance(back, jobs.Rejected):
        assert isinstance(back.reason, Reason)
    if isinstance(back, jobs.Merged):
        assert isinstance(back.rows, tuple)


def test_a_setup_survives_and_keeps_its_secret_to_itself() -> None:
    setup = Setup("digits", "/b", b"k" * 32, options={"a": 1, "b": 1.0, "c": True, "d": "x"}, merge_options={"f": 1.5})
    assert len(frame(TO_CHILD.encode(replace(setup, schema="é" * (DATA_SCHEMA_BYTES // 2))))) > DATA_SCHEMA_BYTES
    back = TO_CHILD.decode(TO_CHILD.encode(setup))
    assert back == setup
    assert [type(value) for value in back.options.values()] == [int, float, bool, str]
    assert "kkkk" not in repr(setup)
    assert repr(b"k" * 32) not in repr(setup)


@pytest.mark.parametrize("message", [Ready(), Noted(("a", "b")), SetupFailed("no", "try"), Heartbeat(7)])
def test_the_childs_own_messages_survive(message: object) -> None:
    assert TO_PARENT.decode(TO_PARENT.encode(message)) == message


def test_as_many_notes_as_may_travel_fit_into_a_frame() -> None:
    most = Noted(("\U0001f600" * pipe.NOTE_CHARS_MAX,) * pipe.NOTES_MAX)
    assert TO_PARENT.decode(frame(TO_PARENT.encode(most))[4:]) == most


def test_whole_numbers_are_fine_where_reals_are_meant() -> None:
    job = jobs.TrainJob(1, 1, b"b" * 32, b"r" * 32, True, 1, jobs.PrivacyStep(1, 2))
    back = TO_CHILD.decode(TO_CHILD.encode(job))
    assert back == job
    assert isinstance(back, jobs.TrainJob)
    assert isinstance(back.drag, float)


@pytest.mark.parametrize(
    "message",
    [
        jobs.EvaluateJob("one", b""),  # type: ignore[arg-type]
        jobs.EvaluateJob(1, "text"),  # type: ignore[arg-type]
        jobs.EvaluateJob(2**70, b""),
        jobs.MergeJob(1, b"", (7,)),  # type: ignore[arg-type]
        jobs.Adopted(b""),
        "text",
        None,
        object(),
    ],
)
def test_what_is_no_job_does_not_get_into_the_pipe(message: Any) -> None:
    with pytest.raises(LocalProtocolError):
        TO_CHILD.encode(message)


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for decode in (TO_CHILD.decode, TO_PARENT.decode):
        try:
            message = decode(data)
        except Malformed:
            continue
        assert TO_PARENT.encode(message) == data or TO_CHILD.encode(message) == data


@given(any_result, st.data())
@settings(deadline=None, max_examples=150)
def test_a_changed_byte_is_another_message_or_malformed(result: jobs.Result, data: st.DataObject) -> None:
    encoded = bytearray(TO_PARENT.encode(result))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        back = TO_PARENT.decode(bytes(encoded))
    except Malformed:
        return
    assert TO_PARENT.encode(back) == bytes(encoded)


@pytest.mark.parametrize(
    "value",
    [
        ["Adopted", {"result": b"x", "more": 1}],
        ["Adopted", {}],
        ["Adopted", {"result": "text"}],
        ["Adopted"],
        ["Adopted", {"result": b"x"}, 1],
        {"Adopted": {"result": b"x"}},
        ["Popen", {"args": ["true"]}],
        [["Adopted"], {"result": b"x"}],
        ["Rejected", {"author": b"", "number": 1, "reason": 99, "detail": ""}],
    ],
)
def test_unknown_classes_fields_and_values_are_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        TO_PARENT.decode(msgspec.msgpack.encode(value))


def test_jobs_are_not_results_and_results_are_not_jobs() -> None:
    with pytest.raises(Malformed, match="unknown class 'DescribeJob'"):
        TO_PARENT.decode(TO_CHILD.encode(jobs.DescribeJob()))
    with pytest.raises(Malformed, match="unknown class 'Adopted'"):
        TO_CHILD.decode(TO_PARENT.encode(jobs.Adopted(b"")))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(Malformed):
        TO_PARENT.decode(b"\x91" * 100_000)


def test_a_failure_names_its_author_and_number_and_is_cut_to_size() -> None:
    job = jobs.AdvanceJob(b"a" * 32, 7, b"", b"", b"")
    assert failed(job, "why", b"m") == jobs.JobFailed("AdvanceJob", "why", b"m", b"a" * 32, 7)
    assert failed(jobs.DescribeJob(), "why") == jobs.JobFailed("DescribeJob", "why")
    assert len(failed(job, "x" * pipe.WHY_CHARS_MAX).why) == pipe.WHY_CHARS_MAX
    assert failed(job, "x" * (pipe.WHY_CHARS_MAX + 1)).why.endswith("x...")
    assert len(failed(job, "x" * (pipe.WHY_CHARS_MAX + 1)).why) == pipe.WHY_CHARS_MAX


def through_a_pipe(data: bytes) -> int:
    """A descriptor from which ``data`` can be read."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def test_frames_are_read_back_whole_and_in_order() -> None:
    reader, writer = os.pipe()
    for body in (b"", b"x", b"y" * 1000):
        write_frame(writer, body)
    os.close(writer)
    assert [read_frame(reader) for _ in range(4)] == [b"", b"x", b"y" * 1000, None]
    os.close(reader)


def test_the_frame_cap_holds_at_the_limit_and_one_past_it() -> None:
    assert len(frame(b"x" * FRAME_BYTES_MAX)) == FRAME_BYTES_MAX + 4
    with pytest.raises(LocalProtocolError, match=f"limit is {FRAME_BYTES_MAX}"):
        frame(b"x" * (FRAME_BYTES_MAX + 1))
    with pytest.raises(Malformed, match=f"limit is {FRAME_BYTES_MAX}"):
        read_frame(through_a_pipe(struct.pack("<I", FRAME_BYTES_MAX + 1)))
    # At the limit the body is awaited, so that the error is another one.
    with pytest.raises(Malformed, match="ended inside a frame"):
        read_frame(through_a_pipe(struct.pack("<I", FRAME_BYTES_MAX)))


@pytest.mark.parametrize("cut", [1, 3, 4, 8])
def test_a_frame_cut_short_is_malformed(cut: int) -> None:
    with pytest.raises(Malformed, match="ended inside a frame"):
        read_frame(through_a_pipe(frame(b"hello")[:cut]))


def test_writing_to_a_dead_reader_says_so() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        write_frame(writer, b"x")
    os.close(writer)


@pytest.mark.trio
@pytest.mark.parametrize("piece", [1, 3, 5, 1000])
async def test_the_async_reader_joins_pieces_of_any_size(piece: int) -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    data = b"".join(frame(body) for body in (b"", b"x", b"y" * 50))
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            for at in range(0, len(data), piece):
                await send.send_all(data[at : at + piece])
            await send.aclose()

        nursery.start_soon(write)
        reader = FrameReader(receive)
        assert [await reader.read() for _ in range(4)] == [b"", b"x", b"y" * 50, None]


@pytest.mark.trio
async def test_a_cancelled_read_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    reader = FrameReader(receive)
    data = frame(b"hello")
    await send.send_all(data[:6])
    with trio.move_on_after(1) as scope:
        await reader.read()
    assert scope.cancelled_caught
    await send.send_all(data[6:])
    assert await reader.read() == b"hello"


@pytest.mark.trio
@pytest.mark.parametrize("cut", [1, 3, 4, 8])
async def test_the_async_reader_refuses_a_frame_cut_short_or_too_long(cut: int) -> None:
    for data, message in ((frame(b"hello")[:cut], "inside a frame"), (b"\xff" * 4, "limit is")):
        send, receive = trio.testing.memory_stream_one_way_pair()
        await send.send_all(data)
        await send.aclose()
        with pytest.raises(Malformed, match=message):
            await FrameReader(receive).read()
