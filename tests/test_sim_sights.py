"""What REPUTE sees in compiled code is what torch and numpy see, to rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from linear_stacks import stack
from torch import Tensor, nn

from quidnunc.gossip.task import Training
from quidnunc.sim.batched import compiled
from quidnunc.sim.batched.attackers import Attack
from quidnunc.sim.batched.conditions import Conditions
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.engine import Engine, Setup
from quidnunc.sim.batched.holdout import Holdout
from quidnunc.sim.batched.merging import Merging
from quidnunc.sim.batched.net import Net, net_of
from quidnunc.sim.batched.sights import Sights
from quidnunc.sim.data.pool import Pool
from quidnunc.sim.data.shares import Shares
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.spec import TopologySpec

pytestmark = pytest.mark.skipif(compiled._insight() is None, reason="numba (extra [fast]) is not installed")

SIZES = [1, 3, 15, 16, 17, 31, 32, 33, 40, 5]
"""Examples in everybody's holdout: registers that are full, and not."""
PEERS, FEATURES, CLASSES = len(SIZES), 21, 5


def pool_of() -> Pool:
    """Examples of which a third of the features are always 0."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(300, FEATURES)).astype(np.float32)
    inputs[:, 1::3] = 0
    labels = inputs[:, :CLASSES].argmax(1).astype(np.int64)
    return Pool("made", inputs, labels, inputs[:50], labels[:50], CLASSES, (FEATURES,))


def setup(module: nn.Module, **others: Any) -> Setup:
    """Peers under REPUTE in a graph of irregular degrees."""
    rng = np.random.default_rng(5)
    net = net_of(module)
    named = dict(module.named_parameters())
    held = [rng.choice(300, size, replace=False) for size in SIZES]
    made = Setup(
        net,
        [named[slot.name].detach() for slot in net.slots],
        pool_of(),
        Shares([rng.choice(300, 20, replace=False) for _ in SIZES], True),
        build_topology(TopologySpec(kind="erdos-renyi", probability=0.4), PEERS, 3),
        Training(0.3, 0.0, 3, 8),
        merging=Merging("repute"),
        holdout=held,
    )
    return replace(made, **others)


def ring_of(net: Net, depth: int = 2) -> list[Tensor]:
    """States of everybody and two more rows, of several rounds."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(depth, PEERS + 2, *slot.shape, generator=generator) * 0.3 for slot in net.slots]


def both(made: Setup, monkeypatch: pytest.MonkeyPatch) -> tuple[Sights, Sights]:
    """The gathered way and the compiled one."""
    monkeypatch.setattr(compiled, "LEAST_PRODUCTS", 0)
    insight = compiled.insight_for(made)
    assert insight is not None
    assert made.holdout is not None
    found = []
    for probe in (None, insight.probe):
        holdout = Holdout(made.net, made.pool, made.holdout, torch.device("cpu"), probe)
        found.append(Sights(holdout, insight if probe is not None else None))
    return found[0], found[1]


def neighborhoods(k: int) -> tuple[Indices, Indices]:
    """Rows of the ring [k+1, b] for all peers but one, own first, old states and further rows among the others."""
    peers = np.delete(np.arange(PEERS), 4)
    rng = np.random.default_rng(k)
    return np.concatenate([peers[None], rng.integers(0, 2 * (PEERS + 2), (k, len(peers)))]), peers


MODULES = {
    "softmax": stack(21, 5),
    "mlp": stack(21, 33, 5),
    "deep": stack(21, 40, 16, 7, 5),
    "without biases": stack(21, 9, 5, bias=False),
    "linear all through": stack(21, 18, 5, between=None),
    "more outputs than classes": stack(21, 6, 17),
    "longer than a run": stack(21, 120, 5),
}


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 70])
@pytest.mark.parametrize("name", MODULES)
def test_distances_and_losses_are_those_of_gathered_states(monkeypatch: pytest.MonkeyPatch, name: str, k: int) -> None:
    made = setup(MODULES[name])
    ring, (index, peers) = ring_of(made.net), neighborhoods(k)
    parts = np.random.default_rng(k).random((k, len(peers)))
    parts[0] = 0
    plain, fast = (sights.look(ring, index) for sights in both(made, monkeypatch))
    np.testing.assert_allclose(fast.norms, plain.norms, rtol=1e-6)
    np.testing.assert_allclose(fast.away, plain.away, rtol=1e-6)
    losses, expected = fast.losses(parts, peers), plain.losses(parts, peers)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    assert (losses[1] == losses[0]).all(), "no way at all is the own state"
    np.testing.assert_allclose(fast.spreads(), plain.spreads(), rtol=1e-6)


