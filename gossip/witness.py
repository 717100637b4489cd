"""What a peer has seen of other logs, and what others have seen of its own.

A witness cosigns a checkpoint once its log has shown that it continues what was seen before, and once that is durable:
one log never has two roots at one size in the eyes of one witness. Everything seen is compared: the same size under
another root, or a beginning that is another one, is a proof of equivocation made of what is held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from quidnunc.crypto.checkpoint import cosign_checkpoint, open_checkpoint, origin_of, parse_checkpoint, witness_verifier
from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.crypto.fork_build import fork_of_notes
from quidnunc.crypto.fork_proof import PrefixFork
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.merkle import verify_consistency
from quidnunc.crypto.note import parse_note, verify_note
from quidnunc.crypto.policy import quorum_of
from quidnunc.crypto.suspicion import SuspicionKind
from quidnunc.gossip.attestation import (
    SUMMARY_ROWS_MAX,
    CosignatureRow,
    Suspected,
    SuspicionCleared,
    SuspicionRaised,
    WitnessSummary,
)
from quidnunc.gossip.events import Effect, Report, Send, Witness
from quidnunc.gossip.exposure import Exposure
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.hearsay import SEEN_MAX, Head, Hearsay
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import HEADS_MAX, Consistency, Cosigned, Fetch, Heads, Prove, SignedUpdate, frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.settings import Settings


class _Asked(NamedTuple):
    """A question how ``newer`` continues ``older``; ``kind`` is what its log is suspected of if it never answers."""

    older: Head
    newer: Head
    due: float
    kind: SuspicionKind = SuspicionKind.NO_CONSISTENCY


class _Kind(IntEnum):
    """Which of a log's checkpoints is told to others."""

    SHOWN = 0
    NEWEST = 1
    STRAGGLER = 2


_OWED = {
    SuspicionKind.NO_CONSISTENCY: "does not show how its log grew from {} entries to {}",
    SuspicionKind.NO_ANSWER: "shows nothing new, and does not answer how its log grew from {} entries to {}",
    SuspicionKind.STALE_HEAD: "shows an older log than it showed others, and not how it grew from {} entries to {}",
}


