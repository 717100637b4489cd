"""One merge at a time: what it reads of the neighbors, and the ledger entry it becomes."""

from __future__ import annotations

from typing import NamedTuple

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.identity import tagged_hash
from quidnunc.gossip.claims import Claim, merged
from quidnunc.gossip.evidence import Evidence, standing_class
from quidnunc.gossip.federation.charter import Charter, MergeSpec
from quidnunc.gossip.jobs import PPB, Adopted, Merged, MergeInput, Standing
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.provenance import Merge, MergeRow, write_standings
from quidnunc.gossip.publisher import Publisher
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.replicas import Replicas
from quidnunc.gossip.reputation import BAD_CAP, StandingClass

STEP_ADOPTED = 3
ADOPTION_MINIMUM = 3
"""States that a median takes: with fewer, one liar among them decides."""


def rule_hash_of(merge: MergeSpec) -> bytes:
    """How entries name the rule of a charter, its options included: 32 bytes."""
    return tagged_hash("rule", encode(merge.to_value()))


class _Input(NamedTuple):
    """What the merge in progress reads of one neighbor."""

    state: bytes
    seq: int | None
    standing: Standing
    fresh: bool
    claim: Claim


class Merging:
    """Hands a merge its inputs and records its result."""

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        recorder: Recorder,
        evidence: Evidence,
        replicas: Replicas,
        publisher: Publisher,
    ) -> None:
        self._me = me
        self._recorder = recorder
        self._evidence = evidence
        self._replicas = replicas
        self._publisher = publisher
        self._rule = rule_hash_of(charter.merge)
        self._inputs: dict[bytes, _Input] = {}

    def take(self, neighbors: list[Neighbor]) -> tuple[MergeInput, ...]:
        """The replicas of ``neighbors`` as they are now; each advance is judged once."""
        self._inputs = {n.log_id: _Input(n.state, n.seq, n.standing, n.fresh, n.claim) for n in neighbors}
        inputs = tuple(MergeInput(n.log_id, n.state, n.weight, n.standing, n.fresh) for n in neighbors)
        for neighbor in neighbors:
            neighbor.fresh = False
        return inputs

    def take_for_median(self, neighbors: list[Neighbor]) -> tuple[bytes, ...]:
        """The states whose median is adopted: those of ``neighbors``, and as the third beside two the own replica.

        Between two that disagree it decides for the smaller step, so that one liar leads a joiner nowhere.
        """
        states = tuple(each.state for each in self.take(neighbors))
        return (*states, self._publisher.replica) if len(states) == ADOPTION_MINIMUM - 1 else states

    def give_up(self) -> None:
        """The merge failed: what it was to judge is still to be judged."""
        for log_id, given in self._inputs.items():
            self._replicas.neighbors[log_id].fresh |= given.fresh

    def record(self, result: Merged, now: float) -> Claim:
        """Take over the standings a merge led to, append its entry, and return the result's contributions."""
        own = PPB - sum(row.effective for row in result.rows)
        weight = PPB - sum(row.weight for row in result.rows)
        rows = [MergeRow(self._publisher.replica, self._me, self._publisher.seq, weight, own, PPB)]
        classes: list[tuple[Neighbor, StandingClass]] = []
        for row in result.rows:
            neighbor, given = self._replicas.neighbors[row.author], self._inputs[row.author]
            before = standing_class(neighbor)
            neighbor.standing = _with_offenses(row.standing, neighbor.standing.bad - given.standing.bad)
            neighbor.last_weight, neighbor.last_clip = row.effective, row.clip
            neighbor.last_step = result.step
            if given.fresh:
                neighbor.doubts = row.doubts
            rows.append(MergeRow(row.state, row.author, given.seq, row.weight, row.effective, row.clip))
            classes.append((neighbor, before))
        merge = self._append(result.round, result.result, rows, result.approximate, result.step, now)
        for neighbor, before in classes:
            # The private part of the merge holds the numbers that the class follows from.
            self._evidence.note_class(neighbor, before, (merge,), now)
        return self._claim(rows)

    def record_adopted(self, result: Adopted, round_: int, now: float) -> Claim:
        """Append the entry of a coordinate median taken as the own state, and return its contributions.

        Every input weighs the same. Beside two neighbors the own replica is the third input.
        """
        inputs = [(given.state, who, given.seq) for who, given in self._inputs.items()]
        if len(inputs) == ADOPTION_MINIMUM - 1:
            inputs.append((self._publisher.replica, self._me, self._publisher.seq))
        share = PPB // len(inputs)
        rows = [MergeRow(state, who, seq, share, share, PPB) for state, who, seq in inputs]
        rows[0] = rows[0]._replace(effective=PPB - share * (len(rows) - 1))
        self._append(round_, result.result, rows, True, STEP_ADOPTED, now)
        return self._claim(rows)

    def _claim(self, rows: list[MergeRow]) -> Claim:
        """The contributions to the result, by the claims of its inputs."""
        own = self._publisher.claim
        claims = (own if row.log_id == self._me else self._inputs[row.log_id or b""].claim for row in rows)
        return merged((row.effective, claim) for row, claim in zip(rows, claims, strict=True))

    def _append(
        self, round_: int, result: bytes, rows: list[MergeRow], approximate: bool, step: int, now: float
    ) -> int:
        """Append the entry of a merge; its number."""
        private = write_standings({n.log_id: n.standing for n in self._replicas.neighbors.values()})
        salt, commitment = self._recorder.seal_private(private)
        record = Merge(
            round=round_,
            result=result,
            rule=self._rule,
            rows=tuple(rows),
            approximate=approximate,
            step=step,
            received=self._replicas.take_received(),
            private=commitment,
        )
        return self._recorder.append_sealed(record, private, salt, now)


def _with_offenses(standing: Standing, bad: float) -> Standing:
    """The standing a merge led to, with ``bad`` mass that offenses added while the merge was computed."""
    return standing if bad <= 0 else Standing(standing.good, min(BAD_CAP, standing.bad + bad), standing.harm)
