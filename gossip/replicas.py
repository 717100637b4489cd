"""Tracked replicas: what neighbors publish is verified, applied in order, repaired when a piece is missing.

A replica advances only by signed updates, each of which names the replica before and after; so a gap is seen at once,
and every holder has the same bits. Updates that come early wait, missing ones are asked for, long gaps are closed by a
snapshot that must hash to what its publisher signed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.claims import believable
from quidnunc.gossip.events import Effect, Frame, Run, StoreBlob
from quidnunc.gossip.evidence import Evidence
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.jobs import AdoptJob, Advanced, AdvanceJob, JobFailed, Rejected
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Snapshot, Update
from quidnunc.gossip.neighbor import Neighbor, Waiting
from quidnunc.gossip.repairs import Repairs
from quidnunc.gossip.retirement import LogRetire
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.signed_update import SignedUpdate, open_update

RECEIVED_MAX = 4096
"""Seqs of accepted updates that one merge entry lists; of more, the newest."""


class Replicas:
    """All neighbors' replicas, and the only writer of them."""

    def __init__(
        self,
        charter: Charter,
        neighbors: dict[bytes, Neighbor],
        evidence: Evidence,
        settings: Settings,
        forget: Callable[[bytes], None],
        keys: Keybook,
        repairs: Repairs,
        *,
        own_number: Callable[[], int],
        live: Callable[[Neighbor, float], bool],
        two_updates: Callable[[bytes | None, bytes, float], list[Effect]],
        observe: Callable[[SignedUpdate, float], list[Effect]],
        horizon: Callable[[], int] | None = None,
    ) -> None:
        """``horizon`` is the newest round whose updates may be applied now, None for any."""
        self._horizon = horizon
        self._two_updates = two_updates
        self._observe = observe
        self._own_number = own_number
        self._live = live
        self._charter = charter
        self._evidence = evidence
        self._settings = settings
        self._forget = forget
        self._keys = keys
        self._repairs = repairs
        self.neighbors = neighbors
        self._received: deque[int] = deque(maxlen=RECEIVED_MAX)

    def take_received(self) -> tuple[int, ...]:
        """Seqs of the entries of updates accepted since the last call, the newest ``RECEIVED_MAX`` of them."""
        taken = tuple(self._received)
        self._received.clear()
        return taken

    # -- what comes in ------------------------------------------------------------------------------------------

    def on_update(self, neighbor: Neighbor, message: Update, frame: Frame, now: float) -> list[Effect]:
        """A neighbor's update; raises RemoteProtocolError where nothing can be blamed on the signer."""
        signed = self._open(neighbor, message.token)
        number = signed.update.number
        reason = self._judge(signed, frame)
        if reason is not None:
            return self._evidence.refuse(neighbor, signed, reason, now)
        known = self._known_leaf(neighbor, number)
        if known is not None:
            if known != signed.token.leaf:
                return self._convict(neighbor, signed, now)
            if number in neighbor.asked:
                return []
            raise RemoteProtocolError(Reason.DUPLICATE, f"update {number} is known already")
        if neighbor.retired is not None:
            return self._too_late(neighbor, neighbor.retired, signed, now)
        if number <= neighbor.number:
            return [*self._observe(signed, now), *self._evidence.refuse(neighbor, signed, Reason.STALE, now)]
        if number > neighbor.number + self._settings.future_updates:
            return self._evidence.refuse(neighbor, signed, Reason.FUTURE, now)
        neighbor.has_published(number, now)
        self.greet(neighbor, now)
        if len(neighbor.waiting) >= self._settings.buffered_updates:
            # The oldest are worth most: they come first. What is dropped here is asked for again.
            newest = max(neighbor.waiting)
            if number > newest:
                return self._repairs.fetch(neighbor, now)
            self._forget(neighbor.waiting.pop(newest).signed.update.delta)
        neighbor.waiting[number] = Waiting(signed)
        return [StoreBlob(frame.body), *self._observe(signed, now), *self._apply_next(neighbor, now)]

    def _known_token(self, neighbor: Neighbor, number: int) -> bytes | None:
        """The token of the update that :meth:`_known_leaf` speaks of, if it is still here."""
        for held in (neighbor.waiting.get(number), neighbor.in_flight):
            if held is not None and held.signed.update.number == number:
                return held.signed.token_bytes
        return neighbor.tokens.get(number)

    def _known_leaf(self, neighbor: Neighbor, number: int) -> bytes | None:
        """The leaf of update ``number`` if it was applied, is being applied, or waits."""
        for held in (neighbor.waiting.get(number), neighbor.in_flight):
            if held is not None and held.signed.update.number == number:
                return held.signed.token.leaf
        return neighbor.leaves.get(number)

    def on_snapshot(self, neighbor: Neighbor, message: Snapshot, frame: Frame, now: float) -> list[Effect]:
        """A replica that was asked for; raises RemoteProtocolError."""
        signed = self._open(neighbor, message.token)
        update = signed.update
        if not neighbor.snapshots_due:
            raise RemoteProtocolError(Reason.UNSOLICITED, f"snapshot {update.number} was not asked for")
        neighbor.snapshots_due -= 1
        if frame.body_hash() != update.replica_after:
            raise RemoteProtocolError(Reason.HASH_MISMATCH, f"snapshot {update.number} is not what was signed")
        reason = self._judge_header(signed)
        if reason is None and len(frame.body) != self._charter.state_bytes:
            reason = Reason.BAD_SHAPE
        if reason is not None:
            return self._evidence.refuse(neighbor, signed, reason, now)
        known = self._known_leaf(neighbor, update.number)
        if known is not None and known != signed.token.leaf:
            return self._convict(neighbor, signed, now)
        if neighbor.retired is not None:
            return self._too_late(neighbor, neighbor.retired, signed, now)
        neighbor.has_published(update.number, now)
        newer = update.number > max(neighbor.number, neighbor.rejected)
        useful = newer or (update.number == neighbor.number and neighbor.missing)
        if not useful or neighbor.in_flight is not None:
            return []  # a late answer to a repair that succeeded in another way
        neighbor.in_flight = Waiting(signed, snapshot=True)
        job = AdoptJob(neighbor.log_id, update.number, update.replica_after)
        return [StoreBlob(frame.body), Run(job)]

    def on_claim(self, neighbor: Neighbor, token: bytes, now: float) -> list[Effect]:
        """A hello's newest token: fetch what we lack; raises RemoteProtocolError."""
        signed = self._open(neighbor, token)
        reason = self._judge_header(signed)
        if reason is not None:
            return self._evidence.refuse(neighbor, signed, reason, now)
        known = self._known_leaf(neighbor, signed.update.number)
        if known is not None and known != signed.token.leaf:
            return self._convict(neighbor, signed, now)
        if neighbor.retired is not None:
            return self._too_late(neighbor, neighbor.retired, signed, now)
        neighbor.has_published(signed.update.number, now)
        seen = self._observe(signed, now)
        return [*seen, *self._repairs.fetch(neighbor, now)] if neighbor.behind else seen

    # -- applying -----------------------------------------------------------------------------------------------

    def _apply_next(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """Start the job for the next update in order, or fetch what stands before it."""
        neighbor.deferred = False
        if neighbor.in_flight is not None:
            return []
        for number in [n for n in neighbor.waiting if n <= neighbor.number]:
            self._forget(neighbor.waiting.pop(number).signed.update.delta)
        following = neighbor.waiting.get(neighbor.number + 1)
        if following is None:
            return self._repairs.fetch(neighbor, now) if neighbor.behind else []
        update = following.signed.update
        neighbor.deferred = self._horizon is not None and update.round > self._horizon()
        if neighbor.deferred:
            return []
        del neighbor.waiting[update.number]
        if neighbor.missing or update.replica_before != neighbor.state:
            self._forget(update.delta)
            refused: list[Effect] = []
            if not neighbor.missing:
                neighbor.missing = True
                refused = self._evidence.refuse(neighbor, following.signed, Reason.BAD_BASE, now)
            return [*refused, *self._repairs.fetch(neighbor, now)]
        neighbor.in_flight = following
        job = AdvanceJob(neighbor.log_id, update.number, neighbor.state, update.delta, update.replica_after)
        return [Run(job)]

    def resume(self, now: float) -> list[Effect]:
        """Apply updates that waited for our own round and need not any more."""
        held = [neighbor for neighbor in self.neighbors.values() if neighbor.deferred]
        return [effect for neighbor in held for effect in self._apply_next(neighbor, now)]

    def on_advanced(self, result: Advanced, now: float) -> list[Effect]:
        """A replica advanced: record the update as received, go on with the next."""
        neighbor = self.neighbors[result.author]
        applied = neighbor.in_flight
        if applied is None or applied.signed.update.number != result.number:
            return []
        neighbor.in_flight = None
        signed = applied.signed
        if neighbor.state != result.result:
            self._forget(neighbor.state)
        was_live = self._live(neighbor, now)
        neighbor.advanced(result.number, result.result, signed.token.header.seq, now)
        neighbor.round = signed.update.round
        neighbor.resting = signed.update.steps == 0
        neighbor.claim = believable(signed.update.claims, signed.author, signed.update.steps)
        self._align(neighbor, was_live)
        neighbor.remember(result.number, signed.token.leaf, signed.token_bytes)
        neighbor.accepted += 1
        if not applied.snapshot:
            self._forget(signed.update.delta)
        self._received.append(self._evidence.accept(signed, applied.snapshot, now))
        return self._apply_next(neighbor, now)

    def _align(self, neighbor: Neighbor, was_live: bool) -> None:
        """Keep a neighbor that comes back from an absence from holding us until it has caught up in numbers.

        However short the absence: while its connection is gone nobody waits for it. From then on it may run ``lead``
        ahead of us, as others do, before its new place counts.
        """
        back, neighbor.returned = neighbor.returned or not was_live, False
        ahead = self._own_number() - neighbor.number
        caught_up = max(0, ahead + self._charter.rounds.lead)
        neighbor.lead_offset = max(0, ahead) if back else min(neighbor.lead_offset, caught_up)

    def greet(self, neighbor: Neighbor, now: float) -> None:
        """First word of a neighbor since our start: it counts as live from here, at the pace it will show."""
        if not neighbor.heard:
            neighbor.heard = True
            neighbor.goal = neighbor.claimed
            neighbor.reset_pace(now)
            neighbor.lead_offset = max(0, self._own_number() - neighbor.claimed)

    def on_rejected(self, result: Rejected, now: float) -> list[Effect]:
        """A signed body was wrong: evidence against its signer, whose later updates need a snapshot to follow."""
        neighbor = self.neighbors[result.author]
        applied = self._land(neighbor)
        if applied is None:
            return []
        neighbor.rejected = max(neighbor.rejected, result.number)
        neighbor.remember(result.number, applied.signed.token.leaf, applied.signed.token_bytes)
        refused = self._evidence.refuse(neighbor, applied.signed, result.reason, now)
        return [*refused, *self._apply_next(neighbor, now)]

    def on_failed(self, result: JobFailed, now: float) -> list[Effect]:
        """Our own compute side failed: nothing is held against the neighbor; fetch again when it comes to it."""
        neighbor = self.neighbors.get(result.author)
        if neighbor is None:
            return []
        self._land(neighbor)
        if result.missing and result.missing == neighbor.state:
            neighbor.missing = True
            return self._repairs.fetch(neighbor, now)
        return []

    def _land(self, neighbor: Neighbor) -> Waiting | None:
        """Take what was being applied to ``neighbor`` and was not: its body is of no more use."""
        applied, neighbor.in_flight = neighbor.in_flight, None
        if applied is not None:
            update = applied.signed.update
            self._forget(update.replica_after if applied.snapshot else update.delta)
        return applied

    # -- judging ------------------------------------------------------------------------------------------------

    def _open(self, neighbor: Neighbor, token: bytes) -> SignedUpdate:
        signed = open_update(token, log_id=neighbor.log_id, public=self._keys.counting(neighbor.log_id))
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

    def _judge(self, signed: SignedUpdate, frame: Frame) -> Reason | None:
        """What is wrong with a verified update and its body, if anything; raises where the transport is to blame."""
        reason = self._judge_header(signed)
        if reason is not None:
            return reason
        if signed.update.size > self._charter.payload_bytes:
            return Reason.TOO_LARGE
        if frame.body_hash() != signed.update.delta:
            raise RemoteProtocolError(
                Reason.HASH_MISMATCH, f"body of update {signed.update.number} is not the one signed"
            )
        if len(frame.body) != self._charter.delta_bytes or signed.update.size != len(frame.body):
            return Reason.BAD_SHAPE
        return None

    def _too_late(self, neighbor: Neighbor, end: LogRetire, signed: SignedUpdate, now: float) -> list[Effect]:
        """Nothing of a retired log is taken: from before its end it came late, from behind it nobody may sign it."""
        if signed.token.header.seq <= end.last:
            return []
        return self._evidence.refuse(neighbor, signed, Reason.RETIRED, now)

    def _convict(self, neighbor: Neighbor, signed: SignedUpdate, now: float) -> list[Effect]:
        first = self._known_token(neighbor, signed.update.number)
        for waiting in neighbor.waiting.values():
            self._forget(waiting.signed.update.delta)
        out = self._evidence.convict(neighbor, signed, now)
        return [*self._two_updates(first, signed.token_bytes, now), *out]
