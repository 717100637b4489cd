"""Headers between peers: what is written is read back, everything else is one typed refusal."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_helpers import Author, founders, toy_charter

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import Entry, EntryType
from quidnunc.crypto.errors import Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.token import make_token
from quidnunc.gossip.message import (
    ENTRIES_MAX,
    HEADER_BYTES_MAX,
    HEADS_MAX,
    NUMBER_MAX,
    Consistency,
    Cosigned,
    Entries,
    Fetch,
    Heads,
    Hello,
    Known,
    Message,
    Newest,
    Notice,
    Proof,
    Prove,
    Recall,
    Recalled,
    Snapshot,
    Unavailable,
    Update,
    Vouch,
    Vouched,
    VouchRow,
    Want,
)
from quidnunc.gossip.message_codec import entries_frame, parse_message, write_message
from quidnunc.gossip.provenance import NodeStart
from quidnunc.gossip.signed_update import open_update

FEDERATION = b"f" * 32
BOUNDED = settings(deadline=None, max_examples=150)
NUMBERS = st.integers(1, NUMBER_MAX)
TOKENS = st.binary(max_size=200)
SPANS = st.tuples(NUMBERS, NUMBERS).map(sorted)
RANGES = st.tuples(st.integers(0, NUMBER_MAX), st.integers(0, NUMBER_MAX)).map(sorted)
HASHES = st.binary(min_size=32, max_size=32)
PATHS = st.lists(HASHES, max_size=3).map(tuple)
GROWTH = SPANS.filter(lambda span: span[0] < span[1])
MESSAGES = st.one_of(
    TOKENS.map(lambda token: Update(FEDERATION, token)),
    TOKENS.map(lambda token: Snapshot(FEDERATION, token)),
    st.builds(Hello, st.just(FEDERATION), TOKENS, st.booleans()),
    st.tuples(SPANS, st.booleans()).map(lambda t: Want(FEDERATION, t[0][0], t[0][1], t[1])),
    SPANS.map(lambda span: Unavailable(FEDERATION, *span)),
    SPANS.map(lambda span: Recall(FEDERATION, *span)),
    NUMBERS.map(lambda number: Recalled(FEDERATION, number)),
    TOKENS.map(lambda proof: Proof(FEDERATION, proof)),
    TOKENS.map(lambda token: Notice(FEDERATION, token)),
    TOKENS.map(lambda note: Cosigned(FEDERATION, note)),
    TOKENS.map(lambda note: Vouched(FEDERATION, note)),
    st.builds(
        lambda note, rows: Vouch(FEDERATION, note, tuple(rows)),
        TOKENS,
        st.lists(st.builds(VouchRow, HASHES, st.integers(0, NUMBER_MAX), HASHES, PATHS), min_size=1, max_size=8),
    ),
    st.just(Newest(FEDERATION)),
    st.builds(lambda note, span: Known(FEDERATION, note, *span), TOKENS, RANGES),
    st.builds(lambda log_id, span: Fetch(FEDERATION, log_id, *span), HASHES, RANGES),
    st.builds(
        lambda log_id, span, rows, note: Entries(FEDERATION, log_id, span[0], tuple(rows), note),
        HASHES,
        RANGES,
        st.lists(st.tuples(TOKENS, TOKENS, TOKENS).map(lambda row: Entry(*row)), max_size=3),
        TOKENS,
    ),
    st.lists(TOKENS, max_size=HEADS_MAX).map(lambda notes: Heads(FEDERATION, tuple(notes))),
    GROWTH.map(lambda grown: Prove(FEDERATION, *grown)),
    st.builds(
        lambda grown, root, path: Consistency(FEDERATION, *grown, root, tuple(path)),
        GROWTH,
        st.binary(min_size=32, max_size=32),
        st.lists(st.binary(max_size=40), max_size=64),
    ),
)


@BOUNDED
@given(message=MESSAGES)
def test_what_is_written_is_read_back(message: Message) -> None:
    assert parse_message(write_message(message), FEDERATION) == message


@BOUNDED
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_message(data, FEDERATION)


@BOUNDED
@given(message=MESSAGES, where=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_another_message_or_a_refusal(message: Message, where: int, bit: int) -> None:
    raw = bytearray(write_message(message))
    raw[where % len(raw)] ^= 1 << bit
    try:
        parsed = parse_message(bytes(raw), FEDERATION)
    except RemoteProtocolError:
        return
    assert parsed != message
    assert write_message(parsed) == bytes(raw), "one message has one spelling"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([], Reason.MALFORMED),
        (["quidnunc/v1/update", FEDERATION], Reason.MALFORMED),
        (["quidnunc/v1/newest", FEDERATION, b""], Reason.MALFORMED),
        (["quidnunc/v1/known", FEDERATION, b"", 2, 1], Reason.MALFORMED),
        (["quidnunc/v1/known", FEDERATION, b"", 0, True], Reason.MALFORMED),
        (["quidnunc/v1/fetch", FEDERATION, b"g" * 31, 0, 1], Reason.MALFORMED),
        (["quidnunc/v1/fetch", FEDERATION, b"g" * 32, 0, NUMBER_MAX + 1], Reason.MALFORMED),
        (["quidnunc/v1/entries", FEDERATION, b"g" * 32, -1, [], b""], Reason.MALFORMED),
        (["quidnunc/v1/entries", FEDERATION, b"g" * 32, 0, [[b"", b""]], b""], Reason.MALFORMED),
        (["quidnunc/v1/entries", FEDERATION, b"g" * 32, 0, [[b"", b"", b""]] * 1025, b""], Reason.MALFORMED),
        (["quidnunc/v1/update", FEDERATION, b"", b""], Reason.MALFORMED),
        (["quidnunc/v1/update", FEDERATION, "token"], Reason.MALFORMED),
        (["quidnunc/v1/update", FEDERATION[:31], b""], Reason.MALFORMED),
        (["quidnunc/v1/update", b"g" * 32, b""], Reason.WRONG_FEDERATION),
        (["quidnunc/v1/hello", FEDERATION, b"", 1], Reason.MALFORMED),
        (["quidnunc/v1/want", FEDERATION, True, 2, False], Reason.MALFORMED),
        (["quidnunc/v1/want", FEDERATION, 0, 2, False], Reason.MALFORMED),
        (["quidnunc/v1/want", FEDERATION, 3, 2, False], Reason.MALFORMED),
        (["quidnunc/v1/want", FEDERATION, 1, NUMBER_MAX + 1, False], Reason.MALFORMED),
        (["quidnunc/v1/unavailable", FEDERATION, -1, 2], Reason.MALFORMED),
        (["quidnunc/v1/recall", FEDERATION, 2, 1], Reason.MALFORMED),
        (["quidnunc/v1/recall", FEDERATION, 1], Reason.MALFORMED),
        (["quidnunc/v1/recalled", FEDERATION, 0], Reason.MALFORMED),
        (["quidnunc/v1/recalled", FEDERATION, True], Reason.MALFORMED),
        (["quidnunc/v1/recalled", FEDERATION, NUMBER_MAX + 1], Reason.MALFORMED),
        (["quidnunc/v1/proof", FEDERATION, "proof"], Reason.MALFORMED),
        (["quidnunc/v1/heads", FEDERATION, [b""] * (HEADS_MAX + 1)], Reason.MALFORMED),
        (["quidnunc/v1/heads", FEDERATION, [1]], Reason.MALFORMED),
        (["quidnunc/v1/prove", FEDERATION, 0, 1], Reason.MALFORMED),
        (["quidnunc/v1/prove", FEDERATION, 2, 2], Reason.MALFORMED),
        (["quidnunc/v1/prove", FEDERATION, True, 2], Reason.MALFORMED),
        (["quidnunc/v1/consistency", FEDERATION, 1, 2, bytes(31), []], Reason.MALFORMED),
        (["quidnunc/v1/consistency", FEDERATION, 1, 2, bytes(32), [bytes(32)] * 65], Reason.MALFORMED),
        (["quidnunc/v1/cosigned", FEDERATION, []], Reason.MALFORMED),
        (["quidnunc/v1/other", FEDERATION, 1], Reason.MALFORMED),
        (["quidnunc/v2/update", FEDERATION, b""], Reason.VERSION),
        ([1, FEDERATION, b""], Reason.MALFORMED),
    ],
)
def test_wrong_fields_are_refused(fields: list[object], reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_message(encode(fields), FEDERATION)  # type: ignore[arg-type]
    assert caught.value.reason == reason


def test_a_header_at_the_limit_is_read_and_one_past_it_is_not() -> None:
    empty = len(write_message(Update(FEDERATION, bytes(60_000)))) - 60_000
    at = write_message(Update(FEDERATION, bytes(HEADER_BYTES_MAX - empty)))
    assert len(at) == HEADER_BYTES_MAX
    parse_message(at, FEDERATION)
    with pytest.raises(Malformed):
        parse_message(write_message(Update(FEDERATION, bytes(HEADER_BYTES_MAX - empty + 1))), FEDERATION)


def test_what_a_remote_tag_adds_to_a_message_is_bounded() -> None:
    for tag in ("quidnunc/v9/" + "x" * 4000, "y" * 4000):
        with pytest.raises(RemoteProtocolError) as caught:
            parse_message(encode([tag, FEDERATION, b""]), FEDERATION)
        assert len(caught.value.message) < 200


@pytest.fixture
def author() -> Author:
    group = founders(2)
    return Author(group[0], toy_charter(group))


def opened(author: Author, token: bytes) -> object:
    return open_update(token, log_id=author.member.log_id, public=author.member.log)


def test_a_signed_update_says_what_was_signed_and_where(author: Author) -> None:
    signed = author.update()
    token = open_update(signed.token, log_id=author.member.log_id, public=author.member.log)
    assert token.update == signed.update
    assert token.author == author.member.log_id
    assert token.token.header.seq == author.log.size - 1
    assert token.token.leaf == author.log.head
    assert token.token_hash == hashlib.sha256(signed.token).digest()


def test_an_update_number_of_zero_or_past_the_limit_is_malformed(author: Author) -> None:
    for number in (0, NUMBER_MAX + 1):
        with pytest.raises(Malformed):
            opened(author, author.update(number=number).token)
    opened(author, author.update(number=NUMBER_MAX).token)


def test_a_token_of_another_entry_type_is_malformed(author: Author) -> None:
    with pytest.raises(Malformed):
        opened(author, author.sign(NodeStart(1, "", "", "", "")))
    payload = encode({"un": 1})
    entry: Entry = author.log.append(EntryType.UPDATE_PUBLISHED, payload, salt=bytes(16), t_ms=0)
    token = make_token(entry, author.log.inclusion(author.log.size - 1), author.log.checkpoint(author.key))
    with pytest.raises(Malformed):
        opened(author, token)


@BOUNDED
@given(data=st.data())
def test_a_mutated_token_never_verifies(data: st.DataObject) -> None:
    group = founders(2)
    maker = Author(group[0], toy_charter(group))
    token = bytearray(maker.update().token)
    where = data.draw(st.integers(0, len(token) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != token[where]))
    token[where] = value
    # The one part of a token that is not signed is the text around the signature line; it may not matter.
    with pytest.raises(RemoteProtocolError):
        opened(maker, bytes(token))
    assert decode(bytes(maker.update().token), max_bytes=20_000)


def test_a_frame_takes_as_many_entries_as_fit_and_names_the_checkpoint_only_over_all() -> None:
    small, large = Entry(b"h" * 100, b"p" * 300, b"s" * 16), Entry(b"h" * 100, b"p" * 65_535, b"s" * 16)
    made, count = entries_frame(FEDERATION, b"g" * 32, 7, [small] * 3, b"note")
    assert (count, parse_message(made.header, FEDERATION)) == (
        3,
        Entries(FEDERATION, b"g" * 32, 7, (small,) * 3, b"note"),
    )
    made, count = entries_frame(FEDERATION, b"g" * 32, 7, [small] * 500, b"note")
    assert 0 < count < 500
    assert len(made.header) <= HEADER_BYTES_MAX
    assert parse_message(made.header, FEDERATION) == Entries(FEDERATION, b"g" * 32, 7, (small,) * count, b"")
    assert entries_frame(FEDERATION, b"g" * 32, 7, [Entry(b"", b"", b"")] * (ENTRIES_MAX + 1))[1] == ENTRIES_MAX
    assert entries_frame(FEDERATION, b"g" * 32, 7, [large])[1] == 0
