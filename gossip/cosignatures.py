"""The own log in the eyes of its witnesses: what they have cosigned of it, and whether they hold more than this disk.

One entry of the own log sums up many cosignatures. A checkpoint that the own key signed and this ledger does not hold
says that the ledger is an older copy, or that another instance signs with the same key.
"""

from __future__ import annotations

from collections.abc import Callable

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of, witness_verifier
from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.crypto.note import parse_note, verify_note
from quidnunc.crypto.policy import quorum_of
from quidnunc.gossip.attestation import SUMMARY_ROWS_MAX, CosignatureRow, WitnessSummary
from quidnunc.gossip.events import Effect, Send
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Consistency, Prove
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.settings import Settings


class Cosignatures:
    """What witnesses cosign of the own log.

    ``newest`` are the (size, note) of the newest cosignature of each witness; ``ahead`` says why the own log cannot be
    gone on with, "" while it can.
    """

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        keys: Keybook,
        recorder: Recorder,
        settings: Settings,
        newest: dict[bytes, tuple[int, bytes]],
        retired: Callable[[bytes], bool],
    ) -> None:
        self._federation = charter.federation_id
        self._voters = [each.log_id for each in charter.witnesses(me)]
        self._me = me
        self._keys = keys
        self._recorder = recorder
        self._settings = settings
        self._retired = retired
        self._unsummed: dict[bytes, CosignatureRow] = {}
        self._uncounted = 0
        self.newest = dict(newest)
        self.ahead = ""

    def serve(self, neighbor: Neighbor, prove: Prove) -> list[Effect]:
        """Show a neighbor how the own log grew, as far as it is durable."""
        if prove.new > self._recorder.signed:
            return []
        log = self._recorder.log
        path = tuple(log.consistency(prove.old, prove.new))
        answer = Consistency(self._federation, prove.old, prove.new, log.root_at(prove.old), path)
        return [Send(neighbor.member.transport, frame(answer))]

    def on_cosigned(self, witness: Member, note: bytes, now: float) -> bool:
        """A witness's cosignature under an own checkpoint, False if that is not held; raises RemoteProtocolError."""
        found = open_checkpoint(note, origin_of(self._me), self._keys.of(self._me))
        if not self.compare(found.size, found.root):
            return False
        key, parsed = witness_verifier(witness.log_id, witness.witness), parse_note(note)
        if not verify_note(parsed, [key]):
            raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"{witness.name} did not cosign this checkpoint")
        if found.size > self.newest.get(witness.log_id, (0, b""))[0]:
            self.newest[witness.log_id] = (found.size, note)
            self._recorder.keep_cosigned(witness.log_id, found.size, note)
            made = next(line for line in parsed.signatures if (line.name, line.key_id) == (key.name, key.id))
            self._unsummed[witness.log_id] = CosignatureRow(witness.log_id, found.size, made.signature)
            self._sum_up(now)
        return True

    def _sum_up(self, now: float) -> None:
        """One entry for many cosignatures; it waits for the next commit."""
        self._uncounted += 1
        if self._uncounted >= self._settings.summary_cosignatures:
            rows = tuple(row for _, row in sorted(self._unsummed.items()))[:SUMMARY_ROWS_MAX]
            self._recorder.append(WitnessSummary(self._uncounted, rows), now)
            self._unsummed.clear()
            self._uncounted = 0

    def compare(self, size: int, root: bytes) -> bool:
        """Whether the own key's checkpoint is one of this log; else the log is not all that the key has signed."""
        log = self._recorder.log
        if size <= self._recorder.signed and log.root_at(size) == root:
            return True
        what = f"{size} entries, this ledger holds {log.size}" if size > log.size else f"another entry below {size}"
        self.ahead = f"neighbors hold a checkpoint that this peer's key signed over {what}"
        return False

    @property
    def counting(self) -> list[bytes]:
        """The witnesses whose cosignatures count: not those that have ended their log, and so will give no more."""
        return [log_id for log_id in self._voters if not self._retired(log_id)]

    @property
    def quorum(self) -> int:
        """How many of :attr:`counting` must have cosigned; 0 where there is none."""
        counting = self.counting
        return quorum_of(len(counting)) if counting else 0

    def witnessed(self) -> tuple[int, int]:
        """(k, size): the largest own size that a quorum has cosigned and how many have, (0, 0) without a quorum."""
        counting, need = self.counting, self.quorum
        sizes = sorted((self.newest[each][0] for each in counting if each in self.newest), reverse=True)
        if not need or len(sizes) < need:
            return 0, 0
        size = sizes[need - 1]
        return sum(each >= size for each in sizes), size
