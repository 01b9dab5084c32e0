"""Algorithms without a Trainer: a tiny policy, what trains it, the context of a step, and groups made by hand."""

# Shapes: K groups, n_k rows in group k, R = Σ n_k rows, T completion tokens.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from bots_lightning.algorithms import Algorithm, Experience, Progress, RolloutGroups, StepContext
from bots_lightning.algorithms.meter import Meter
from bots_lightning.policy import LoRA, Policy
from bots_lightning.rollouts import Rollouts
from bots_lightning.rollouts.segments import groups_of_rows

SMALL = LoRA(r=4, alpha=8)


def step_context(max_completion_length: int = 6, **overrides: Any) -> StepContext:
    """The context of a step in a single process."""
    options: dict[str, Any] = {
        "strategy": SingleDeviceStrategy(),
        "device": torch.device("cpu"),
        "rank": 0,
        "world_size": 1,
        "all_gather": lambda tensor: tensor,
        "backward": lambda loss: loss.backward(),
        "seed": 0,
        "progress": Progress(),
        "max_completion_length": max_completion_length,
    }
    return StepContext(**options | overrides)


class Assembled(nn.Module):
    """A policy, loaded, and the algorithm that trains it; its weights are named as those of an `OnlineModule`.

    Args:
        algorithm: whose options are those of the test.
        checkpoint: of the policy.
        lora: of the policy.
        dtype: of all weights.
        num_generations: that the algorithm is told.
        **options: of `Policy`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        checkpoint: str,
        lora: LoRA | None = SMALL,
        dtype: torch.dtype = torch.float64,
        num_generations: int = 4,
        **options: Any,
    ) -> None:
        super().__init__()
        policy, self.context = Policy(checkpoint, lora, **options), step_context()
        algorithm.attach(policy, num_generations, self.context.max_completion_length)
        self.critic, self.policy, self.algorithm = algorithm.critic, policy, algorithm
        policy.load(0)
        algorithm.build(0)
        if algorithm.kl_coef:
            policy.load_reference(torch.device("cpu"))
        self.to(dtype)

    def prepare(self, groups: RolloutGroups) -> tuple[Experience, dict[str, float]]:
        """What an update learns from."""
        return self.algorithm.prepare(groups, self.context)

    def gradients(self, batch: Experience, meter: Meter | None = None) -> tuple[float, dict[str, Tensor]]:
        """The loss of a batch, in one micro-batch, and its gradients by the names of the weights."""
        self.zero_grad()
        total, size = 0.0, self.algorithm.size(batch.mask, self.context)
        for loss in self.algorithm.losses(batch, size, meter or Meter(), self.context):
            loss.backward()
            total += loss.item()
        named = {name: weight.grad for name, weight in self.named_parameters()}
        return total, {name: gradient.clone() for name, gradient in named.items() if gradient is not None}


def groups_of(rollouts: Rollouts, rewards: Sequence[float] | Tensor, counts: Sequence[int]) -> RolloutGroups:
    """Groups of so many rows each, of iteration 0.

    Args:
        rollouts: R rows.
        rewards: (R,), NaN where there is none.
        counts: (K,) n_k.
    """
    given = torch.as_tensor(rewards)
    return RolloutGroups(rollouts, given, groups_of_rows(counts), torch.zeros(len(counts), dtype=torch.long))


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 1e-10) -> None:
    """The same weights have one, and it is the same."""
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def largest(gradients: dict[str, Tensor]) -> float:
    """The largest absolute value in all of them."""
    return max(float(value.abs().max()) for value in gradients.values())
