"""What the root key of a member says of its log reaches everybody: that it has ended, or has another key.

A notice is the token of the entry that says so, under the checkpoint that ends with it. It stands for itself: the log
key signed the checkpoint, the root key the statement, and both follow from the charter, so that it counts whoever
brings it. Each is recorded (``member.notice``), kept, and handed on once, like a proof of equivocation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from quidnunc.crypto.entry import parse_header
from quidnunc.crypto.errors import Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.crypto.token import Token, open_token, parse_token
from quidnunc.gossip.events import Effect, Forget, Report, Rest, Send
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.hearsay import Head
from quidnunc.gossip.key_change import KEY_CHANGES_MAX, KeyRevoke, KeyRotate
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Notice
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import MemberNotice, parse_record
from quidnunc.gossip.publisher import committed
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.retirement import LogRetire, check_retirement
from quidnunc.gossip.witness import Witnesses


class SignedNotice(NamedTuple):
    """A notice that holds: whose log it is about, what the root key said, where that stands, and the keys it leaves."""

    member: Member
    record: LogRetire | KeyRotate | KeyRevoke
    token: Token
    data: bytes
    keys: LogKeys


def open_notice(data: bytes, book: Keybook) -> SignedNotice:
    """Verify a notice against the members' keys as far as they are known; raises RemoteProtocolError.

    Reasons are STRANGER for a log that is no member's, BAD_SIGNATURE where a key did not sign, else MALFORMED.
    """
    log_id = parse_header(parse_token(data).header).log_id
    member = book.member(log_id)
    if member is None:
        raise RemoteProtocolError(Reason.STRANGER, f"notice of log {log_id.hex()[:16]}, which is no member's")
    keys = book.of(log_id)
    token = open_token(data, log_id=log_id, public=keys)
    seq = token.header.seq
    record = parse_record(token.header.type, token.payload)
    if token.size != seq + 1:
        raise Malformed(f"notice of entry {seq} under a checkpoint of {token.size} entries: it must end with it")
    match record:
        case LogRetire():
            check_retirement(record, log_id, seq, member.root)
        case KeyRotate() | KeyRevoke():
            keys = book.after(log_id, record, seq)
        case _:
            raise Malformed(f"notice of entry type {token.header.type:#04x}: the root key signs none of these")
    return SignedNotice(member, record, token, data, keys)


def load_notices(kept: Iterable[bytes], book: Keybook) -> list[SignedNotice]:
    """The notices that a ledger names, in its order; the keys they bring are in ``book`` afterwards."""
    found = []
    for data in kept:
        notice = open_notice(data, book)
        book.put(notice.member.log_id, notice.keys)
        found.append(notice)
    return found


class Notices:
    """The notices this peer knows, and what follows from them.

    ``own`` are those about the own log, which is ``me``; ``kept`` those about others, as :func:`load_notices` gives
    them.
    """

    def __init__(
        self,
        federation: bytes,
        me: bytes,
        neighbors: dict[bytes, Neighbor],
        keys: Keybook,
        recorder: Recorder,
        witnesses: Witnesses,
        own: Iterable[bytes],
        kept: Iterable[SignedNotice],
    ) -> None:
        self._federation = federation
        self._me = me
        self._neighbors = neighbors
        self._keys = keys
        self._recorder = recorder
        self._witnesses = witnesses
        self.retired: dict[bytes, LogRetire] = {}
        self._known = {_place(data): data for data in own}
        for notice in kept:
            self._learn(notice)

    def _learn(self, notice: SignedNotice) -> list[bytes]:
        """Believe a notice; returns the blobs that are of no more use."""
        log_id = notice.member.log_id
        self._known[_place(notice.data)] = notice.data
        self._keys.put(log_id, notice.keys)
        if not isinstance(notice.record, LogRetire):
            return []
        self.retired[log_id] = notice.record
        neighbor = self._neighbors.get(log_id)
        return [] if neighbor is None else neighbor.retire(notice.record)

    def resting(self) -> list[Effect]:
        """At a start: nobody has to look for the neighbors that have ended their logs."""
        return [Rest(n.member.transport) for n in self._neighbors.values() if n.retired is not None]

    def is_about_us(self, data: bytes) -> bool:
        """Whether a notice is of the own log; raises RemoteProtocolError for bytes that are none."""
        return _place(data)[0] == self._me

    def take_own(self, data: bytes) -> Head | None:
        """Take in a change of the own keys that a ledger which is still to come back does not hold; raises
        RemoteProtocolError for what is none.

        Returns the checkpoint that ends with it, None for one that is known or another notice.
        """
        place = _place(data)
        if place in self._known:
            return None
        notice = open_notice(data, self._keys)
        if isinstance(notice.record, LogRetire):
            return None
        self._learn(notice)
        return Head(notice.token.size, notice.token.root, notice.token.note)

    def about(self, neighbor: Neighbor) -> list[Effect]:
        """All notices about a neighbor's own log, for a neighbor whose ledger may lack these entries."""
        known = sorted(self._known.items())
        return [self._send(neighbor.member.transport, data) for (log_id, _), data in known if log_id == neighbor.log_id]

    def on_notice(self, data: bytes, now: float, sender: Neighbor | None) -> list[Effect]:
        """Take in a notice and hand it on to every neighbor but ``sender``; raises RemoteProtocolError.

        The first one about an entry counts, and none does behind the end of a log.
        """
        place = _place(data)
        if place in self._known or place[0] in self.retired:
            return []
        changes = sum(log_id == place[0] for log_id, _ in self._known)
        notice = open_notice(data, self._keys)
        if changes >= KEY_CHANGES_MAX and not isinstance(notice.record, LogRetire):
            raise RemoteProtocolError(
                Reason.TOO_LARGE,
                f"{notice.member.name} has changed its keys {changes} times, limit is {KEY_CHANGES_MAX}",
            )
        member, token, record = notice.member, notice.token, notice.record
        if member.log_id == self._me:
            # What this ledger holds of the kind is known from the start: this one is an older copy.
            done = "ended it" if isinstance(record, LogRetire) else "changed its keys"
            self._witnesses.own.ahead = f"the root key of this log has {done} with entry {token.header.seq}"
            return [Report("behind", self._witnesses.own.ahead)]
        left = self._learn(notice)
        self._recorder.keep_proof(data)
        name = hashlib.sha256(data).digest()
        self._recorder.append(MemberNotice(member.log_id, token.header.type, token.header.seq, name), now)
        ended = isinstance(record, LogRetire)
        seen = self._witnesses.on_end if ended else self._witnesses.on_head
        rest = [Rest(member.transport)] if ended and member.log_id in self._neighbors else []
        return [
            *committed(self._recorder.flush()),
            *([Forget(tuple(left))] if left else []),
            _told(member, record, token.header.seq),
            *rest,
            *seen(member.log_id, Head(token.size, token.root, token.note), now),
            *self._spread(sender, data),
        ]

    def tell(self, peer: bytes) -> list[Effect]:
        """All notices, for a neighbor that has just come up: it may have been away when they were handed on."""
        return [self._send(peer, data) for _, data in sorted(self._known.items())]

    def _spread(self, sender: Neighbor | None, data: bytes) -> list[Effect]:
        others = [n for n in self._neighbors.values() if n.connected and n is not sender]
        return [self._send(n.member.transport, data) for n in others]

    def _send(self, peer: bytes, data: bytes) -> Send:
        return Send(peer, frame(Notice(self._federation, data)))


def _place(data: bytes) -> tuple[bytes, int]:
    """Which entry of which log a notice claims to show."""
    header = parse_header(parse_token(data).header)
    return header.log_id, header.seq


def _told(member: Member, record: LogRetire | KeyRotate | KeyRevoke, seq: int) -> Report:
    match record:
        case LogRetire():
            return Report("retired", f"{member.name} has ended its log with entry {seq}; nobody waits for it")
        case KeyRotate():
            return Report("keys", f"{member.name} signs with log key {record.epoch} behind entry {seq}")
        case KeyRevoke():
            return Report("keys", f"log key {record.epoch} of {member.name} counts up to {record.since} entries")
