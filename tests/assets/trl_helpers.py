"""Losses, gradients, advantages and log-probabilities against those of TRL, which implements the same papers.

TRL's own trainers run, on a tiny random policy in float64. Two things keep them from agreeing to the last bit:

- TRL's language-model head computes in float32 whatever the model is. So each loss is compared twice: end to end, and,
  to the precision of float64, on log-probabilities that both are given.
- TRL passes no position ids, so padding on the left shifts positions. Rotary embeddings depend on their differences
  only, though transformers computes the angles in float32: it makes no difference above the rounding of the head.
"""

# Shapes: R rows, L prompt tokens, T completion tokens.

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from bots_lightning.algorithms.losses import BatchSize, LossOutputs, grpo_loss
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import Rollouts
from bots_lightning.rollouts.segments import groups_of_rows

END_TO_END, EXACT = 1e-6, 1e-12

MAX_COMPLETION_LENGTH = 9  # longer than any completion here

LENGTHS = [7, 1, 3, 7, 5, 2, 6, 4]  # those of 7 tokens were cut and have no stop token

NAN = math.nan


class Case(NamedTuple):
    """What both are given."""

    rollouts: Rollouts
    advantages: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    mask: Tensor  # of the tokens to learn from

    def for_trl(self) -> dict[str, Tensor]:
        return {
            "prompt_ids": self.rollouts.prompt_ids,
            "prompt_mask": self.rollouts.prompt_mask.long(),
            "completion_ids": self.rollouts.completion_ids,
            "completion_mask": self.mask.long(),
            "advantages": self.advantages,
            "old_per_token_logps": self.old_logprobs,
            "ref_per_token_logps": self.ref_logprobs,
            "num_items_in_batch": self.mask.sum(),
        }


def case_of(trainer: Any, prompt_lengths: list[int] | None = None) -> Case:
    """Ragged completions, with ratios on both sides of both clips, by token and by row."""
    generator = torch.Generator().manual_seed(0)
    rows, width, prompt = len(LENGTHS), max(LENGTHS), 5
    lengths = torch.tensor(LENGTHS)
    vocabulary = trainer.model.config.vocab_size
    prompt_mask = torch.arange(prompt) >= prompt - torch.tensor(prompt_lengths or [prompt] * rows)[:, None]
    prompt_ids = torch.randint(3, vocabulary, (rows, prompt), generator=generator) * prompt_mask
    mask = torch.arange(width) < lengths[:, None]
    completion_ids = torch.randint(3, vocabulary, (rows, width), generator=generator) * mask
    finished = lengths < width
    completion_ids[finished, lengths[finished] - 1] = 1
    rollouts = Rollouts(prompt_ids, prompt_mask, completion_ids, mask, finished, policy_version=0)
    with torch.no_grad():
        present, _ = completion_logprobs(trainer.model, rollouts, trainer.temperature)
    noise = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    by_row = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    old, ref = present + (0.3 * noise[0] + 0.4 * by_row) * mask, present + 0.5 * noise[1] * mask
    advantages = tensor([1.2, -0.7, -0.7, 0.2, -1.0, 1.5, 0.0, -0.5])
    return Case(rollouts, advantages, old, ref, mask)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_of_trl(trainer: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Its loss and the metrics that it records."""
    trainer._metrics["train"].clear()
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def our_loss(trainer: Any, case: Case, **options: Any) -> tuple[LossOutputs, Tensor]:
    """Our loss and entropies."""
    logprobs, entropy = completion_logprobs(trainer.model, case.rollouts, trainer.temperature)
    size = BatchSize.of(case.mask, MAX_COMPLETION_LENGTH)
    outputs = grpo_loss(
        logprobs, case.old_logprobs, case.advantages, case.mask, size, ref_logprobs=case.ref_logprobs, **options
    )
    return outputs, entropy


def set_options(monkeypatch: pytest.MonkeyPatch, trainer: Any, **options: Any) -> None:
    """The trainer's options by our names, until the test ends."""
    ours = {"epsilon": "epsilon_low", "kl_coef": "beta"}
    for name, value in options.items():
        holder = trainer.args if name in ("delta", "use_bias_correction_kl") else trainer
        monkeypatch.setattr(holder, ours.get(name, name), value)


def share_our_logprobs(monkeypatch: pytest.MonkeyPatch, trainer: Any, case: Case) -> None:
    """Gives the trainer our log-probabilities and entropies, in float64, in place of its own in float32."""

    def ours(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return *completion_logprobs(trainer.model, case.rollouts, trainer.temperature), None

    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", ours)


def assert_agree(actual: Tensor, expected: Tensor, model: torch.nn.Module, atol: float) -> None:
    """Two losses, and their gradients at all weights of the model."""
    torch.testing.assert_close(actual, expected.double(), rtol=0, atol=atol)
    names, weights = zip(*model.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(loss, weights) for loss in (actual, expected))
    assert max(float(gradient.abs().max()) for gradient in theirs) > 0.01
    torch.testing.assert_close(
        dict(zip(names, ours, strict=True)), dict(zip(names, theirs, strict=True)), rtol=0, atol=atol
    )


def mean_metric(metric: Tensor, mask: Tensor) -> float:
    """Over tokens, or over rows of a metric that has one value per row."""
    return float(metric.mean() if metric.shape[1] == 1 else metric[mask].mean())


def options_of(**options: Any) -> dict[str, Any]:
    """Those of one loss, spelled out."""
    defaults = {
        "loss_type": "dapo",
        "importance_sampling_level": "token",
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "delta": None,
        "kl_coef": 0.0,
        "use_bias_correction_kl": True,
    }
    return defaults | options


PAIR = groups_of_rows([4, 4])

# Rewards of two groups of four; None where no reward function applied.
REWARDS: dict[str, list[float | None]] = {
    "binary": [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    "graded": [0.3, -2.0, 0.7, 0.1, 5.0, 4.5, 4.9, 4.0],
    "equal and mixed": [0.1, 0.1, 0.1, 0.1, 0.0, 0.5, 1.0, 0.0],
    "all equal": [0.5] * 8,
    "some missing": [1.0, None, 0.0, None, 0.25, 0.5, None, 0.75],
    "a group missing": [None, None, None, None, 0.0, 1.0, 1.0, 0.0],
    "one left": [None, 3.0, None, None, 0.0, 1.0, None, 0.0],
    "only one": [None, 3.0, None, None, None, None, None, None],
}


def as_tensor(rewards: list[float | None]) -> Tensor:
    return torch.tensor([NAN if reward is None else reward for reward in rewards])
