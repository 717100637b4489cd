"""A journal lived again: a node built the same way is told the same, and whatever it does otherwise is found.

Effects are performed on nothing: what follows from them stands in the journal as later events, results of jobs
included. Keys are not needed. A signature on the same bytes is the recorded one, which is checked against those bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from quidnunc.crypto.encoding import decode
from quidnunc.crypto.entry import ZERO_HASH, EntryType, parse_header
from quidnunc.crypto.errors import LocalProtocolError, Malformed, QuidnuncError, RemoteProtocolError
from quidnunc.crypto.identity import SecretKey, verify
from quidnunc.crypto.log import Log
from quidnunc.crypto.merkle import HASH_BYTES
from quidnunc.gossip.events import Commit, Effect
from quidnunc.gossip.federation.founding import open_charter, require_signed
from quidnunc.gossip.journal import marks
from quidnunc.gossip.journal.records import End, Entered, Heard, Kept, Life, Set, Step, revived
from quidnunc.gossip.message import HEADER_BYTES_MAX
from quidnunc.gossip.node import Node
from quidnunc.gossip.rebuild import Self

T = TypeVar("T")
Ledger = Callable[[int], bytes | None]
"""The leaf hash of an entry of a ledger, None behind its end."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a replay first differs: at event ``event`` (0: before the first), of ``kind``, at ``now``; and in what."""

    event: int
    kind: str
    now: float
    what: str


@dataclass(slots=True)
class Replayed:
    """What a replay came to.

    ``size``, ``head`` and ``root`` are those of the last commit. ``entries`` were made again. Of them ``lost`` were
    not kept: the daemon was killed before, or went on with an older ledger. ``compared`` stand in the ledger that was
    compared with. ``outside`` entries were made while no journal was kept. ``raised`` are the errors that ended
    lives, each made again, by event. ``ended`` says why the journal ends before its daemon did.
    """

    log_id: bytes = b""
    federation: bytes = b""
    versions: list[str] = field(default_factory=list)
    events: int = 0
    lives: int = 0
    entries: int = 0
    lost: int = 0
    outside: int = 0
    size: int = 0
    head: bytes = b""
    root: bytes = b""
    compared: int = 0
    raised: dict[int, str] = field(default_factory=dict)
    ended: str = ""
    divergence: Divergence | None = None


class _Differs(Exception):
    """The node asks for what it did not ask for then. It passes through the node: no peer's bytes are to blame."""


class _Recorded(SecretKey):
    """A key that is only known by its signatures: gives out the recorded ones, for the bytes that they are on."""

    __slots__ = ("_key", "_left")

    def __init__(self, public: bytes, left: deque[bytes]) -> None:
        self._key, self._left = public, left

    @property
    def public(self) -> bytes:
        return self._key

    @property
    def seed(self) -> bytes:
        raise LocalProtocolError("a journal holds no secret key")

    def sign(self, message: bytes) -> bytes:
        if not self._left:
            raise _Differs("it signs something, and then nothing more was signed")
        signature = self._left.popleft()
        try:
            verify(self._key, message, signature)
        except RemoteProtocolError:
            raise _Differs("it signs other bytes than then") from None
        return signature


class _Made(NamedTuple):
    """An entry that was made again, and by which event, of which kind and when."""

    seq: int
    leaf: bytes
    event: int
    kind: str
    now: float


