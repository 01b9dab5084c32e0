"""The gradient of one minibatch, in micro-batches."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor

from bots_lightning.algorithms import Algorithm, Experience, StepContext
from bots_lightning.algorithms.meter import Meter
from bots_lightning.policy.recording import microbatches
from bots_lightning.rollouts.memory import unless_out_of_memory
from bots_lightning.strategies import repeatable
from bots_lightning.training.failures import StepFailedError


def gradients(
    batch: Experience, algorithm: Algorithm, context: StepContext, zero_grad: Callable[[], None]
) -> tuple[float, Meter]:
    """Accumulates the gradient of one minibatch; it does not depend on how large micro-batches are.

    Where that runs out of memory, micro-batches are halved, for the rest of the run too.

    Args:
        batch: the minibatch.
        algorithm: whose losses are differentiated.
        context: of the step.
        zero_grad: forgets gradients.

    Returns:
        the loss, and the metrics of its micro-batches.

    Raises:
        StepFailedError: half a micro-batch did not fit either.
    """
    if not repeatable(context.strategy):
        return _accumulate(batch, algorithm, context, meter := Meter()), meter
    for attempt in range(2):
        if attempt:
            _halve_microbatches(batch, algorithm)
        meter = Meter()
        loss = unless_out_of_memory(partial(_accumulate, batch, algorithm, context, meter))
        with context.clock.phase("sync"):
            enough = context.on_all_ranks(loss is not None)
        if enough:
            return cast(float, loss), meter
        zero_grad()
    raise StepFailedError(
        f"out of memory with a micro-batch, and with half of it, max_tokens_per_microbatch="
        f"{algorithm.policy.max_tokens_per_microbatch}. Lower that, max_completion_length, or set "
        "gradient_checkpointing=true."
    )


def _accumulate(batch: Experience, algorithm: Algorithm, context: StepContext, meter: Meter) -> float:
    """The loss, in micro-batches; their gradients add up in the weights."""
    size, idle = algorithm.size(batch.mask, context), algorithm.idle(batch)
    budget = algorithm.policy.max_tokens_per_microbatch
    total = torch.zeros((), device=context.device)
    for micro in _as_many_on_all_ranks(batch, _microbatches(batch, ~idle, budget), context):
        for loss in algorithm.losses(micro, size, meter, context):
            context.backward(loss)
            total += loss.detach()
    with torch.no_grad(), context.gathered_parameters():  # idle rows count in the metrics
        for micro in _microbatches(batch, idle & batch.mask.any(dim=1), budget):
            total += sum(algorithm.losses(micro, size, meter, context))
    return float(total)


def _halve_microbatches(batch: Experience, algorithm: Algorithm) -> None:
    """From now on; the budget in the config is the user's still."""
    policy = algorithm.policy
    micros = _microbatches(batch, ~algorithm.idle(batch), policy.max_tokens_per_microbatch) or [batch]
    largest = max(len(micro) * int(micro.lengths.max()) for micro in micros)
    policy.max_tokens_per_microbatch = largest // 2
    warnings.warn(
        f"out of memory with a micro-batch of {largest} tokens; it is halved, and so are all that follow. "
        f"Set max_tokens_per_microbatch={largest // 2} to begin with.",
        stacklevel=2,
    )


def _microbatches(batch: Experience, rows: Tensor, budget: int | None) -> list[Experience]:
    """The rows for which `rows` (R,) is True, within the budget of tokens."""
    chosen = rows.nonzero().flatten()
    if not len(chosen):
        return []
    return [batch.rows(chosen[group]) for group in microbatches(batch.lengths[chosen], budget)]


def _as_many_on_all_ranks(batch: Experience, micros: list[Experience], context: StepContext) -> list[Experience]:
    """As many micro-batches as the rank that has most, at least one; what is added has no gradient."""
    count = int(context.gather(torch.tensor(len(micros), device=context.device)).max())
    filling = batch.rows(batch.lengths.argmin().reshape(1)).without_tokens()
    return micros + [filling] * (max(1, count) - len(micros))