def test_losses_of_everybody_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup(MODULES["deep"])
    plain, fast = (sights._holdout for sights in both(made, monkeypatch))
    assert plain is not None
    assert fast is not None
    own = [tensor[1, :PEERS] for tensor in ring_of(made.net)]
    for peers in (np.arange(PEERS), np.array([2, 3, 7])):
        found = fast.of_rows(own, peers)
        np.testing.assert_allclose(found, plain.of_rows(own, peers), rtol=2e-6)
        np.testing.assert_array_equal(found, fast.of_rows(own, np.arange(PEERS))[peers])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_seen_where_they_are_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    made = setup(MODULES["mlp"])
    ring, (index, peers) = ring_of(made.net), neighborhoods(4)
    clean = both(made, monkeypatch)[1].look(ring, index)
    parts = np.full((4, len(peers)), 0.5)
    losses = clean.losses(parts, peers)
    for tensor in ring:
        tensor.view(-1, *tensor.shape[2:])[index[2, 3]] = value
    met = index == index[2, 3]
    spoiled = both(made, monkeypatch)[1].look(ring, index)
    assert (np.isfinite(spoiled.away) == ~met[1:].T).all()
    found = spoiled.losses(parts, peers)
    hit = met | met[0]
    np.testing.assert_array_equal(found[~hit], losses[~hit])
    assert not np.isfinite(found[hit]).any()
    fine = ~met.any(0)
    np.testing.assert_array_equal(spoiled.spreads()[fine], clean.spreads()[fine])


def test_a_holdout_without_examples_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup(MODULES["mlp"])
    assert made.holdout is not None
    made.holdout[0] = made.holdout[0][:0]
    fast = both(made, monkeypatch)[1]._holdout
    assert fast is not None
    found = fast.of_rows([tensor[0, :PEERS] for tensor in ring_of(made.net)], np.arange(PEERS))
    assert np.isnan(found[0])
    assert np.isfinite(found[1:]).all()


@pytest.mark.parametrize("holdout", [True, False])
def test_a_whole_run_is_repeated_and_reaches_the_same(monkeypatch: pytest.MonkeyPatch, holdout: bool) -> None:
    """Irregular degrees, messages that are lost, and an attacker; steps stay torch's, so that evidence is compared."""
    others: dict[str, Any] = {
        "attack": Attack("sign_flip", peers=(2,)),
        "conditions": Conditions(loss=0.2, window=3),
    }
    made = setup(MODULES["mlp"], **others, **({} if holdout else {"holdout": None}))
    monkeypatch.setattr(compiled, "descent_for", lambda setup: None)

    def run() -> tuple[bytes, Any]:
        engine = Engine(made)
        for _ in range(12):
            engine.step()
        return engine.params().tobytes(), engine.evaluate()

    _, plain = run()
    monkeypatch.setattr(compiled, "LEAST_PRODUCTS", 0)
    (first, found), (again, _) = run(), run()
    assert first == again
    np.testing.assert_allclose(found.loss, plain.loss, rtol=1e-3)
    assert found.held is not None
    assert plain.held is not None
    np.testing.assert_allclose(found.held.kept, plain.held.kept, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("below", [0, 1])
def test_it_is_used_where_steps_are_compiled(monkeypatch: pytest.MonkeyPatch, below: int) -> None:
    made = setup(MODULES["softmax"], rounds=7)
    monkeypatch.setattr(compiled, "LEAST_PRODUCTS", (FEATURES + 1) * CLASSES * 8 * PEERS * 3 * 7 + below)
    assert (compiled.insight_for(made) is None) == (compiled.descent_for(made) is None) == bool(below)
