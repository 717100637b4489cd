"""The own replica, lost by the own disk: neighbors that track it hold the same bits and give them back.

Nobody is believed: what comes must hash to what our own ledger says we published. While the replica is lost this peer
tells its neighbors where it stands and tracks theirs, and neither trains, merges nor publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.events import Effect, Frame, Report, Run, Send, SetTimer, StoreBlob
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.gate import names
from quidnunc.gossip.jobs import AdvanceJob
from quidnunc.gossip.message import Recall, Recalled, Unavailable
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.publisher import Publisher
from quidnunc.gossip.repairs import BACKOFF_DOUBLINGS
from quidnunc.gossip.rounds import ROUND_TIMER, Phase, Rounds
from quidnunc.gossip.settings import Settings


class RecallDesk:
    """Asks for the own replica, one neighbor at a time, and gives neighbors theirs.

    ``wanted`` are the newest own updates, oldest first: the replica as of any of them leads to the newest by the deltas
    that are still here. It is empty when nothing is lost.
    """

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        neighbors: dict[bytes, Neighbor],
        settings: Settings,
        forget: Callable[[bytes], None],
        rounds: Rounds,
        publisher: Publisher,
        wanted: Sequence[UpdatePublished],
    ) -> None:
        self._charter = charter
        self._me = me
        self._neighbors = neighbors
        self._settings = settings
        self._forget = forget
        self._rounds = rounds
        self._publisher = publisher
        self._wanted = {update.number: update for update in wanted}
        self._first, self._last = min(self._wanted, default=0), max(self._wanted, default=0)
        self._asked: dict[bytes, int] = {}
        self._owed: set[bytes] = set()
        self._without: set[bytes] = set()
        self._due: float | None = None
        self._applying = 0
        self.lost = bool(self._wanted)
        if self.lost:
            publisher.lost = True
            rounds.recover(self.why)

    def settle(self, out: list[Effect]) -> list[Effect]:
        """Let turns go on once the own replica is back, and until then say what is waited for; ``out`` follows."""
        if self._rounds.phase == Phase.RECOVERING:
            self._rounds.recover(self.why)
            if not self.lost:
                self._publisher.lost = False
                self._rounds.begin_anew()
        return out

    # -- asking -------------------------------------------------------------------------------------------------

    @property
    def why(self) -> str:
        """What an operator should know while this peer waits."""
        asked = [n for n in self._neighbors.values() if n.log_id in self._asked]
        without = [n for n in asked if n.log_id in self._without]
        told = f"asked for it: {names(asked)}" if asked else "no neighbor to ask is connected yet"
        denied = f"; without it: {names(without)}" if without else ""
        if len(without) == len(self._neighbors):
            denied += "; take what is missing in state/blobs out of a backup (tar xf FILE state/blobs)"
        return f"the own replica of update {self._last} is lost from this disk; {told}{denied}"

    def ask(self, now: float) -> list[Effect]:
        """Ask the connected neighbor that was asked least, unless an answer may still come or is being applied."""
        if not self.lost or self._applying:
            return []
        connected = [n for n in self._neighbors.values() if n.connected]
        if not connected:
            return []
        if self._due is None or now >= self._due:
            neighbor = min(connected, key=self._times)
            pause = self._pause(self._times(neighbor))
            self._asked[neighbor.log_id] = self._times(neighbor) + 1
            self._owed.add(neighbor.log_id)
            self._due = now + pause
            want = frame(Recall(self._charter.federation_id, self._first, self._last))
            return [Send(neighbor.member.transport, want), SetTimer(ROUND_TIMER, pause)]
        return [SetTimer(ROUND_TIMER, self._due - now)]

    def _times(self, neighbor: Neighbor) -> int:
        return self._asked.get(neighbor.log_id, 0)

    def _pause(self, before: int) -> float:
        """Seconds to leave for an answer after ``before`` unanswered ones of the same neighbor."""
        transfer = self._charter.state_bytes / self._settings.repair_bytes_per_s
        return (self._settings.repair_retry_s + transfer) * 2.0 ** min(before, BACKOFF_DOUBLINGS)

    def gone(self, neighbor: Neighbor) -> list[Effect]:
        """Its connection is down: what it owed will not come, and the next is asked."""
        if neighbor.log_id not in self._owed:
            return []
        self._owed.discard(neighbor.log_id)
        return self._ask_next()

    def _ask_next(self) -> list[Effect]:
        self._due = None
        return [SetTimer(ROUND_TIMER, 0.0)] if self.lost else []

    def on_unavailable(self, neighbor: Neighbor) -> list[Effect]:
        """It does not have what was asked for; another one may, and is asked at once."""
        if not self.lost or neighbor.log_id not in self._owed:
            return []
        self._owed.discard(neighbor.log_id)
        self._without.add(neighbor.log_id)
        fresh = any(n.connected and not self._times(n) for n in self._neighbors.values())
        return self._ask_next() if fresh else []

    def on_recalled(self, neighbor: Neighbor, message: Recalled, frame: Frame) -> list[Effect]:
        """The own replica from a neighbor that was asked for it; raises RemoteProtocolError."""
        if neighbor.log_id not in self._owed:
            raise RemoteProtocolError(Reason.UNSOLICITED, f"own replica {message.number} was not asked for")
        self._owed.discard(neighbor.log_id)
        if not self.lost or self._applying:
            return []  # a late answer: another neighbor gave it back meanwhile
        update = self._wanted.get(message.number)
        if update is None:
            raise RemoteProtocolError(
                Reason.UNSOLICITED, f"own replica {message.number}: asked for {self._first} to {self._last}"
            )
        if frame.body_hash() != update.replica_after:
            raise RemoteProtocolError(Reason.HASH_MISMATCH, f"own replica {message.number} is not what was signed")
        told = Report("recalled", f"own replica of update {message.number} came back from {neighbor.member.name}")
        return [StoreBlob(frame.body), told, *self._go_on(message.number)]

    def on_advanced(self, number: int) -> list[Effect]:
        """The own replica is as of update ``number`` again."""
        if number != self._applying:
            return []
        self._forget(self._wanted[number].replica_before)
        return self._go_on(number)

    def _go_on(self, number: int) -> list[Effect]:
        """Apply the next delta, or be done."""
        if number == self._last:
            self.lost, self._applying = False, 0
            return [SetTimer(ROUND_TIMER, 0.0)]
        before, following = self._wanted[number], self._wanted[number + 1]
        self._applying = number + 1
        return [Run(self._step(before.replica_after, following))]

    def _step(self, base: bytes, update: UpdatePublished) -> AdvanceJob:
        return AdvanceJob(self._me, update.number, base, update.delta, update.replica_after)

    def on_failed(self) -> list[Effect]:
        """A delta that was here is not any more, or our compute side failed: ask again, for the newest alone."""
        self._applying = 0
        self._first = self._last
        self._wanted = {self._last: self._wanted[self._last]}
        return [SetTimer(ROUND_TIMER, self._settings.repair_retry_s)]

    # -- giving -------------------------------------------------------------------------------------------------

    def serve(self, neighbor: Neighbor, recall: Recall, now: float) -> list[Effect]:
        """Give a neighbor its own replica as it stands here: the only state of ours it can name."""
        peer, federation = neighbor.member.transport, recall.federation
        held = not neighbor.missing and recall.first <= neighbor.number <= recall.last
        if not held or not neighbor.take_repair(self._charter.state_bytes, now, self._settings):
            return [Send(peer, frame(Unavailable(federation, recall.first, recall.last)))]
        return [Send(peer, frame(Recalled(federation, neighbor.number)), neighbor.state)]
