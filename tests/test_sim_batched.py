"""The batched engine against plain loops: draws, batches, steps, mixing, conditions, whole runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import scoped_rng
from quidnunc.gossip.learning.privacy import clipped_sum
from quidnunc.gossip.rules.linear import mean
from quidnunc.gossip.rules.median import coordinate_median
from quidnunc.gossip.task import Task, Training
from quidnunc.sim.batched import gathering, merging
from quidnunc.sim.batched.batches import draw_batches, whole_shares
from quidnunc.sim.batched.conditions import Conditions, Weather
from quidnunc.sim.batched.draws import keys, permutations, uniforms
from quidnunc.sim.batched.engine import Engine, Setup
from quidnunc.sim.batched.net import Net, net_of
from quidnunc.sim.data.pool import Pool, load_pool
from quidnunc.sim.data.shares import share_out
from quidnunc.sim.data.spec import DataSpec
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.spec import TopologySpec

PEERS = 10
DATA = DataSpec(source="synthetic", features=6, classes=3, pool=500)


def _losses(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def small_mlp() -> nn.Module:
    with scoped_rng(4):
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def softmax() -> nn.Module:
    with scoped_rng(4):
        return nn.Sequential(nn.Linear(6, 3))


def no_bias() -> nn.Module:
    with scoped_rng(4):
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 3, bias=False))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def setup(
    module: nn.Module | None = None, data: DataSpec = DATA, kind: str = "random-regular", **others: object
) -> Setup:
    module = module or small_mlp()
    pool = load_pool(data, 1)
    net = net_of(module)
    named = dict(module.named_parameters())
    genesis = [named[slot.name].detach() for slot in net.slots]
    made = Setup(
        net,
        genesis,
        pool,
        share_out(pool, data, PEERS, 2),
        build_topology(TopologySpec(kind=kind), PEERS, 3),
        Training(0.2, 0.0, 2, 8),
    )
    return replace(made, **others)


def loop(made: Setup, module: nn.Module, rounds: int) -> np.ndarray:
    """The same simulation, one peer and one autograd step at a time: the oracle of the engine."""
    nets = [Functional(module, _task(made.pool)) for _ in range(PEERS)]
    start = torch.cat([tensor.reshape(-1) for tensor in made.genesis])
    states = [start.clone() for _ in range(PEERS)]
    dense = torch.from_numpy(made.topology.at(0).dense()).float()
    training = made.training
    drift = [torch.zeros_like(start) for _ in range(PEERS)]
    for number in range(rounds):
        begun = list(states)
        for peer in range(PEERS):
            rows = made.shares.rows[peer]
            key = keys(made.seed, "batches", number, np.array([peer]))
            picks = draw_batches(key, np.array([len(rows)]), training.local_steps, training.batch_size).picks[:, 0]
            velocity = torch.zeros_like(start)
            for pick in picks:
                x = torch.from_numpy(made.pool.inputs[rows[pick]])
                gradient, _ = nets[peer].gradient(states[peer], x, torch.from_numpy(made.pool.labels[rows[pick]]))
                before = drift[peer] if made.quasi_global else velocity
                gradient = gradient + training.prox * (states[peer] - begun[peer])
                velocity = before * training.momentum + gradient
                states[peer] = states[peer] - training.learning_rate * velocity
        states = list((dense @ torch.stack(states)).unbind(0))
        scale = (1 - training.momentum) / (training.learning_rate * training.local_steps)
        pairs = zip(drift, begun, states, strict=True)
        drift = [training.momentum * mean + scale * (old - new) for mean, old, new in pairs]
    return torch.stack(states).numpy()


def _task(pool: Pool) -> Task:
    pair = torch.from_numpy(pool.inputs), torch.from_numpy(pool.labels)
    return Task(small_mlp, _losses, pair, pair, pair)


@given(st.integers(0, 2**40), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_permutations_hold_every_place_once(seed: int, sizes: list[int]) -> None:
    found = permutations(keys(seed, "x", 1, np.arange(len(sizes))), np.array(sizes))
    for row, size in zip(found, sizes, strict=True):
        assert sorted(row[:size].tolist()) == list(range(size))


def test_draws_depend_on_peer_round_and_purpose_and_on_nothing_else() -> None:
    one = keys(1, "loss", 5, np.arange(100))
    assert np.array_equal(one[40:60], keys(1, "loss", 5, np.arange(40, 60)))
    for seed, purpose, number in ((2, "loss", 5), (1, "noise", 5), (1, "loss", 6)):
        assert not set(one.tolist()) & set(keys(seed, purpose, number, np.arange(100)).tolist())
    spread = uniforms(keys(1, "u", 0, np.arange(2000)), 10)
    assert 0 <= spread.min() < spread.max() < 1
    assert abs(spread.mean() - 0.5) < 0.01


@given(
    st.integers(0, 1000), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 12)
)
def test_batches_are_shuffled_passes_over_the_own_examples(seed: int, sizes: list[int], steps: int, batch: int) -> None:
    found = draw_batches(keys(seed, "b", 0, np.arange(len(sizes))), np.array(sizes), steps, batch)
    for peer, size in enumerate(sizes):
        own = min(size, batch)
        taken = found.picks[:, peer, :own].reshape(-1).tolist()
        for at in range(0, len(taken), size):
            lap = taken[at : at + size]
            assert len(set(lap)) == len(lap)
            assert set(lap) <= set(range(size))
        if found.counts is not None:
            assert found.counts[peer, own:].sum() == 0
            assert found.counts[peer].sum() == pytest.approx(1)


@pytest.mark.parametrize("make", [small_mlp, softmax, no_bias])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("partition", ["iid", "by-quantity"])
def test_the_engine_is_the_plain_loop(make: Callable[[], nn.Module], momentum: float, partition: str) -> None:
    data = DataSpec(source="synthetic", features=6, classes=3, pool=200, partition=partition, skew=1.5)
    made = setup(make(), data, training=Training(0.2, momentum, 3, 8))
    if partition == "by-quantity":
        assert made.shares.sizes.min() < 8 < made.shares.sizes.max()
    engine = Engine(made)
    for _ in range(4):
        engine.step()
    assert np.allclose(engine.params(), loop(made, make(), 4), atol=2e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_proximal_term_is_the_plain_loop(momentum: float) -> None:
    made = setup(training=Training(0.2, momentum, 3, 8, prox=0.7))
    engine, without = Engine(made), Engine(replace(made, training=Training(0.2, momentum, 3, 8)))
    for _ in range(4):
        engine.step()
        without.step()
    assert np.allclose(engine.params(), loop(made, small_mlp(), 4), atol=2e-5)
    assert not np.allclose(engine.params(), without.params(), atol=1e-3)


@pytest.mark.parametrize(("momentum", "prox"), [(0.5, 0.0), (0.9, 0.0), (0.9, 0.5)])
def test_quasi_global_momentum_is_the_plain_loop(momentum: float, prox: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quidnunc.sim.batched.training.CHUNK_BYTES", 4000)
    made = setup(training=Training(0.1, momentum, 3, 8, prox), quasi_global=True)
    engine = Engine(made)
    for _ in range(5):
        engine.step()
    assert np.allclose(engine.params(), loop(made, small_mlp(), 5), atol=2e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup(privacy=PrivacyStep(1.0, 0.5))
    whole = Engine(made)
    monkeypatch.setattr("quidnunc.sim.batched.training.CHUNK_BYTES", 1)
    single = Engine(made)
    for _ in range(3):
        whole.step()
        single.step()
    assert np.allclose(whole.params(), single.params(), atol=1e-5)


@pytest.mark.parametrize("make", [small_mlp, no_bias])
@pytest.mark.parametrize("padded", [False, True])
def test_ghost_norms_clip_as_the_daemon_does(make: Callable[[], nn.Module], padded: bool) -> None:
    module = make()
    pool = load_pool(DATA, 1)
    functional = Functional(module, _task(pool))
    sizes = np.array([9, 9 - 4 * padded])
    batches = whole_shares(sizes)
    x = torch.from_numpy(pool.inputs[batches.picks[0]])
    y = torch.from_numpy(pool.labels[batches.picks[0]])
    named = dict(module.named_parameters())
    counts = None if batches.counts is None else torch.from_numpy(batches.counts)
    assert (counts is not None) == padded
    for net in (net_of(module), net_of(module, _losses)):
        params = [named[slot.name].detach().repeat(2, *([1] * len(slot.shape))) for slot in net.slots]
        with torch.no_grad():
            grads, _ = net.private(params, x, y, counts, 0.3)
        for peer, size in enumerate(sizes):
            vector = torch.cat([tensor[peer].reshape(-1) for tensor in params]).numpy()
            total, _ = clipped_sum(functional, vector, x[peer, :size], y[peer, :size], 0.3)
            mine = torch.cat([grad[peer].reshape(-1) for grad in grads]).numpy()
            assert np.allclose(mine, total / size, atol=1e-6)


def test_private_noise_has_the_size_that_is_accounted_for() -> None:
    silent, noisy = (Engine(setup(privacy=PrivacyStep(0.7, noise))) for noise in (0.0, 3.0))
    silent.step()
    noisy.step()
    dense = noisy.setup.topology.at(0).dense()
    sizes = noisy.setup.shares.sizes
    difference = np.linalg.solve(dense, (noisy.params() - silent.params()).astype(np.float64))
    expected = 0.2 * 3.0 * 0.7 / sizes
    assert np.allclose(difference.std(axis=1) / expected, 1, atol=0.35)
    assert abs((difference / expected[:, None]).std() - 1) < 0.1


@pytest.mark.parametrize("net_loss", [None, _losses])
def test_both_kinds_of_net_take_the_same_steps(net_loss: Callable[..., torch.Tensor] | None) -> None:
    net: Net = net_of(small_mlp(), net_loss)
    made = replace(setup(), net=net)
    engine = Engine(made)
    for _ in range(3):
        engine.step()
    assert np.allclose(engine.params(), loop(made, small_mlp(), 3), atol=2e-5)
    assert type(net).__name__ == ("StackNet" if net_loss is None else "ModuleNet")


@pytest.mark.parametrize("kind", ["ModuleNet", "LoopNet"])
def test_any_small_module_learns(kind: str) -> None:
    with scoped_rng(1):
        first = {
            "ModuleNet": [nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU()],
            "LoopNet": [nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.GELU(), nn.Flatten()],
        }[kind]
        module = nn.Sequential(*first, nn.Linear(16, 3))
    engine = Engine(setup(module))
    assert type(engine.setup.net).__name__ == kind
    before = engine.evaluate().accuracy.mean()
    for _ in range(15):
        engine.step()
    assert engine.evaluate().accuracy.mean() > before + 0.2


def test_batch_normalization_is_refused() -> None:
    with pytest.raises(ConfigError, match="BatchNorm1d"):
        net_of(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))


def test_mixing_in_blocks_is_the_dense_product(monkeypatch: pytest.MonkeyPatch) -> None:
    links = Weather(Conditions(), build_topology(TopologySpec(kind="scale-free", degree=2), 12, 1), 1).links(
        0, np.ones(12, dtype=bool)
    )
    generator = torch.Generator().manual_seed(1)
    ring = [torch.randn(2, 12, 7, 3, generator=generator), torch.randn(2, 12, 5, generator=generator)]
    expected = [np.einsum("ij,j...->i...", links.mixing.dense(), tensor[0].numpy()) for tensor in ring]
    for whole, columns, temporary in ((1 << 20, 2048, 1 << 20), (0, 4, 1 << 20), (0, 4, 32), (1 << 20, 8, 1)):
        monkeypatch.setattr(merging, "WHOLE_BYTES", whole)
        monkeypatch.setattr(merging, "COLUMNS", columns)
        monkeypatch.setattr(merging, "TEMPORARY_BYTES", temporary)
        for tensor in ring:
            tensor[1].fill_(-1)
        merging.mix(ring, links, 0, 1)
        for tensor, wanted in zip(ring, expected, strict=True):
            assert np.allclose(tensor[1].numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["random-regular", "scale-free", "epidemic"])
def test_a_rule_on_gathered_neighbors_sees_exactly_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "GATHERED_BYTES", 1000)
    world = Conditions(loss=0.3, leave=0.1)
    mixed, gathered = (Engine(setup(kind=kind, conditions=world, rule=rule)) for rule in (None, mean))
    for _ in range(6):
        mixed.step()
        gathered.step()
    assert np.allclose(mixed.params(), gathered.params(), atol=1e-5)


def test_the_median_rule_is_the_coordinate_median_of_neighborhoods() -> None:
    engine = Engine(setup(merging=merging.Merging("median")))
    plain = Engine(setup(rule=lambda stack, weights: stack[:, 0]))
    engine.step()
    plain.step()
    alone, mixing = plain.params(), engine.setup.topology.at(0)
    for peer in range(PEERS):
        near = mixing.indices[mixing.indptr[peer] : mixing.indptr[peer + 1]]
        assert np.allclose(engine.params()[peer], coordinate_median(alone[[peer, *near]]), atol=1e-6)


def test_lost_messages_make_states_older_until_they_are_left_out() -> None:
    topology = build_topology(TopologySpec(kind="complete"), 6)
    weather = Weather(Conditions(loss=0.6, window=2), topology, 1)
    everybody = np.ones(6, dtype=bool)
    seen = set()
    before = None
    for number in range(40):
        links = weather.links(number, weather.turn(number))
        assert links.ages is not None
        live = links.mixing.weights > 0
        assert np.allclose(links.mixing.dense().sum(axis=1), 1)
        assert (links.ages[live] <= min(2, number)).all()
        if before is not None:
            grown = live & (links.ages > 0)
            assert np.array_equal(links.ages[grown], before[grown] + 1)
        before = links.ages
        seen |= set(links.ages[live].tolist())
        assert everybody.all()
    assert seen == {0, 1, 2}


def test_a_world_in_which_everything_is_lost_is_everybody_alone() -> None:
    alone, lost = (Engine(made) for made in (setup(rule=lambda s, w: s[:, 0]), setup(conditions=Conditions(loss=1.0))))
    for _ in range(4):
        alone.step()
        facts = lost.step()
    assert np.allclose(alone.params(), lost.params(), atol=1e-6)
    assert facts.messages == facts.lost == 4 * PEERS


def test_the_dead_are_gone_for_good_and_nobody_waits_for_them() -> None:
    engine = Engine(setup(conditions=Conditions(die=0.5, die_at=2)))
    frozen = None
    for number in range(5):
        engine.step()
        found = engine.evaluate()
        assert found.present.sum() == (PEERS if number < 2 else PEERS // 2)
        if number >= 2:
            dead = engine.params()[~found.present]
            assert frozen is None or np.array_equal(dead, frozen)
            frozen = dead


def test_who_leaves_comes_back() -> None:
    weather = Weather(Conditions(leave=0.2, back=0.5), build_topology(TopologySpec(kind="ring"), 50), 1)
    presence = np.stack([weather.turn(number).copy() for number in range(200)])
    assert 0.6 < presence[50:].mean() < 0.82
    assert (presence[:-1] & ~presence[1:]).any(axis=0).all()
    assert (~presence[:-1] & presence[1:]).any(axis=0).all()


def test_slow_peers_take_every_third_turn_and_are_read_in_between() -> None:
    weather = Weather(Conditions(slow=0.3, slow_every=3), build_topology(TopologySpec(kind="complete"), 10), 1)
    turns = np.stack([weather.turn(number) for number in range(30)]).sum(axis=0)
    assert sorted(turns.tolist()) == [10] * 3 + [30] * 7
    active = weather.turn(0)
    links = weather.links(0, active)
    assert (links.mixing.weights[links.mixing.receivers == int(np.flatnonzero(active)[0])] > 0).all()
    assert np.allclose(links.mixing.own[~active], 1)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    world = Conditions(loss=0.2, leave=0.05, slow=0.2)
    runs = []
    for seed in (1, 1, 2):
        engine = Engine(setup(conditions=world, seed=seed))
        for _ in range(5):
            engine.step()
        runs.append(engine.params().tobytes())
    assert runs[0] == runs[1] != runs[2]


def test_facts_about_peers_are_in_the_order_of_the_scenario() -> None:
    made = setup(data=DataSpec(source="synthetic", features=6, classes=3, pool=300, partition="by-quantity"))
    engine = Engine(replace(made, rule=lambda stack, weights: stack[:, 0]))
    engine.step()
    found, params = engine.evaluate(), engine.params()
    functional = Functional(small_mlp(), _task(made.pool))
    goals = torch.from_numpy(made.pool.test_labels)
    for peer in range(PEERS):
        outputs = functional.predict(params[peer], torch.from_numpy(made.pool.test_inputs))
        assert found.accuracy[peer] == pytest.approx(float((outputs.argmax(1) == goals).double().mean()))
        assert found.loss[peer] == pytest.approx(float(_losses(outputs, goals).mean()), abs=1e-5)
    expected = np.linalg.norm(params - params.mean(axis=0), axis=1).mean()
    assert found.consensus == pytest.approx(expected, rel=1e-5)


def test_params_that_are_not_finite_are_named_with_the_remedy() -> None:
    engine = Engine(setup(training=Training(1e38, 0.9, 50, 8)))
    engine.step()
    with pytest.raises(ConfigError, match="not finite after round 1") as refused:
        engine.evaluate()
    assert "learning_rate" in refused.value.hint


@pytest.mark.parametrize("make", [small_mlp, softmax, no_bias, lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 3))])
@pytest.mark.parametrize("weighed", [False, True])
def test_losses_halfway_are_those_of_params_halfway(make: Callable[[], nn.Module], weighed: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    fast = net_of(make())
    slow = net_of(make(), _losses)
    states = [torch.randn(3, 4, *slot.shape, generator=generator) for slot in fast.slots]
    parts = torch.rand(2, 4, generator=generator)
    x, y = torch.randn(4, 5, 6, generator=generator), torch.randint(0, 3, (4, 5), generator=generator)
    counts = torch.rand(4, 5, generator=generator) if weighed else None
    found = [net.halfway(states, parts, x, y, counts) for net in (fast, slow)]
    for row in range(3):
        part = torch.zeros(4) if row == 0 else parts[row - 1]
        params = [t[0] + part.view(-1, *(1 for _ in t.shape[2:])) * t[row] for t in states]
        for net, each in zip((fast, slow), found, strict=True):
            assert torch.allclose(each[row], net.loss(params, x, y, counts), atol=1e-5)
    assert torch.allclose(*found, atol=1e-5)
