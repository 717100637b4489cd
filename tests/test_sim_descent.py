"""Local steps in compiled code give what torch's batched products give, to rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from linear_stacks import stack
from torch import nn

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.task import Training
from quidnunc.sim.batched import compiled
from quidnunc.sim.batched.engine import Engine, Setup
from quidnunc.sim.batched.net import net_of
from quidnunc.sim.batched.training import Trainer
from quidnunc.sim.data.pool import Pool
from quidnunc.sim.data.shares import Shares
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.spec import TopologySpec

PEERS = 9
needs_numba = pytest.mark.skipif(compiled._descent() is None, reason="numba (extra [fast]) is not installed")


def setup(module: nn.Module, features: int = 21, classes: int = 5, equal: bool = False, **others: Any) -> Setup:
    """Ragged shares, one of them of a single example; a third of the features are 0 in all examples."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(300, features)).astype(np.float32)
    inputs[:, 1::3] = 0
    labels = (inputs[:, :classes].argmax(1)).astype(np.int64)
    pool = Pool("made", inputs, labels, inputs[:50], labels[:50], classes, (features,))
    sizes = [16] * PEERS if equal else [1, 3, 7, 8, 9, 16, 30, 31, 40]
    rows = [rng.choice(300, size, replace=False) for size in sizes]
    net = net_of(module)
    named = dict(module.named_parameters())
    genesis = [named[slot.name].detach() for slot in net.slots]
    topology = build_topology(TopologySpec(kind="ring"), PEERS, 3)
    made = Setup(net, genesis, pool, Shares(rows, True), topology, Training(0.3, 0.0, 5, 8))
    return replace(made, **others)


def trained(made: Setup, rounds: int = 3) -> tuple[list[torch.Tensor], list[float]]:
    """Everybody's params after some rounds without exchange, and the mean losses."""
    trainer = Trainer(made)
    params = [tensor.expand(PEERS, *tensor.shape).clone() for tensor in made.genesis]
    everybody = np.ones(PEERS, dtype=np.bool_)
    with torch.no_grad():
        losses = [trainer.train(params, everybody, number, None) for number in range(rounds)]
    return params, losses


def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LEAST_PRODUCTS", 0)


MODULES = {
    "softmax": stack(21, 5),
    "mlp": stack(21, 33, 5),
    "deep": stack(21, 40, 16, 7, 5),
    "without biases": stack(21, 9, 5, bias=False),
    "linear all through": stack(21, 18, 5, between=None),
    "more outputs than classes": stack(21, 6, 17),
}


@needs_numba
class TestCompiledSteps:
    @pytest.mark.parametrize("equal", [True, False])
    @pytest.mark.parametrize("name", MODULES)
    def test_they_are_those_of_torch(self, monkeypatch: pytest.MonkeyPatch, name: str, equal: bool) -> None:
        made = setup(MODULES[name], equal=equal)
        plain, plain_losses = trained(made)
        always(monkeypatch)
        found, losses = trained(made)
        assert losses == pytest.approx(plain_losses, rel=1e-5)
        for tensor, expected in zip(found, plain, strict=True):
            torch.testing.assert_close(tensor, expected, rtol=2e-4, atol=2e-5)
        assert not torch.equal(found[0], plain[0]), "the compiled code was not asked"

    def test_a_peer_has_the_same_bits_beside_any_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        always(monkeypatch)
        made = setup(MODULES["deep"])
        whole, _ = trained(made, 1)
        trainer = Trainer(made)
        for peer in range(PEERS):
            alone = [tensor[None].clone() for tensor in made.genesis]
            trainer.train_part(alone, (peer, peer + 1), np.array([True]), 0, None)
            for one, all_of_them in zip(alone, whole, strict=True):
                assert torch.equal(one[0], all_of_them[peer])

    def test_who_has_no_turn_stays_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        always(monkeypatch)
        made = setup(MODULES["mlp"])
        params = [tensor.expand(PEERS, *tensor.shape).clone() for tensor in made.genesis]
        active = np.arange(PEERS) % 2 == 0
        Trainer(made).train(params, active, 0, None)
        for tensor, start in zip(params, made.genesis, strict=True):
            changed = (tensor != start).flatten(1).any(1).numpy()
            assert (changed == active).all()

    def test_weights_of_features_that_are_always_0_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        always(monkeypatch)
        made = setup(MODULES["mlp"])
        slot = next(n for n, slot in enumerate(made.net.slots) if slot.shape == (33, 21))
        weights = trained(made)[0][slot]
        start = made.genesis[slot].expand_as(weights)
        assert torch.equal(weights[:, :, 1::3], start[:, :, 1::3])
        assert (weights[:, :, 0::3] != start[:, :, 0::3]).any(2).any(1).all()

    def test_params_that_are_not_finite_spoil_nobody_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        always(monkeypatch)
        made = setup(MODULES["deep"])
        clean, _ = trained(made, 1)
        params = [tensor.expand(PEERS, *tensor.shape).clone() for tensor in made.genesis]
        for tensor in params:
            tensor[2] = float("inf")
            tensor[5] = float("nan")
        Trainer(made).train(params, np.ones(PEERS, dtype=np.bool_), 0, None)
        fine = [peer for peer in range(PEERS) if peer not in (2, 5)]
        for tensor, expected in zip(params, clean, strict=True):
            assert torch.equal(tensor[fine], expected[fine])
            assert not tensor[[2, 5]].isfinite().flatten(1).all(1).any()

    def test_a_whole_run_is_repeated_and_reaches_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = setup(MODULES["mlp"])

        def run() -> tuple[bytes, float]:
            engine = Engine(made)
            for _ in range(8):
                engine.step()
            return engine.params().tobytes(), float(engine.evaluate().loss.mean())

        _, plain = run()
        always(monkeypatch)
        first, again = run(), run()
        assert first == again
        assert first[1] == pytest.approx(plain, rel=1e-3)

    def test_params_that_diverge_end_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        always(monkeypatch)
        engine = Engine(setup(MODULES["mlp"], training=Training(1e30, 0.0, 5, 8)))
        for _ in range(4):
            engine.step()
        with pytest.raises(ConfigError, match="params are not finite"):
            engine.evaluate()


