"""GRPO: its options, what an update is prepared with, and that it learns."""

# Shapes: K groups, R rows, T completion tokens.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_helpers import Assembled, groups_of, step_context
from run_helpers import NewModule, RewardLog, data, trainer

from bots_lightning.algorithms import GRPO
from bots_lightning.training import OnlineModule


@pytest.fixture
def grpo(build: Callable[..., OnlineModule]) -> NewModule:
    """`grpo(**options)`: a module with a linear schedule."""
    return partial(build, GRPO, lr_scheduler_type="linear")


def test_the_policy_learns_what_is_rewarded(grpo: NewModule, tmp_path: Path) -> None:
    module, tasks = grpo(num_generations=8), data(steps_per_epoch=30)
    log = RewardLog()
    trainer(tmp_path, max_steps=30, callbacks=[log]).fit(module, tasks)
    assert np.mean(log.rewards[-5:]) > np.mean(log.rewards[:5]) + 0.2


def test_several_iterations_on_a_batch_clip_and_step_the_schedule(grpo: NewModule, tmp_path: Path) -> None:
    module = grpo(num_iterations=3, learning_rate=0.05)
    fit = trainer(tmp_path, max_steps=-1, max_epochs=1)
    fit.fit(module, data(steps_per_epoch=4))
    assert module.progress.iterations == 4
    assert fit.global_step == 12
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(0.0)  # the linear schedule has just ended
    clipped = fit.callback_metrics["clip_ratio/low_mean"] + fit.callback_metrics["clip_ratio/high_mean"]
    assert clipped > 0


@pytest.mark.parametrize(
    "option", ["loss_type", "importance_sampling_level", "adv_estimator", "scale_rewards", "kl_estimator"]
)
def test_a_misspelt_option_is_refused_before_a_run(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}='nothing'; expected one of"):
        GRPO(**{option: "nothing"})  # type: ignore[arg-type]


def test_a_bound_of_the_ratio_below_the_upper_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"delta=1.25 does nothing below the upper clip; expected more than 1.28"):
        GRPO(delta=1.25, epsilon_high=0.28)
    assert GRPO(delta=1.5, epsilon_high=0.28).loss_options["delta"] == 1.5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.75 / 0.5, -0.25 / 0.5, -0.25 / 0.5, -0.25 / 0.5, 0, 0, 0, 0]),
        ({"scale_rewards": "none"}, [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]),
        ({"scale_rewards": "none", "adv_estimator": "rloo"}, [1, -1 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0]),
    ],
)
def test_advantages_are_by_the_estimator_and_scale_that_were_chosen(
    checkpoint: str, make_rollouts: Any, options: dict[str, Any], expected: list[float]
) -> None:
    module = Assembled(GRPO(**options), checkpoint)
    groups = groups_of(make_rollouts([2, 3] * 4, [2] * 8), [1.0, 0, 0, 0, 1, 1, 1, 1], [4, 4])
    experience, _ = module.prepare(groups)
    assert experience.advantages.tolist() == pytest.approx(expected, abs=1e-3)


def test_the_batch_whose_deviation_scales_is_that_of_all_ranks(checkpoint: str, make_rollouts: Any) -> None:
    """The other rank has one row less, and one without a reward."""
    module = Assembled(GRPO(scale_rewards="batch"), checkpoint)
    theirs = torch.tensor([3.0, math.nan, 0.0, math.nan])  # filled up where gathered

    def all_gather(tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor, torch.tensor(3) if tensor.ndim == 0 else theirs])

    context = step_context(world_size=2, all_gather=all_gather)
    rewards = [1.0, 0.0, 1.0, 1.0]
    groups = groups_of(make_rollouts([2, 3, 2, 3], [2] * 4), rewards, [3, 1])
    module.algorithm.behaviour = lambda rollouts, context: (None, None)  # type: ignore[method-assign]
    experience, _ = module.algorithm.prepare(groups, context)
    scale = 4 / 3 / (float(np.std([*rewards, 3.0, 0.0], ddof=1)) + 1e-4)  # 4 rollouts on average, 3 of this task
    assert experience.advantages.tolist() == pytest.approx([scale / 3, -2 * scale / 3, scale / 3, 0], abs=1e-6)


def test_the_policy_is_recorded_only_where_it_will_have_moved(checkpoint: str, make_rollouts: Any) -> None:
    rollouts = make_rollouts([2, 3], [2, 2])
    logprobs = torch.tensor([[-1.0, -2.0, 0.0], [math.nan] * 3])
    unknown, known = (groups_of(r, [1.0, 0.0], [2]) for r in (rollouts, replace(rollouts, logprobs=logprobs)))
    options: list[dict[str, Any]] = [{}, {"steps_per_generation": 2}, {"importance_sampling": None}]
    one, several, bypass = (Assembled(GRPO(**given), checkpoint, dtype=torch.float32) for given in options)
    present = several.prepare(unknown)[0].old_logprobs
    for module in (one, bypass):
        assert module.prepare(unknown)[0].old_logprobs is None
    assert present is not None
    for module, old in ((one, None), (several, present)):
        experience = module.prepare(known)[0]
        assert (experience.old_logprobs is None) == (old is None)
        assert experience.sampling_logprobs is logprobs
    experience = bypass.prepare(known)[0]
    assert experience.sampling_logprobs is None
    assert experience.old_logprobs is not None
    assert experience.old_logprobs[0, :2].tolist() == [-1, -2]
    torch.testing.assert_close(experience.old_logprobs[1], present[1], equal_nan=True)
