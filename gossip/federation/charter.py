"""The charter: everything that the members of a federation must agree on, in one canonical map.

It is founded by hand: somebody drafts it from the members' cards, everybody signs it
(``gossip/federation/founding.py``). Its hash is the federation id. Nothing in it is recomputed at run time: who talks
to whom stands there edge by edge.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import CharterError, RemoteProtocolError
from quidnunc.crypto.identity import tagged_hash
from quidnunc.gossip.federation.fields import Fields
from quidnunc.gossip.federation.graph import check_edges, outward, read_edge
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.federation.mixing import capped_sizes, metropolis
from quidnunc.gossip.federation.privacy_terms import PrivacySpec
from quidnunc.gossip.federation.sum_terms import check_private_sum
from quidnunc.gossip.federation.terms import MICRO, MergeSpec, RoundSpec, TaskSpec, TrainingSpec, plain_text, within
from quidnunc.gossip.jobs import PrivacyStep, Unit
from quidnunc.gossip.task import Plan, Training

__all__ = [
    "Charter",
    "Member",
    "MergeSpec",
    "PrivacySpec",
    "RoundSpec",
    "TaskSpec",
    "TrainingSpec",
    "default_quorum",
    "smallest_quorum",
]

VERSION = 1
MAX_MEMBERS = 512
MAX_EDGES = 4096
MAX_BODY_BYTES = 640 * 1024
PURPOSE_BYTES = 2048
NONCE_BYTES = 16
MIN_PAYLOAD_BYTES = 1024
MAX_PAYLOAD_BYTES = 2**30
CODECS = (0, 1)
FLOAT_BYTES = 4
INT8_OVERHEAD = 1

_MAX_TIME_MS = 2**53
_KEYS = (
    *("v", "purpose", "nonce", "t_ms", "members", "task", "training", "merge", "privacy", "rounds"),
    *("edges", "codec", "quorum", "payload_bytes", "epoch"),
)

WITNESSES_ALL = 8
"""Other members of a log up to which all are its witnesses."""
WITNESSES_LEAST = 5
"""Witnesses of a log among more members than those: its neighbors and, if they are fewer, the nearest."""


def default_quorum(n: int) -> int:
    """floor(2n/3) + 1: any two quorums then share more than a third of all ``n`` members."""
    return 2 * n // 3 + 1


def smallest_quorum(n: int) -> int:
    """A bare majority: any two quorums then share at least one member."""
    return n // 2 + 1


@dataclass(frozen=True, slots=True)
class Charter:
    """A federation's agreement; an instance is always valid, or CharterError was raised.

    ``members`` are sorted by log id; ``edges`` are pairs (i, j), i < j, of indices into them, sorted, a
    connected graph. ``codec`` is a code of ``gossip/learning/codec.py``. ``quorum`` members must sign whatever
    replaces this charter. ``payload_bytes`` caps the body of one message and must hold the params as float32.
    ``t_ms`` is the drafter's clock (Unix milliseconds), a claim. ``epoch`` is 0 in this version: the founding
    charter.
    """

    purpose: str
    nonce: bytes
    t_ms: int
    members: tuple[Member, ...]
    task: TaskSpec
    training: TrainingSpec
    merge: MergeSpec
    privacy: PrivacySpec
    rounds: RoundSpec
    edges: tuple[tuple[int, int], ...]
    codec: int
    quorum: int
    payload_bytes: int
    epoch: int = 0
    federation_id: bytes = field(init=False, compare=False)
    """``tagged_hash("charter", body)``, 32 bytes."""

    def __post_init__(self) -> None:
        _check_members(self.members)
        within("the number of edges", len(self.edges), len(self.members) - 1, MAX_EDGES)
        check_edges(self.edges, len(self.members))
        self._check_numbers()
        body = self.body()
        within("the charter's size in bytes", len(body), 1, MAX_BODY_BYTES)
        object.__setattr__(self, "federation_id", tagged_hash("charter", body))

    def _check_numbers(self) -> None:
        n = len(self.members)
        plain_text("purpose", self.purpose, PURPOSE_BYTES)
        within("the length of nonce", len(self.nonce), NONCE_BYTES, NONCE_BYTES)
        within("t_ms", self.t_ms, 0, _MAX_TIME_MS)
        within("codec", self.codec, CODECS[0], CODECS[-1])
        within("quorum", self.quorum, smallest_quorum(n), n)
        within("payload_bytes", self.payload_bytes, MIN_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES)
        within("payload_bytes (params of 4 bytes each)", self.payload_bytes, self.state_bytes, MAX_PAYLOAD_BYTES)
        within("epoch", self.epoch, 0, 0)
        if self.privacy.private and self.privacy.releases < self.rounds.count:
            raise CharterError(
                f"privacy.releases is {self.privacy.releases}, must be at least rounds.count, {self.rounds.count}"
            )
        self._check_degrees()
        if self.privacy.unit == Unit.SUM:
            keys = [member.transport for member in self.members]
            check_private_sum(self.privacy, self.merge, self.rounds, self.task, transports=keys, edges=len(self.edges))

    def _check_degrees(self) -> None:
        """Raise CharterError if somebody has fewer neighbors than the merge rule needs: it would never merge."""
        degrees = [0] * len(self.members)
        for edge in self.edges:
            for end in edge:
                degrees[end] += 1
        fewest, needed = min(degrees), self.merge.least_neighbors
        if fewest < needed:
            raise CharterError(
                f"merge rule {self.merge.rule} needs {needed} neighbors with these options, "
                f"{self.members[degrees.index(fewest)].name!r} has {fewest}",
                hint="tell it of fewer bad peers, choose another rule, or found with more members",
            )

    @property
    def state_bytes(self) -> int:
        """Size of the params as a blob."""
        return FLOAT_BYTES * self.task.dim

    @property
    def delta_bytes(self) -> int:
        """Size of every delta under the charter's codec."""
        return self.state_bytes if self.codec == 0 else self.task.dim + INT8_OVERHEAD

    def body(self) -> bytes:
        """The canonical map whose hash is the federation id."""
        return encode(
            {
                "v": VERSION,
                "purpose": self.purpose,
                "nonce": self.nonce,
                "t_ms": self.t_ms,
                "members": [member.to_value() for member in self.members],
                "task": self.task.to_value(),
                "training": self.training.to_value(),
                "merge": self.merge.to_value(),
                "privacy": self.privacy.to_value(),
                "rounds": self.rounds.to_value(),
                "edges": self.edges,
                "codec": self.codec,
                "quorum": self.quorum,
                "payload_bytes": self.payload_bytes,
                "epoch": self.epoch,
            }
        )

    @classmethod
    def parse(cls, body: bytes) -> Charter:
        """Read :meth:`body` strictly; raises CharterError for everything that is wrong with it."""
        try:
            return cls._read(Fields(decode(body, max_bytes=MAX_BODY_BYTES), "charter", _KEYS))
        except RemoteProtocolError as error:
            raise CharterError(f"charter refused: {error}", hint="ask its drafter for the file again") from None

    @classmethod
    def _read(cls, fields: Fields) -> Charter:
        version = fields.integer("v")
        if version != VERSION:
            raise CharterError(
                f"charter format {version}, this program reads {VERSION}",
                hint="use the program version it is for",
            )
        members = fields.items("members", MAX_MEMBERS)
        return cls(
            purpose=fields.text("purpose", PURPOSE_BYTES),
            nonce=fields.data("nonce", NONCE_BYTES),
            t_ms=fields.integer("t_ms"),
            members=tuple(Member.from_value(item, f"members[{i}]") for i, item in enumerate(members)),
            task=_read_task(fields),
            training=_read_training(fields),
            merge=_read_merge(fields),
            privacy=_read_privacy(fields),
            rounds=RoundSpec.read(fields.inner("rounds", RoundSpec.KEYS)),
            edges=tuple(read_edge(item) for item in fields.items("edges", MAX_EDGES)),
            codec=fields.integer("codec"),
            quorum=fields.integer("quorum"),
            payload_bytes=fields.integer("payload_bytes"),
            epoch=fields.integer("epoch"),
        )

    def index(self, log_id: bytes) -> int:
        """Where the member whose log is ``log_id`` stands in ``members``; CharterError if nowhere."""
        for i, member in enumerate(self.members):
            if member.log_id == log_id:
                return i
        raise CharterError(
            f"{log_id.hex()[:16]} is not a member of federation {self.federation_id.hex()[:16]}",
            hint="compare with the members listed by: quidnunc federation show",
        )

    def member(self, log_id: bytes) -> Member | None:
        """The member whose log is ``log_id``, or None for a stranger."""
        return next((member for member in self.members if member.log_id == log_id), None)

    def by_transport(self, public: bytes) -> Member | None:
        """The member whose transport key is ``public``, or None for a stranger."""
        return next((member for member in self.members if member.transport == public), None)

    def neighbors(self, log_id: bytes) -> tuple[Member, ...]:
        """The members adjacent to ``log_id``, in the order of ``members``; CharterError for a stranger."""
        own = self.index(log_id)
        near = sorted(i + j - own for i, j in self.edges if own in (i, j))
        return tuple(self.members[i] for i in near)

    def witnesses(self, log_id: bytes) -> tuple[Member, ...]:
        """Who may witness the log ``log_id``: all other members up to WITNESSES_ALL.

        Of more, its neighbors; where these are fewer than WITNESSES_LEAST so many of the nearest, in the order of
        ``members`` where they are equally near.
        """
        if len(self.members) - 1 <= WITNESSES_ALL:
            return tuple(member for member in self.members if member.log_id != log_id)
        near = self.neighbors(log_id)
        if len(near) >= WITNESSES_LEAST:
            return near
        nearest = itertools.islice(self._outward(log_id), 1, 1 + WITNESSES_LEAST)
        return tuple(self.members[i] for i in sorted(i for i, _ in nearest))

    def witness_distances(self, log_id: bytes) -> dict[bytes, int]:
        """Links between the log ``log_id`` and each of its witnesses, by log id."""
        wanted = {member.log_id for member in self.witnesses(log_id)}
        found: dict[bytes, int] = {}
        for i, distance in self._outward(log_id):
            if len(found) == len(wanted):
                break
            if self.members[i].log_id in wanted:
                found[self.members[i].log_id] = distance
        return found

    def within(self, log_id: bytes, distance: int) -> frozenset[bytes]:
        """The log ids of the members at most ``distance`` links from ``log_id``, itself among them."""
        nearest = itertools.takewhile(lambda found: found[1] <= distance, self._outward(log_id))
        return frozenset(self.members[i].log_id for i, _ in nearest)

    def _outward(self, log_id: bytes) -> Iterator[tuple[int, int]]:
        return outward(self.edges, len(self.members), self.index(log_id))

    def weights(self, log_id: bytes) -> dict[bytes, int]:
        """Mixing weights in ppb of ``log_id``'s neighbors and of itself, by log id; they sum to 10**9.

        Metropolis weights; with a size cap, those of the members' sizes as their cards told them.
        """
        cap_u = self.merge.size_cap_u
        sizes = capped_sizes([member.size_bucket for member in self.members], cap_u) if cap_u else None
        row = metropolis(self.edges, len(self.members), sizes)[self.index(log_id)]
        return {self.members[i].log_id: weight for i, weight in row.items()}

    def plan(self) -> Plan:
        """The part that the compute side follows."""
        training = Training(
            learning_rate=self.training.learning_rate_u / MICRO,
            momentum=self.training.momentum_u / MICRO,
            local_steps=self.training.local_steps,
            batch_size=self.training.batch_size,
            prox=self.training.prox_u / MICRO,
        )
        merge = self.merge
        return Plan(
            self.task.seed,
            self.codec,
            training,
            merge.rule,
            merge.values,
            self.privacy.private and self.privacy.unit != Unit.SITE,
            self.rounds.count,
            self.task.personal,
        )

    def privacy_step(self) -> PrivacyStep | None:
        """How one private release is made, or None without privacy."""
        return self.privacy.step


