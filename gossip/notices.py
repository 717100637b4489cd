"""What the root key of a member says of its log reaches everybody: that it has ended.

A notice is the token of the entry that says so. It stands for itself: the log key signed the checkpoint, the root key
the statement, both are in the charter, so that it counts whoever brings it. Each is recorded (``member.notice``), kept,
and handed on once, like a proof of equivocation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.token import Token, open_token, parse_token
from quidnunc.gossip.events import Effect, Forget, Report, Send
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.message import Notice, frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import MemberNotice, parse_record
from quidnunc.gossip.publisher import committed
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.retirement import LogRetire, check_retirement
from quidnunc.gossip.witness import Head, Witnesses


class SignedNotice(NamedTuple):
    """A notice that holds: whose log it is about, what the root key said, and where that stands."""

    member: Member
    record: LogRetire
    token: Token
    data: bytes


def open_notice(data: bytes, charter: Charter) -> SignedNotice:
    """Verify a notice against the charter's keys; raises RemoteProtocolError.

    Reasons are STRANGER for a log that is no member's, BAD_SIGNATURE where a key did not sign, else MALFORMED.
    """
    log_id = parse_header(parse_token(data).header).log_id
    member = charter.member(log_id)
    if member is None:
        raise RemoteProtocolError(Reason.STRANGER, f"notice of log {log_id.hex()[:16]}, which is no member's")
    token = open_token(data, log_id=log_id, public=member.log)
    if token.header.type != EntryType.LOG_RETIRE:
        raise Malformed(f"notice of entry type {token.header.type:#04x}: the root key signs none of these")
    record = parse_record(token.header.type, token.payload)
    assert isinstance(record, LogRetire)
    check_retirement(record, log_id, token.header.seq, member.root)
    if token.size != record.last + 1:
        raise Malformed(f"notice under a checkpoint of {token.size} entries: its log ended with {record.last + 1}")
    return SignedNotice(member, record, token, data)


class Notices:
    """The notices this peer knows, and what follows from them. ``kept`` are those its ledger names."""

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        neighbors: dict[bytes, Neighbor],
        recorder: Recorder,
        witnesses: Witnesses,
        kept: Iterable[bytes],
    ) -> None:
        self._charter = charter
        self._me = me
        self._neighbors = neighbors
        self._recorder = recorder
        self._witnesses = witnesses
        self.retired: dict[bytes, LogRetire] = {}
        self._known: dict[bytes, bytes] = {}
        for data in kept:
            self._learn(open_notice(data, charter))

    def _learn(self, notice: SignedNotice) -> list[bytes]:
        """Believe a notice; returns the blobs that are of no more use."""
        log_id = notice.member.log_id
        self._known[log_id] = notice.data
        self.retired[log_id] = notice.record
        neighbor = self._neighbors.get(log_id)
        return [] if neighbor is None else neighbor.retire(notice.record)

    def is_about_us(self, data: bytes) -> bool:
        """Whether a notice is of the own log; raises RemoteProtocolError if it does not hold."""
        return open_notice(data, self._charter).member.log_id == self._me

    def on_notice(self, data: bytes, now: float, sender: Neighbor | None) -> list[Effect]:
        """Take in a notice and hand it on to every neighbor but ``sender``; raises RemoteProtocolError.

        The first one that ends a log counts, further ones change nothing.
        """
        notice = open_notice(data, self._charter)
        member, token, record = notice.member, notice.token, notice.record
        if member.log_id in self._known:
            return []
        if member.log_id == self._me:
            # No peer starts from a ledger that holds it (require_open): this one is an older copy.
            self._witnesses.ahead = f"the root key of this log has ended it with entry {record.last}"
            return [Report("behind", self._witnesses.ahead)]
        left = self._learn(notice)
        self._recorder.keep_proof(data)
        name = hashlib.sha256(data).digest()
        self._recorder.append(MemberNotice(member.log_id, token.header.type, token.header.seq, name), now)
        compared = self._witnesses.on_end(member.log_id, Head(token.size, token.root, token.note), now)
        return [
            *committed(self._recorder.flush()),
            *([Forget(tuple(left))] if left else []),
            Report("retired", f"{member.name} has ended its log with entry {record.last}; nobody waits for it"),
            *compared,
            *self._spread(sender, data),
        ]

    def tell(self, peer: bytes) -> list[Effect]:
        """All notices, for a neighbor that has just come up: it may have been away when they were handed on."""
        return [self._send(peer, data) for _, data in sorted(self._known.items())]

    def _spread(self, sender: Neighbor | None, data: bytes) -> list[Effect]:
        others = [n for n in self._neighbors.values() if n.connected and n is not sender]
        return [self._send(n.member.transport, data) for n in others]

    def _send(self, peer: bytes, data: bytes) -> Send:
        return Send(peer, frame(Notice(self._charter.federation_id, data)))
