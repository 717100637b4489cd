"""Section 8 of docs/wire.md, step by step: every check refuses for the reason and with the blame that the table names,
and a message that fails two checks is refused for the first."""

from __future__ import annotations

from typing import Any

import pytest
from founders import founder
from node_helpers import DIM, Author, Bench, Signed, header_of, line
from wire_tables import table

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Reason
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.events import Frame
from quidnunc.gossip.message import Hello, Notice
from quidnunc.gossip.message_codec import UPDATE
from quidnunc.gossip.provenance import MessageRefused, NodeStart, UpdateReceived
from quidnunc.gossip.retirement import RetireReason, retire
from quidnunc.gossip.settings import Settings

ROWS = {int(row["step"]): row for row in table("8. An update's journey")}
FIRST = 7
"""Steps before are the transport's: tests/test_transfer.py."""

LIMIT = 1024
OTHER = b"x" * 32


def header_changes(steps: set[int]) -> dict[str, Any]:
    """Fields of an update header that fail these steps."""
    fields: dict[int, dict[str, Any]] = {
        20: {"federation": OTHER},
        22: {"schema": OTHER},
        23: {"codec": 0},
        24: {"size": LIMIT + 1},
        26: {"size": DIM + 2},
        31: {"number": 1_000_001},
        32: {"replica_before": OTHER},
        35: {"replica_after": OTHER},
    }
    changes: dict[str, Any] = {}
    for step in sorted(steps & fields.keys(), reverse=True):
        changes |= fields[step]
    return changes


def signed(author: Author, steps: set[int]) -> Signed:
    body = None
    if 7 in steps:
        body = bytes(LIMIT + 1)
    elif 33 in steps:
        body = b"\x00" + b"\x80" * DIM
    elif 34 in steps:
        body = b"\x00\x00\x80\x7f" * DIM
    if 19 in steps:
        update = author.update(body=body).update
        return Signed(update, author.sign(NodeStart(1, "", "", "", "")), b"", b"", update.federation)
    key = SecretKey(b"k" * 32) if 18 in steps else None
    return author.update(body=body, key=key, **header_changes(steps))


def token(made: Signed, steps: set[int]) -> bytes:
    if 15 in steps:
        return b"\xc1"
    parts = decode(made.token, max_bytes=16_384)
    assert isinstance(parts, list)
    if 17 in steps:
        parts[3] = b"another salt ..."
    return encode(parts)


def frame(author: Author, made: Signed, steps: set[int]) -> Frame:
    """The update as a frame; steps before the token spoil the header, step 25 the body."""
    tag = "quidnunc/v1/unknown" if 14 in steps else UPDATE
    if 13 in steps:
        tag = "quidnunc/v2/update"
    federation = OTHER if 12 in steps else author.charter.federation_id
    header = encode("no array") if 11 in steps else encode([tag, federation, token(made, steps)])
    body = made.body[:-1] + b"\x01" if 25 in steps else made.body
    return Frame(header, body)


def prepared(bench: Bench, author: Author, steps: set[int]) -> None:
    """What must have happened before for a message to fail these steps."""
    if 21 in steps:
        for step in (1.0, 2.0):
            bench.receive(author, author.twin().update(step).frame)
    if 27 in steps:
        bench.receive(author, author.twin().update(5.0).frame)
    if 29 in steps:
        bench.receive(author, header_of(Notice(bench.charter.federation_id, end_of_log(bench, author))))
    if 30 in steps:
        bench.receive(author, author.twin().update(5.0).frame)
        bench.settle()
        # Updates are remembered for a while; this one was too long ago.
        bench.neighbor(author).leaves.clear()


def end_of_log(bench: Bench, author: Author) -> bytes:
    """The notice that the author's organization ends its log; the author goes on signing behind it."""
    root = next(each.root for each in bench.founders if each.member == author.member)
    return author.sign(retire(root, author.member.log_id, author.log.size, RetireReason.ENDED, None))


def refused(steps: set[int]) -> tuple[set[str], str]:
    """What a node makes of an update that fails ``steps``: the reasons it names, and the entry that records it."""
    settings = Settings(messages_per_window=1 if 10 in steps else 4096)
    edges = {"edges": line(4)} if 9 in steps else {}
    bench = Bench(settings=settings, codec=0 if 34 in steps else 1, **edges)
    bench.connect()
    author = bench.authors[2 if 9 in steps else 0]
    if 10 in steps:
        bench.receive(author, header_of(Hello(bench.charter.federation_id, b"", False)))
    prepared(bench, author, steps)
    made = signed(bench.authors[1] if 16 in steps else author, steps)
    sent = frame(author, made, steps)
    if 28 in steps:
        bench.receive(author, sent)
    before = len(bench.entries())
    answered = bench.receive(founder(99).member.transport if 8 in steps else author, sent)
    bench.settle()
    found = [record for _, record in bench.entries()[before:]]
    [record] = [r for r in found if isinstance(r, MessageRefused) or (isinstance(r, UpdateReceived) and r.decision)]
    codes = (record.reason,) if isinstance(record, MessageRefused) else record.reasons
    assert answered in ([*codes], []), "the sender hears what is recorded, or nothing"
    return {Reason(code).label for code in codes}, EntryType(record.TYPE).label


@pytest.mark.parametrize("step", [step for step in ROWS if step >= FIRST])
def test_every_step_refuses_as_the_table_says(step: int) -> None:
    row = ROWS[step]
    assert refused({step}) == ({row["reason"]}, row["recorded as"])


# A message that fails step k and all of these others at once is refused for k.
LATER = [
    *((7, {8, 11}), (8, {11, 15}), (9, {11, 15}), (10, {11, 15}), (11, {15}), (12, {13, 15}), (13, {14, 15})),
    *((14, {15}), (16, {17, 18}), (17, {18, 20}), (18, {20, 22}), (20, {22, 23, 25}), (22, {23, 24, 25})),
    *((23, {24, 25}), (24, {25}), (25, {26}), (26, {29, 31, 32}), (29, {31, 32}), (31, {32, 35}), (32, {35})),
    *((15, {25}), (19, {25}), (21, {22, 23, 24, 25}), (27, {32, 35}), (30, {32, 35})),
]


@pytest.mark.parametrize(("step", "others"), LATER, ids=lambda value: str(value))
def test_the_first_check_that_fails_decides(step: int, others: set[int]) -> None:
    assert min({step} | others) == step
    assert refused({step} | others) == ({ROWS[step]["reason"]}, ROWS[step]["recorded as"])


def test_an_update_that_fails_nothing_is_applied() -> None:
    bench = Bench()
    bench.greet()
    author = bench.authors[0]
    assert bench.receive(author, frame(author, signed(author, set()), set())) == []
    bench.settle()
    assert bench.neighbor(author).number == 1
