"""Before the first signature of a run: what do neighbors know of the own log that this disk does not?

A home may be an older copy of itself. If it signed anything, its key would have signed two histories, and would be
frozen for good. So a starting peer first asks its neighbors for the newest checkpoint of its log that they have seen.
If they know of nothing newer it starts. If they do, it takes the entries back from those that keep them
(``gossip/mirrors.py``), believes only what hashes to what its own key signed, watches for a moment whether the log
grows on, which would mean that it runs somewhere else as well, records ``log.recover`` and starts from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import StrEnum

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of
from quidnunc.crypto.errors import LedgerBehind, Reason, RemoteProtocolError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.policy import quorum_of
from quidnunc.gossip.cosignatures import Cosignatures
from quidnunc.gossip.events import Effect, Rebuild, Report, Send, SetTimer
from quidnunc.gossip.gate import unheard
from quidnunc.gossip.gathering import Gathering, Kept
from quidnunc.gossip.hearsay import Head
from quidnunc.gossip.keybook import Keybook, key_changes, own_changes
from quidnunc.gossip.message import Entries, Known, Newest
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import LogRecover, RecoveredFrom, Recovery
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.settings import Settings

REJOIN_TIMER = "rejoin"
GROWTHS = 3
"""How often the own log may be found to have grown while it is recovered, before another instance must be writing."""


class Stage(StrEnum):
    """What a starting peer is at."""

    ASKING = "asking"
    FETCHING = "fetching"
    WATCHING = "watching"
    DONE = "done"


class Rejoin:
    """Asks for the newest own checkpoint, and takes back the entries that are missing here.

    ``active`` until this peer may sign. A log without entries is ``fresh``, and may begin with nobody there, unless it
    was ``copied`` or ``lost``: then it may have had some. One that was lost never begins, it only comes back.
    """

    def __init__(
        self,
        federation: bytes,
        me: bytes,
        keys: Keybook,
        neighbors: dict[bytes, Neighbor],
        own: Cosignatures,
        recorder: Recorder,
        settings: Settings,
        *,
        current: bool,
        copied: bool = False,
        lost: bool = False,
        log_key: Callable[[int], SecretKey] | None = None,
    ) -> None:
        self._federation = federation
        self._me = me
        self._keys = keys
        self._held_keys = keys.of(me)
        self._log_key = log_key
        self._neighbors = neighbors
        self._own = own
        self._recorder = recorder
        self._settings = settings
        self.lost = lost and recorder.size == 0
        self.fresh = recorder.size == 0 and not (copied or lost)
        done = current or not (self._trusted or self.lost)
        self.stage = Stage.DONE if done else Stage.ASKING
        self._since: float | None = None
        self._asked: set[bytes] = set()
        self._answers: dict[bytes, Kept] = {}
        self._target: Head | None = None
        self._told: dict[bytes, bytes] = {}
        self._gathering = Gathering(federation, me, recorder, settings)
        self._growths = 0
        self._short = False

    @property
    def short(self) -> bool:
        """Whether it went on, and those that have answered are still fewer than a quorum of those that go on."""
        return self._short and len(self._answers) < self.quorum

    @property
    def active(self) -> bool:
        """Whether nothing may be signed yet."""
        return self.stage != Stage.DONE

    @property
    def can_follow(self) -> bool:
        """Whether keys that have changed behind what this ledger holds can be taken in: nothing was signed yet."""
        return self.active and self._log_key is not None

    @property
    def _trusted(self) -> list[Neighbor]:
        """The neighbors whose word counts: a log that is proven to have forked may say anything."""
        return [n for n in self._neighbors.values() if not n.quarantined and n.retired is None]

    @property
    def quorum(self) -> int:
        """How many neighbors must have answered for certainty."""
        return quorum_of(max(1, len(self._trusted)))

    @property
    def why(self) -> str:
        """What an operator should know while this peer waits."""
        if self._target is None:
            silent = [n for n in self._trusted if n.log_id not in self._answers]
            if self.lost and len(self._answers) >= self.quorum:
                told = f"none of the {len(self._answers)} neighbors that answered knows an entry of it"
                return f"this ledger was lost, and {told}; {unheard(silent)}"
            what = "whether this ledger is all that it has signed"
            return f"asking neighbors {what}: {len(self._answers)} of {self.quorum} needed; {unheard(silent)}"
        known = f"neighbors know {self._target.size} entries of this log, this ledger holds {self._recorder.size}"
        if self.stage == Stage.WATCHING:
            return f"{known}; all are back, watching for a moment whether the log grows on elsewhere"
        if self._candidates():
            return f"{known}; {len(self._gathering.entries)} are back"
        return f"{known}; no connected neighbor keeps entry {self._gathering.need}: they are asked again when they come"

    # -- asking -------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """Begin to ask; whoever is connected later is asked then."""
        self._since = now
        pause = min(self._settings.repair_retry_s, self._settings.rejoin_s)
        return [*self._ask_all(), *self._go_on(now), SetTimer(REJOIN_TIMER, pause)]

    def ask(self, neighbor: Neighbor) -> list[Effect]:
        """Ask one neighbor, unless its word does not count."""
        if neighbor.quarantined:
            return []
        self._asked.add(neighbor.log_id)
        return [Send(neighbor.member.transport, frame(Newest(self._federation)))]

    def _ask_all(self) -> list[Effect]:
        """Ask whoever has not answered; and all when nobody keeps what is missing, since somebody may by now."""
        everybody = (self.stage == Stage.FETCHING and not self._candidates()) or (self.lost and not self._target)
        asked = (n for n in self._trusted if n.connected and (everybody or n.log_id not in self._answers))
        return [effect for neighbor in asked for effect in self.ask(neighbor)]

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: ask again, and go on if nothing holds this peer any more."""
        if not self.active or self._since is None:
            return []
        out = self._ask_all() if now >= self._since else []
        return [*out, *self._go_on(now), SetTimer(REJOIN_TIMER, self._settings.repair_retry_s)]

    def on_known(self, neighbor: Neighbor, message: Known, now: float) -> list[Effect]:
        """What a neighbor knows of the own log; raises RemoteProtocolError for a checkpoint that the own key did not
        sign, and for an answer that was not asked for."""
        if neighbor.log_id not in self._asked:
            raise RemoteProtocolError(Reason.UNSOLICITED, "what it knows of this log was not asked for")
        if message.note:
            found = open_checkpoint(message.note, origin_of(self._me), self._keys.of(self._me))
            if found.size > self._recorder.size and self.active:
                self._learn(neighbor, Head(found.size, found.root, message.note))
            elif not self._own.compare(found.size, found.root):
                return []
        if self.stage == Stage.WATCHING and self._since is not None and now < self._since:
            return []  # it was asked before the watch began
        self._answers[neighbor.log_id] = Kept(message.first, message.last)
        return self._go_on(now)

    def on_own_head(self, neighbor: Neighbor, head: Head, now: float) -> list[Effect]:
        """A checkpoint of the own log that came with a change of its keys, which this ledger does not hold."""
        if head.size > self._recorder.size:
            self._learn(neighbor, head)
            return self._go_on(now)
        self._own.compare(head.size, head.root)
        return []

    def _learn(self, neighbor: Neighbor, head: Head) -> None:
        target = self._target
        if target is not None and target.size == head.size and target.root != head.root:
            self._own.ahead = f"this peer's key signed two histories of {head.size} entries"
            return
        self._told[neighbor.log_id] = hashlib.sha256(head.note).digest()
        if target is None or head.size > target.size:
            self._target = head

    def _settled(self, now: float) -> bool:
        """Whether enough was heard: a quorum, or after a while all that are connected and at least one.

        A log without entries has shown nobody anything: it may begin with nobody there. One that was lost has only what
        others know: nothing less than a quorum will do.
        """
        if self._since is None:
            return False
        if len(self._answers) >= self.quorum:
            return True
        if self.lost:
            return False
        owed = [n for n in self._trusted if n.connected and n.log_id not in self._answers]
        waited = now - self._since >= self._settings.rejoin_s
        return waited and not owed and (bool(self._answers) or self.fresh)

    def _go_on(self, now: float) -> list[Effect]:
        if not self.active or self._own.ahead or not self._settled(now):
            return []
        if self._target is None:
            if self.lost:
                return []
            self._short = len(self._answers) < self.quorum and not self.fresh
            self.stage = Stage.DONE
            return []
        if self._gathering.need < self._target.size:
            if self.stage == Stage.WATCHING:
                self._growths += 1
            self.stage = Stage.FETCHING
            return self._fetch(now)
        return self._adopt(now) if self.stage == Stage.WATCHING else []

    # -- fetching -----------------------------------------------------------------------------------------------

    def _candidates(self) -> list[Neighbor]:
        return self._gathering.candidates(self._trusted, self._answers)

    def _fetch(self, now: float) -> list[Effect]:
        """Ask for the next entries, unless an answer may still come; raises LedgerBehind when nobody can have them."""
        target = self._target
        if target is None or now < self._gathering.due:
            return []
        if self._growths >= GROWTHS:
            self._own.ahead = f"this log grows on, to {target.size} entries: another instance signs with its key"
            return [Report("behind", self._own.ahead)]
        able = self._candidates()
        if not able:
            if all(n.connected and n.log_id in self._answers for n in self._trusted):
                raise LedgerBehind(self._recorder.size, target.size, self._gathering.need)
            return []
        return self._gathering.ask(able[0], target.size, now)

    def on_entries(self, neighbor: Neighbor, message: Entries, now: float) -> list[Effect]:
        """Own entries from a neighbor that keeps them; raises RemoteProtocolError for what they cannot be."""
        target = self._target
        if not self.active or target is None or not self._gathering.expects(neighbor, message):
            return []
        if not message.entries:
            return []  # not now: the timer asks again
        self._gathering.take(neighbor, message.entries, target.size)
        return self._fetch(now) if self._gathering.need < target.size else self._complete(target, now)

    def _complete(self, target: Head, now: float) -> list[Effect]:
        """All entries are here: they must be what the own key signed; then watch whether there are more."""
        self._gathering.check(target)
        self.stage = Stage.WATCHING
        self._answers.clear()
        self._since = now + self._settings.rejoin_s
        return [SetTimer(REJOIN_TIMER, self._settings.rejoin_s)]

    # -- going on -----------------------------------------------------------------------------------------------

    def _adopt(self, now: float) -> list[Effect]:
        """Make the entries the own ledger's again, record it under a new checkpoint, and start from there."""
        assert self._target is not None
        had, to = self._recorder.size, self._target.size
        kept = self._settings.keep_deltas
        sources = tuple(RecoveredFrom(who, note) for who, note in sorted(self._told.items()))
        record = LogRecover(had, to, sources, Recovery.LOST if self.lost else Recovery.OLDER_COPY)
        changed = self._follow_keys()
        if self._own.ahead:
            return [Report("behind", self._own.ahead)]
        commit = self._recorder.recover(
            self._gathering.entries, self._target.note, self._me, record, now, kept, changed
        )
        self.stage = Stage.DONE
        told = f"this ledger held {had} entries, neighbors knew {to}: all are back, and what they spent is counted"
        return [commit, Report("recovered", told), Rebuild()]

    def _follow_keys(self) -> list[tuple[int, SecretKey]]:
        """Sign with the key that the entries which came back lead to; (seq, key that signed it) of each change.

        The entries say it, not the notices that were needed to believe them.
        """
        self._keys.put(self._me, self._held_keys)
        try:
            changes = key_changes(self._gathering.entries)
            keys = own_changes(self._keys, self._me, changes)
        except RemoteProtocolError as error:
            self._own.ahead = f"the key of this log signed a change of keys that does not hold: {error.message}"
            return []
        if not changes:
            return []
        key = None if self._log_key is None else self._log_key(keys.epoch)
        if self._log_key is None or key is None or key.public != keys.spans[-1].public:
            self._own.ahead = f"its key of epoch {keys.epoch} signs this log, which this peer does not have"
            return []
        self._recorder.sign_with(key, keys.epoch)
        return [(seq, self._log_key(keys.epoch_at(seq + 1))) for seq in sorted(changes)]
