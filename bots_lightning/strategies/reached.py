"""Which weights a loss depends on; under DeepSpeed they must be the same on all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def reached(loss: Tensor) -> set[int]:
    """The `id` of every weight that gets a gradient when this loss is differentiated.

    Args:
        loss: scalar, with its graph.
    """
    found, seen, left = set(), set(), [loss.grad_fn]
    while left:
        node: Any = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # where gradients of a leaf add up
            found.add(id(node.variable))
        left += [behind for behind, _ in node.next_functions]
    return found


def check_same_weights(loss: Tensor, module: nn.Module) -> None:
    """Compares the weights that the losses of all ranks reach, before any of them is differentiated.

    DeepSpeed puts gradients into buckets in the order of their arrival and averages buckets. If ranks had gradients of
    different weights, it would average different weights together, or wait forever.

    Args:
        loss: this rank's.
        module: with the trainable weights, in the same order on all ranks.

    Raises:
        ValueError: a weight is reached on some ranks only; raised on all.
    """
    weights = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    mine = reached(loss)
    counts = torch.tensor([id(weight) in mine for _, weight in weights], dtype=torch.int32, device=loss.device)
    dist.all_reduce(counts)
    ranks = dist.get_world_size()
    some = [(name, count) for (name, _), count in zip(weights, counts.tolist(), strict=True) if 0 < count < ranks]
    if some:
        name, count = some[0]
        raise ValueError(
            f"{len(some)} weights have a gradient on some ranks only, {name} on {count} of {ranks}; DeepSpeed would "
            "average them with others. Make every rank's loss reach the same weights, or stack "
            "configs/strategies/ddp.yaml, which takes zeros for what is missing."
        )
