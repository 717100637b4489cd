"""Checkpoints of other logs: whatever is seen is compared, and what a neighbor shows to continue it is cosigned.

A witness cosigns a checkpoint once its log has shown that it continues what was seen before, and once that is durable:
one log never has two roots at one size in the eyes of one witness. Everything seen is compared: the same size under
another root, or a beginning that is another one, is a proof of equivocation made of what is held.
"""

from __future__ import annotations

from collections.abc import Callable

from quidnunc.crypto.checkpoint import cosign_checkpoint, open_checkpoint, origin_of, parse_checkpoint
from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.crypto.fork_build import fork_of_notes
from quidnunc.crypto.fork_proof import PrefixFork
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.merkle import verify_consistency
from quidnunc.crypto.note import parse_note
from quidnunc.crypto.suspicion import SuspicionKind
from quidnunc.gossip.cosignatures import Cosignatures
from quidnunc.gossip.events import Effect, Send, Witness
from quidnunc.gossip.exposure import Exposure
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.hearsay import SEEN_MAX, Head, Hearsay
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Consistency, Cosigned, Heads, Prove
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.pollination import Kind, Pollination
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.signed_update import SignedUpdate
from quidnunc.gossip.suspicions import Question, Suspicions


class Witnesses:
    """Watches the logs of others, and cosigns those of neighbors; ``own`` is what others have seen of the own log.

    ``heads`` are the checkpoints that were shown to continue each other and are durable, by log id.
    """

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        keys: Keybook,
        key: SecretKey,
        neighbors: dict[bytes, Neighbor],
        exposure: Exposure,
        suspicions: Suspicions,
        settings: Settings,
        kept: Callable[[bytes], tuple[int, int]],
        heads: dict[bytes, tuple[int, bytes, bytes]],
        own: Cosignatures,
    ) -> None:
        self._federation = charter.federation_id
        self._members = {origin_of(each.log_id): each for each in charter.members}
        self._me = me
        self._keys = keys
        self._key = key
        self._neighbors = neighbors
        self._exposure = exposure
        self._settings = settings
        self.heads = {log_id: Head(*each) for log_id, each in heads.items()}
        self.own = own
        self._suspicions = suspicions
        self._pollination = Pollination(self._federation, neighbors, settings)
        self._hearsay = Hearsay(kept)
        self._newest = dict(self.heads)
        self._shown = dict(self.heads)
        self._seen = {log_id: {head.size: head} for log_id, head in self.heads.items()}
        self._notes = {head.note for head in self.heads.values()}
        self._asked: dict[bytes, Question] = {}
        self._doubt: dict[bytes, Head] = {}

    def newest(self, log_id: bytes) -> Head | None:
        """The newest checkpoint of a log that was seen, whoever showed it; None if none was."""
        return self._newest.get(log_id)

    # -- other logs ---------------------------------------------------------------------------------------------

    def on_update(self, signed: SignedUpdate, now: float) -> list[Effect]:
        """The checkpoint in an update's token, which has been verified."""
        token = signed.token
        return self.on_head(signed.author, Head(token.size, token.root, token.note), now)

    def on_head(self, log_id: bytes, head: Head, now: float) -> list[Effect]:
        """A checkpoint that a log showed itself and its key signed."""
        return self._observe(log_id, head, now)

    def on_end(self, log_id: bytes, head: Head, now: float) -> list[Effect]:
        """The last checkpoint of a log, asked about at once: its owner stays only for a moment to answer."""
        self._asked.pop(log_id, None)
        return self._observe(log_id, head, now)

    def on_heads(self, neighbor: Neighbor, message: Heads, now: float) -> list[Effect]:
        """Checkpoints that a neighbor has seen; raises RemoteProtocolError for one that its log did not sign."""
        out: list[Effect] = []
        for note in message.notes:
            if note in self._notes:
                continue  # most have come by another way before: byte for byte what was verified then says nothing new
            origin = parse_checkpoint(parse_note(note).text).origin
            member = self._members.get(origin)
            if member is None:
                raise RemoteProtocolError(Reason.STRANGER, f"checkpoint of {origin[:96]}, which is no member's log")
            found = open_checkpoint(note, origin, self._keys.counting(member.log_id))
            if member.log_id == self._me:
                self.own.compare(found.size, found.root)
            else:
                out += self.on_heard(neighbor, member.log_id, Head(found.size, found.root, note), now)
        return out

    def on_heard(self, neighbor: Neighbor, log_id: bytes, head: Head, now: float) -> list[Effect]:
        """A checkpoint of another log that a neighbor has seen, or of its own, and whose signature holds."""
        return self._observe(log_id, head, now, neighbor.log_id if log_id != neighbor.log_id else b"")

    def _observe(self, log_id: bytes, head: Head, now: float, source: bytes = b"") -> list[Effect]:
        """A checkpoint as its log shows it, or as the neighbor ``source`` has seen it."""
        if self._exposure.frozen(log_id) or head.size == 0:
            return []
        seen = self._seen.setdefault(log_id, {})
        known = seen.get(head.size)
        if known is not None:
            same = known.root == head.root
            return [] if same else self._exposure.prove(fork_of_notes(known.note, head.note), now)
        neighbor = self._neighbors.get(log_id)
        if neighbor is not None and neighbor.retired is not None and head.size > neighbor.retired.last + 1:
            return []  # nobody may sign behind the end of a log: that is no head of it
        seen[head.size] = head
        self._notes.add(head.note)
        if len(seen) > SEEN_MAX:
            self._notes.discard(seen.pop(min(seen)).note)
        newest = self._newest.get(log_id)
        if newest is None or head.size > newest.size:
            self._newest[log_id] = head
        if source:
            self._doubt[log_id] = head
            self._hearsay.hear(log_id, head, source)
            asked = [] if log_id not in self.heads else self._follow(log_id, self.heads[log_id], now)
            return [*asked, *self._compare(log_id, now)]
        if log_id not in self._shown or head.size > self._shown[log_id].size:
            self._shown[log_id] = head
        return self._follow(log_id, head, now)

    def _compare(self, log_id: bytes, now: float) -> list[Effect]:
        """Where a log does not say itself how what was heard of it fits, what is kept of it may."""
        neighbor, asked = self._neighbors.get(log_id), self._asked.get(log_id)
        silent = neighbor is not None and (not neighbor.connected or (asked is not None and now >= asked.due))
        if not silent or self._exposure.frozen(log_id):
            return []
        return list(self._hearsay.compare(log_id, self._seen[log_id].values(), now, self._settings.witness_s))

    def _follow(self, log_id: bytes, head: Head, now: float) -> list[Effect]:
        """Ask the log how ``head`` fits with what it showed before, or take it where nothing was seen before.

        What others heard of it goes first, as soon as the log itself has shown more: it may be another story.
        """
        neighbor = self._neighbors.get(log_id)
        if neighbor is None or not neighbor.connected:
            return []
        trusted = self.heads.get(log_id)
        if trusted is None:
            return self._advance(neighbor, head, now)
        asked = self._asked.get(log_id)
        if asked is not None and now < asked.due:
            return []
        doubt, kind = self._doubt.get(log_id), SuspicionKind.NO_CONSISTENCY
        if doubt and doubt.size < trusted.size:
            older, newer = doubt, trusted
        elif doubt and doubt.size > max(trusted.size, head.size) and head is not trusted:
            older, newer, kind = trusted, doubt, SuspicionKind.STALE_HEAD
        else:
            older, newer = sorted((trusted, head))
        if older.size == newer.size:
            return self._exposure.prove(fork_of_notes(older.note, newer.note), now)
        if asked is not None and asked.kind is not kind:
            kind = SuspicionKind.NO_CONSISTENCY  # stale is only what stays behind all the time
        return self._ask(neighbor, asked, Question(older, newer, now + self._settings.witness_s, kind), now)

    def _ask(self, neighbor: Neighbor, before: Question | None, question: Question, now: float) -> list[Effect]:
        """Ask a log how it grew; ``before`` is the question to it that got no answer, None without one."""
        log_id, (older, newer, *_) = neighbor.log_id, question
        out = [] if before is None else self._suspicions.unanswered(neighbor, before, now)
        self._asked[log_id] = question
        self._suspicions.asked(log_id)
        return [*out, Send(neighbor.member.transport, frame(Prove(self._federation, older.size, newer.size)))]

    def remind(self, now: float) -> list[Effect]:
        """Ask again what got no answer: it was lost, or its log keeps silent."""
        out: list[Effect] = []
        for log_id, asked in list(self._asked.items()):
            neighbor = self._neighbors.get(log_id)
            if neighbor is None or not neighbor.connected or self._exposure.frozen(log_id):
                continue
            if now < asked.due - self._settings.witness_s + self._settings.reminder_s:
                continue
            question = asked._replace(due=now + self._settings.witness_s)
            newest = self._newest[log_id]
            if newest.size > asked.newer.size and newest != self._doubt.get(log_id):
                fresh = newest if asked.older == self.heads[log_id] else asked.newer
                question = question._replace(newer=fresh, kind=SuspicionKind.NO_CONSISTENCY)
            elif asked.kind is not SuspicionKind.STALE_HEAD:
                question = question._replace(kind=SuspicionKind.NO_ANSWER)
            out += self._ask(neighbor, asked, question, now)
        return [*(effect for log_id in self._seen for effect in self._compare(log_id, now)), *out]

    def on_consistency(self, neighbor: Neighbor, answer: Consistency, now: float) -> list[Effect]:
        """How a log's newer checkpoint continues the older one, or that it does not; raises RemoteProtocolError."""
        asked = self._asked.get(neighbor.log_id)
        if asked is None or (asked.older.size, asked.newer.size) != (answer.old, answer.new):
            raise RemoteProtocolError(Reason.UNSOLICITED, f"sizes {answer.old} and {answer.new} were not asked for")
        older, newer = asked.older, asked.newer
        verify_consistency(answer.old, answer.new, answer.root, newer.root, answer.path)
        del self._asked[neighbor.log_id]
        cleared = self._suspicions.answered(neighbor, now)
        if answer.root != older.root:
            return [*cleared, *self._exposure.prove(PrefixFork(older.note, newer.note, answer.root, answer.path), now)]
        if self._doubt.get(neighbor.log_id) in (older, newer):
            del self._doubt[neighbor.log_id]
        self._hearsay.place(neighbor.log_id, older.size, newer.size)
        grown = newer.size > self.heads[neighbor.log_id].size
        out = self._advance(neighbor, newer, now) if grown else []
        return [*cleared, *out, *self._follow(neighbor.log_id, newer, now)]

    def _advance(self, neighbor: Neighbor, head: Head, now: float) -> list[Effect]:
        """Persist, then cosign: in this order, whatever happens in between."""
        self.heads[neighbor.log_id] = head
        note = cosign_checkpoint(head.note, self._me, self._key, time=int(now))
        told = Send(neighbor.member.transport, frame(Cosigned(self._federation, note)))
        return [Witness(neighbor.log_id, *head), told]

    # -- the own log --------------------------------------------------------------------------------------------

    @property
    def cosigned(self) -> dict[bytes, tuple[int, bytes]]:
        """The (size, note) of the newest cosignature of each witness of the own log."""
        return self.own.newest

    @property
    def ahead(self) -> str:
        """Why the own log cannot be gone on with, "" while it can."""
        return self.own.ahead

    @property
    def counting(self) -> list[bytes]:
        """The witnesses of the own log whose cosignatures count."""
        return self.own.counting

    @property
    def quorum(self) -> int:
        """How many of :attr:`counting` must have cosigned; 0 where there is none."""
        return self.own.quorum

    def witnessed(self) -> tuple[int, int]:
        """(k, size): the largest own size that a quorum has cosigned and how many have, (0, 0) without a quorum."""
        return self.own.witnessed()

    # -- telling ------------------------------------------------------------------------------------------------

    def greet(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """The newest checkpoint of its own log, for a neighbor that has just come up: it may have forgotten it.

        One that comes only to show the end of its log will show nothing more: it is asked at once.
        """
        self._pollination.forget(neighbor.log_id)
        newest, head = self._newest.get(neighbor.log_id), self.heads.get(neighbor.log_id)
        if newest is None:
            return []
        last = neighbor.retired is not None and (head is None or head.size < newest.size)
        asked = self._follow(neighbor.log_id, newest, now) if last else []
        return [*asked, Send(neighbor.member.transport, frame(Heads(self._federation, (newest.note,))))]

    def pollinate(self, now: float) -> list[Effect]:
        """The newest checkpoints of other logs, to every neighbor those it has not been told, or not for long.

        Of a log that shows itself here both what it showed and what others heard of it, and of any what some neighbor
        alone told: they may be two stories, and the shorter one would else stay behind the longer.
        """
        shown = self._shown
        known = [(log_id, Kind.SHOWN, head) for log_id, head in shown.items()]
        known += [(log_id, Kind.NEWEST, head) for log_id, head in self._newest.items() if head != shown.get(log_id)]
        known += [(log_id, Kind.STRAGGLER, head) for log_id, head in self._hearsay.stragglers(self._newest)]
        return self._pollination.tell(known, now)
