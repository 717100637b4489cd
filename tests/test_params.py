"""Module to vector and back, the schema, and genesis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learners import blobs_task
from torch import nn

from quidnunc.crypto.errors import ConfigError, LocalProtocolError
from quidnunc.gossip.learning import params


class Named(nn.Module):
    """Parameters registered out of name order, one frozen, one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.tensor([5.0]))
        self.a = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        self.frozen = nn.Parameter(torch.tensor([9.0]), requires_grad=False)
        self.register_buffer("seen", torch.tensor([7.0]))


def test_the_vector_is_sorted_by_name_and_trainable_only() -> None:
    module = Named()
    assert params.to_vector(module).tolist() == [1, 2, 3, 4, 5]
    assert [slot.name for slot in params.layout(module)] == ["a", "z"]
    params.load_vector(module, np.arange(5, dtype=np.float32))
    assert module.z.item() == 4.0
    assert module.a.tolist() == [[0, 1], [2, 3]]
    assert (module.frozen.item(), module.seen.item()) == (9.0, 7.0)
    assert params.to_vector(module).tolist() == [0, 1, 2, 3, 4]


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match=r"\(4,\), the model takes \[5\]"):
        params.load_vector(Named(), np.zeros(4, np.float32))


def test_the_schema_changes_with_names_and_shapes_only() -> None:
    one, same, other = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 3)
    schema = [params.schema_of(params.layout(module)) for module in (one, same, other, nn.Sequential(one))]
    assert schema[0] == schema[1]
    assert len(set(schema)) == 3


def test_genesis_follows_the_seed_and_leaves_the_global_generator_alone() -> None:
    task = blobs_task()
    torch.rand(1)
    before = torch.get_rng_state()
    first, again, other = params.genesis(task, 1), params.genesis(task, 1), params.genesis(task, 2)
    assert (torch.get_rng_state() == before).all()
    assert (first == again).all()
    assert (first != other).any()


def test_what_cannot_be_exchanged_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"weight is torch.float64") as caught:
        params.layout(nn.Linear(2, 2, bias=False).double())
    assert caught.value.hint == "call model.float()"
    with pytest.raises(ConfigError, match="no trainable parameters"):
        params.layout(nn.ReLU())
