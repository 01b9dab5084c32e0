"""What DeepSpeed's ZeRO-3 adds to a model: attributes of its weights, and hooks on its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def moves_weights(model: nn.Module) -> bool:
    """Whether ZeRO-3 shards some weight: it is at another address each time it has been gathered.

    Args:
        model: with weights as DeepSpeed has left them.
    """
    return any("ds_id" in vars(weight) for weight in model.parameters())


def full_shape(weight: Tensor) -> tuple[int, ...]:
    """The shape that a weight has when it is gathered; a shard is empty or flat.

    Args:
        weight: sharded by ZeRO-3, or any other.
    """
    return tuple(getattr(weight, "ds_shape", weight.shape))


@contextmanager
def gathered(optimizer: Any) -> Iterator[None]:
    """Gathers all weights and removes the hooks, which make ranks wait for each other at every layer.

    Inside of another such context it does nothing.

    Args:
        optimizer: of a DeepSpeed engine at stage 3. All ranks enter and leave the context together.
    """
    offload = getattr(optimizer, "parameter_offload", optimizer)  # itself where nothing is trained
    if not offload.forward_hooks:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(offload.module.parameters())):
        for weight in offload.module.parameters():
            weight.ds_active_sub_modules.clear()
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(offload.module)
