"""What attackers learn from instead of their own examples, and the model that poison leads to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from quidnunc.gossip.learning.attack import DATA_ATTACKS, EXAMPLE_ATTACKS, flip_labels, poisoned
from quidnunc.gossip.rules.linear import Vector
from quidnunc.gossip.task import Training
from quidnunc.sim.batched.attackers import Attack
from quidnunc.sim.batched.batches import draw_batches
from quidnunc.sim.batched.draws import Indices, keys
from quidnunc.sim.batched.net import Net, Tensors
from quidnunc.sim.data.pool import Pool

GOAL_STEPS = 200


def poisoned_examples(
    pool: Pool, rows: list[Indices], attack: Attack | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Indices]]:
    """Inputs, labels and everybody's rows of them; where an attack changes examples, attackers' stand behind the pool.

    They learn from them from the first round on.
    """
    if attack is None or attack.name not in {**DATA_ATTACKS, **EXAMPLE_ATTACKS}:
        return pool.inputs, pool.labels, rows
    inputs, labels, found = [pool.inputs], [pool.labels], list(rows)
    end = len(pool.labels)
    for peer in attack.peers:
        own = torch.from_numpy(pool.inputs[rows[peer]]), torch.from_numpy(pool.labels[rows[peer]])
        x, y = poisoned(attack.name, own)
        inputs.append(x.numpy())
        labels.append(y.numpy())
        found[peer] = np.arange(end, end + len(y))
        end += len(y)
    return np.concatenate(inputs), np.concatenate(labels), found


def goal_of(
    net: Net, genesis: Tensors, pool: Pool, shares: list[Indices], training: Training, seed: int, device: torch.device
) -> Vector:
    """The model of everybody's examples under flipped labels, [d]: where slow poison leads."""
    rows = np.concatenate(shares)
    inputs = torch.from_numpy(pool.inputs).to(device)
    flipped = flip_labels(torch.from_numpy(pool.labels)).to(device)
    params = [tensor.to(device).clone().unsqueeze(0) for tensor in genesis]
    velocity = [torch.zeros_like(tensor) for tensor in params] if training.momentum else None
    names = keys(seed, "goal", 0, np.zeros(1, dtype=np.int64))
    batches = draw_batches(names, np.array([len(rows)]), GOAL_STEPS, training.batch_size)
    for picks in batches.picks:
        index = torch.from_numpy(rows[picks[0]]).to(device)
        x, y = inputs.index_select(0, index).unsqueeze(0), flipped.index_select(0, index).unsqueeze(0)
        net.train(params, velocity, x, y, None, training.learning_rate, training.momentum)
    goal: Vector = torch.cat([tensor.flatten() for tensor in params]).cpu().numpy()
    return goal
