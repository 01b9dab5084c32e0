"""What checkpoints hold of a module's weights, and which checkpoints do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bots_lightning.training.trained import check_shapes, trained_shapes, trained_weights, without_frozen


@pytest.fixture
def module() -> nn.Module:
    """A frozen layer with a buffer beside it, and a trained one that shares its weight with another."""
    module = nn.Module()
    module.frozen, module.trained, module.tied = nn.Linear(2, 3), nn.Linear(3, 4, bias=False), nn.Linear(3, 4)
    module.frozen.requires_grad_(False)
    module.tied.weight = module.trained.weight
    module.register_buffer("steps", torch.zeros(5))
    return module


def test_frozen_weights_are_left_out_and_buffers_kept(module: nn.Module) -> None:
    assert list(trained_weights(module)) == ["trained.weight", "tied.bias"]
    state = without_frozen(module, module.state_dict())
    assert state.keys() == {"steps", "trained.weight", "tied.weight", "tied.bias"}
    assert trained_shapes(module) == {name: tuple(value.shape) for name, value in state.items()}


def test_a_checkpoint_of_other_weights_is_refused() -> None:
    mine = {"policy.model.a": (2, 3), "critic.head.b": (4,)}
    check_shapes(mine, dict(mine))
    with pytest.raises(ValueError, match=r"holds 1 trained weights, this policy has 2; .*\['critic.head.b'\]. Resume"):
        check_shapes(mine, {"policy.model.a": (2, 3)})
    with pytest.raises(ValueError, match=r"policy.model.a is \(2, 4\) in the checkpoint and \(2, 3\) in this policy"):
        check_shapes(mine, mine | {"policy.model.a": (2, 4)})
    with pytest.raises(ValueError, match="written by an earlier version of this package"):
        check_shapes(mine, {"policy.a": (2, 3), "critic.head.b": (4,)})
    full = {"policy.model.model.a": (2, 3), "policy.model.model.b": (4,)}
    with pytest.raises(ValueError, match="written by an earlier version of this package"):
        check_shapes(full, {"policy.model.a": (2, 3), "policy.model.b": (4,)})