def _read_task(fields: Fields) -> TaskSpec:
    personal = "personal" in fields.open_map("task", len(TaskSpec.PERSONAL_KEYS))
    return TaskSpec.read(fields.inner("task", TaskSpec.PERSONAL_KEYS if personal else TaskSpec.KEYS), personal=personal)


def _read_training(fields: Fields) -> TrainingSpec:
    proximal = "prox_u" in fields.open_map("training", len(TrainingSpec.PROXIMAL_KEYS))
    keys = TrainingSpec.PROXIMAL_KEYS if proximal else TrainingSpec.KEYS
    return TrainingSpec.read(fields.inner("training", keys), proximal=proximal)


def _read_merge(fields: Fields) -> MergeSpec:
    sized = "size_cap_u" in fields.open_map("merge", len(MergeSpec.SIZED_KEYS))
    return MergeSpec.read(fields.inner("merge", MergeSpec.SIZED_KEYS if sized else MergeSpec.KEYS), sized=sized)


def _read_privacy(fields: Fields) -> PrivacySpec:
    mechanism = fields.open_map("privacy", len(PrivacySpec.SUM_KEYS)).get("mechanism")
    return PrivacySpec.read(fields.inner("privacy", PrivacySpec.keys(mechanism)))


def _check_members(members: tuple[Member, ...]) -> None:
    within("the number of members", len(members), 2, MAX_MEMBERS)
    ids = [member.log_id for member in members]
    if any(a >= b for a, b in itertools.pairwise(ids)):
        raise CharterError("members are not in strictly ascending order of their log ids")
    names: dict[str, str] = {}
    keys: dict[bytes, str] = {}
    for member in members:
        other = names.setdefault(member.name.casefold(), member.log_id.hex()[:16])
        if other != member.log_id.hex()[:16]:
            raise CharterError(
                f"two members are called {member.name!r}",
                hint="names must differ in more than case: init one anew",
            )
        for key in member.keys:
            if keys.setdefault(key, member.name) != member.name:
                raise CharterError(f"{keys[key]!r} and {member.name!r} have the key {key.hex()[:16]} in common")
