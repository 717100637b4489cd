"""What this peer publishes: its own replica, its update tokens, and the repairs it serves to neighbors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quidnunc.gossip.claims import Claim
from quidnunc.gossip.events import Commit, Effect, Send
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.message import Hello, Snapshot, Unavailable, Update, Want
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.settings import Settings


class Publisher:
    """The own replica after ``number`` updates, and the newest tokens that prove how it got there.

    ``claim`` says whose training stands in the replica.
    """

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        recorder: Recorder,
        settings: Settings,
        forget: Callable[[bytes], None],
        *,
        replica: bytes,
        number: int,
        seq: int | None,
        claim: Claim,
        tokens: list[tuple[int, bytes]],
        deltas: dict[int, bytes],
    ) -> None:
        self._charter = charter
        self._me = me
        self._recorder = recorder
        self._settings = settings
        self._forget = forget
        self.replica = replica
        self.number = number
        self.seq = seq
        self.claim = claim
        self._tokens = dict(tokens[-settings.keep_deltas :])
        self._deltas = {n: deltas[n] for n in self._tokens if n in deltas}
        self.served = 0
        self.lost = False
        """Whether the own replica is not on our disk: until it is back, nothing can be served."""

    def publish(
        self, update: UpdatePublished, neighbors: list[Neighbor], now: float, private: bytes = b""
    ) -> list[Effect]:
        """Commit ``update``, with what it keeps ``private``, and send one body to every connected neighbor."""
        commit, token, seq = self._recorder.publish(update, self._me, now, private)
        self.replica, self.number, self.seq = update.replica_after, update.number, seq
        self.claim = update.claims
        self._tokens[update.number] = token
        self._deltas[update.number] = update.delta
        self._drop_old()
        out: list[Effect] = [commit]
        message = frame(Update(self._charter.federation_id, token))
        for neighbor in neighbors:
            if neighbor.connected:
                out.append(Send(neighbor.member.transport, message, update.delta))
        return out

    def _drop_old(self) -> None:
        for number in [n for n in self._tokens if n <= self.number - self._settings.keep_deltas]:
            del self._tokens[number]
            delta = self._deltas.pop(number, None)
            if delta is not None:
                self._forget(delta)

    def in_use(self) -> Iterable[bytes]:
        """Blobs that repairs may still need."""
        yield self.replica
        yield from self._deltas.values()

    def hello(self, peer: bytes, *, reply: bool) -> Send:
        """Tell one neighbor where this peer stands."""
        token = self._tokens.get(self.number, b"")
        return Send(peer, frame(Hello(self._charter.federation_id, token, reply)))

    def serve(self, neighbor: Neighbor, want: Want, now: float) -> list[Effect]:
        """Answer a repair request: the deltas if they are few and still here, else the replica, else nothing."""
        peer = neighbor.member.transport
        unavailable = Send(peer, frame(Unavailable(want.federation, want.first, want.last)))
        if self.lost or want.first > self.number:
            return [unavailable]
        last = min(want.last, self.number)
        span = range(want.first, last + 1) if last - want.first < self._settings.fetch_deltas else range(0)
        by_deltas = span and not want.snapshot and all(n in self._tokens and n in self._deltas for n in span)
        size = len(span) * self._charter.delta_bytes if by_deltas else self._charter.state_bytes
        token = self._tokens.get(self.number)
        if token is None or not neighbor.take_repair(size, now, self._settings):
            return [unavailable]
        self.served += 1
        if by_deltas:
            return [Send(peer, frame(Update(want.federation, self._tokens[n])), self._deltas[n]) for n in span]
        return [Send(peer, frame(Snapshot(want.federation, token)), self.replica)]


def committed(commit: Commit | None) -> list[Effect]:
    """A commit as effects."""
    return [] if commit is None else [commit]
