"""Adds up the metrics of an update over its micro-batches."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor


class Meter:
    """Means over tokens, means over rows, and extremes of rows; nothing leaves the device before it is read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = defaultdict(list)
        self._totals: dict[str, Tensor] = {}
        self._merged = 0

    def add(self, name: str, values: Tensor, mask: Tensor, rows: bool = False, extremes: bool = False) -> None:
        """One micro-batch's values of a metric.

        Args:
            name: of the metric.
            values: (R, T), one value per token; or (R, 1), one per row, which counts if the row has a token.
            mask: (R, T) bool.
            rows: also keep the mean of each row, for `lowest` and `highest`.
            extremes: also keep the smallest and the largest value, for `lowest` and `highest`.
        """
        mask = mask.any(dim=1, keepdim=True) if values.shape[1] == 1 else mask
        masked = torch.where(mask, values.detach().float(), 0.0)
        self._sums[name] = self._sums.get(name, 0.0) + masked.sum()
        self._counts[name] = self._counts.get(name, 0) + mask.sum()
        if rows:
            length = mask.sum(dim=1)
            self._rows[name].append((masked.sum(dim=1) / length.clamp(min=1))[length > 0])
        if extremes:
            counted = values.detach().float()[mask]
            self._rows[name].append(torch.stack(counted.aminmax()) if len(counted) else counted)

    def add_loss(self, name: str, loss: Tensor) -> None:
        """Adds one micro-batch's share of a loss."""
        self._totals[name] = self._totals.get(name, 0.0) + loss.detach()

    def merge(self, other: Meter) -> None:
        """Adds all that the meter of one optimizer step has seen."""
        self._merged += 1
        for name, loss in other._totals.items():
            self.add_loss(name, loss)
        for name in other._sums:
            self._sums[name] = self._sums.get(name, 0.0) + other._sums[name]
            self._counts[name] = self._counts.get(name, 0) + other._counts[name]
            self._rows[name] += other._rows[name]

    def over_ranks(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Combines the meters of all ranks: sums and extremes; losses are averaged.

        Args:
            gather: (…) to (W, …), the tensors of all W ranks; all of them call it together.
        """
        for name in sorted(self._sums):
            seen = torch.stack([self._sums[name].double(), self._counts[name].double()])
            self._sums[name], self._counts[name] = gather(seen).reshape(-1, 2).sum(dim=0)
        for name in sorted(self._totals):
            self._totals[name] = gather(self._totals[name]).mean()
        for name in sorted(self._rows):
            rows = torch.cat(self._rows[name])
            ends = rows.aminmax() if len(rows) else (rows.new_tensor(torch.nan),) * 2
            gathered = gather(torch.stack(list(ends))).flatten()
            self._rows[name] = [gathered[~gathered.isnan()]]

    def mean(self, name: str) -> float:
        """The mean over all tokens or rows that were added; NaN if there are none."""
        if name not in self._sums or not self._counts[name]:
            return float("nan")
        return float(self._sums[name] / self._counts[name])

    def loss(self, name: str) -> float:
        """The mean of a loss over the steps that were merged; NaN if there are none."""
        return float(self._totals[name] / self._merged) if name in self._totals and self._merged else float("nan")

    def lowest(self, name: str) -> float:
        """The smallest mean of a row, or value; NaN if there is none."""
        rows = torch.cat(self._rows[name]) if self._rows[name] else torch.zeros(0)
        return float(rows.min()) if len(rows) else float("nan")

    def highest(self, name: str) -> float:
        """The largest mean of a row, or value; NaN if there is none."""
        rows = torch.cat(self._rows[name]) if self._rows[name] else torch.zeros(0)
        return float(rows.max()) if len(rows) else float("nan")

    def __contains__(self, name: str) -> bool:
        return name in self._sums


def policy_metrics(meter: Meter) -> dict[str, float]:
    """What the steps of one update did to the policy, by TRL's names.

    Args:
        meter: of all its minibatches.

    Returns:
        metrics by name; NaN where no token was learned from.
    """
    low, high = meter.mean("clipped_low"), meter.mean("clipped_high")
    metrics = {
        "entropy": meter.mean("entropy"),
        "clip_ratio/low_mean": low,
        "clip_ratio/low_min": meter.lowest("clipped_low"),
        "clip_ratio/high_mean": high,
        "clip_ratio/high_max": meter.highest("clipped_high"),
        "clip_ratio/region_mean": low + high,
        "policy/approxkl_avg": meter.mean("approxkl"),
    }
    if "importance_weight" in meter:
        metrics |= {
            "sampling/sampling_logp_difference/mean": meter.mean("logp_difference"),
            "sampling/sampling_logp_difference/max": meter.highest("logp_difference"),
            "sampling/importance_sampling_ratio/min": meter.lowest("importance_weight"),
            "sampling/importance_sampling_ratio/mean": meter.mean("importance_weight"),
            "sampling/importance_sampling_ratio/max": meter.highest("importance_weight"),
        }
    if "off_policy" in meter:
        metrics["sampling/off_policy_frac"] = meter.mean("off_policy")
    return metrics | ({"kl": meter.mean("kl")} if "kl" in meter else {})
