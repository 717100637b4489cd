"""Compressed deltas among simulated peers: the daemon's levels, and nothing that is lost for good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning import codec as daemon
from quidnunc.sim.batched.codec import Codec, CodecSpec
from quidnunc.sim.batched.draws import keys, uniforms
from quidnunc.sim.scenarios.run import run

NAMES = np.array([2, 0, 1])
SHAPES = ((4, 3), (4,))
DIM, SEED = 16, 7


def genesis(value: float = 0.0) -> list[torch.Tensor]:
    return [torch.full(shape, value) for shape in SHAPES]


def states(vectors: np.ndarray) -> list[torch.Tensor]:
    flat = torch.from_numpy(vectors.astype(np.float32))
    return [flat[:, :12].reshape(-1, 4, 3).clone(), flat[:, 12:].clone()]


def flat(found: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([tensor.flatten(1) for tensor in found], dim=1).numpy()


@pytest.mark.parametrize("scale", [1e-38, 1e-12, 1.0, 127.0, 3e5, 0.0])
def test_int8_publishes_what_the_daemon_s_receivers_would_hold(scale: float) -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    codec = Codec(CodecSpec("int8"), genesis(), NAMES, SEED)
    replicas = np.zeros((3, DIM), np.float32)
    for number in range(4):
        trained = (scale * generator.normal(size=(3, DIM))).astype(np.float32)
        given = states(trained)
        active = np.array([True, number != 1, True])
        codec.publish(given, active, number)
        for row in np.flatnonzero(active):
            uniform = uniforms(keys(SEED, "codec", number, NAMES[row : row + 1]), DIM)[0]
            delta = daemon.encode_int8(trained[row] - replicas[row], uniform)
            replicas[row] = daemon.advance(replicas[row], delta, daemon.INT8)
        expected = np.where(active[:, None], replicas, trained)
        assert np.array_equal(flat(given), expected)


def test_top_k_sends_the_largest_and_carries_the_rest() -> None:
    codec = Codec(CodecSpec("top_k", 0.25), genesis(1.0), NAMES, SEED)
    target = np.arange(3 * DIM, dtype=np.float32).reshape(3, DIM) / 8 + 2
    before = np.ones((3, DIM), np.float32)
    for number in range(DIM // 4):
        given = states(before + (target - 1) * (number == 0))
        codec.publish(given, np.ones(3, np.bool_), number)
        after = flat(given)
        assert ((after != before).sum(axis=1) == 4).all()
        before = after
    np.testing.assert_allclose(before, target, rtol=1e-6)


def test_all_coordinates_are_no_compression() -> None:
    codec = Codec(CodecSpec("top_k", 1.0), genesis(), NAMES, SEED)
    wanted = np.random.Generator(np.random.PCG64(1)).normal(size=(3, DIM)).astype(np.float32)
    given = states(wanted)
    codec.publish(given, np.ones(3, np.bool_), 0)
    assert np.array_equal(flat(given), wanted)


@pytest.mark.parametrize(
    ("spec", "size"),
    [(CodecSpec(), 64), (CodecSpec("int8"), 17), (CodecSpec("top_k", 0.25), 32), (CodecSpec("top_k", 1e-9), 8)],
)
def test_the_size_of_a_delta(spec: CodecSpec, size: int) -> None:
    assert spec.size(DIM) == size


def scenario(**codec: Any) -> dict[str, Any]:
    return {
        "peers": 8,
        "rounds": 30,
        "evaluate_every": 30,
        "model": {"kind": "mlp", "hidden": [16]},
        "training": {"learning_rate": 0.5},
        "data": {"alpha": 100.0},
        "codec": codec,
        "conditions": {"loss": 0.1},
    }


def test_compressed_peers_learn_as_much_and_send_less() -> None:
    plain, int8, sparse = (
        run(scenario(**codec)).final[0] for codec in ({}, {"kind": "int8"}, {"kind": "top_k", "share": 0.2})
    )
    assert plain["accuracy_mean"] > 0.85
    assert int8["accuracy_mean"] == pytest.approx(plain["accuracy_mean"], abs=0.02)
    assert sparse["accuracy_mean"] > plain["accuracy_mean"] - 0.1
    assert int8["bytes_sent"] < 0.26 * plain["bytes_sent"]
    assert sparse["bytes_sent"] < 0.41 * plain["bytes_sent"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_params_that_diverge_are_told_of_though_levels_are_bounded() -> None:
    wrong = scenario(kind="int8") | {"training": {"learning_rate": 1e6, "local_steps": 50}, "rounds": 20}
    with pytest.raises(ConfigError, match="not finite"):
        run(wrong | {"model": {"kind": "mlp", "hidden": [8, 8, 8]}})
