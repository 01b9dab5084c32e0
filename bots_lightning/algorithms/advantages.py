"""Advantages: how much better a completion, or a token, is than expected."""

# Shapes: K groups, N rows of the largest, R rows in all, T completion tokens.

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bots_lightning.options import check_option
from bots_lightning.rollouts.segments import by_group, places_in_group

Scale = Literal["group", "batch", "none"]
Estimator = Literal["grpo", "rloo"]


def group_advantages(
    rewards: Tensor,
    group_of_row: Tensor,
    scale_rewards: Scale = "group",
    adv_estimator: Estimator = "grpo",
    eps: float = 1e-4,
    batch: Tensor | None = None,
    round_of_row: Tensor | None = None,
) -> Tensor:
    """Each reward against the others of its group; groups may differ in size.

        grpo:  A_kj = r_kj − mean_i r_ki           (arXiv:2402.03300)
        rloo:  A_kj = r_kj − mean_{i≠j} r_ki       (leave one out, arXiv:2402.14740)

    and, unless `scale_rewards` is "none", over std + ε, the unbiased standard deviation. Departure: rewards that are
    NaN (no reward function applied) are left out of mean and deviation, and their advantage is 0.

    Of a group that was sampled in rounds, mean and deviation are those of all rewards up to the end of the row's own
    round. Whether there are later rounds depends on the rewards: a mean over these is biased, and so is the gradient.
    Given what was seen before it, the rows of a round and their number are like those of a plain group. So the rows of
    round t, with "rloo" and without scale, have the expected gradient n_t ∇J of their task, whatever the rule is.

    Args:
        rewards: (R,) float, NaN where there is none.
        group_of_row: (R,) int64 in [0, K), the group of each row; every group has one.
        scale_rewards: divide by the deviation of the "group", or of the whole "batch" (arXiv:2508.08221); "none"
            with "grpo" gives the advantages of Dr. GRPO (arXiv:2503.20783).
        adv_estimator: the baseline. "rloo" is "grpo" times n / (n − 1), n the group's rewards.
        eps: keeps groups of nearly equal rewards finite.
        batch: (…) float, the rewards of the whole batch if `rewards` are this rank's share of it.
        round_of_row: (R,) int64, in which round each row was sampled; all in one if left out.

    Returns:
        (R,) float; 0 for a group of equal rewards, and for the only reward of a group.

    Raises:
        ValueError: shapes differ, or an option is none of its words.
    """
    if rewards.ndim != 1 or rewards.shape != group_of_row.shape:
        shapes = tuple(rewards.shape), tuple(group_of_row.shape)
        raise ValueError(f"rewards and group_of_row have shapes {shapes}; expected twice (R,).")
    check_option("scale_rewards", scale_rewards, Scale)
    check_option("adv_estimator", adv_estimator, Estimator)
    rounds = torch.zeros_like(group_of_row) if round_of_row is None else round_of_row
    everything = (rewards if batch is None else batch).reshape(1, -1)
    batch_std = group_mean_and_std(everything)[1] if scale_rewards == "batch" else None
    advantages = torch.zeros_like(rewards)
    for number in range(int(rounds.max()) + 1):
        grouped = by_group(torch.where(rounds <= number, rewards, torch.nan), group_of_row)
        centred, std = _centred(grouped, adv_estimator)
        scaled = centred if scale_rewards == "none" else centred / ((std if batch_std is None else batch_std) + eps)
        of_row = scaled[group_of_row, places_in_group(group_of_row)]
        advantages = torch.where(rounds == number, of_row, advantages)
    return advantages


def _centred(grouped: Tensor, adv_estimator: Estimator) -> tuple[Tensor, Tensor]:
    """Rewards (K, N) less their baseline, 0 where there is none; and each group's deviation, (K, 1)."""
    mean, std = group_mean_and_std(grouped)
    centred = torch.where(grouped.isnan(), torch.zeros_like(grouped), grouped - mean)
    if adv_estimator == "rloo":
        count = (~grouped.isnan()).sum(dim=1, keepdim=True)
        centred = centred * count / (count - 1).clamp(min=1)
    return centred, std


def task_weights(group_of_row: Tensor, round_of_row: Tensor, num_generations: int) -> Tensor:
    """What the advantage of each row is multiplied by, so that tasks count alike and not rollouts.

        w = num_generations / N

    with N the rollouts of the row's task up to the end of the row's round: the number of rollouts of a task decides how
    precisely its gradient is known, and not how much it counts. Losses are means over rows, so that those of a task
    would otherwise count as often as there are some.

    N does not look at later rounds, for the reason that the baseline does not, see `group_advantages`. The expected
    gradient of a task, with "rloo" and without scale, is num_generations · ∇J · Σ_t P(there is a round t) n_t / N_t.
    The sum is 1 for a single round, and 1 + ½ P(not mixed after the first) + … for rounds that each double a group that
    is not yet mixed: a task that rarely succeeds counts somewhat more, being learned from in the round that succeeds.

    Args:
        group_of_row: (R,) int64 in [0, K), the group of each row; every group has one.
        round_of_row: (R,) int64, in which round each row was sampled.
        num_generations: rollouts of a task on average.

    Returns:
        (R,) float, 1 where every task has `num_generations` rollouts.
    """
    so_far = torch.ones_like(group_of_row)
    for number in range(int(round_of_row.max()) + 1):
        sizes = torch.zeros_like(group_of_row).index_add_(0, group_of_row, (round_of_row <= number).long())
        so_far = torch.where(round_of_row == number, sizes[group_of_row], so_far)
    return num_generations / so_far


