"""Tracked replicas: what neighbors publish is verified, applied in order, repaired when a piece is missing.

A replica advances only by signed updates, each of which names the replica before and after; so a gap is seen at once,
and every holder has the same bits. Updates that come early wait, missing ones are asked for, long gaps are closed by a
snapshot that must hash to what its publisher signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.charter import Charter
from quidnunc.gossip.events import Effect, Frame, Refuse, Report, Run, Send, SetTimer, StoreBlob
from quidnunc.gossip.jobs import AdoptJob, Advanced, AdvanceJob, JobFailed, Rejected, Standing
from quidnunc.gossip.message import SignedUpdate, Snapshot, Update, Want, open_update, write_message
from quidnunc.gossip.neighbor import Neighbor, Waiting
from quidnunc.gossip.provenance import Decision, ReputationChange, UpdateReceived, standing_code
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.reputation import BAD_CAP, StandingClass, classify, punish
from quidnunc.gossip.settings import Settings

REPAIR_TIMER = "repair"
SNAPSHOTS_DUE_MAX = 8
FLOAT_BYTES = 4
INT8_OVERHEAD = 1
PENALIZED = frozenset(
    {
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
    """The public class of a neighbor: quarantined by proof, or what its standing says."""
    return StandingClass.QUARANTINED if neighbor.quarantined else classify(neighbor.standing)


class Replicas:
    """All neighbors' replicas, and the only writer of them."""

    def __init__(
        self,
        charter: Charter,
        neighbors: dict[bytes, Neighbor],
        recorder: Recorder,
        settings: Settings,
        forget: Callable[[bytes], None],
        *,
        own_number: Callable[[], int],
        live: Callable[[Neighbor, float], bool],
    ) -> None:
        self._own_number = own_number
        self._live = live
        self._charter = charter
        self._recorder = recorder
        self._settings = settings
        self._forget = forget
        self.neighbors = neighbors
        self.received: list[int] = []
        self.repairs = 0

    def take_received(self) -> tuple[int, ...]:
        """Seqs of the update.received entries since the last call."""
        taken, self.received = tuple(self.received), []
        return taken

    # -- what comes in ------------------------------------------------------------------------------------------

    def on_update(self, neighbor: Neighbor, message: Update, body: bytes, now: float) -> list[Effect]:
        """A neighbor's update; raises RemoteProtocolError where nothing can be blamed on the signer."""
        signed = self._open(neighbor, message.token)
        reason = self._judge(neighbor, signed, body)
        if reason is not None:
            return self._refuse_signed(neighbor, signed, reason, now)
        known = neighbor.leaves.get(signed.update.number)
        early = neighbor.waiting.get(signed.update.number) or neighbor.in_flight
        if early is not None and early.signed.update.number == signed.update.number:
            known = early.signed.token.leaf
        if known is not None and known != signed.token.leaf:
            return self.convict(neighbor, signed, now)
        if known is not None and signed.update.number in neighbor.asked:
            return []
        if known is not None:
            raise RemoteProtocolError(Reason.DUPLICATE, f"update {signed.update.number} is known already")
        if signed.update.number <= neighbor.number:
            return self._refuse_signed(neighbor, signed, Reason.STALE, now)
        if signed.update.number > neighbor.number + self._settings.future_updates:
            return self._refuse_signed(neighbor, signed, Reason.FUTURE, now)
        neighbor.claimed = max(neighbor.claimed, signed.update.number)
        self.greet(neighbor, now)
        if len(neighbor.waiting) >= self._settings.buffered_updates:
            # The oldest are worth most: they come first. What is dropped here is asked for again.
            newest = max(neighbor.waiting)
            if signed.update.number > newest:
                return self.fetch(neighbor, now)
            self._forget(neighbor.waiting.pop(newest).signed.update.delta)
        neighbor.waiting[signed.update.number] = Waiting(signed)
        return [StoreBlob(body), *self._apply_next(neighbor, now)]

    def on_snapshot(self, neighbor: Neighbor, message: Snapshot, body: bytes, now: float) -> list[Effect]:
        """A replica that was asked for; raises RemoteProtocolError."""
        signed = self._open(neighbor, message.token)
        update = signed.update
        if not neighbor.snapshots_due:
            raise RemoteProtocolError(Reason.UNSOLICITED, f"snapshot {update.number} was not asked for")
        neighbor.snapshots_due -= 1
        if hashlib.sha256(body).digest() != update.replica_after:
            raise RemoteProtocolError(Reason.HASH_MISMATCH, f"snapshot {update.number} is not what was signed")
        reason = self._judge_header(signed)
        if reason is None and len(body) != FLOAT_BYTES * self._charter.task.dim:
            reason = Reason.BAD_SHAPE
        if reason is not None:
            return self._refuse_signed(neighbor, signed, reason, now)
        known = neighbor.leaves.get(update.number)
        if known is not None and known != signed.token.leaf:
            return self.convict(neighbor, signed, now)
        neighbor.claimed = max(neighbor.claimed, update.number)
        useful = update.number > neighbor.number or (update.number == neighbor.number and neighbor.missing)
        if not useful or neighbor.in_flight is not None:
            return []  # a late answer to a repair that succeeded in another way
        neighbor.in_flight = Waiting(signed, snapshot=True)
        job = AdoptJob(neighbor.log_id, update.number, update.replica_after)
        return [StoreBlob(body), Run(job)]

    def on_claim(self, neighbor: Neighbor, token: bytes, now: float) -> list[Effect]:
        """A hello's newest token: fetch what we lack; raises RemoteProtocolError."""
        signed = self._open(neighbor, token)
        reason = self._judge_header(signed)
        if reason is not None:
            return self._refuse_signed(neighbor, signed, reason, now)
        known = neighbor.leaves.get(signed.update.number)
        if known is not None and known != signed.token.leaf:
            return self.convict(neighbor, signed, now)
        neighbor.claimed = max(neighbor.claimed, signed.update.number)
        return self.fetch(neighbor, now) if neighbor.behind else []

    def on_unavailable(self, neighbor: Neighbor) -> None:
        """Our repair request cannot be served; ask again later."""
        neighbor.fetch_until = None

    # -- repair -------------------------------------------------------------------------------------------------

    def repair(self, now: float) -> list[Effect]:
        """The repair timer fired: ask again for what is still missing."""
        out: list[Effect] = []
        for neighbor in self.neighbors.values():
            if neighbor.behind or neighbor.missing:
                out += self.fetch(neighbor, now)
        return out

    def fetch(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """Ask for what is missing, one request at a time and neighbor."""
        if neighbor.quarantined or not neighbor.connected:
            return []
        if neighbor.fetch_until is not None and now < neighbor.fetch_until:
            return []
        first = neighbor.number + 1
        early = [n for n in neighbor.waiting if n >= first]
        last = min(early) - 1 if early else neighbor.claimed
        if neighbor.missing:
            first, last = max(1, neighbor.number), max(1, neighbor.claimed)
        if last < first:
            return []
        snapshot = neighbor.missing or last - first + 1 > self._settings.fetch_deltas
        return self._want(neighbor, first, last, snapshot, now)

    def _want_snapshot(self, neighbor: Neighbor, now: float) -> list[Effect]:
        last = max(1, neighbor.claimed)
        return self._want(neighbor, min(neighbor.number + 1, last), last, True, now)

    def _want(self, neighbor: Neighbor, first: int, last: int, snapshot: bool, now: float) -> list[Effect]:
        if snapshot:
            neighbor.snapshots_due = min(neighbor.snapshots_due + 1, SNAPSHOTS_DUE_MAX)
        else:
            neighbor.asked.update(range(first, last + 1))
        neighbor.fetch_until = now + self._settings.repair_retry_s
        neighbor.fetch_attempts += 1
        self.repairs += 1
        want = Want(self._charter.federation_id, first, last, snapshot)
        again = SetTimer(REPAIR_TIMER, self._settings.repair_retry_s)
        return [Send(neighbor.member.transport, Frame(write_message(want))), again]

    # -- applying -----------------------------------------------------------------------------------------------

    def _apply_next(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """Start the job for the next update in order, or fetch what stands before it."""
        if neighbor.in_flight is not None:
            return []
        for number in [n for n in neighbor.waiting if n <= neighbor.number]:
            self._forget(neighbor.waiting.pop(number).signed.update.delta)
        following = neighbor.waiting.get(neighbor.number + 1)
        if following is None:
            return self.fetch(neighbor, now) if neighbor.behind else []
        update = following.signed.update
        if update.replica_before != neighbor.state or neighbor.missing:
            del neighbor.waiting[update.number]
            if neighbor.missing:
                return self._want_snapshot(neighbor, now)
            refused = self._refuse_signed(neighbor, following.signed, Reason.BAD_BASE, now)
            return [*refused, *self._want_snapshot(neighbor, now)]
        del neighbor.waiting[update.number]
        neighbor.in_flight = following
        job = AdvanceJob(neighbor.log_id, update.number, neighbor.state, update.delta, update.replica_after)
        return [Run(job)]

    def on_advanced(self, result: Advanced, now: float) -> list[Effect]:
        """A replica advanced: record the update as received, go on with the next."""
        neighbor = self.neighbors[result.author]
        applied = neighbor.in_flight
        neighbor.in_flight = None
        if applied is None or applied.signed.update.number != result.number:
            return []
        signed = applied.signed
        if neighbor.state != result.result:
            self._forget(neighbor.state)
        was_live = self._live(neighbor, now)
        neighbor.advanced(result.number, result.result, signed.token.header.seq, now)
        self._align(neighbor, was_live)
        neighbor.remember(result.number, signed.token.leaf)
        neighbor.accepted += 1
        if not applied.snapshot:
            self._forget(signed.update.delta)
        self.received.append(self._record(signed, Decision.ACCEPT, None, applied.snapshot, now))
        return self._apply_next(neighbor, now)

    def _align(self, neighbor: Neighbor, was_live: bool) -> None:
        """Keep a neighbor that comes back from an absence from holding us until it has caught up in numbers."""
        ahead = max(0, self._own_number() - neighbor.number)
        neighbor.lead_offset = min(neighbor.lead_offset, ahead) if was_live else ahead

    def greet(self, neighbor: Neighbor, now: float) -> None:
        """First word of a neighbor since our start: it counts as live from here, at the pace it will show."""
        if not neighbor.heard:
            neighbor.heard = True
            neighbor.reset_pace(now)
            neighbor.lead_offset = max(0, self._own_number() - neighbor.claimed)

    def on_rejected(self, result: Rejected, now: float) -> list[Effect]:
        """The body of a signed update was wrong: evidence against its signer, and another way to its replica."""
        neighbor = self.neighbors[result.author]
        applied = neighbor.in_flight
        neighbor.in_flight = None
        if applied is None:
            return []
        self._forget(applied.signed.update.delta)
        out = self._refuse_signed(neighbor, applied.signed, result.reason, now)
        return out[1:]  # the transport was answered long ago

    def on_failed(self, result: JobFailed, now: float) -> list[Effect]:
        """Our own compute side failed: nothing is held against the neighbor; fetch again when it comes to it."""
        neighbor = self.neighbors.get(result.author)
        if neighbor is None:
            return []
        neighbor.in_flight = None
        if result.missing and result.missing == neighbor.state:
            neighbor.missing = True
            return self._want_snapshot(neighbor, now)
        return []

    # -- judging ------------------------------------------------------------------------------------------------

    def _open(self, neighbor: Neighbor, token: bytes) -> SignedUpdate:
        signed = open_update(token, log_id=neighbor.log_id, public=neighbor.member.log)
        if signed.update.federation != self._charter.federation_id:
            raise RemoteProtocolError(Reason.WRONG_FEDERATION, "update was signed for another federation")
        if neighbor.quarantined:
            raise RemoteProtocolError(Reason.QUARANTINED, f"{neighbor.member.name} is quarantined")
        return signed

    def _judge_header(self, signed: SignedUpdate) -> Reason | None:
        if signed.update.schema != self._charter.task.schema:
            return Reason.WRONG_SCHEMA
        if signed.update.codec != self._charter.codec:
            return Reason.BAD_CODEC
        return None

    def _judge(self, neighbor: Neighbor, signed: SignedUpdate, body: bytes) -> Reason | None:
        """What is wrong with a verified update and its body, if anything; raises where the transport is to blame."""
        reason = self._judge_header(signed)
        if reason is not None:
            return reason
        if signed.update.size > self._charter.payload_bytes:
            return Reason.TOO_LARGE
        if hashlib.sha256(body).digest() != signed.update.delta:
            raise RemoteProtocolError(
                Reason.HASH_MISMATCH, f"body of update {signed.update.number} is not the one signed"
            )
        dim = self._charter.task.dim
        expected = FLOAT_BYTES * dim if self._charter.codec == 0 else dim + INT8_OVERHEAD
        if len(body) != expected or signed.update.size != len(body):
            return Reason.BAD_SHAPE
        return None

    def _refuse_signed(self, neighbor: Neighbor, signed: SignedUpdate, reason: Reason, now: float) -> list[Effect]:
        neighbor.refused += 1
        neighbor.last_reason = reason.label
        if self._recorder.take_refusal_slot():
            seq = self._record(signed, Decision.REJECT, reason, False, now)
            if reason in PENALIZED:
                self._punish(neighbor, seq, now)
        else:
            digest = signed.token_hash
            self._recorder.refuse(neighbor.log_id, reason, len(signed.token_bytes), digest, now)
        text = f"update {signed.update.number} of {neighbor.member.name} refused: {reason.label}"
        return [Refuse(neighbor.member.transport, reason), Report("refused", text)]

    def _punish(self, neighbor: Neighbor, seq: int, now: float) -> None:
        before = standing_class(neighbor)
        neighbor.standing = punish(neighbor.standing)
        self.note_class(neighbor, before, (seq,), now)

    def convict(self, neighbor: Neighbor, signed: SignedUpdate, now: float) -> list[Effect]:
        """Two updates under one number, both signed: quarantine for the life of the charter."""
        self._recorder.keep_token(signed.token_hash, neighbor.log_id, signed.update.number, signed.token_bytes)
        before = standing_class(neighbor)
        seq = self._record(signed, Decision.REJECT, Reason.EQUIVOCATION, False, now)
        neighbor.quarantined = True
        neighbor.standing = Standing(0.0, BAD_CAP, 0.0)
        neighbor.refused += 1
        neighbor.last_reason = Reason.EQUIVOCATION.label
        neighbor.waiting.clear()
        self.note_class(neighbor, before, (seq,), now)
        text = f"{neighbor.member.name} signed two different updates {signed.update.number}: quarantined"
        return [Refuse(neighbor.member.transport, Reason.EQUIVOCATION), Report("equivocation", text)]

    def note_class(self, neighbor: Neighbor, before: StandingClass, evidence: tuple[int, ...], now: float) -> None:
        """Record a change of the public class of a neighbor, if it changed."""
        after = standing_class(neighbor)
        if after != before:
            change = ReputationChange(neighbor.log_id, standing_code(before), standing_code(after), evidence)
            self._recorder.append(change, now)

    def _record(
        self, signed: SignedUpdate, decision: Decision, reason: Reason | None, snapshot: bool, now: float
    ) -> int:
        update, token = signed.update, signed.token
        if decision == Decision.ACCEPT:
            self._recorder.keep_token(signed.token_hash, signed.author, update.number, signed.token_bytes)
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
            decision=int(decision),
            reasons=() if reason is None else (int(reason),),
        )
        return self._recorder.append(record, now)
