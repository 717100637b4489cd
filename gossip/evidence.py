"""What neighbors signed and must answer for: acceptances and refusals in the ledger, standings, quarantine.

Every judgment of a signed update is an entry that names it. Per sender and round, only so many refusals get an entry
of their own; the rest is counted (:meth:`~quidnunc.gossip.recorder.Recorder.refuse`), so that a flood cannot fill the
ledger.
"""

from __future__ import annotations

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.events import Effect, Refuse, Report
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import Decision, ReputationChange, UpdateReceived, standing_code
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.reputation import StandingClass, classify, punish
from quidnunc.gossip.signed_update import SignedUpdate

PENALIZED = frozenset(
    {
        Reason.BAD_BASE,
        Reason.BAD_RESULT,
        Reason.NON_FINITE,
        Reason.BAD_SHAPE,
        Reason.BAD_CODEC,
        Reason.WRONG_SCHEMA,
        Reason.TOO_LARGE,
    }
)
"""Refusals that only the signer of the update can have caused."""


def standing_class(neighbor: Neighbor) -> StandingClass:
    """The public class of a neighbor: the lowest where it is quarantined by proof, else what its standing says."""
    return StandingClass.EXCLUDED if neighbor.quarantined else classify(neighbor.standing)


class Evidence:
    """Writes judgments of signed updates into the own ledger and keeps standings in step with them."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def accept(self, signed: SignedUpdate, snapshot: bool, now: float) -> int:
        """Record an update that was applied, keep its token for repair, and return the entry's seq."""
        self._keep_token(signed)
        return self._record(signed, None, snapshot, now)

    def refuse(self, neighbor: Neighbor, signed: SignedUpdate, reason: Reason, now: float) -> list[Effect]:
        """Record an update that was not applied, and punish its author if only the author can have caused it."""
        neighbor.refuse(reason, now)
        out: list[Effect] = [Refuse(neighbor.member.transport, reason)]
        if self._recorder.take_refusal_slot(neighbor.log_id):
            text = f"update {signed.update.number} of {neighbor.member.name} refused: {reason.label}"
            out.append(Report("refused", text))
            seq = self._record(signed, reason, False, now)
            if reason in PENALIZED:
                before = standing_class(neighbor)
                neighbor.standing = punish(neighbor.standing)
                self.note_class(neighbor, before, (seq,), now)
        else:
            size = len(signed.token_bytes) + signed.update.size
            self._recorder.refuse(neighbor.log_id, reason, size, signed.token_hash, now)
        return out

    def convict(self, neighbor: Neighbor, signed: SignedUpdate, now: float) -> list[Effect]:
        """Two updates under one number, both signed: quarantine for the life of the charter."""
        self._keep_token(signed)
        before = standing_class(neighbor)
        seq = self._record(signed, Reason.EQUIVOCATION, False, now)
        neighbor.freeze()
        neighbor.refuse(Reason.EQUIVOCATION, now)
        self.note_class(neighbor, before, (seq,), now)
        text = f"{neighbor.member.name} signed two different updates {signed.update.number}: quarantined"
        return [Refuse(neighbor.member.transport, Reason.EQUIVOCATION), Report("equivocation", text)]

    def note_class(self, neighbor: Neighbor, before: StandingClass, evidence: tuple[int, ...], now: float) -> None:
        """Record a change of the public class of a neighbor, if it changed."""
        after = standing_class(neighbor)
        if after != before:
            change = ReputationChange(neighbor.log_id, standing_code(before), standing_code(after), evidence)
            self._recorder.append(change, now)

    def _keep_token(self, signed: SignedUpdate) -> None:
        self._recorder.keep_token(signed.token_hash, signed.author, signed.update.number, signed.token_bytes)

    def _record(self, signed: SignedUpdate, reason: Reason | None, snapshot: bool, now: float) -> int:
        update, token = signed.update, signed.token
        self._recorder.refused += reason is not None
        record = UpdateReceived(
            sender=signed.author,
            seq=token.header.seq,
            leaf=token.leaf,
            size=token.size,
            root=token.root,
            token=signed.token_hash,
            number=update.number,
            delta=update.delta,
            replica=update.replica_after,
            snapshot=snapshot,
            decision=int(Decision.ACCEPT if reason is None else Decision.REJECT),
            reasons=() if reason is None else (int(reason),),
        )
        return self._recorder.append(record, now)