def group_mean_and_std(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of each group's rewards.

    Args:
        rewards: (K, N) float; NaN is left out.

    Returns:
        each (K, 1), 0 where all is NaN. Rewards that are equal to the bit have that mean and the deviation 0 exactly.
    """
    valid = ~rewards.isnan()
    count = valid.sum(dim=1, keepdim=True)
    low = rewards.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    high = rewards.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    mean = torch.where(low == high, low, rewards.nansum(dim=1, keepdim=True) / count.clamp(min=1))
    squares = torch.where(valid, rewards - mean, torch.zeros_like(rewards)).square().sum(dim=1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over the tokens of each row (arXiv:1506.02438).

        δ_t = r_t + γ V_{t+1} − V_t;   A_t = δ_t + γ λ A_{t+1}

    with V = 0 after the last token, and t + 1 the next token of the mask: tokens that the policy did not sample are
    skipped. λ = 1 gives returns − values, λ = 0 the one-step error.

    Args:
        rewards: (R, T) float, reward of each token.
        values: (R, T) float, the critic's estimate before each token.
        mask: (R, T) bool, True on the tokens that the policy sampled.
        gamma: γ, discount per token.
        lam: λ, how far rewards count against the critic's estimates.

    Returns:
        advantages and returns (advantages + values), each (R, T); 0 outside the mask.

    Raises:
        ValueError: shapes differ.
    """
    if rewards.shape != values.shape or rewards.shape != mask.shape or rewards.ndim != 2:
        shapes = tuple(rewards.shape), tuple(values.shape), tuple(mask.shape)
        raise ValueError(f"rewards, values and mask have shapes {shapes}; expected three times (R, T).")
    rewards, values = (torch.where(mask, x, torch.zeros_like(x)) for x in (rewards, values))
    advantages = torch.zeros_like(values)
    following = next_value = values.new_zeros(len(values))
    for t in range(values.shape[1] - 1, -1, -1):
        sampled = mask[:, t]
        advantage = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * following
        following = torch.where(sampled, advantage, following)
        next_value = torch.where(sampled, values[:, t], next_value)
        advantages[:, t] = torch.where(sampled, advantage, advantages[:, t])
    return advantages, advantages + values


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """The discounted sum of rewards from each token on: what the values should predict.

    Args:
        rewards: (R, T) float, reward of each token.
        mask: (R, T) bool, True on the tokens that the policy sampled.
        gamma: γ, discount per token.

    Returns:
        (R, T) float; 0 outside the mask.
    """
    return generalized_advantages(rewards, torch.zeros_like(rewards), mask, gamma, lam=1.0)[0]


def whiten(
    values: Tensor, mask: Tensor, shift_mean: bool = True, gather: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Scales values to variance 1 over the mask and shifts them to mean 0.

    Args:
        values: (R, T) float.
        mask: (R, T) bool; with fewer than two tokens there is no variance, and values keep their size.
        shift_mean: False keeps the mean.
        gather: (…) to (W, …), the tensors of all W ranks, if the batch is spread over several.

    Returns:
        (R, T) float, 0 outside the mask; NaN in all of the mask if one value there is not finite, so that no row is
        learned from.
    """
    moments = _moments(values[mask], gather)
    if moments is None:
        whitened = values
    else:
        mean, variance = moments
        whitened = (values - mean) * torch.rsqrt(variance + 1e-8) + (0.0 if shift_mean else mean)
    return torch.where(mask, whitened, torch.zeros_like(values))


def _moments(values: Tensor, gather: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """Mean and unbiased variance, of all ranks if they are to be gathered; None of fewer than two values."""
    if gather is None:
        return (values.mean(), values.var()) if len(values) > 1 else None
    sums = torch.stack([values.sum().double(), values.new_tensor(len(values)).double()])
    total, count = gather(sums).reshape(-1, 2).sum(dim=0)
    mean = total / count
    variance = gather((values - mean).square().sum()).sum() / (count - 1)
    return (mean.to(values.dtype), variance.to(values.dtype)) if count > 1 else None


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(returns − values) / Var(returns) over the mask: 1 is a perfect prediction, 0 that of a constant.

    Args:
        values: (R, T) float.
        returns: (R, T) float.
        mask: (R, T) bool.

    Returns:
        scalar; NaN if the returns are all equal, or there are none.
    """
    error, spread = _variance((returns - values)[mask]), _variance(returns[mask])
    return torch.where(spread > 0, 1 - error / spread, torch.full_like(spread, torch.nan))


def _variance(values: Tensor) -> Tensor:
    """NaN of no values, of which `Tensor.var` warns."""
    return (values - values.mean()).square().mean()


def soft_overlong_penalty(lengths: Tensor, max_completion_length: int, soft_punish_cache: int) -> Tensor:
    """0 for completions that leave room, falling linearly to −1 at the length limit (DAPO, arXiv:2503.14476, eq. 13).

        P = −max(0, |y| − (L_max − L_cache)) / L_cache

    Args:
        lengths: (R,) tokens.
        max_completion_length: L_max, tokens.
        soft_punish_cache: L_cache, the last tokens of the limit over which the penalty grows; with 0 it is −1 beyond
            the limit and 0 up to it.

    Returns:
        (R,) float in [−1, 0].
    """
    excess = (lengths - (max_completion_length - soft_punish_cache)).clamp(min=0)
    return -(excess / max(soft_punish_cache, 1)).clamp(max=1.0)
