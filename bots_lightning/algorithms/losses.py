"""Losses: tensors in, a scalar and its metrics out."""

# Shapes: R rows (completions), T completion tokens.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from bots_lightning.options import check_option

LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo"]
KLEstimator = Literal["k1", "k2", "k3"]
Level = Literal["token", "sequence"]


@dataclass(frozen=True)
class BatchSize:
    """The size of a minibatch: what the losses of its micro-batches add up over.

    Attributes:
        rows: of the minibatch; a mean over ranks where these differ.
        tokens: of the minibatch that are learned from.
        max_completion_length: the length limit of completions, in tokens.
    """

    rows: float
    tokens: float
    max_completion_length: int

    @staticmethod
    def of(mask: Tensor, max_completion_length: int | None = None) -> BatchSize:
        """The size of a minibatch that is a single micro-batch.

        Args:
            mask: (R, T) bool, the tokens that are learned from.
            max_completion_length: by default T.
        """
        return BatchSize(len(mask), float(mask.sum()), max_completion_length or mask.shape[1])


@dataclass(frozen=True)
class LossOutputs:
    """A scalar to differentiate, and detached metrics to log.

    Attributes:
        loss: scalar.
        metrics: (R, T), one value per token, or (R, 1), one per row.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    size: BatchSize | None = None,
    *,
    loss_type: LossType = "dapo",
    importance_sampling_level: Level = "token",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    weights: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    kl_estimator: KLEstimator = "k3",
    use_bias_correction_kl: bool = True,
) -> LossOutputs:
    """The clipped surrogate of GRPO (arXiv:2402.03300) and its family, with a KL penalty if there is a reference.

        ρ_it = exp(log π(y_it) − log π_old(y_it))
        ℓ_it = −w_it min(min(ρ_it, δ) A_it, clip(ρ_it, 1−ε, 1+ε_high) A_it) + β ρ_it KL_it
        L = `aggregate`(ℓ)

    With advantages per token it is the policy loss of PPO (arXiv:1707.06347). Micro-batches, each with the `size` of
    the minibatch, have losses and gradients that add up to those of the minibatch.

    Args:
        logprobs: (R, T) float, log π of the completions' tokens; carries the gradient.
        old_logprobs: (R, T) float, log π_old of the same tokens.
        advantages: (R,) or (R, T) float.
        mask: (R, T) bool, True on the tokens to learn from. A row without any adds nothing.
        size: of the minibatch, if these rows are one of its micro-batches.
        loss_type: see `aggregate`.
        importance_sampling_level: "sequence" takes one ratio per row, exp of the mean log-ratio of its tokens
            (GSPO, arXiv:2507.18071).
        epsilon: lower clip ε.
        epsilon_high: upper clip, ε if not given (clip-higher of DAPO, arXiv:2503.14476).
        delta: δ, bounds the ratio also where the advantage is negative (two-sided clipping, arXiv:2505.07291);
            above 1 + ε_high.
        weights: w, (R, T) or (R, 1) float, for what another distribution has sampled; all 1 if not given.
        ref_logprobs: (R, T) float, log π of the reference; needed if `kl_coef` is not 0.
        kl_coef: β, weight of the KL penalty.
        kl_estimator: see `kl_divergence`.
        use_bias_correction_kl: weight the penalty by the ratio, which makes its gradient that of the reverse KL
            divergence (arXiv:2512.02556) where π_old has sampled; w does not enter it, as in TRL. For "k2", whose
            gradient is that already, the weight is a constant.

    Returns:
        the loss; `ratio`; `clipped_low`, `clipped_high` (where the clip took the gradient away); `approxkl`, ½ of
        the squared log-ratio; `kl` if there is a reference.

    Raises:
        ValueError: shapes differ, an option is none of its words, or there is a penalty without a reference.
    """
    _check(logprobs, old_logprobs, advantages, mask)
    size = size or BatchSize.of(mask)
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    advantage = _masked(advantages, mask) if advantages.ndim == 2 else advantages.unsqueeze(1)
    ratio = importance_ratio(logprobs, old_logprobs, mask, importance_sampling_level)
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    per_token = -torch.minimum(bounded * advantage, clipped * advantage)
    if weights is not None:
        per_token = per_token * weights
    metrics = {
        "ratio": ratio,
        "clipped_low": (ratio < 1 - epsilon) & (advantage < 0),
        "clipped_high": (ratio > 1 + epsilon_high) & (advantage > 0),
        "approxkl": 0.5 * _masked_difference(logprobs, old_logprobs, mask).square(),
    }
    if kl_coef:
        if ref_logprobs is None:
            raise ValueError(f"kl_coef={kl_coef} needs ref_logprobs; pass them or set kl_coef to 0.")
        kl = kl_divergence(logprobs, ref_logprobs, mask, kl_estimator)
        weight = ratio.detach() if kl_estimator == "k2" else ratio
        per_token = per_token + kl_coef * (kl * weight if use_bias_correction_kl else kl)
        metrics["kl"] = kl
    loss = aggregate(per_token, mask, size, loss_type)
    return LossOutputs(loss, {name: value.detach().float() for name, value in metrics.items()})


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: Level = "token") -> Tensor:
    """The probability ratio π / π_old.

    Args:
        logprobs: (R, T) float, log π.
        old_logprobs: (R, T) float, log π_old.
        mask: (R, T) bool.
        level: "token", or "sequence" for the geometric mean over a row's tokens.

    Returns:
        (R, T) by token, 1 outside the mask; (R, 1) by sequence.
    """
    check_option("importance_sampling_level", level, Level)
    log_ratio = _masked_difference(logprobs, old_logprobs, mask)
    if level == "sequence":
        log_ratio = log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return log_ratio.exp()


def kl_divergence(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Estimates KL(π ‖ π_ref) at each token from the one token that was drawn (Schulman 2020, "Approximating KL").

        d = log π − log π_ref;   k1 = d;   k2 = ½ d²;   k3 = exp(−d) + d − 1

    k1 and k3 are unbiased, k2 and k3 never negative.

    Args:
        logprobs: (R, T) float.
        ref_logprobs: (R, T) float.
        mask: (R, T) bool.
        estimator: which.

    Returns:
        (R, T) float, 0 outside the mask.
    """
    check_option("kl_estimator", estimator, KLEstimator)
    difference = _masked_difference(logprobs, ref_logprobs, mask)
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    return torch.expm1(-difference) + difference


