"""Float32 clipping of plain stacks: rows have no neighbors, and one example moves the sum by the clip at most."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import blobs_task
from opacus_cases import CASES, batch, wave
from torch import Tensor, nn

from quidnunc.gossip.learning import blocks
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.losses import row_cross_entropy
from quidnunc.gossip.learning.privacy import clipped_sum

VECTORS = json.loads((Path(__file__).parent / "vectors" / "opacus.json").read_text())
SMALL: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(5, 3),
    lambda: nn.Sequential(nn.Linear(30, 33, bias=False), nn.ReLU(), nn.Linear(33, 2, bias=False)),
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    lambda: nn.Sequential(nn.Linear(7, 17), nn.Tanh(), nn.Linear(17, 9, bias=False), nn.Sigmoid(), nn.Linear(9, 4)),
]
LARGE = lambda: nn.Sequential(nn.Linear(200, 320), nn.ReLU(), nn.Linear(320, 5))  # noqa: E731
"""So many params that the products of a block are taken one after the other."""
SHORT_AT_MOST = 582
"""Examples of a step whose sum may be float32."""


def setup(make: Callable[[], nn.Module]) -> tuple[Functional, np.ndarray]:
    net = Functional(make(), replace(blobs_task(), model=make, loss=row_cross_entropy))
    generator = np.random.Generator(np.random.PCG64(7))
    return net, (0.3 * generator.standard_normal(net.dim)).astype(np.float32)


def data(net: Functional, rows: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    assert net.layers is not None
    shapes = [net.slots[layer.weight].shape for layer in net.layers if layer.kind == "linear"]
    generator = np.random.Generator(np.random.PCG64(seed))
    inputs = torch.from_numpy(generator.standard_normal((rows, shapes[0][1]), dtype=np.float32))
    return inputs, torch.from_numpy(generator.integers(0, shapes[-1][0], rows))


def each_row(net: Functional, vector: np.ndarray, inputs: Tensor, targets: Tensor) -> list[list[bytes]]:
    """All that is computed of each row before rows are summed, as bytes."""
    steps = blocks._stack(net).load(vector)
    found = []
    for _, own, block, classes in blocks._blocks(inputs, targets, blocks._largest(net)):
        rows = blocks._rows(steps, block, classes)
        factors, _ = blocks.clip_factors(rows.square, blocks.row_clip(net, 0.1))
        numbers = [part.numpy() for part in (*blocks._all(rows), factors)]
        found += [[part[row].tobytes() for part in numbers] for row in range(own)]
    return found


@pytest.mark.parametrize("make", SMALL)
def test_a_row_is_the_same_among_any_others(make: Callable[[], nn.Module]) -> None:
    """Others are removed, permuted and replaced, in every number from 1 to 193: three blocks of 64 and one row."""
    net, vector = setup(make)
    inputs, targets = data(net, 600)
    whole = each_row(net, vector, inputs, targets)
    generator = np.random.Generator(np.random.PCG64(3))
    for size in range(1, 194):
        chosen = generator.permutation(600)[:size]
        rows, own = inputs[chosen], generator.random(size) < 0.7
        rows[~own] = 1e4 * torch.from_numpy(generator.standard_normal((int((~own).sum()), rows.shape[1]))).float()
        found = each_row(net, vector, rows, targets[chosen])
        assert len(found) == size
        for row in np.flatnonzero(own):
            assert found[row] == whole[chosen[row]], f"row {row} of {size}"


def test_a_row_at_the_edge_of_every_relu_is_the_same_among_any_others() -> None:
    """Pre-activations within a rounding of zero, on both sides of it: there a last bit would switch units."""
    net, vector = setup(SMALL[2])
    inputs, targets = data(net, 130)
    bias, weight = (view.double() for view in net.views(torch.from_numpy(vector))[:2])
    inputs[:64] -= torch.linalg.solve(weight, weight @ inputs[:64].double().T + bias[:, None]).T.float()
    before = torch.addmm(bias.float(), inputs[:64], weight.float().T)
    assert float(before.abs().max()) < 1e-3
    assert 0.2 < float((before > 0).float().mean()) < 0.8
    whole = each_row(net, vector, inputs, targets)
    for size in (1, 2, 63, 64, 65, 129):
        assert each_row(net, vector, inputs[:size], targets[:size]) == whole[:size]
        assert each_row(net, vector, inputs[:size].flip(0), targets[:size].flip(0)) == whole[:size][::-1]


ENTRIES = [0.0, 1e-45, 1e-30, 1.0, -1.0, 3e3, -3e3, 1e9, -1e9, 2e18, -2e18, 3e38, float("inf"), float("nan")]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([*SMALL, LARGE]), st.floats(1e-6, 1e6), st.integers(1, 140), st.randoms(use_true_random=False))
def test_one_example_moves_the_sum_by_the_clip_at_most(
    make: Callable[[], nn.Module], clip: float, size: int, random: Any
) -> None:
    """Whatever it holds and whatever the others hold: huge, cancelling, vanishing, or no numbers at all."""
    net, vector = setup(make)
    inputs, targets = data(net, size, random.randrange(100))
    for row in range(0, size, 3):
        inputs[row] *= random.choice(ENTRIES)
        inputs[row, random.randrange(inputs.shape[1])] = random.choice(ENTRIES)
    if size > 3:
        inputs[2] = -inputs[1]
    index = random.randrange(size)
    kept = torch.arange(size) != index
    assert blocks.fits(net, inputs, targets, clip)
    moved = clipped_sum(net, vector, inputs, targets, clip)[0]
    moved = moved - clipped_sum(net, vector, inputs[kept], targets[kept], clip)[0]
    assert np.linalg.norm(moved) <= clip


@pytest.mark.parametrize("make", [LARGE, SMALL[2]])
@pytest.mark.parametrize("size", [SHORT_AT_MOST, SHORT_AT_MOST + 1])
def test_the_example_at_which_sums_become_exact_moves_them_no_further(make: Callable[[], nn.Module], size: int) -> None:
    """With one example more the sum is taken another way: that must not show by more than the clip."""
    net, vector = setup(make)
    inputs, targets = data(net, size)
    inputs = inputs.abs() * 100
    targets[:] = 1
    total, _ = clipped_sum(net, vector, inputs, targets, 1.0)
    assert np.linalg.norm(total - clipped_sum(net, vector, inputs[1:], targets[1:], 1.0)[0]) <= 1.0


def test_short_sums_are_taken_up_to_their_limit_and_err_less_than_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    net, vector = setup(LARGE)
    inputs, targets = data(net, SHORT_AT_MOST + 1)
    targets[:] = 1
    taken: list[bool] = []
    whole = blocks._add

    def noting(*args: Any, short: bool, first: bool) -> None:
        taken.append(short)
        whole(*args, short=short, first=first)

    monkeypatch.setattr(blocks, "_add", noting)
    clipped_sum(net, vector, inputs, targets, 1e-3)
    assert set(taken) == {False}
    taken.clear()
    short, _ = clipped_sum(net, vector, inputs[1:], targets[1:], 1e-3)
    assert set(taken) == {True}
    monkeypatch.setattr(blocks, "_add", lambda *args, short, first: whole(*args, short=False, first=first))
    exact, _ = clipped_sum(net, vector, inputs[1:], targets[1:], 1e-3)
    assert 0 < np.linalg.norm(short - exact) <= blocks.SPARE / 2 * 1e-3


@pytest.mark.parametrize("make", [SMALL[1], SMALL[2], LARGE])
@pytest.mark.parametrize("size", [63, 64, 65, 200, 512, 513])
def test_sums_of_any_size_are_those_of_their_rows(make: Callable[[], nn.Module], size: int) -> None:
    """Up to 512 rows the whole sum is float32, biases included: it errs by less than is spared for it."""
    net, vector = setup(make)
    inputs, targets = data(net, size)
    targets[:] = 1  # all gradients point one way: the sum is as long as it can be
    found, loss = blocks.clipped_in_blocks(net, vector, inputs, targets, 1e-3)
    assert found.dtype == (np.float32 if size <= 512 else np.float64)
    expected, losses = np.zeros(net.dim), 0.0
    for row in range(size):
        one, its = blocks.clipped_in_blocks(net, vector, inputs[row : row + 1], targets[row : row + 1], 1e-3)
        expected += one
        losses += its
    assert 0 < np.linalg.norm(found - expected) <= blocks.SPARE / 2 * 1e-3
    assert loss == pytest.approx(losses, rel=1e-6)


def test_room_that_is_kept_carries_nothing_from_one_step_to_the_next() -> None:
    net, vector = setup(SMALL[3])
    inputs, targets = data(net, 70)
    first, _ = blocks.clipped_in_blocks(net, vector, inputs, targets, 0.1)
    kept = first.copy()
    other, _ = blocks.clipped_in_blocks(net, -vector, inputs[:9], targets[:9], 0.2)
    fresh, _ = blocks.clipped_in_blocks(setup(SMALL[3])[0], -vector, inputs[:9], targets[:9], 0.2)
    assert other.tobytes() == fresh.tobytes()
    assert first.tobytes() == kept.tobytes()
    first[:] = np.nan
    again, _ = blocks.clipped_in_blocks(net, vector, inputs, targets, 0.1)
    assert again.tobytes() == kept.tobytes()


@pytest.mark.parametrize("make", [*SMALL, LARGE])
def test_a_long_gradient_is_clipped_to_what_the_roundings_leave(make: Callable[[], nn.Module]) -> None:
    net, vector = setup(make)
    inputs, targets = data(net, 1)
    norm = np.linalg.norm(clipped_sum(net, vector, inputs, targets, 1e-3)[0]) / 1e-3
    left = 1 - blocks.SPARE
    assert left * 0.9999 < norm <= left


@pytest.mark.parametrize("row", [row for row in VECTORS["rows"] if row["case"] == "mlp"], ids=lambda row: row["clip"])
def test_sums_equal_opacus(row: dict[str, Any]) -> None:
    """With a loss that is known they are computed in float32; Opacus is given what rows are clipped to."""
    make, shape = CASES["mlp"]
    net = Functional(make(), replace(blobs_task(), model=make, loss=row_cross_entropy))
    inputs, targets = batch(shape)
    clip = row["clip"] / blocks.row_clip(net, 1.0)
    assert blocks.fits(net, inputs, targets, clip)
    ours, _ = clipped_sum(net, (wave(net.dim, 0.7) / 2).numpy(), inputs, targets, clip)
    theirs = np.array(row["sum"])
    assert np.abs(ours - theirs).max() <= 1e-6 * max(1.0, float(np.linalg.norm(theirs)))


def test_where_rows_have_neighbors_the_sum_is_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product whose last bits depend on where a row stands, as some libraries have it."""
    net, vector = setup(SMALL[2])
    inputs, targets = data(net, 70)
    sound, _ = clipped_sum(net, vector, inputs, targets, 0.1)
    assert net.alone == {torch.get_num_threads(): True}
    whole = torch.addmm

    def uneven(bias: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
        out = whole(bias, hidden, weight)
        out[1::2] = torch.nextafter(out[1::2], out.new_tensor(torch.inf))
        return out

    other, _ = setup(SMALL[2])
    monkeypatch.setattr(torch, "addmm", uneven)
    assert not blocks.fits(other, inputs, targets, 0.1)
    monkeypatch.undo()
    assert other.alone == {torch.get_num_threads(): False}
    fallback, _ = clipped_sum(other, vector, inputs, targets, blocks.row_clip(net, 0.1))
    assert (fallback != sound).any()
    np.testing.assert_allclose(fallback, sound, atol=2e-5 * np.linalg.norm(sound))


def test_what_does_not_fit_goes_the_general_way() -> None:
    net, vector = setup(SMALL[0])
    inputs, targets = data(net, 9)
    assert blocks.fits(net, inputs, targets, 2.0**-24)
    assert blocks.fits(net, inputs, targets, 2.0**24)
    assert not blocks.fits(net, inputs, targets, 2.0**-25)
    assert not blocks.fits(net, inputs, targets, 2.0**25)
    assert not blocks.fits(net, inputs.double(), targets, 1.0)
    assert not blocks.fits(net, inputs[:, None], targets, 1.0)
    ends, _ = setup(lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh()))
    assert not blocks.fits(ends, inputs, targets, 1.0)
    wide, _ = setup(lambda: nn.Linear(1 << 16, 2))
    assert blocks.fits(wide, torch.zeros(1, 1 << 16), targets[:1], 1.0)
    wider, _ = setup(lambda: nn.Linear((1 << 16) + 1, 2))
    assert not blocks.fits(wider, torch.zeros(1, (1 << 16) + 1), targets[:1], 1.0)
    tiny = clipped_sum(net, vector, inputs, targets, 2.0**-25)[0] * 2 * blocks.row_clip(net, 1.0)
    np.testing.assert_allclose(tiny, clipped_sum(net, vector, inputs, targets, 2.0**-24)[0], rtol=1e-4)


def test_vectors_beyond_float32_make_an_example_count_as_zero() -> None:
    net, vector = setup(SMALL[2])
    inputs, targets = data(net, 40)
    with_it = inputs.clone()
    with_it[7] = 1e30
    kept = torch.arange(40) != 7
    found, _ = clipped_sum(net, vector, with_it, targets, 0.1)
    np.testing.assert_allclose(found, clipped_sum(net, vector, inputs[kept], targets[kept], 0.1)[0], rtol=0, atol=1e-12)


def test_memory_that_begins_anywhere_gives_the_same_sum() -> None:
    net, vector = setup(SMALL[2])
    inputs, targets = data(net, 70)
    shifted = torch.empty(inputs.numel() + 1)[1:].reshape(inputs.shape).copy_(inputs)
    assert shifted.data_ptr() % 64
    one, other = (clipped_sum(net, vector, each, targets, 0.1)[0] for each in (inputs, shifted))
    assert one.tobytes() == other.tobytes()