class Replay:
    """Takes the records of a journal one by one; stops at the first difference (:meth:`take` is then False).

    ``ledger`` is that of the home the journal came from, to be compared with; ``told`` is called with every event that
    was lived again, its number and what the node did.
    """

    def __init__(
        self, *, ledger: Ledger | None = None, told: Callable[[int, Step, list[Effect]], None] | None = None
    ) -> None:
        self.found = Replayed()
        self.node: Node | None = None
        self._ledger = ledger
        self._told = told
        self._log: Log | None = None
        self._made: list[_Made] = []
        self._size = self._sure = 0
        """Entries committed so far, and those before the last event: the others may not have become durable."""
        self._entropy: deque[bytes] = deque()
        self._signatures: deque[bytes] = deque()

    def run(self, records: Iterable[Entered], until: int | None = None) -> Replayed:
        """Take records up to event ``until``, or all, and close."""
        for record in records:
            if until is not None and isinstance(record, Step) and self.found.events >= until:
                break
            if not self.take(record):
                break
        return self.close()

    def close(self) -> Replayed:
        """Compare what the last life made with the ledger, and say what all came to."""
        found = self.found
        if found.divergence is None:
            self._settle(None)
        if self._log is not None:
            # What the log holds beyond had not been committed when the daemon ended.
            found.size, found.root = self._size, self._log.root_at(self._size)
            found.head = self._log.leaf(self._size - 1) if self._size else ZERO_HASH
        return found

    def take(self, record: Entered) -> bool:
        """Live through one record; False when that went otherwise."""
        match record:
            case Life():
                self._begin(record)
            case Set(paused):
                if self.node is not None:
                    self.node.rounds.paused = paused
            case Step():
                self._step(record)
            case End(why):
                self.found.ended = why
        return self.found.divergence is None

    # -- lives --------------------------------------------------------------------------------------------------

    def _begin(self, life: Life) -> None:
        leaves = _leaves(life.leaves)
        if life.rebuilt:
            self._sure = self._size  # the same process went on, after its last commit was durable
        self._settle(leaves)
        if self.found.divergence is not None:
            return
        self.found.lives += 1
        self.found.versions.append(life.software.version)

        def build() -> Node:
            charter = require_signed(open_charter(life.charter))
            log = Log.of_leaves(life.log_id, leaves, life.last_t_ms)
            own = Self(
                log_id=life.log_id,
                key=_Recorded(life.log_key, self._signatures),
                witness=_Recorded(life.witness_key, self._signatures),
                genesis=life.genesis,
                charter_note=life.charter_note,
                dataset=life.dataset,
                described=life.described,
                noise_source=life.noise_source,
                epsilon_cap_u=life.epsilon_cap_u,
                accounted=life.accounted,
                elsewhere=life.elsewhere,
                software=life.software,
            )
            self.found.log_id, self.found.federation = life.log_id, charter.federation_id
            self._log, self._size, self._sure = log, log.size, log.size
            return Node(charter, own, log, life.resume, self._draw, life.settings)

        self.node, error = _attempt(build)
        if self.node is None:
            self._differs("node", 0.0, f"life {self.found.lives} cannot be built: {_said(error)}")

    def _settle(self, leaves: list[bytes] | None) -> None:
        """Of the life that is over, compare what was kept with what the next one began with and with the ledger.

        What its last event made may be lost: a daemon that is killed has written the journal before the ledger.
        """
        log, made, sure = self._log, self._made, self._sure
        self._made = []
        if log is not None and leaves is not None:
            self.found.outside += max(0, len(leaves) - self._size)
            shared = min(len(leaves), sure)
            at = next((seq for seq in range(shared) if log.leaf(seq) != leaves[seq]), None)
            if at is not None:
                why = f"life {self.found.lives + 1} begins with another entry {at} than was made before it"
                return self._differs("node", 0.0, why)
            there = [each for each in made if each.seq < len(leaves) and leaves[each.seq] == each.leaf]
            self.found.lost += len(made) - len(there)
            made = there
        if self._ledger is None:
            return None
        for each in made:
            found = self._ledger(each.seq)
            if found == each.leaf:
                self.found.compared += 1
            elif found is None or each.seq >= sure:
                self.found.lost += 1
            else:
                return self._differs(each.kind, each.now, f"entry {each.seq} is not the ledger's", each.event)
        return None

    # -- events -------------------------------------------------------------------------------------------------

    def _draw(self, size: int) -> bytes:
        if not self._entropy:
            raise _Differs(f"it draws {size} random bytes, and then nothing more was drawn")
        data = self._entropy.popleft()
        if len(data) != size:
            raise _Differs(f"it draws {size} random bytes, then it drew {len(data)}")
        return data

    def _step(self, step: Step) -> None:
        node, found = self.node, self.found
        found.events += 1
        kind = kind_of(step.event)
        if node is None:
            return self._differs(kind, step.now, "no node was built before it")
        self._entropy.extend(step.entropy)
        self._signatures.extend(step.signatures)
        effects, error = _attempt(lambda: node.handle(revived(step.event), step.now))
        if effects is None:
            if type(error).__name__ != step.raised or self._entropy or self._signatures:
                return self._differs(kind, step.now, self._other_entry(step) or _said(error))
            found.raised[found.events] = step.raised
            self.node = None
            return None
        if step.raised:
            return self._differs(kind, step.now, f"it went well, then it ended with {step.raised}")
        what = self._compare(step, effects)
        if what:
            return self._differs(kind, step.now, what)
        assert self._log is not None
        entries = [entry for each in effects if isinstance(each, Commit) for entry in each.entries]
        for entry in entries:
            self._made.append(_Made(parse_header(entry.header).seq, entry.leaf, found.events, kind, step.now))
        found.entries += len(entries)
        self._sure, self._size = self._size, self._size + len(entries)
        if self._told is not None:
            self._told(found.events, step, effects)
        return None

    def _other_entry(self, step: Step) -> str:
        """Of a life that has just ended, the first entry that is not what it was then; empty if there is none.

        It is what a signature that does not fit is about, most often.
        """
        assert self._log is not None
        for seq, leaf in enumerate(_leaves(step.leaves), start=self._size):
            if seq < self._log.size and self._log.leaf(seq) != leaf:
                return f"entry {seq} is another one"
        return ""

    def _compare(self, step: Step, effects: list[Effect]) -> str:
        """What is otherwise than it was then, empty if nothing is."""
        entries = [entry for each in effects if isinstance(each, Commit) for entry in each.entries]
        then = _leaves(step.leaves)
        for entry, leaf in zip(entries, then, strict=False):
            if entry.leaf != leaf:
                header = parse_header(entry.header)
                return f"entry {header.seq} ({_word(header.type)}) is another one"
        if len(entries) != len(then):
            return f"it commits {len(entries)} entries, then it committed {len(then)}"
        made, recorded = marks.split(marks.marks(effects)), marks.split(step.effects)
        for number, (mark, before) in enumerate(zip(made, recorded, strict=False), start=1):
            if mark[0] != before[0]:
                return f"effect {number} is a {marks.name(mark)}, then it was a {marks.name(before)}"
            if mark != before:
                return f"effect {number}, a {marks.name(mark)}, is another one"
        if len(made) != len(recorded):
            return f"it has {len(made)} effects, then it had {len(recorded)}"
        if self._entropy or self._signatures:
            return f"it leaves {len(self._entropy)} draws and {len(self._signatures)} signatures over"
        return ""

    def _differs(self, kind: str, now: float, what: str, event: int | None = None) -> None:
        self.found.divergence = Divergence(self.found.events if event is None else event, kind, now, what)


def kind_of(event: Kept) -> str:
    """An event in a word or two: its class, and of what was heard the kind of message."""
    if isinstance(event, Heard):
        return f"Received {_message(event)}"
    result = getattr(event, "result", None)
    return type(event).__name__ if result is None else f"{type(event).__name__} {type(result).__name__}"


def _message(heard: Heard) -> str:
    try:
        value = decode(heard.header, max_bytes=HEADER_BYTES_MAX)
    except Malformed:
        return "of no form"
    tag = value[0] if isinstance(value, list) and value else None
    return tag.rpartition("/")[2][:32] if isinstance(tag, str) else "of no form"


def _word(kind: int) -> str:
    return EntryType(kind).name.lower() if kind in set(EntryType) else f"type {kind}"


def _leaves(data: bytes) -> list[bytes]:
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def _attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What ``action`` returns, or the error it ends with: here an error is a finding, whatever it is."""
    try:
        return action(), None
    except Exception as error:  # noqa: BLE001  a journal may show a bug, and may have been made by anybody
        return None, error


def _said(error: Exception | None) -> str:
    if isinstance(error, _Differs):
        return str(error)
    words = error.message if isinstance(error, QuidnuncError) else str(error)
    return f"it ends with {type(error).__name__}: {words}"
