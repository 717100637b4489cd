"""Whose training stands in a model: coefficients and params agree; lines, lies, circles, and what is not held."""

from __future__ import annotations

import hashlib
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from node_helpers import parsed, start_all

from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.learning.builtin import breast_cancer
from quidnunc.gossip.lineage import Lineage, Place, Trace
from quidnunc.gossip.provenance import Merge, MergeRow, UpdatePublished
from quidnunc.gossip.rules.linear import Vector, recompute
from quidnunc.gossip.task import Training
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.world import World

GENESIS = b"g" * 32


def name(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def org(letter: str) -> bytes:
    return letter.encode() * 32


def update(number: int, base: bytes, after: bytes, *, steps: int = 1) -> UpdatePublished:
    zero = bytes(32)
    return UpdatePublished(
        zero, zero, number, number, base, zero, after, name("delta", after), 1, 1, steps, zero, 1, None
    )


def merge(result: bytes, *rows: tuple[bytes, bytes | None, int | None, int], approximate: bool = False) -> Merge:
    inputs = tuple(MergeRow(state, log_id, seq, share, share, PPB) for state, log_id, seq, share in rows)
    return Merge(1, result, bytes(32), inputs, approximate, 0, (), None)


def line() -> Lineage:
    """A trains; B merges half of it with its own and trains; C merges half of B's with its own. C never met A."""
    a, b, c = org("a"), org("b"), org("c")
    lineage = Lineage(GENESIS)
    lineage.add(a, 1, update(1, GENESIS, name("a1")))
    lineage.add(b, 1, update(1, GENESIS, name("b1")))
    lineage.add(b, 2, merge(name("bm"), (name("b1"), b, 1, PPB // 2), (name("a1"), a, 1, PPB // 2)))
    lineage.add(b, 3, update(2, name("bm"), name("b2")))
    lineage.add(c, 1, update(1, GENESIS, name("c1")))
    lineage.add(c, 2, merge(name("cm"), (name("c1"), c, 1, PPB // 2), (name("b2"), b, 3, PPB // 2)))
    return lineage


def masses(trace: Trace) -> dict[bytes, float]:
    return {share.log_id: share.mass for share in trace.shares}


def test_in_a_line_the_first_stands_in_the_model_of_the_last() -> None:
    trace = line().trace(Place(org("c"), 2))
    assert masses(trace) == {org("a"): 0.25, org("b"): 0.25 + 0.5, org("c"): 0.5}
    assert [share.share for share in trace.shares] == pytest.approx([0.5, 1 / 3, 1 / 6])
    assert (trace.genesis, trace.unexplained, trace.updates, trace.merges) == (1.0, {}, 4, 2)


def test_what_is_not_held_is_unexplained_under_the_name_of_its_publisher() -> None:
    whole, part = line(), Lineage(GENESIS)
    for place in (Place(org("c"), 1), Place(org("c"), 2), Place(org("b"), 3)):
        part.add(*place, whole.event(place))
    trace = part.trace(Place(org("c"), 2))
    assert masses(trace) == {org("b"): 0.5, org("c"): 0.5}
    assert (trace.genesis, trace.unexplained) == (0.5, {org("b"): 0.5})


def test_a_named_entry_that_made_another_state_explains_nothing() -> None:
    lineage = Lineage(GENESIS)
    lineage.add(org("a"), 1, update(1, GENESIS, name("a1")))
    lineage.add(org("b"), 1, merge(name("m"), (name("forged"), org("a"), 1, PPB)))
    trace = lineage.trace(Place(org("b"), 1))
    assert (trace.shares, trace.unexplained) == ((), {org("a"): 1.0})


def test_histories_that_refer_to_each_other_in_a_circle_end_as_unexplained() -> None:
    a, b = org("a"), org("b")
    lineage = Lineage(GENESIS)
    lineage.add(a, 1, merge(name("am"), (name("b1"), b, 2, PPB // 4), (GENESIS, None, None, PPB - PPB // 4)))
    lineage.add(a, 2, update(1, name("am"), name("a1")))
    lineage.add(b, 1, merge(name("bm"), (name("a1"), a, 2, PPB)))
    lineage.add(b, 2, update(1, name("bm"), name("b1")))
    lineage.add(org("c"), 1, merge(name("cm"), (name("a1"), a, 2, PPB)))
    trace = lineage.trace(Place(org("c"), 1))
    assert trace.genesis + sum(trace.unexplained.values()) == pytest.approx(1.0)
    assert set(trace.unexplained) <= {a, b}


def test_a_heartbeat_is_no_training_and_a_median_is_marked() -> None:
    a = org("a")
    lineage = Lineage(GENESIS)
    lineage.add(a, 1, update(1, GENESIS, name("a1")))
    lineage.add(a, 2, merge(name("am"), (name("a1"), a, 1, PPB), approximate=True))
    lineage.add(a, 3, update(2, name("am"), name("a2"), steps=0))
    trace = lineage.trace(Place(a, 3))
    assert (masses(trace), trace.approximate) == ({a: 1.0}, 1)
    assert trace.atoms == {Place(a, 1): 1.0, Place(a, 3): 1.0}


def test_lengths_weigh_where_they_are_known() -> None:
    lengths = {name("a1"): 4.0, name("b1"): 8.0}
    trace = line().trace(Place(org("c"), 2), lambda found: lengths.get(found.replica_after))
    found = {share.log_id: share.norm_weighted for share in trace.shares}
    assert found == {org("a"): 1.0, org("b"): 2.0, org("c"): None}
    assert {share.log_id: share.norms for share in trace.shares} == {org("a"): 1, org("b"): 1, org("c"): 0}


def test_whoever_has_any_path_is_reached_even_where_nothing_of_it_is_held() -> None:
    a, b, c = org("a"), org("b"), org("c")
    lineage = Lineage(GENESIS)
    lineage.add(a, 1, update(1, GENESIS, name("a1"), steps=0))
    lineage.add(c, 1, merge(name("cm"), (name("a1"), a, 1, 1), (name("b9"), b, 9, PPB - 1)))
    trace = lineage.trace(Place(c, 1))
    assert (masses(trace), trace.reach) == ({}, {a, b})


def test_states_are_found_by_the_beginning_of_their_hash() -> None:
    lineage = line()
    assert lineage.find(name("bm").hex()[:12]) == {name("bm"): Place(org("b"), 2)}
    assert len(lineage.find("")) == 6


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=25), st.randoms())
def test_coefficients_of_beginnings_sum_to_one_whatever_is_held(shape: list[list[int]], pick: object) -> None:
    """Random histories of merges and updates, of which some entries are withheld."""
    lineage = Lineage(GENESIS)
    made: list[tuple[bytes, bytes, int]] = []
    for seq, inputs in enumerate(shape, 1):
        log_id = org("abcd"[seq % 4])
        rows = [made[i % len(made)] for i in inputs] if made else []
        shares = [PPB // len(rows)] * len(rows) if rows else []
        if shares:
            shares[0] += PPB - sum(shares)
            rows_ = [(s, who, at, share) for (who, s, at), share in zip(rows, shares, strict=True)]
            event: Merge | UpdatePublished = merge(name("m", seq), *rows_)
            state = name("m", seq)
        else:
            state = name("u", seq)
            event = update(seq, GENESIS, state)
        made.append((log_id, state, seq))
        if seq == len(shape) or inputs[0] % 3:
            lineage.add(log_id, seq, event)
    log_id, _, seq = made[-1]
    trace = lineage.trace(Place(log_id, seq))
    assert trace.genesis + sum(trace.unexplained.values()) == pytest.approx(1.0)
    assert all(share.mass >= 0 for share in trace.shares)


def whole_lineage(world: World) -> Lineage:
    lineage = Lineage(world.charter.task.genesis)
    for peer in world.peers:
        for header, record in parsed(peer.disk.entries):
            if isinstance(record, UpdatePublished | Merge):
                lineage.add(peer.log_id, header.seq, record)
    return lineage


def vector(world: World, state: bytes) -> np.ndarray:
    data = next(peer.disk.blobs.data[state] for peer in world.peers if state in peer.disk.blobs.data)
    return np.frombuffer(data, "<f4").astype(np.float64)


def coefficients_error(world: World, lineage: Lineage, place: Place, result: bytes) -> float:
    """How far the model is from the sum of its atoms: the largest coordinate of the difference."""
    trace = lineage.trace(place)
    assert trace.unexplained == {}, "every log is held"
    assert not trace.approximate
    total = trace.genesis * vector(world, world.charter.task.genesis)
    for at, coefficient in trace.atoms.items():
        found = lineage.event(at)
        assert isinstance(found, UpdatePublished)
        total = total + coefficient * (vector(world, found.replica_after) - vector(world, found.base))
    return float(np.abs(total - vector(world, result)).max())


def test_real_peers_models_are_the_sum_of_their_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real nodes, training and codec, in a line, with loss: the ledgers of all explain the model of each."""
    monkeypatch.setattr(MemoryBlobs, "discard", lambda self, blob: None)
    scenario = Scenario(
        task=breast_cancer,
        training=Training(learning_rate=1.0, local_steps=2, batch_size=16),
        reference="breast-cancer",
        peers=4,
        rounds=12,
        edges=((0, 1), (1, 2), (2, 3)),
        link=Link(loss=0.2, jitter_s=0.3),
        seed=3,
    )
    world = build(scenario)
    start_all(world)
    world.run(20.0)
    lineage = whole_lineage(world)
    for peer in world.peers:
        merges = [(h.seq, r) for h, r in parsed(peer.disk.entries) if isinstance(r, Merge)]
        seq, last = merges[-1]
        place = Place(peer.log_id, seq)
        assert coefficients_error(world, lineage, place, last.result) <= 1e-6
        trace = lineage.trace(place)
        assert {share.log_id for share in trace.shares} == {p.log_id for p in world.peers}, "also of who never met"
        assert sum(share.share for share in trace.shares) == pytest.approx(1.0)


def test_twelve_organizations_over_sixty_random_rounds() -> None:
    """Torch models that train on what they merged; whom a peer merges, and how much, is drawn anew every round."""
    draw = np.random.Generator(np.random.PCG64(12))
    logs = [bytes([i]) * 32 for i in range(12)]
    models = [torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)) for _ in logs]
    start = flat(models[0])
    lineage, states = Lineage(hash_of(start)), {hash_of(start): start}
    published = [(hash_of(start), cast("int | None", None)) for _ in logs]
    merged = [start for _ in logs]
    seqs = [1] * len(logs)

    def keep(vector: Vector) -> bytes:
        states[hash_of(vector)] = vector
        return hash_of(vector)

    for number in range(1, 61):
        for i, log_id in enumerate(logs):
            after = train(models[i], merged[i], draw)
            lineage.add(log_id, seqs[i], update(number, hash_of(merged[i]), keep(after)))
            published[i] = hash_of(after), seqs[i]
            seqs[i] += 1
        for i, log_id in enumerate(logs):
            others = [int(j) for j in draw.choice(12, size=draw.integers(1, 5), replace=False) if j != i]
            shares = [int(share) for share in draw.dirichlet(np.ones(len(others) + 1)) * PPB]
            rows = [(states[published[j][0]], share) for j, share in zip(others, shares[1:], strict=True)]
            result = recompute(states[published[i][0]], rows)
            inputs = [(*published[j], share) for j, share in zip(others, shares[1:], strict=True)]
            named = [(state, logs[j], seq, share) for j, (state, seq, share) in zip(others, inputs, strict=True)]
            own = (published[i][0], log_id, published[i][1], PPB - sum(shares[1:]))
            lineage.add(log_id, seqs[i], merge(keep(result), own, *named))
            merged[i] = result
            seqs[i] += 1
    for i, log_id in enumerate(logs):
        trace = lineage.trace(Place(log_id, seqs[i] - 1))
        total = trace.genesis * start.astype(np.float64)
        for place, coefficient in trace.atoms.items():
            event = lineage.event(place)
            assert isinstance(event, UpdatePublished)
            total += coefficient * (states[event.replica_after].astype(np.float64) - states[event.base])
        assert np.abs(total - merged[i]).max() <= 1e-6
        assert trace.unexplained == {}
        assert len(trace.shares) == 12


def flat(model: torch.nn.Module) -> Vector:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]).astype(np.float32)


def hash_of(vector: Vector) -> bytes:
    return hashlib.sha256(vector.tobytes()).digest()


def train(model: torch.nn.Module, params: Vector, draw: np.random.Generator) -> Vector:
    """One step of SGD from ``params`` on a few random examples."""
    torch.nn.utils.vector_to_parameters(torch.from_numpy(params.copy()), model.parameters())
    inputs = torch.from_numpy(draw.normal(size=(8, 6)).astype(np.float32))
    loss = torch.nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return params - np.float32(0.2) * np.concatenate([g.numpy().ravel() for g in gradients])
