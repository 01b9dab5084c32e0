"""Data parallel training: every rank holds all weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from bots_lightning.options import check_numbers
from bots_lightning.strategies.base import Computed, OnlineStrategy, clipped_step, connect_ranks

BUCKET = 2**26  # elements of gradient that travel together


class DataParallel(DDPStrategy, OnlineStrategy):
    """Averages the gradients of all ranks once for each optimizer step, however many micro-batches it had.

    Lightning's own DDP expects one forward and one backward pass per step, and all weights in each.

    Args:
        timeout_seconds: how long a rank waits for the others before it gives up, more than 0.
        process_group_backend: "nccl" or "gloo"; by the device if not given.

    Raises:
        ValueError: the timeout is out of range.
    """

    repeatable = True

    def __init__(self, timeout_seconds: float = 1800.0, process_group_backend: str | None = None) -> None:
        check_numbers(0, above=True, timeout_seconds=timeout_seconds)
        super().__init__(timeout=timedelta(seconds=timeout_seconds), process_group_backend=process_group_backend)

    def setup_distributed(self) -> None:
        """Makes the process group, once the ranks have found each other."""
        connect_ranks(self)
        super().setup_distributed()

    def configure_ddp(self) -> None:
        """Copies the weights of the first rank to all others; the module is not wrapped."""
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.detach(), src=0)

    def trained_pass(self, compute: Callable[[], Computed]) -> Computed:
        """Computes it: gradients are averaged later, in `take_step`."""
        return compute()

    def gathered_parameters(self) -> AbstractContextManager[None]:
        """Does nothing: every rank holds all weights at any time."""
        return nullcontext()

    def take_step(
        self, optimizer: Any, trained: Sequence[nn.Parameter], max_norm: float, finite: bool
    ) -> tuple[float, bool]:
        """Averages the gradients over ranks, clips them and steps."""
        complete_gradients(trained)
        average_over_ranks([weight.grad for weight in trained if weight.grad is not None])
        return clipped_step(self, optimizer, trained, max_norm, finite)


def complete_gradients(weights: Sequence[nn.Parameter]) -> None:
    """Gives weights that have a gradient on other ranks only one of zeros, so that all ranks average the same ones.

    Weights without a gradient on any rank are left without: the optimizer leaves them, and their moments, alone.

    Args:
        weights: the trainable ones, in the same order on all ranks.
    """
    if not weights:
        return
    found = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.int32, device=weights[0].device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    for weight, anywhere in zip(weights, found.tolist(), strict=True):
        if anywhere and weight.grad is None:
            weight.grad = torch.zeros_like(weight)


def average_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors by their means over all ranks.

    Args:
        tensors: of the same shapes in the same order on every rank.
    """
    for bucket in _buckets(tensors, BUCKET):
        flat = _flatten_dense_tensors(bucket)
        dist.all_reduce(flat)
        flat.div_(dist.get_world_size())
        for tensor, mean in zip(bucket, _unflatten_dense_tensors(flat, bucket), strict=True):
            tensor.copy_(mean)


def _buckets(tensors: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype: at most `size` elements together, or a single tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(held.numel() for held in bucket) + tensor.numel() > size
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
