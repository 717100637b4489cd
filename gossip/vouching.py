"""Cosignatures of members that are no neighbors: the graph may be as sparse as it likes, a log has its witnesses.

A log shows its far witnesses how it grew since they cosigned it last (``vouch``), they answer with a cosignature
(``vouched``), and peers in between hand both on. What a relay changes on the way breaks a hash or a signature. Who has
another root than the log shows for the size it cosigned holds a proof of two histories.

Bounds: one question of a log in ``vouch_s`` seconds, handed on by those that are nearer to the log than its farthest
witness, once; one answer to each, likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from quidnunc.crypto.checkpoint import cosign_checkpoint, open_checkpoint, origin_of, parse_checkpoint, witness_verifier
from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.crypto.fork_proof import PrefixFork
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.merkle import verify_consistency
from quidnunc.crypto.note import Note, parse_note, verify_note
from quidnunc.gossip.events import Effect, Send, Witness
from quidnunc.gossip.exposure import Exposure
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.hearsay import Head
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Vouch, Vouched, VouchRow
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.witness import Witnesses


class _Passed(NamedTuple):
    """What was handed on last: a checkpoint of this size, at this time."""

    size: int
    at: float


class Vouching:
    """Asks the far witnesses of the own log, answers as one of others, and hands on what others ask and answer."""

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        keys: Keybook,
        key: SecretKey,
        neighbors: dict[bytes, Neighbor],
        exposure: Exposure,
        recorder: Recorder,
        settings: Settings,
        witnesses: Witnesses,
        retired: Callable[[bytes], bool],
    ) -> None:
        self._charter = charter
        self._members = {origin_of(each.log_id): each for each in charter.members}
        self._me = me
        self._keys = keys
        self._key = key
        self._neighbors = neighbors
        self._exposure = exposure
        self._recorder = recorder
        self._settings = settings
        self._witnesses = witnesses
        self._retired = retired
        self._far = [each.log_id for each in charter.witnesses(me) if each.log_id not in neighbors]
        self._bases = {log_id: witnesses.cosigned.get(log_id, (0, b""))[0] for log_id in self._far}
        self._due = 0.0
        self._inside: dict[bytes, bool] = {}
        self._passed: dict[tuple[bytes, bytes], _Passed] = {}

    # -- the own log --------------------------------------------------------------------------------------------

    def ask(self, now: float) -> list[Effect]:
        """Show the far witnesses how the own log grew, if it has, and not too often."""
        note, size, log = self._recorder.note, self._recorder.signed, self._recorder.log
        late = [each for each in self._far if self._bases[each] < size and not self._retired(each)]
        if not late or not note or now < self._due or not self._near():
            return []
        self._due = now + self._settings.vouch_s
        rows = []
        for each in late:
            old = self._bases[each]
            rows.append(VouchRow(each, old, log.root_at(old), tuple(log.consistency(old, size)) if old else ()))
        return self._spread(Vouch(self._charter.federation_id, note, tuple(rows)))

    # -- what others ask ----------------------------------------------------------------------------------------

    def on_vouch(self, neighbor: Neighbor, message: Vouch, now: float) -> list[Effect]:
        """A log asks its far witnesses; raises RemoteProtocolError for a checkpoint that its log did not sign."""
        member, head = self._open(message.note)
        log_id = member.log_id
        if log_id == self._me:
            self._witnesses.own.compare(head.size, head.root)
            return []
        if self._exposure.frozen(log_id) or self._retired(log_id):
            return []
        if not self._passes((log_id, b""), head.size, now):
            return []
        out = self._witnesses.on_heard(neighbor, log_id, head, now)
        if self._exposure.frozen(log_id):
            return out
        for row in message.rows:
            if row.witness == self._me and self._distance(log_id, self._me) > 1:
                out += self._answer(log_id, head, row, now)
        if self._hands_on(log_id):
            out += self._spread(message, neighbor.log_id, log_id)
        return out

    def _answer(self, log_id: bytes, head: Head, row: VouchRow, now: float) -> list[Effect]:
        """Persist, then cosign. Where the log does not start from what was cosigned last, that is said again.

        A path that leads nowhere is nobody's fault that could be named: whoever handed it on may have changed it.
        """
        trusted = self._witnesses.heads.get(log_id)
        if trusted is None:
            return self._cosign(log_id, head, now, new=True)
        if head.size <= trusted.size or row.old != trusted.size:
            return self._cosign(log_id, trusted, now, new=False)
        try:
            verify_consistency(row.old, head.size, row.root, head.root, row.path)
        except RemoteProtocolError:
            return []
        if row.root != trusted.root:
            return self._exposure.prove(PrefixFork(trusted.note, head.note, row.root, row.path), now)
        return self._cosign(log_id, head, now, new=True)

    def _cosign(self, log_id: bytes, head: Head, now: float, *, new: bool) -> list[Effect]:
        out: list[Effect] = []
        if new:
            self._witnesses.heads[log_id] = head
            out.append(Witness(log_id, *head))
        note = cosign_checkpoint(head.note, self._me, self._key, time=int(now))
        self._passes((log_id, self._me), head.size, now)  # so that it is not handed on when it comes round
        return [*out, *self._spread(Vouched(self._charter.federation_id, note))]

    # -- what others answer -------------------------------------------------------------------------------------

    def on_vouched(self, neighbor: Neighbor, message: Vouched, now: float) -> list[Effect]:
        """A far witness answers; raises RemoteProtocolError where neither log nor witness signed."""
        member, head = self._open(message.note)
        log_id, note = member.log_id, parse_note(message.note)
        witness = self._cosigner(log_id, note)
        if log_id == self._me:
            if self._witnesses.own.on_cosigned(witness, message.note, now) and witness.log_id in self._bases:
                self._bases[witness.log_id] = head.size
            return []
        if not self._hands_on(log_id) or not self._passes((log_id, witness.log_id), head.size, now):
            return []
        owner = self._neighbors.get(log_id)
        if owner is not None and owner.connected:
            return [Send(owner.member.transport, frame(message))]
        return self._spread(message, neighbor.log_id)

    def _cosigner(self, log_id: bytes, note: Note) -> Member:
        names = {line.name for line in note.signatures}
        for each in self._charter.witnesses(log_id):
            known = witness_verifier(each.log_id, each.witness)
            if known.name in names and verify_note(note, [known]):
                return each
        raise RemoteProtocolError(
            Reason.BAD_SIGNATURE, f"no witness of log {log_id.hex()[:16]} cosigned this checkpoint"
        )

    # -- on the way ---------------------------------------------------------------------------------------------

    def _open(self, data: bytes) -> tuple[Member, Head]:
        """Whose checkpoint this is; raises RemoteProtocolError for a stranger's, or one that its log did not sign."""
        origin = parse_checkpoint(parse_note(data).text).origin
        member = self._members.get(origin)
        if member is None:
            raise RemoteProtocolError(Reason.STRANGER, f"checkpoint of {origin[:96]}, which is no member's log")
        own = member.log_id == self._me
        keys = self._keys.of(self._me) if own else self._keys.counting(member.log_id)
        found = open_checkpoint(data, origin, keys)
        return member, Head(found.size, found.root, data)

    def _passes(self, key: tuple[bytes, bytes], size: int, now: float) -> bool:
        """Whether this is news: of a larger log and not at once again, or the same after a while.

        ``key`` is the log and who answers it, nobody for a question.
        """
        last = self._passed.get(key)
        if last is not None:
            pause = self._settings.witness_s if size > last.size else self._settings.vouch_s / 2
            if now < last.at + pause:
                return False
        self._passed[key] = _Passed(size, now)
        return True

    def _distance(self, log_id: bytes, witness: bytes) -> int:
        """How many links from a log to one of its witnesses; 0 for anybody else."""
        return self._charter.witness_distances(log_id).get(witness, 0)

    def _hands_on(self, log_id: bytes) -> bool:
        """Whether this peer stands nearer to the log than its farthest witness."""
        if log_id not in self._inside:
            farthest = max(self._charter.witness_distances(log_id).values(), default=0)
            self._inside[log_id] = self._me in self._charter.within(log_id, farthest - 1)
        return self._inside[log_id]

    def _near(self) -> list[Neighbor]:
        return [each for each in self._neighbors.values() if each.connected and not each.quarantined]

    def _spread(self, message: Vouch | Vouched, *but: bytes) -> list[Effect]:
        made = frame(message)
        return [Send(each.member.transport, made) for each in self._near() if each.log_id not in but]
