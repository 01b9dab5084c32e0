"""Importance sampling: corrects for rollouts that another distribution than the policy's has sampled."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bots_lightning.options import check_numbers, check_option

Mode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@dataclass(frozen=True)
class ImportanceSampling:
    """Weights tokens by how much more likely the policy is to draw them than what drew them, within bounds.

        w_it = exp(log π_old(y_it) − log μ(y_it))     or, by sequence,  w_i = Π_t w_it

    μ is what sampled: an engine of other kernels or precision, or an earlier policy; π_old the policy as its update
    begins, to which the clipped ratio is taken all the same: the decoupled objective of arXiv:2110.00641. Options and
    bounds are those of TRL's `vllm_importance_sampling_…`.

    Attributes:
        mode: "token_…" or "sequence_…"; weights out of bounds are moved to them by "…_truncate", which has a bias, and
            set to 0 by "…_mask", which takes what is too far off out of the loss.
        clip_max: the largest weight; None leaves it open.
        clip_min: the smallest weight; None leaves it open.
    """

    mode: Mode = "sequence_mask"
    clip_max: float | None = 3.0
    clip_min: float | None = None

    def __post_init__(self) -> None:
        check_option("importance_sampling_mode", self.mode, Mode)
        check_numbers(0, above=True, importance_sampling_clip_max=self.clip_max)
        check_numbers(0, importance_sampling_clip_min=self.clip_min)
        if self.clip_min is not None and self.clip_max is not None and self.clip_min >= self.clip_max:
            raise ValueError(
                f"importance_sampling_clip_min={self.clip_min} and importance_sampling_clip_max={self.clip_max}; "
                "expected the first to be less."
            )
        if self.clip_min is None and self.clip_max is None and self.mode.endswith("truncate"):
            raise ValueError(
                f"importance_sampling_mode={self.mode!r} without bounds truncates nothing. Set "
                "importance_sampling_clip_max, or importance_sampling_clip_min."
            )

    def weights(self, old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
        """The weights w; they carry no gradient.

        Args:
            old_logprobs: (R, T) float, log π_old.
            sampling_logprobs: (R, T) float, log μ; NaN where it is not known, as if the policy had sampled.
            mask: (R, T) bool, the tokens that are learned from.

        Returns:
            (R, T) by token, or (R, 1) by sequence.
        """
        known = mask & ~sampling_logprobs.isnan()
        log_weights = (old_logprobs.detach() - sampling_logprobs).masked_fill(~known, 0.0)
        if self.mode.startswith("sequence"):
            log_weights = log_weights.sum(dim=1, keepdim=True)
        weights = log_weights.exp()
        if self.mode.endswith("truncate"):
            return weights.clamp(min=self.clip_min, max=self.clip_max)
        for bound, outside in ((self.clip_min, weights.lt), (self.clip_max, weights.gt)):
            if bound is not None:
                weights = weights.masked_fill(outside(bound), 0.0)
        return weights


def off_policy_mask(
    advantages: Tensor, logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, threshold: float
) -> Tensor:
    """Which completions are learned from: those that did badly are not, once the policy has moved away from them.

    What the policy would hardly say any more teaches little by being made less likely still, and its gradients are the
    wildest. This is the sequence mask of DeepSeek-V3.2 (arXiv:2512.02556), TRL's `off_policy_mask_threshold`.

    Args:
        advantages: (R,) float.
        logprobs: (R, T) float, log π, of the policy as it is.
        sampling_logprobs: (R, T) float, log μ, of what sampled; NaN where it is not known, as if π had.
        mask: (R, T) bool, the tokens that are learned from.
        threshold: the largest mean of log μ − log π over a completion's tokens, in nats.

    Returns:
        (R, 1) float, 0 where the advantage is negative and that mean is above the threshold, else 1.
    """
    moved = (sampling_logprobs - logprobs.detach()).nan_to_num(nan=0.0).masked_fill(~mask, 0.0)
    mean = moved.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return ((advantages >= 0) | (mean <= threshold)).to(logprobs.dtype).unsqueeze(1)


DEFAULT = ImportanceSampling()
