"""Records of a scenario in the protocol engine: real nodes, measured by what they have published.

A round has passed when half of the honest peers have trained it. What befalls peers is what befalls them in the batched
engine, a virtual second for a round: who leaves is killed and comes back from its disk, a split network drops what
crosses it. Every advance of a replica is compared with what its author signed; a difference ends the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import isfinite
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.gossip.jobs import Evaluated, EvaluateJob, Job, Merged, Result, Trained
from quidnunc.gossip.learning.codec import parse_state
from quidnunc.sim.batched.alone import Alone
from quidnunc.sim.batched.conditions import Flags, Links, Weather
from quidnunc.sim.batched.setup import Setup
from quidnunc.sim.batched.witness import Held, held
from quidnunc.sim.scenarios.protocol import ROUND_S, Loss, Model, world_of
from quidnunc.sim.scenarios.records import PER_PEER_MAX, Record, accuracies, against_alone, under_attack
from quidnunc.sim.scenarios.spec import SimScenario
from quidnunc.sim.trials import Audit
from quidnunc.sim.world import Hooks, Peer, World

PATIENCE = 20
"""Rounds' worth of virtual time after which a round is recorded although half of the peers have not trained it."""
PPB = 1_000_000_000


class Trial:
    """One seed of a scenario. Call :meth:`records` once; then :meth:`params` has everybody's last."""

    def __init__(self, scenario: SimScenario, setup: Setup, model: Model, loss: Loss | None) -> None:
        self._scenario = scenario
        self._setup = setup
        self._audit = Audit()
        self._losses: dict[int, float] = {}
        self._merged: dict[int, Merged] = {}
        hooks = Hooks(on_result=self._on_result, on_commit=self._audit.hooks().on_commit)
        self.world: World = world_of(scenario, setup, model, loss, hooks)
        self._honest: Flags = np.ones(scenario.peers, dtype=np.bool_)
        if setup.attack is not None:
            self._honest[list(setup.attack.peers)] = False
        self._weather = Weather(scenario.conditions, setup.topology, setup.seed)
        self._present: Flags = np.ones(scenario.peers, dtype=np.bool_)
        self._parts = self._weather.parts(-1)
        self._news = True
        self._alone = Alone(setup) if scenario.alone else None

    def _on_result(self, peer: Peer, job: Job, result: Result) -> None:
        advanced = self._audit.hooks().on_result
        assert advanced is not None
        advanced(peer, job, result)
        if isinstance(result, Trained):
            self._news = True
            if isfinite(result.loss):
                self._losses[peer.index] = result.loss
        if isinstance(result, Merged):
            self._merged[peer.index] = result

    # -- virtual time -------------------------------------------------------------------------------------------

    def rounds(self) -> Iterator[tuple[int, Record | None]]:
        """Every round as it has passed, with its record if it is one to be measured.

        Raises LocalProtocolError if a replica is not what its author signed: that would be a bug of ours.
        """
        world, scenario = self.world, self._scenario
        if not scenario.conditions.perfect:
            world.at(0.0, lambda: self._befall(0))
        for peer in world.peers:
            world.start(peer.index)
        for number in range(1, scenario.rounds + 1):
            until = world.now + PATIENCE * ROUND_S
            if self._trained() < number:
                world.run(until, stop=partial(self._passed, number))
            if self._audit.wrong:
                raise LocalProtocolError(f"{self._audit.wrong} replicas are not what their authors signed")
            if self._alone is not None:
                self._alone.step()
            measured = number % scenario.evaluate_every == 0 or number == scenario.rounds
            yield number, self._record(number) if measured else None

    def _passed(self, number: int) -> bool:
        """Whether round ``number`` has passed; looked at after every event, so only where it may have changed."""
        news, self._news = self._news, False
        return news and self._trained() >= number

    def _trained(self) -> float:
        """The rounds that half of the honest peers have trained; those that are down are not waited for."""
        counts = [peer.node.rounds.trained for peer in self.world.alive() if peer.node and self._honest[peer.index]]
        return median(counts) if counts else 0.0

    def _befall(self, number: int) -> None:
        """What the conditions have for everybody in the second that begins now."""
        world, weather = self.world, self._weather
        weather.turn(number)
        for index in np.flatnonzero(weather.present != self._present).tolist():
            if weather.present[index]:
                world.start(index)
            else:
                world.crash(index)
        self._present, self._news = weather.present.copy(), True
        parts = weather.parts(number)
        if (parts != self._parts).any():
            self._parts = parts
            self._cut()
        world.at(world.now + ROUND_S, lambda: self._befall(number + 1))

    def _cut(self) -> None:
        for a, b in self._setup.topology.edges().tolist():
            if self._parts[a] == self._parts[b]:
                self.world.heal(a, b)
            else:
                self.world.cut(a, b)

    # -- what is measured ---------------------------------------------------------------------------------------

    def _record(self, number: int) -> Record:
        world, present = self.world, self._present
        found = [self._evaluated(peer) for peer in world.peers]
        accuracy = np.array([each.accuracy for each in found])
        judged = present & self._honest
        losses = [loss for index, loss in sorted(self._losses.items()) if self._honest[index]]
        record: Record = {
            "seed": self._setup.seed,
            "round": number,
            **accuracies(accuracy, np.array([each.loss for each in found]), judged),
            "train_loss": fmean(losses) if losses else None,
            "consensus_distance": self._distance(judged),
            "peers_present": int(present.sum()),
            "messages": world.network.sent,
            "messages_lost": world.network.lost,
            "bytes_sent": world.network.bytes_sent,
            "epsilon": self._epsilon(),
            "virtual_s": round(world.now, 3),
            "messages_refused": sum(peer.node.refused_total for peer in world.alive() if peer.node),
            "ledger_entries": sum(len(peer.disk.entries) for peer in world.peers),
            "ledger_heads": hashlib.sha256(b"".join(world.heads())).hexdigest(),
        }
        if self._setup.attack is not None:
            record |= under_attack(self._held(), present & ~self._honest)
        if len(found) <= PER_PEER_MAX:
            record["accuracies"] = [round(float(value), 5) for value in accuracy]
            record["present"] = [bool(value) for value in present]
        if self._alone is not None:
            record |= against_alone(accuracy, self._alone.accuracies(), judged)
        return record

    def _base(self, peer: Peer) -> tuple[bytes, bytes]:
        """The params that a peer would train from next, and its personal ones: of one that is down, from its disk."""
        if peer.node is not None:
            return peer.node.rounds.base, peer.node.rounds.personal
        resume = peer.disk.fold(self.world.settings.keep_deltas)
        return resume.base or self.world.charter.task.genesis, resume.personal

    def _evaluated(self, peer: Peer) -> Evaluated:
        found = peer.worker(EvaluateJob(0, *self._base(peer)))
        if not isinstance(found, Evaluated):
            raise TypeError(f"peer {peer.index} answered {found!r} to EvaluateJob")
        return found

    def params(self) -> NDArray[np.float32]:
        """Everybody's params, float32 [n, d]; those of a peer that has none on its disk are the genesis."""
        peers = self.world.peers
        states = [peer.disk.blobs.get(self._base(peer)[0]) for peer in peers]
        dim = self.world.charter.task.dim
        return np.stack([parse_state(state, dim) if state else np.zeros(dim, np.float32) for state in states])

    def _distance(self, judged: Flags) -> float:
        if not judged.any():
            return 0.0
        rows = self.params()[judged].astype(np.float64)
        return float(np.sqrt(np.square(rows - rows.mean(0)).sum(1)).mean())

    def _epsilon(self) -> float | None:
        if self._scenario.privacy is None:
            return None
        return max((peer.node.budget.epsilon for peer in self.world.alive() if peer.node), default=None)

    def _held(self) -> Held | None:
        """What attackers had of everybody's newest merge."""
        mixing = self._setup.topology.at(0)
        place = {peer.log_id: peer.index for peer in self.world.peers}
        given, came = np.zeros(len(mixing.indices)), np.full(len(mixing.indices), np.nan)
        at = {pair: i for i, pair in enumerate(zip(mixing.receivers.tolist(), mixing.indices.tolist(), strict=True))}
        for reader, merged in self._merged.items():
            for row in merged.rows:
                where = at[reader, place[row.author]]
                given[where], came[where] = row.weight / PPB, row.effective / PPB
        links = Links(replace(mixing, weights=given), None)
        return held(links, came, self._honest, np.arange(len(self._honest)))
