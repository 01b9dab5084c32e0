"""Figures of one iteration: what was rolled out, and how long its parts took."""

# Shapes: B tasks, G rollouts per task, R = B·G rows, F reward functions.

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bots_lightning.algorithms.advantages import group_mean_and_std
from bots_lightning.algorithms.meter import Meter

# Of a step. `logprobs` is all that an update is prepared with: log-probabilities to compare with, values, advantages;
# `backward` holds the forward passes too, `observe` the update of the belief, and `sync` what waits for other ranks.
PHASES = ("select", "rollout", "reward", "observe", "logprobs", "backward", "optimizer", "sync", "other")


def rollout_metrics(lengths: Tensor, finished: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """Rewards and lengths of one iteration's rollouts, by TRL's names.

    Args:
        lengths: (R,) completion tokens.
        finished: (R,) bool, False where a completion was cut.
        rewards: (B, G) float, NaN where there is none; left out of the means.
    """
    lengths = lengths.float()
    terminated = lengths[finished] if finished.any() else lengths.new_zeros(1)
    mean, std = group_mean_and_std(rewards.reshape(1, -1))
    return {
        "reward": torch.where(rewards.isnan().all(), torch.nan, mean.squeeze()),
        "reward_std": std.squeeze(),
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/mean_terminated_length": terminated.mean(),
        "completions/min_terminated_length": terminated.min(),
        "completions/max_terminated_length": terminated.max(),
        "completions/clipped_ratio": (~finished).float().mean(),
    }


def reward_metrics(names: Sequence[str], scores: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean and deviation of what each reward function said, where it applied, by TRL's names; NaN if nowhere.

    Args:
        names: of F functions.
        scores: (F, B, G) float, NaN where a function does not apply.
    """
    metrics = {}
    for name, values in zip(names, scores, strict=True):
        valid = values[~np.isnan(values)]
        metrics[f"rewards/{name}/mean"] = float(valid.mean()) if len(valid) else np.nan
        metrics[f"rewards/{name}/std"] = float(valid.std(ddof=1)) if len(valid) > 1 else np.nan
    return metrics


def policy_metrics(meter: Meter) -> dict[str, float]:
    """What the steps of one update did to the policy, by TRL's names."""
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
    return metrics | ({"kl": meter.mean("kl")} if "kl" in meter else {})


def timing_metrics(seconds: Mapping[str, float], tokens: float) -> dict[str, float]:
    """How long a step and its phases took, `timing_s/…` as in verl, and how fast it was.

    Args:
        seconds: of each phase.
        tokens: that all ranks have generated.
    """
    whole = sum(seconds.values())
    timings = {f"timing_s/{phase}": value for phase, value in seconds.items()}
    return timings | {"step_time": whole, "tokens_per_second": tokens / whole if whole else np.nan}


class StepClock:
    """The seconds of one step by phase. A phase interrupts the one around it: no second counts twice, none is lost.

    An accelerator works on while Python goes ahead, so that a phase ends too early by this clock unless it ends by
    waiting. Rollouts and losses do, when they are read. What else leaves work behind names its device, and waits: once
    in a step or in an optimizer step, never in a micro-batch, and only where the next line would wait anyway.

    Attributes:
        seconds: of each of `PHASES`.
        running: the phase that the time goes to now.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.running = "other"
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Gives a phase the seconds of its block, but for those of phases inside; waits for the device at its end."""
        outer = self._switch(name)
        try:
            yield
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
        finally:
            self._switch(outer)

    def stop(self) -> dict[str, float]:
        """The seconds of all phases until now."""
        self._switch(self.running)
        return dict(self.seconds)

    def move(self, seconds: float, source: str, target: str) -> None:
        """Gives one phase what another was given."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def _switch(self, name: str) -> str:
        """The phase that was running until now."""
        now, before = time.perf_counter(), self.running
        self.seconds[before] += now - self._since
        self._since, self.running = now, name
        return before
