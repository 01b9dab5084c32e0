"""What is known of a model whose weights ZeRO-3 shards, without DeepSpeed."""

from __future__ import annotations

import torch
from torch import nn

from bots_lightning.strategies import full_shape, moves_weights


def sharded() -> nn.Linear:
    """Of 2 × 3 weights, with the attributes that DeepSpeed gives to the weight; this rank holds no part of it."""
    model = nn.Linear(3, 2)
    model.weight.data = torch.empty(0)
    model.weight.ds_id, model.weight.ds_shape = 0, torch.Size([2, 3])
    return model


def test_the_full_shape_of_a_shard_is_that_of_the_gathered_weight() -> None:
    model = sharded()
    assert full_shape(model.weight) == (2, 3)
    assert full_shape(model.bias) == (2,)
    assert full_shape(torch.zeros(4, 1)) == (4, 1)


def test_a_model_moves_its_weights_where_one_is_sharded() -> None:
    assert moves_weights(nn.Sequential(nn.Linear(1, 1), sharded()))
    assert not moves_weights(nn.Linear(3, 2))
