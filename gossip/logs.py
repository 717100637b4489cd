"""The logs of others: what is seen, kept, announced, vouched for and proven of them, and how these parts work together.

Whatever shows how far a log has come is both a checkpoint to be compared and a reason to fetch entries; and what others
show of the own log may say that this disk does not hold all of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.cosignatures import Cosignatures
from quidnunc.gossip.events import Effect, Mirror, Report, Send
from quidnunc.gossip.evidence import Evidence
from quidnunc.gossip.exposure import Exposure
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Entries, Fetch, Known, Message, Newest, Prove
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.mirrors import Mirrors, check_note
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.notices import Notices, SignedNotice
from quidnunc.gossip.rebuild import Self
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.signed_update import SignedUpdate
from quidnunc.gossip.suspicions import Suspicions
from quidnunc.gossip.vouching import Vouching
from quidnunc.gossip.witness import Witnesses


class Logs:
    """The parts that watch logs: proofs of forks, entries kept, checkpoints, notices, and far witnesses."""

    def __init__(
        self,
        charter: Charter,
        own: Self,
        keys: Keybook,
        neighbors: dict[bytes, Neighbor],
        recorder: Recorder,
        evidence: Evidence,
        settings: Settings,
        resume: Resume,
        notices: Iterable[SignedNotice],
    ) -> None:
        """``notices`` are those that ``resume`` names, whose keys are in ``keys`` already."""
        self._federation = charter.federation_id
        self._me = me = own.log_id
        self._keys = keys
        self._recorder = recorder
        self.exposure = Exposure(charter, me, neighbors, recorder, evidence, keys, resume.proofs)
        self.mirrors = Mirrors(charter, me, neighbors, settings, resume.mirrors)
        self.suspicions = Suspicions(charter.federation_id, recorder, settings)
        self.cosignatures = Cosignatures(charter, me, keys, recorder, settings, resume.cosigned, self._retired)
        self.witnesses = Witnesses(
            charter,
            me,
            keys,
            own.witness,
            neighbors,
            self.exposure,
            self.suspicions,
            settings,
            self.mirrors.span,
            resume.heads,
            self.cosignatures,
        )
        self.notices = Notices(
            charter.federation_id, me, neighbors, keys, recorder, self.witnesses, resume.own_notices, notices
        )
        self.vouching = Vouching(
            charter,
            me,
            keys,
            own.witness,
            neighbors,
            self.exposure,
            recorder,
            settings,
            self.witnesses,
            self._retired,
        )

    def _retired(self, log_id: bytes) -> bool:
        return log_id in self.notices.retired

    def serve(self, neighbor: Neighbor, message: Message, now: float) -> list[Effect]:
        """What a neighbor may ask at any time, because the answer needs neither a signature nor room."""
        match message:
            case Newest():
                # Its own key changes go first: it may have lost them, and what follows is signed by the newest key.
                return [*self.notices.about(neighbor), self._known(neighbor)]
            case Fetch():
                return self.mirrors.serve(neighbor, message, self._recorder.signed, now)
            case Prove():
                return self.cosignatures.serve(neighbor, message)
        return []

    def _known(self, neighbor: Neighbor) -> Send:
        """What this peer knows of a neighbor's log."""
        head = self.witnesses.newest(neighbor.log_id)
        known = Known(self._federation, b"" if head is None else head.note, *self.mirrors.span(neighbor.log_id))
        return Send(neighbor.member.transport, frame(known))

    def on_entries(self, neighbor: Neighbor, message: Entries, now: float) -> list[Effect]:
        """New entries of a neighbor's log, to be kept for it; raises RemoteProtocolError."""
        if message.log_id == self._me or neighbor.quarantined:
            return []  # a late answer, or the log of somebody who signs several
        if message.log_id != neighbor.log_id:
            raise RemoteProtocolError(Reason.UNSOLICITED, f"entries of log {message.log_id.hex()[:16]}, not its own")
        end = neighbor.retired
        if end is not None and message.first + len(message.entries) > end.last + 1:
            raise RemoteProtocolError(Reason.RETIRED, f"{neighbor.member.name} ended its log with entry {end.last}")
        head = check_note(neighbor, self._keys.counting(neighbor.log_id), message)
        out = self.mirrors.on_entries(neighbor, message, now)
        if any(isinstance(effect, Mirror) for effect in out):
            out += self.suspicions.shows(neighbor, now)
        return out if head is None else [*out, *self.witnesses.on_head(neighbor.log_id, head, now)]

    def on_verified(self, neighbor: Neighbor, signed: SignedUpdate, now: float) -> list[Effect]:
        """A verified update of a neighbor shows how far its log has come."""
        seen = self.witnesses.on_update(signed, now)
        asked = self.mirrors.on_size(neighbor, signed.token.size, now)
        return [*seen, *asked, *self.suspicions.omits(neighbor, self.mirrors.owed(signed.author), now)]

    def ahead(self, out: list[Effect]) -> list[Effect]:
        """Say so when others hold more of the own log than this disk does; nothing is signed from there on."""
        why = self.cosignatures.ahead
        return [*out, Report("behind", why)] if why else out
