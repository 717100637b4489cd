"""A log that signed two histories is exposed: frozen here for good, and the proof handed on.

A proof stands for itself: it is verified from its bytes and the charter's public keys before anything else, whoever
brings it. It says that a *key* signed two histories, not why: a copied home does it as well as a liar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from quidnunc.crypto.checkpoint import origin_of
from quidnunc.crypto.fork import Fork, KnownKeys, verify_fork
from quidnunc.crypto.fork_build import fork_of_tokens
from quidnunc.crypto.fork_proof import ForkProof, encode_fork
from quidnunc.gossip.events import Effect, Forget, Report, Send
from quidnunc.gossip.evidence import Evidence, standing_class
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Proof
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import EquivocationProof
from quidnunc.gossip.publisher import committed
from quidnunc.gossip.recorder import Recorder


def keys_of(charter: Charter) -> KnownKeys:
    """Whose signatures count in a federation whose charter alone is known: its members' log and witness keys."""
    return Keybook(charter.members).known()


class Exposure:
    """The logs that are frozen, each with the proof that froze it.

    ``proofs`` are those by log id; ``exposed`` says why the own log is among them, "" while it is not.
    """

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        neighbors: dict[bytes, Neighbor],
        recorder: Recorder,
        evidence: Evidence,
        keys: Keybook,
        proofs: Mapping[bytes, bytes],
    ) -> None:
        self._federation = charter.federation_id
        self._me = me
        self._names = {origin_of(each.log_id): each for each in charter.members}
        self._keys = keys
        self._neighbors = neighbors
        self._recorder = recorder
        self._evidence = evidence
        self.proofs = dict(proofs)
        self.exposed = ""

    def frozen(self, log_id: bytes) -> bool:
        """Whether that log is proven to have signed two histories."""
        return log_id in self.proofs

    def is_about_us(self, data: bytes) -> bool:
        """Whether a proof is one against the own key; raises RemoteProtocolError if it proves nothing."""
        return self._names[verify_fork(data, self._keys.known()).culprit].log_id == self._me

    def on_proof(self, data: bytes, now: float, sender: Neighbor | None = None) -> list[Effect]:
        """Freeze what ``data`` convicts and tell every neighbor but ``sender``; raises RemoteProtocolError.

        One proof of a log is enough: further ones change nothing and are not handed on.
        """
        found = verify_fork(data, self._keys.known())
        culprit = self._names[found.culprit]
        if culprit.log_id in self.proofs:
            return []
        self.proofs[culprit.log_id] = data
        if culprit.log_id == self._me:
            self.exposed = f"this peer's own key signed two histories: {found.why}"
            told = Report("exposed", self.exposed)
            return [told, *self._spread(sender, data)]
        seq = self._record(culprit.log_id, found, data, now)
        out: list[Effect] = []
        neighbor = self._neighbors.get(culprit.log_id)
        if neighbor is not None:
            before = standing_class(neighbor)
            left = neighbor.freeze()
            self._evidence.note_class(neighbor, before, (seq,), now)
            out += [Forget(tuple(left))] if left else []
        told = Report("equivocation", f"a key of {culprit.name} signed two histories: {found.why}; its log is frozen")
        return [*committed(self._recorder.flush()), *out, told, *self._spread(sender, data)]

    def _record(self, who: bytes, found: Fork, data: bytes, now: float) -> int:
        self._recorder.keep_proof(data)
        record = EquivocationProof(who, found.kind.value, hashlib.sha256(data).digest(), found.seq)
        return self._recorder.append(record, now)

    def prove(self, proof: ForkProof | None, now: float) -> list[Effect]:
        """Expose a log by a proof made here; None, for what is no proof, changes nothing."""
        return [] if proof is None else self.on_proof(encode_fork(proof), now)

    def two_updates(self, first: bytes | None, second: bytes, now: float) -> list[Effect]:
        """Two tokens of one log under one update number; without the first nothing can be shown to others."""
        return [] if first is None else self.prove(fork_of_tokens(first, second), now)

    def tell(self, peer: bytes) -> list[Effect]:
        """All proofs, for a neighbor that has just come up: it may have been away when they were handed on."""
        return [self._send(peer, data) for _, data in sorted(self.proofs.items())]

    def _spread(self, sender: Neighbor | None, data: bytes) -> list[Effect]:
        others = [n for n in self._neighbors.values() if n.connected and n is not sender]
        return [self._send(n.member.transport, data) for n in others]

    def _send(self, peer: bytes, data: bytes) -> Send:
        return Send(peer, frame(Proof(self._federation, data)))