def aggregate(per_token: Tensor, mask: Tensor, size: BatchSize, loss_type: LossType) -> Tensor:
    """One number from a loss per token.

    - "grpo": mean over the tokens of a row, then over all rows (arXiv:2402.03300);
    - "dr_grpo": sum over tokens, over rows × max_completion_length (arXiv:2503.20783);
    - "dapo": mean over all tokens of the batch, of all ranks (arXiv:2503.14476);
    - "bnpo": mean over all tokens of this rank's batch.

    The last two differ in the `size.tokens` that the caller gives.

    Args:
        per_token: (R, T) or (R, 1) float.
        mask: (R, T) bool.
        size: of the minibatch.
        loss_type: which.

    Returns:
        scalar.
    """
    check_option("loss_type", loss_type, LossType)
    masked = _masked(per_token, mask)
    if loss_type == "grpo":
        return (masked.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / size.rows
    if loss_type == "dr_grpo":
        return masked.sum() / (size.rows * size.max_completion_length)
    return token_mean(per_token, mask, size)


def token_mean(per_token: Tensor, mask: Tensor, size: BatchSize) -> Tensor:
    """The mean over all tokens of a minibatch, or a micro-batch's share of it.

    Args:
        per_token: (R, T) or (R, 1) float.
        mask: (R, T) bool.
        size: of the minibatch.
    """
    return _masked(per_token, mask).sum() / max(size.tokens, 1.0)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    size: BatchSize | None = None,
    *,
    cliprange_value: float = 0.2,
) -> LossOutputs:
    """The critic's squared error, pessimistic about moving far from the values it had.

    arXiv:1707.06347, and "The 37 implementation details of PPO".

        L = ½ mean_it max((V − R)², (V_old + clip(V − V_old, ±c) − R)²)

    Args:
        values: (R, T) float, carries the gradient.
        old_values: (R, T) float, those at the time of the rollouts.
        returns: (R, T) float, what they should have been.
        mask: (R, T) bool.
        size: of the minibatch, if these rows are one of its micro-batches.
        cliprange_value: c, in units of the reward.

    Returns:
        the loss; `clipped`, where the clipped error was the larger.
    """
    size = size or BatchSize.of(mask)
    values, old_values, returns = (_masked(x, mask) for x in (values, old_values, returns))
    near = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    error, clipped_error = (values - returns).square(), (near - returns).square()
    loss = 0.5 * token_mean(torch.maximum(error, clipped_error), mask, size)
    return LossOutputs(loss, {"clipped": (clipped_error > error).float()})


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """Zero outside the mask, where values may be anything, and so is the gradient."""
    return torch.where(mask, values, torch.zeros_like(values))


def _masked_difference(logprobs: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    return _masked(logprobs - others, mask)


def _check(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> None:
    if logprobs.ndim != 2 or logprobs.shape != old_logprobs.shape or logprobs.shape != mask.shape:
        shapes = tuple(logprobs.shape), tuple(old_logprobs.shape), tuple(mask.shape)
        raise ValueError(f"logprobs, old_logprobs and mask have shapes {shapes}; expected three times (R, T).")
    if advantages.shape not in (logprobs.shape[:1], logprobs.shape):
        raise ValueError(
            f"advantages have shape {tuple(advantages.shape)}; expected ({len(logprobs)},) or {tuple(logprobs.shape)}."
        )
