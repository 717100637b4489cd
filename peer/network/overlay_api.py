"""What the host sees of the network: members, settings, events, and the :class:`Overlay` of both twins.

Nothing here imports libp2p, so configuration and tests stay light. A peer is named by its 32-byte transport
Ed25519 public key throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from quidnunc.crypto.errors import ConfigError, QuidnuncError, Reason
from quidnunc.gossip.events import Frame

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # its stubs shadow trio's own wherever libp2p is installed


class SendFailed(QuidnuncError):
    """A frame was not acknowledged by ``peer``; it may or may not have arrived.

    ``reason`` is the refusal of the other side, or None when there was none: not connected, timeout, lost.
    """

    def __init__(self, peer: bytes, why: str, *, reason: Reason | None = None) -> None:
        super().__init__(f"sending to {peer.hex()[:12]} failed: {why}")
        self.peer = peer
        self.why = why
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Member:
    """What the overlay must know of a neighbor: its transport key and where it listens (may be nowhere)."""

    public: bytes
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OverlaySettings:
    """Limits and clocks. Sizes in bytes, times in seconds, ``min_rate`` in bytes per second."""

    header_bytes_max: int = 65_536
    body_bytes_max: int = 16_777_216
    """``limits.payload_bytes``: a larger body is refused before anything is allocated."""
    small_bytes: int = 65_536
    """Frames up to this size do not wait for a bulk slot and never queue behind a bulk frame."""
    inbound_transfers: int = 2
    """Bulk frames received at the same time, from all peers together."""
    per_peer_transfers: int = 1
    """Bulk frames received at the same time from one peer."""
    streams_per_peer: int = 16
    """Streams a peer may hold open toward us; further ones are reset."""
    ping_interval_s: float = 10.0
    ping_misses: int = 2
    """Unanswered pings after which a connection is dropped."""
    idle_timeout_s: float = 15.0
    """Longest silence inside a transfer."""
    base_timeout_s: float = 30.0
    min_rate: float = 500_000.0
    """A transfer of n bytes may take ``base_timeout_s + n / min_rate`` in all."""
    dial_timeout_s: float = 10.0
    handshake_timeout_s: float = 3.0
    handshakes_max: int = 64
    """Unauthenticated connections held at once; then the oldest of the source with most of them gives way."""
    handshakes_per_source: int = 16
    """Those of one source address; then its own oldest gives way."""
    unproven_per_peer: int = 2
    """Authenticated connections of one peer that have not answered a ping yet; the oldest gives way to the newest."""
    redial_min_s: float = 0.5
    redial_max_s: float = 30.0
    """Bounds of the pause between dials; also how long the higher key waits before it dials itself."""
    first_dial_s: float = 2.0
    """How long it waits before its first dial to a neighbor, ``redial_max_s`` at most."""
    buffer_bytes_max: int = 67_108_864
    """Unread bytes that all connections of one peer may hold together; the one that pushes more is ended."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"overlay setting {name} is {value}, must be greater than 0")
        if self.redial_min_s > self.redial_max_s:
            raise ConfigError(f"redial_min_s {self.redial_min_s} exceeds redial_max_s {self.redial_max_s}")

    def oversize(self, frame: Frame) -> str:
        """Why ``frame`` is outside our own limits, or an empty string."""
        if not 0 < len(frame.header) <= self.header_bytes_max:
            return f"header of {len(frame.header)} bytes, must be 1 to {self.header_bytes_max}"
        if len(frame.body) > self.body_bytes_max:
            return f"body of {len(frame.body)} bytes, limit is {self.body_bytes_max}"
        return ""

    def transfer_timeout(self, size: int) -> float:
        """Longest time in seconds that a transfer of ``size`` bytes may take."""
        return self.base_timeout_s + size / self.min_rate


@dataclass(slots=True)
class PeerStats:
    """Counters of one peer since the overlay was made. Bytes are wire bytes, all framing included."""

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    connections: int = 0
    send_failures: int = 0
    last_trouble: str = ""
    """Why its connection ended last, or why the last dial failed; empty once it is connected."""
    refused_by_us: dict[Reason, int] = field(default_factory=dict)
    refused_by_peer: dict[Reason, int] = field(default_factory=dict)


@dataclass(slots=True)
class DoorStats:
    """Inbound connections not authenticated: ``waiting`` now, of at most ``limit``; the others since the start.

    ``refused`` are all that came to nothing, ``displaced`` those that gave way to newer ones; ``last_source`` is where
    the last connection came from that displaced another.
    """

    limit: int = 0
    waiting: int = 0
    refused: int = 0
    displaced: int = 0
    last_source: str = ""


class OverlayEvents(Protocol):
    """What an overlay tells its host. Calls about one peer are in order, except ``received``."""

    async def peer_up(self, peer: bytes) -> None:
        """An authenticated connection to ``peer`` exists and answers."""

    async def peer_down(self, peer: bytes) -> None:
        """No connection to ``peer`` is left. Not called when the overlay itself is stopped."""

    async def received(self, peer: bytes, frame: Frame) -> Reason | None:
        """A whole frame came: None acknowledges, a reason refuses. Cancelled if the connection is lost."""


class Overlay(Protocol):
    """Authenticated frames between members. Implemented over libp2p and in memory."""

    async def serve(
        self, events: OverlayEvents, *, task_status: TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen, dial, receive until cancelled; reports the bound addresses. Afterwards nothing listens."""

    async def send(self, peer: bytes, frame: Frame) -> None:
        """Return once ``peer`` has acknowledged ``frame``; SendFailed otherwise. Has its own deadlines."""

    def connected(self) -> frozenset[bytes]:
        """Peers for which the last event was ``peer_up``."""

    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs bound at the moment; empty while not serving."""

    def set_members(self, members: Iterable[Member]) -> None:
        """Replace the allow-list and dial list; connections to those no longer in it are closed."""

    def rest(self, peer: bytes) -> None:
        """Do not dial ``peer`` any more; it is let in as before should it come, and a connection there is goes on."""

    def stats(self) -> Mapping[bytes, PeerStats]:
        """A copy of the counters of every peer ever dialed or connected."""

    def strangers(self) -> DoorStats:
        """Counters of inbound connections by nobody who is known yet."""
