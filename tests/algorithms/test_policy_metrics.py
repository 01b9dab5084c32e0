"""What an update did to the policy, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from bots_lightning.algorithms.meter import Meter, policy_metrics


def test_clip_ratios_are_over_tokens_and_their_extremes_over_completions() -> None:
    meter, mask = Meter(), torch.tensor([[True, True, True, True], [True, True, False, False]])
    low = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    high = torch.tensor([[0.0, 1, 1, 0], [0, 0, 1, 1]])
    meter.add("clipped_low", low, mask, rows=True)
    meter.add("clipped_high", high, mask, rows=True)
    meter.add("entropy", torch.full((2, 4), 0.5), mask)
    meter.add("approxkl", torch.zeros(2, 4), mask)
    assert policy_metrics(meter) == {
        "entropy": 0.5,
        "clip_ratio/low_mean": 3 / 6,
        "clip_ratio/low_min": 1 / 4,
        "clip_ratio/high_mean": pytest.approx(2 / 6),
        "clip_ratio/high_max": 2 / 4,
        "clip_ratio/region_mean": pytest.approx(5 / 6),
        "policy/approxkl_avg": 0.0,
    }
    meter.add("kl", torch.full((2, 4), 0.25), mask)
    assert policy_metrics(meter)["kl"] == 0.25
