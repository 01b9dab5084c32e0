"""The gradient of one mini-batch, in micro-batches."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor

from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.losses import BatchSize
from bots_lightning.algorithms.meter import Meter
from bots_lightning.policy.recording import microbatches
from bots_lightning.rollouts.memory import unless_out_of_memory
from bots_lightning.strategies import repeatable
from bots_lightning.training.failures import StepFailedError
from bots_lightning.training.old_optimizer import OptimizerModule


class GradientModule(OptimizerModule):
    """Accumulates gradients over micro-batches; neither losses nor gradients depend on how large those are.

    Subclasses say what is minimized (`losses`).
    """

    @abstractmethod
    def losses(self, part: Experience, size: BatchSize, meter: Meter) -> Iterator[Tensor]:
        """The losses of one micro-batch, one after the other; each is differentiated before the next is asked for.

        Args:
            part: rows of a mini-batch.
            size: of that mini-batch; losses add up over it.
            meter: takes the figures.
        """

    def idle(self, part: Experience) -> Tensor:
        """(R,) bool, True for rows whose loss and gradient are 0 for certain; they need no backward pass."""
        return ~part.mask.any(dim=1)

    def size(self, mask: Tensor) -> BatchSize:
        """Of a mini-batch with that mask, (R, T) bool; tokens are averaged over ranks, as their gradients will be."""
        tokens = self._gather(mask.sum()).float().mean()
        return BatchSize(len(mask), float(tokens), self.max_completion_length)

    def gradients(self, part: Experience) -> tuple[float, Meter]:
        """The gradient of one mini-batch; its loss and figures. In smaller micro-batches if memory does not suffice."""
        if not repeatable(self.trainer.strategy):
            return self._accumulate_gradients(part, meter := Meter()), meter
        for attempt in range(2):
            if attempt:
                self._halve_microbatches(part)
            meter = Meter()
            loss = unless_out_of_memory(partial(self._accumulate_gradients, part, meter))
            with self.clock.phase("sync"):
                enough = self.trainer.strategy.reduce_boolean_decision(loss is not None, all=True)
            if enough:
                return cast(float, loss), meter
            self._optimizer.zero_grad()
        raise StepFailedError(
            f"memory did not suffice for a micro-batch, nor for half of it, max_tokens_per_microbatch="
            f"{self.max_tokens_per_microbatch}. Lower that, max_completion_length, or set gradient_checkpointing=true."
        )

    def _halve_microbatches(self, part: Experience) -> None:
        """From now on; the budget of a run is a number of its config still."""
        parts = self._microbatches(part, ~self.idle(part)) or [part]
        largest = max(len(micro) * int(micro.lengths.max()) for micro in parts)
        self.max_tokens_per_microbatch = largest // 2
        warnings.warn(
            f"memory did not suffice for a micro-batch of {largest} tokens; it is halved, and so are all that follow. "
            f"Set max_tokens_per_microbatch={largest // 2} to begin with.",
            stacklevel=2,
        )

    def _accumulate_gradients(self, part: Experience, meter: Meter) -> float:
        """In micro-batches; the loss."""
        size, idle = self.size(part.mask), self.idle(part)
        total = torch.zeros((), device=self.device)
        for micro in self._in_step(part, self._microbatches(part, ~idle)):
            for loss in self.losses(micro, size, meter):
                self.manual_backward(loss)
                total += loss.detach()
        with torch.no_grad(), self.whole_model():  # idle rows count in the figures
            for micro in self._microbatches(part, idle & part.mask.any(dim=1)):
                total += sum(self.losses(micro, size, meter))
        return float(total)

    def _microbatches(self, part: Experience, rows: Tensor) -> list[Experience]:
        chosen = rows.nonzero().flatten()
        if not len(chosen):
            return []
        groups = microbatches(part.lengths[chosen], self.max_tokens_per_microbatch)
        return [part.rows(chosen[group]) for group in groups]

    def _in_step(self, part: Experience, parts: list[Experience]) -> list[Experience]:
        """As many micro-batches as the rank that has most, at least one; what is added has no gradient."""
        count = int(self._gather(torch.tensor(len(parts), device=self.device)).max())
        filling = part.rows(part.lengths.argmin().reshape(1)).without_tokens()
        return parts + [filling] * (max(1, count) - len(parts))
