"""The GRPO loss and its gradient against a loop over tokens, with the gradient worked out by hand."""

# R rows, T completion tokens.

import math

import pytest
import torch
from torch import Tensor

from bots_lightning.algorithms import grpo_loss


def slow_loss_and_gradient(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float
) -> tuple[float, list[list[float]]]:
    """The definition, token by token; d/dlogp of min(ρA, clip(ρ)A) is ρA where the unclipped term is the smaller."""
    rows, width = logprobs.shape
    loss, gradient = 0.0, [[0.0] * width for _ in range(rows)]
    for i in range(rows):
        tokens = [t for t in range(width) if mask[i, t]]
        for t in tokens:
            ratio = math.exp(float(logprobs[i, t]) - float(old[i, t]))
            advantage = float(advantages[i])
            clipped = min(max(ratio, 1 - low), 1 + high)
            loss -= min(ratio * advantage, clipped * advantage) / len(tokens) / rows
            if ratio * advantage <= clipped * advantage:
                gradient[i][t] = -ratio * advantage / len(tokens) / rows
    return loss, gradient


def random_case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(6, 7, generator=generator, dtype=torch.float64) * 3
    old = logprobs + 0.5 * torch.randn(6, 7, generator=generator, dtype=torch.float64)
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([7, 1, 3, 0, 5, 2])
    return logprobs.requires_grad_(), old, advantages, torch.arange(7) < lengths[:, None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.05, 0.5)])
def test_loss_and_gradient_agree_with_the_definition(seed: int, low: float, high: float) -> None:
    logprobs, old, advantages, mask = random_case(seed)
    outputs = grpo_loss(logprobs, old, advantages, mask, epsilon=low, epsilon_high=high)
    outputs.loss.backward()
    loss, gradient = slow_loss_and_gradient(logprobs.detach(), old, advantages, mask, low, high)
    assert outputs.loss.item() == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(logprobs.grad, torch.tensor(gradient, dtype=torch.float64), rtol=0, atol=1e-12)


def test_on_policy_gradient_is_that_of_the_policy_gradient() -> None:
    logprobs, _, advantages, mask = random_case(0)
    outputs = grpo_loss(logprobs, logprobs.detach(), advantages, mask)
    outputs.loss.backward()
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(logprobs.grad, -advantages[:, None] * mask / lengths / 6)
    assert outputs.metrics["clip_ratio/low_tokens"] == 0
    assert outputs.metrics["clip_ratio/high_tokens"] == 0


def test_clipped_tokens_by_hand() -> None:
    ratios = torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 1.0]], dtype=torch.float64)
    outputs = grpo_loss(
        ratios.log(),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.tensor([1.0, -2.0], dtype=torch.float64),
        torch.tensor([[True, True, True], [True, True, False]]),
        epsilon=0.2,
    )
    first = (1.2 + 0.5 + 1.0) / 3  # A > 0: clipped from above only
    second = (-2 * 1.5 + -2 * 0.8) / 2  # A < 0: clipped from below only
    assert outputs.loss.item() == pytest.approx(-(first + second) / 2)
    assert outputs.metrics["clip_ratio/high_tokens"] == 1
    assert outputs.metrics["clip_ratio/low_tokens"] == 1


def test_parts_add_up_to_the_whole() -> None:
    logprobs, old, advantages, mask = random_case(1)
    whole = grpo_loss(logprobs, old, advantages, mask).loss
    parts = [
        grpo_loss(logprobs[rows], old[rows], advantages[rows], mask[rows], num_rows=6).loss
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-12)


def test_values_outside_the_mask_do_not_matter() -> None:
    logprobs, old, advantages, mask = random_case(2)
    garbage = torch.where(mask, old, torch.full_like(old, -torch.inf))
    clean, dirty = (grpo_loss(logprobs, o, advantages, mask).loss for o in (old, garbage))
    assert clean.item() == dirty.item()
    dirty.backward()
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()


def test_wrong_shapes_are_refused() -> None:
    logprobs, old, advantages, mask = random_case(0)
    with pytest.raises(ValueError, match=r"expected three times \(R, T\)"):
        grpo_loss(logprobs, old[:, :3], advantages, mask)
    with pytest.raises(ValueError, match=r"expected \(6,\)"):
        grpo_loss(logprobs, old, advantages[:3], mask)
