"""What holds a turn back: silence at the start, replicas to catch up with, the lead bound, isolation.

Nothing here waits for a time that a user must guess, and no single neighbor can hold a peer back for good.
"""

from __future__ import annotations

from typing import NamedTuple

from quidnunc.gossip.budget import Budget
from quidnunc.gossip.events import Effect
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.neighbor import Neighbor, is_live, laggards
from quidnunc.gossip.pace import Pace
from quidnunc.gossip.private_sum import awaited
from quidnunc.gossip.publisher import Publisher
from quidnunc.gossip.repairs import Repairs
from quidnunc.gossip.settings import Settings

NAMED_MAX = 4
NEAR_LEADS = 4
"""Within so many lead bounds of us, numbers of neighbors are compared to tell the slow from those they hold back."""


class Hold(NamedTuple):
    """Why no turn may start now (empty if one may), and the neighbors to be asked for news.

    ``lead`` says that it is the lead bound, and the neighbors those that hold the turn back.
    """

    why: str
    ask: list[Neighbor]
    lead: bool = False


FREE = Hold("", [])


class Gate:
    """Decides whether a turn may start."""

    def __init__(
        self,
        charter: Charter,
        neighbors: dict[bytes, Neighbor],
        repairs: Repairs,
        publisher: Publisher,
        budget: Budget,
        pace: Pace,
        settings: Settings,
    ) -> None:
        self._charter = charter
        self._everybody = neighbors
        self._repairs = repairs
        self._publisher = publisher
        self._budget = budget
        self._pace = pace
        self._settings = settings
        self._woke_at: float | None = None

    @property
    def _neighbors(self) -> list[Neighbor]:
        """Those of whom anything is expected."""
        return [n for n in self._everybody.values() if n.retired is None]

    def before_the_first(self, now: float) -> Hold:
        """Before the first turn since our start: hear enough neighbors, then have their replicas."""
        if self._woke_at is None:
            self._woke_at = now
        silent = [n for n in self._neighbors if not n.heard]
        total = len(self._neighbors)
        heard, needed = total - len(silent), self._needed(total, now - self._woke_at)
        if heard < needed:
            why = f"heard {heard} of {needed} neighbors needed to start; {unheard(silent)}"
            return Hold(why, [n for n in self._neighbors if n.connected])
        behind = [n for n in self._neighbors if self._catching_up(n)]
        return Hold(f"catching up with {names(behind)}", behind) if behind else FREE

    def _needed(self, total: int, waited_s: float) -> int:
        """Neighbors to be heard first: with none of them, a head start costs privacy and serves nobody."""
        ahead = sum(n.claimed > self._settings.absent_rounds for n in self._neighbors)
        if self._publisher.number or 2 * ahead > total:  # the federation runs: no need to wait for the dead
            return total if waited_s < self._settings.gather_s else min(1, total)
        return total if self._charter.rounds.start == "all" else min(total, total // 2 + 1)

    def _catching_up(self, neighbor: Neighbor) -> bool:
        """Whether to wait for a neighbor's replica, as it stood when we first heard of it."""
        reached = neighbor.number >= neighbor.goal and not neighbor.missing
        stuck = neighbor.requests >= self._settings.fetch_attempts
        return self._repairs.lacks(neighbor) and not (reached or neighbor.deferred or stuck)

    def live(self, now: float) -> list[Neighbor]:
        """Neighbors inside their liveness window."""
        return [n for n in self._everybody.values() if is_live(n, now, self._pace.period, self._settings)]

    def before_any(self, now: float, *, finished: bool, in_step: int | None = None) -> Hold:
        """Before any turn: the lead bound, and no budget for nobody; neither binds who trains no more.

        In a private sum releases of round ``in_step`` are waited for instead, also by who trains no more.

        Nobody waits for a neighbor that is not connected: it could not be heard, and when it is back its numbers are
        compared from there. Nor does the lead bound for one of which nothing is heard, but where privacy is spent
        somebody must be there to hear of it, and a link that was cut unnoticed looks connected: one who is asked where
        it stands answers at once, whether it trains or not, so that two never wait for each other.
        """
        if finished and in_step is None:
            return FREE
        silence_s, patience_s = self._pace.silence_s, self._pace.patience_s
        there = [n for n in self._neighbors if n.answers(now, silence_s) and n.connected]
        live = frozenset(n.log_id for n in self.live(now))
        live_there = [n for n in there if n.log_id in live]
        if in_step is None:
            slow = laggards(self._publisher.number, self._charter.rounds.lead, live_there, now, patience_s)
        else:
            slow = awaited(live_there, in_step, now, patience_s)
        if slow:
            return Hold(f"waiting for {names(slow)}", slow, lead=True)
        if self._budget.private and not finished and not there:
            connected = [n for n in self._neighbors if n.connected]
            why = f"{names(connected)} did not answer" if connected else "nobody is connected"
            return Hold(f"isolated: no budget is spent while nobody would hear of it ({why})", connected)
        return FREE

    def to_blame(self, hold: Hold) -> list[bytes]:
        """Whom the lead bound waits for in the end: those furthest behind, if they hold back the others as well.

        Others are a whole lead bound ahead of them then. One that was absent may be far behind and keep pace all the
        same: it is compared with nobody.
        """
        if not hold.lead:
            return []
        near = self._publisher.number - NEAR_LEADS * self._charter.rounds.lead
        compared = [n for n in hold.ask if n.number >= near] or hold.ask
        last = min(n.number for n in compared) + self._charter.rounds.lead - 1
        return [n.log_id for n in hold.ask if n.number <= last or n not in compared]

    def alone(self, now: float, *, finished: bool) -> bool:
        """Whether to spend no privacy because no neighbor is live and connected.

        As long as one is connected the turn is taken all the same, as a heartbeat: peers that waited for a sign of
        life from each other and gave none would wait for ever.
        """
        return bool(
            self._budget.private
            and not finished
            and self._publisher.number
            and not any(neighbor.connected for neighbor in self.live(now))
        )

    def poll(self, neighbors: list[Neighbor], now: float) -> list[Effect]:
        """Ask ``neighbors`` where they stand, each at most once per ``repair_retry_s``."""
        out: list[Effect] = []
        for neighbor in neighbors:
            due = neighbor.polled_at is None or now - neighbor.polled_at >= self._settings.repair_retry_s
            if neighbor.connected and due:
                neighbor.polled_at = now
                out.append(self._publisher.hello(neighbor.member.transport, reply=True))
        return out


def names(neighbors: list[Neighbor]) -> str:
    """Neighbors for a sentence: the first few by name."""
    return ", ".join(n.member.name for n in neighbors[:NAMED_MAX]) + (" ..." if len(neighbors) > NAMED_MAX else "")


def unheard(neighbors: list[Neighbor]) -> str:
    """Who has not answered, for a sentence: those that cannot be asked apart from those that were."""
    apart = (("not connected", False), ("silent", True))
    found = ((what, [n for n in neighbors if n.connected is there]) for what, there in apart)
    return "; ".join(f"{what}: {names(them)}" for what, them in found if them)
