"""The reference policy of a KL penalty: the pretrained model, before training."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor, nn

from bots_lightning.policy.loading import using_adapter
from bots_lightning.policy.recording import policy_logprobs
from bots_lightning.rollouts import Rollouts


def reference_logprobs(
    policy: nn.Module,
    frozen: nn.Module | None,
    rollouts: Rollouts,
    temperature: float = 1.0,
    max_tokens: int | None = None,
) -> Tensor:
    """Log-probabilities of the completions under the reference, without gradient.

    Args:
        policy: the network that is trained.
        frozen: a copy of it from before training. None takes the policy with its adapters off, which needs no second
            model in memory.
        rollouts: R rows.
        temperature: as in `completion_logprobs`.
        max_tokens: as in `microbatches`.

    Returns:
        (R, T) float32, NaN outside of the completions.
    """
    model, context = (policy, using_adapter(policy, None)) if frozen is None else (frozen, nullcontext())
    with context:
        return policy_logprobs(model, rollouts, temperature, max_tokens)