@needs_numba
@pytest.mark.parametrize("below", [0, 1])
@pytest.mark.parametrize(("rounds", "taken_for"), [(7, 7), (0, compiled.ROUNDS)])
def test_steps_are_compiled_from_the_threshold_on(
    monkeypatch: pytest.MonkeyPatch, below: int, rounds: int, taken_for: int
) -> None:
    made = setup(MODULES["softmax"], rounds=rounds)
    examples = sum(min(len(rows), 8) for rows in made.shares.rows) * 5
    monkeypatch.setattr(compiled, "LEAST_PRODUCTS", (21 + 1) * 5 * examples * taken_for + below)
    assert (compiled.descent_for(made) is None) == bool(below)


@pytest.mark.parametrize(
    ("module", "others"),
    [
        (stack(21, 6, 5, between=nn.Tanh), {}),
        (nn.Sequential(nn.ReLU(), nn.Linear(21, 5)), {}),
        (stack(21, 4), {}),
        (MODULES["mlp"], {"training": Training(0.3, 0.5, 5, 8)}),
        (MODULES["mlp"], {"training": Training(0.3, 0.0, 5, 8, prox=0.1)}),
        (MODULES["mlp"], {"training": Training(0.3, 0.5, 5, 8), "quasi_global": True}),
        (MODULES["mlp"], {"privacy": PrivacyStep(1.0, 1.0)}),
        (MODULES["mlp"], {"device": "cuda"}),
    ],
)
def test_what_compiled_steps_do_not_do_is_torchs(
    monkeypatch: pytest.MonkeyPatch, module: nn.Module, others: dict[str, Any]
) -> None:
    always(monkeypatch)
    assert compiled.descent_for(setup(module, **others)) is None


@needs_numba
@pytest.mark.parametrize("width", [3, 16, 21])
def test_softmax_and_its_error_are_those_of_float64(width: int) -> None:
    """Values far apart, alike, and infinitely low; against numpy in float64."""
    from numba import njit

    from quidnunc.sim.batched.products import softmax_error

    @njit  # type: ignore[untyped-decorator]
    def error(address: int, room: int, target: int, scale: float) -> float:
        return softmax_error(address, room, target, np.float32(scale))  # type: ignore[no-any-return]

    room = -(-width // 16) * 16
    rng = np.random.default_rng(0)
    for outputs in (rng.normal(size=width), rng.normal(size=width) * 40, np.zeros(width), np.arange(width) * -3e4):
        row = np.full(room, -1e30, np.float32)
        row[:width] = outputs
        share = np.exp((row[:width] - row[:width].max()).astype(np.float64))
        share /= share.sum()
        chance = error(row.ctypes.data, room, 1, -0.5)
        assert chance == pytest.approx(share[1], rel=1e-6, abs=1e-37)
        share[1] -= 1
        np.testing.assert_allclose(row[:width], -0.5 * share, rtol=2e-6, atol=1e-7)
        assert (row[width:] == 0).all()