class Witnesses:
    """Watches the logs of others, cosigns those of neighbors, and keeps what witnesses cosign of the own log.

    ``heads`` are the checkpoints that were shown to continue each other and are durable, by log id; ``cosigned`` the
    (size, note) of the newest cosignature of each witness; ``ahead`` says why the own log cannot be gone on with, ""
    while it can.
    """

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        keys: Keybook,
        key: SecretKey,
        neighbors: dict[bytes, Neighbor],
        exposure: Exposure,
        recorder: Recorder,
        settings: Settings,
        kept: Callable[[bytes], tuple[int, int]],
        heads: dict[bytes, tuple[int, bytes, bytes]],
        cosigned: dict[bytes, tuple[int, bytes]],
        retired: Callable[[bytes], bool],
    ) -> None:
        self._federation = charter.federation_id
        self._members = {origin_of(each.log_id): each for each in charter.members}
        self._voters = [each.log_id for each in charter.witnesses(me)]
        self._retired = retired
        self._me = me
        self._keys = keys
        self._key = key
        self._neighbors = neighbors
        self._exposure = exposure
        self._recorder = recorder
        self._settings = settings
        self.heads = {log_id: Head(*each) for log_id, each in heads.items()}
        self.cosigned = dict(cosigned)
        self._hearsay = Hearsay(kept)
        self._newest = dict(self.heads)
        self._shown = dict(self.heads)
        self._seen = {log_id: {head.size: head} for log_id, head in self.heads.items()}
        self._notes = {head.note for head in self.heads.values()}
        self._asked: dict[bytes, _Asked] = {}
        self._doubt: dict[bytes, Head] = {}
        self._polled: dict[tuple[bytes, bytes, _Kind], tuple[int, float]] = {}
        self._unsummed: dict[bytes, CosignatureRow] = {}
        self._uncounted = 0
        self.unanswered: dict[bytes, int] = {}
        self.ahead = ""

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
                self.compare_own(found.size, found.root)
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
        return self._ask(neighbor, asked, _Asked(older, newer, now + self._settings.witness_s, kind), now)

    def _ask(self, neighbor: Neighbor, before: _Asked | None, question: _Asked, now: float) -> list[Effect]:
        """Ask a log how it grew; ``before`` is the question to it that got no answer, None without one."""
        log_id, (older, newer, *_) = neighbor.log_id, question
        out = self._suspect(neighbor, before, now)
        self._asked[log_id] = question
        self.unanswered[log_id] = self.unanswered.get(log_id, 0) + 1
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

    def _suspect(self, neighbor: Neighbor, asked: _Asked | None, now: float) -> list[Effect]:
        """Take note of a log that will not show how it grew; it is not merged until it does."""
        enough = self.unanswered.get(neighbor.log_id, 0) >= self._settings.suspect_unanswered
        if asked is None or neighbor.suspected is not None or not enough:
            return []
        question = frame(Prove(self._federation, asked.older.size, asked.newer.size))
        kind, due = asked.kind.value, int(asked.due * 1000)
        record = SuspicionRaised(neighbor.log_id, kind, hashlib.sha256(question.header).digest(), due)
        neighbor.suspected = Suspected(self._recorder.append(record, now), kind, due)
        owed = _OWED[asked.kind].format(asked.older.size, asked.newer.size)
        return [Report("suspicion", f"{neighbor.member.name} {owed}; it is not merged")]

    def _clear(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """The log has answered: whatever was suspected for want of that is taken back."""
        self.unanswered.pop(neighbor.log_id, None)
        if neighbor.suspected is None or neighbor.suspected.kind == SuspicionKind.OMISSION:
            return []
        return self._take_back(neighbor, "has shown how its log grew", now)

    def _take_back(self, neighbor: Neighbor, why: str, now: float) -> list[Effect]:
        assert neighbor.suspected is not None
        self._recorder.append(SuspicionCleared(neighbor.log_id, neighbor.suspected.seq), now)
        neighbor.suspected = None
        return [Report("suspicion", f"{neighbor.member.name} {why}: no longer suspected")]

    def omits(self, neighbor: Neighbor, asked: Fetch | None, now: float) -> list[Effect]:
        """Take note of a log that signs checkpoints and does not show the entries that were ``asked`` for, if any were.

        Whoever keeps no entry of it could neither prove its fork nor give it back.
        """
        if asked is None or neighbor.suspected is not None:
            return []
        kind, due = SuspicionKind.OMISSION.value, int((now + self._settings.repair_retry_s) * 1000)
        record = SuspicionRaised(neighbor.log_id, kind, hashlib.sha256(frame(asked).header).digest(), due)
        neighbor.suspected = Suspected(self._recorder.append(record, now), kind, due)
        owed = f"does not show its entries from {asked.first} on, of {asked.last}"
        return [Report("suspicion", f"{neighbor.member.name} {owed}; it is not merged")]

    def shows(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """The log has shown entries that were asked for."""
        if neighbor.suspected is None or neighbor.suspected.kind != SuspicionKind.OMISSION:
            return []
        return self._take_back(neighbor, "has shown its entries", now)

    def on_consistency(self, neighbor: Neighbor, answer: Consistency, now: float) -> list[Effect]:
        """How a log's newer checkpoint continues the older one, or that it does not; raises RemoteProtocolError."""
        asked = self._asked.get(neighbor.log_id)
        if asked is None or (asked.older.size, asked.newer.size) != (answer.old, answer.new):
            raise RemoteProtocolError(Reason.UNSOLICITED, f"sizes {answer.old} and {answer.new} were not asked for")
        older, newer = asked.older, asked.newer
        verify_consistency(answer.old, answer.new, answer.root, newer.root, answer.path)
        del self._asked[neighbor.log_id]
        cleared = self._clear(neighbor, now)
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

    def serve(self, neighbor: Neighbor, prove: Prove) -> list[Effect]:
        """Show a neighbor how the own log grew, as far as it is durable."""
        if prove.new > self._recorder.signed:
            return []
        log = self._recorder.log
        path = tuple(log.consistency(prove.old, prove.new))
        answer = Consistency(self._federation, prove.old, prove.new, log.root_at(prove.old), path)
        return [Send(neighbor.member.transport, frame(answer))]

    def on_cosigned(self, witness: Member, note: bytes, now: float) -> bool:
        """A witness's cosignature under an own checkpoint, False if that is not held; raises RemoteProtocolError."""
        found = open_checkpoint(note, origin_of(self._me), self._keys.of(self._me))
        if not self.compare_own(found.size, found.root):
            return False
        key, parsed = witness_verifier(witness.log_id, witness.witness), parse_note(note)
        if not verify_note(parsed, [key]):
            raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"{witness.name} did not cosign this checkpoint")
        if found.size > self.cosigned.get(witness.log_id, (0, b""))[0]:
            self.cosigned[witness.log_id] = (found.size, note)
            self._recorder.keep_cosigned(witness.log_id, found.size, note)
            made = next(line for line in parsed.signatures if (line.name, line.key_id) == (key.name, key.id))
            self._unsummed[witness.log_id] = CosignatureRow(witness.log_id, found.size, made.signature)
            self._sum_up(now)
        return True

    def _sum_up(self, now: float) -> None:
        """One entry for many cosignatures; it waits for the next commit."""
        self._uncounted += 1
        if self._uncounted >= self._settings.summary_cosignatures:
            rows = tuple(row for _, row in sorted(self._unsummed.items()))[:SUMMARY_ROWS_MAX]
            self._recorder.append(WitnessSummary(self._uncounted, rows), now)
            self._unsummed.clear()
            self._uncounted = 0

    def compare_own(self, size: int, root: bytes) -> bool:
        """Whether the own key's checkpoint is one of this log; else the log is not all that the key has signed."""
        log = self._recorder.log
        if size <= self._recorder.signed and log.root_at(size) == root:
            return True
        what = f"{size} entries, this ledger holds {log.size}" if size > log.size else f"another entry below {size}"
        self.ahead = f"neighbors hold a checkpoint that this peer's key signed over {what}"
        return False

    @property
    def counting(self) -> list[bytes]:
        """The witnesses whose cosignatures count: not those that have ended their log, and so will give no more."""
        return [log_id for log_id in self._voters if not self._retired(log_id)]

    @property
    def quorum(self) -> int:
        """How many of :attr:`counting` must have cosigned; 0 where there is none."""
        counting = self.counting
        return quorum_of(len(counting)) if counting else 0

    def witnessed(self) -> tuple[int, int]:
        """(k, size): the largest own size that a quorum has cosigned and how many have, (0, 0) without a quorum."""
        counting, need = self.counting, self.quorum
        sizes = sorted((self.cosigned[each][0] for each in counting if each in self.cosigned), reverse=True)
        if not need or len(sizes) < need:
            return 0, 0
        size = sizes[need - 1]
        return sum(each >= size for each in sizes), size

    # -- telling ------------------------------------------------------------------------------------------------

    def greet(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """The newest checkpoint of its own log, for a neighbor that has just come up: it may have forgotten it.

        One that comes only to show the end of its log will show nothing more: it is asked at once.
        """
        self._polled = {key: said for key, said in self._polled.items() if key[0] != neighbor.log_id}
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
        out: list[Effect] = []
        shown = self._shown
        known = [(log_id, _Kind.SHOWN, head) for log_id, head in shown.items()]
        known += [(log_id, _Kind.NEWEST, head) for log_id, head in self._newest.items() if head != shown.get(log_id)]
        known += [(log_id, _Kind.STRAGGLER, head) for log_id, head in self._hearsay.stragglers(self._newest)]
        for neighbor in self._neighbors.values():
            if not neighbor.connected or neighbor.quarantined:
                continue
            fresh = [
                (key, head)
                for log_id, kind, head in sorted(known)
                if log_id != neighbor.log_id and not self._told(key := (neighbor.log_id, log_id, kind), head, now)
            ][:HEADS_MAX]
            self._polled.update((key, (head.size, now)) for key, head in fresh)
            if fresh:
                notes = tuple(head.note for _, head in fresh)
                out.append(Send(neighbor.member.transport, frame(Heads(self._federation, notes))))
        return out

    def _told(self, key: tuple[bytes, bytes, _Kind], head: Head, now: float) -> bool:
        """Whether that was said lately; a word may be lost, and of a log that has ended there is no newer one."""
        size, at = self._polled.get(key, (0, now))
        return size == head.size and now < at + self._settings.reminder_s
