"""One neighbor as this peer knows it, and the pace rules that read it.

The pace rules are those of a round without a barrier: a liveness window in the neighbor's own intervals, a lead bound
where rounds cost privacy, and a compensation for the drag of old replicas. Nothing here waits for a fixed time that a
user would have to guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, median

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.attestation import Suspected
from quidnunc.gossip.claims import INITIAL, Claim
from quidnunc.gossip.federation.charter import Member
from quidnunc.gossip.jobs import PPB, Standing
from quidnunc.gossip.reputation import BAD_CAP
from quidnunc.gossip.retirement import LogRetire
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.signed_update import SignedUpdate

GAPS_KEPT = 9
CADENCE_DECAY = 0.7
DRAG_DECAY = 0.8
LEAVES_KEPT = 64
CONVICTED = Standing(0.0, BAD_CAP, 0.0)
"""The standing of a neighbor that signed two histories."""
HARMLESS = frozenset({Reason.DUPLICATE, Reason.STALE, Reason.UNSOLICITED, Reason.RATE_LIMITED})
"""Refusals that loss, repair and reconnection bring about between honest peers."""


@dataclass(slots=True)
class Waiting:
    """A verified update whose turn has not come, or that a job is applying now."""

    signed: SignedUpdate
    snapshot: bool = False


@dataclass(slots=True)
class Neighbor:
    """What is known of one neighbor: its tracked replica, its pace, its standing.

    ``number`` is the last update applied to ``state``, ``seq`` its place in the neighbor's log, ``claim`` says whose
    training stands in it; ``claimed`` the newest number it has proved to have published, ``goal`` what it had when we
    first heard of it, ``rejected`` the newest one whose body was refused: only a snapshot of a later one leads past it.
    ``suspected`` says what answer its log owes and since when, None while it owes none; ``retired`` how its
    organization ended its log, None while it goes on. ``missing`` says that our copy of ``state`` is lost, or not what
    its next update starts from. ``asked`` holds the numbers we asked for again: if they then come twice, nobody is to
    blame. ``served_until`` is when what was served to it would have passed
    at the assumed rate. ``spoke_at`` is when any message of its came last; ``level`` is when, and at which number, we
    had last applied all that it had published, and ``gaps`` are the seconds each update took from one such moment to
    the next; ``behind_since`` is when we first knew of one after it. ``resting`` says that the update last applied was
    a heartbeat. ``link_since`` is when the connection came or went last, before that when this peer started;
    ``returned`` says that it came back and nothing has been applied since; ``offended_at`` is when a message or update
    of its was last refused for a fault, ``offence`` for which.
    ``doubts`` are what spoke against its newest state (:class:`quidnunc.gossip.jobs.Doubt`). ``round`` is the one that
    its newest applied update names; ``deferred`` says that the update after it waits for our own round.
    ``unheard`` counts requests to it since it last said anything.
    ``last_weight``, ``last_clip`` and ``last_step`` are those of the last merge that read it, None for no merge yet.
    """

    member: Member
    weight: int
    state: bytes
    number: int = 0
    round: int = 0
    deferred: bool = False
    seq: int | None = None
    claim: Claim = INITIAL
    standing: Standing = field(default_factory=lambda: Standing(0.0, 0.0, 0.0))
    doubts: int = 0
    quarantined: bool = False
    suspected: Suspected | None = None
    retired: LogRetire | None = None
    connected: bool = False
    link_since: float | None = None
    returned: bool = False
    heard: bool = False
    missing: bool = False
    fresh: bool = False
    resting: bool = False
    claimed: int = 0
    goal: int = 0
    behind_since: float = 0.0
    rejected: int = 0
    last_advance: float | None = None
    spoke_at: float | None = None
    level: tuple[float, int] | None = None
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS_KEPT))
    cadence: float | None = None
    waiting: dict[int, Waiting] = field(default_factory=dict)
    in_flight: Waiting | None = None
    leaves: dict[int, bytes] = field(default_factory=dict)
    tokens: dict[int, bytes] = field(default_factory=dict)
    fetch_until: float | None = None
    fetch_attempts: int = 0
    unheard: int = 0
    requests: int = 0
    polled_at: float | None = None
    asked: set[int] = field(default_factory=set)
    snapshots_due: int = 0
    served: int = 0
    served_until: float = 0.0
    supplied_until: float = 0.0
    messages: int = 0
    window_since: float = 0.0
    lead_offset: int = 0
    accepted: int = 0
    refused: int = 0
    last_reason: str = ""
    offence: str = ""
    offended_at: float | None = None
    last_weight: int = 0
    last_clip: int = PPB
    last_step: int | None = None

    @property
    def log_id(self) -> bytes:
        return self.member.log_id

    @property
    def behind(self) -> bool:
        """Whether it has proved an update that we might apply and have not."""
        return self.claimed > max(self.number, self.rejected)

    @property
    def applying(self) -> int:
        """The number its replica will have once the job in flight is done."""
        return self.number if self.in_flight is None else self.in_flight.signed.update.number

    def has_published(self, number: int, now: float) -> None:
        """It has proved that it published update ``number``."""
        if number > self.claimed:
            self.behind_since = self.behind_since if self.behind else now
            self.claimed = number

    def refuse(self, reason: Reason, now: float) -> None:
        """Count a message or update of its that was refused."""
        self.refused += 1
        self.last_reason = reason.label
        if reason not in HARMLESS:
            self.offence, self.offended_at = reason.label, now

    def awaited(self, now: float) -> None:
        """This peer has started: from now on the neighbor is missed, unless it was here already."""
        if self.link_since is None:
            self.link_since = now

    def link(self, connected: bool, now: float) -> None:
        """The connection came or went."""
        if connected != self.connected:
            self.link_since = now
        self.returned = self.returned or (connected and self.heard)
        self.connected = connected
        self.fetch_until = None

    def count_message(self, now: float, settings: Settings) -> bool:
        """Count a message of its; False if it is one too many for the current window."""
        self.spoke_at = now
        if self.unheard > settings.silent_requests:
            self.fetch_until = None  # the next request need not wait as long as the last one to a silent neighbor
        self.unheard = 0
        if now - self.window_since >= settings.window_s:
            self.window_since, self.messages, self.served = now, 0, 0
        self.messages += 1
        return self.messages <= settings.messages_per_window

    def answers(self, now: float, silence_s: float) -> bool:
        """Whether anything at all was heard of it in the last ``silence_s`` seconds."""
        heard = [at for at in (self.last_advance, self.spoke_at) if at is not None]
        return bool(heard) and now - max(heard) <= silence_s

    def take_repair(self, size: int, now: float, settings: Settings) -> bool:
        """Whether a repair of ``size`` bytes may be served to it now; if so, it is counted."""
        if self.served >= settings.wants_per_window or self.served_until - now > settings.window_s:
            return False
        self.served += 1
        self.served_until = max(now, self.served_until) + size / settings.repair_bytes_per_s
        return True

    def take_supply(self, size: int, now: float, settings: Settings) -> bool:
        """Whether entries of ``size`` bytes may be sent to it now; if so, they are counted."""
        if self.supplied_until - now > settings.window_s:
            return False
        self.supplied_until = max(now, self.supplied_until) + size / settings.repair_bytes_per_s
        return True

    def remember(self, number: int, leaf: bytes, token: bytes) -> None:
        """Keep leaf and token of an applied update, to recognize a second history and to prove it."""
        self.leaves[number], self.tokens[number] = leaf, token
        for old in [n for n in self.leaves if n <= number - LEAVES_KEPT]:
            del self.leaves[old]
            self.tokens.pop(old, None)

    def freeze(self) -> list[bytes]:
        """It signed two histories: nothing of it counts any more. Returns the blobs that it leaves behind."""
        self.quarantined, self.standing = True, CONVICTED
        return self._drop_waiting()

    def retire(self, record: LogRetire) -> list[bytes]:
        """Its organization has ended its log: nothing more is expected. Returns the blobs that it leaves behind."""
        self.retired = record
        return self._drop_waiting()

    def _drop_waiting(self) -> list[bytes]:
        left = [each.signed.update.delta for each in self.waiting.values()]
        self.waiting.clear()
        return left

    def advanced(self, number: int, state: bytes, seq: int, now: float) -> None:
        """Its replica is now ``state``, published as update ``number``."""
        if self.last_advance is not None and self.number > 0:
            pace = (now - self.last_advance) / max(1, number - self.number)
            old = self.cadence
            self.cadence = pace if old is None else CADENCE_DECAY * old + (1 - CADENCE_DECAY) * pace
        self.number, self.state, self.seq = number, state, seq
        self.claimed = max(self.claimed, number)
        if not self.behind:
            self._note_gap(now)
        self.last_advance = now
        self.fresh, self.missing = True, False
        self.fetch_until, self.fetch_attempts = None, 0
        self.asked = {n for n in self.asked if n > number - LEAVES_KEPT}

    def _note_gap(self, now: float) -> None:
        """All it has published is applied: how long each took since that was so last.

        Updates that were lost come in one go. The moments between them would make it look fast, and its silence long.
        """
        if self.level is not None and self.level[1] > 0:
            since, number = self.level
            self.gaps.append((now - since) / max(1, self.number - number))
        self.level = now, self.number

    def reset_pace(self, now: float) -> None:
        """Forget what was learned of its pace: after our own absence it says nothing."""
        self.gaps.clear()
        self.cadence = None
        self.last_advance, self.level = now, (now, self.number)


def usual_interval(neighbor: Neighbor, period: float) -> float:
    """Seconds between two updates of a neighbor, as far as known, and at least our own ``period``."""
    return max(median(neighbor.gaps) if neighbor.gaps else 0.0, period)


def is_live(neighbor: Neighbor, now: float, period: float, settings: Settings) -> bool:
    """Whether a neighbor has advanced within its own usual intervals; ``period`` is our own, in seconds."""
    if neighbor.quarantined or neighbor.retired is not None or neighbor.last_advance is None:
        return False
    usual = usual_interval(neighbor, period)
    return now - neighbor.last_advance <= max(settings.live_floor_s, settings.live_intervals * usual)


def usable(neighbor: Neighbor, now: float, period: float, settings: Settings) -> bool:
    """Whether its replica takes part in a merge now."""
    if neighbor.missing or neighbor.suspected is not None:
        return False
    return neighbor.number > 0 and is_live(neighbor, now, period, settings)


def laggards(number: int, lead: int, live: Iterable[Neighbor], now: float, patience_s: float) -> list[Neighbor]:
    """Live neighbors that hold a peer with ``number`` updates back under a lead bound of ``lead``.

    One that has been silent for more than ``patience_s`` cannot: else a neighbor that stalls, and stretches its
    liveness window by doing so, would throttle everybody around it without limit.
    """
    return [
        n
        for n in live
        if lead
        and number - n.number - n.lead_offset >= lead
        and n.last_advance is not None
        and now - n.last_advance <= patience_s
    ]


def company(live: Iterable[Neighbor]) -> float:
    """How much a round counts, 0 to 1: the share of this peer and its live neighbors that train at present.

    Whoever catches up on missed rounds after the others have finished trains against nobody: undamped, its own data
    alone would pull the common model away from where all of them together had brought it.
    """
    live = list(live)
    return (1 + sum(not n.resting for n in live)) / (1 + len(live))


def drag_factor(old: float, cap: float, live: Iterable[Neighbor], now: float, period: float) -> float:
    """The next drag compensation: how much the own displacement is scaled against the pull of old replicas.

    k = EWMA_.8 of min(cap, 1 + sum_j W_ij * mean age / mean cadence), both means over the live neighbors and this peer
    itself, whose replica is half a period old when others read it. Were it left out of one of them, fast peers would
    see older replicas than slow ones do, and would count for more.
    """
    live = list(live)
    if cap <= 1.0 or not live:
        return 1.0
    paces = [period] + [n.cadence for n in live if n.cadence is not None]
    pace = fmean(paces)
    if pace <= 0:
        return old
    ages = [period / 2] + [now - n.last_advance for n in live if n.last_advance is not None]
    pull = sum(n.weight for n in live) / PPB
    return DRAG_DECAY * old + (1 - DRAG_DECAY) * min(cap, 1 + pull * fmean(ages) / pace)
